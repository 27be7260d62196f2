//! How a pool stands with its log.

use tokio::time::Instant;

/// How it stands with the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// It cannot be reached, or was not yet; it is waited for until then.
    Waiting(Instant),
    /// It cannot be reached, and requests go without it.
    Lost,
    /// It can, and what was missed has to be read.
    Back,
    /// What is known is void; the state will come.
    Stale,
    Following,
    /// It cannot be understood: of another version.
    Foreign,
}
