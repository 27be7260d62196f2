//! What happens in a simulated world, at the sender or at the upstream.

use crate::oracle::Entry;

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Event {
    Wake,
    /// The request reaches the upstream.
    Arrive(usize),
    /// The sender sees the first token.
    Head(usize),
    /// The upstream replaces its reservation.
    Refund(usize),
    /// The sender ends the hold.
    End(usize),
    /// The upstream refunds what a cut request has not used.
    Cut(Box<(Entry, u64)>),
    /// Somebody else uses the quota.
    Foreign,
    /// The upstream changes its limits to so many per cent.
    Relimit(u64),
}

impl Event {
    /// Whether the sender knows of it. What happens at the upstream alone lets nothing more go.
    pub(super) const fn is_seen(&self) -> bool {
        matches!(self, Self::Wake | Self::Head(_) | Self::End(_))
    }
}
