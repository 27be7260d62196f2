//! The log's time and the local one.

use crate::limit::{Denied, Level};
use crate::time::Timestamp;

/// By how much the log's time is ahead of the local one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(i128);

impl Clock {
    /// It is `now` here when the log's time is `log`.
    pub(super) fn between(log: Timestamp, now: Timestamp) -> Self {
        Self(i128::from(log.as_nanos()) - i128::from(now.as_nanos()))
    }

    /// The log's time.
    pub(super) fn log(self, local: Timestamp) -> Timestamp {
        moved(local, self.0)
    }

    /// The local time.
    pub fn local(self, log: Timestamp) -> Timestamp {
        moved(log, -self.0)
    }

    /// A level with the times of here.
    #[must_use]
    pub fn level(self, mut level: Level<'_>) -> Level<'_> {
        level.resets_at = self.local(level.resets_at);
        level.exhausted_at = level.exhausted_at.map(|at| self.local(at));
        level
    }

    /// A denial with the times of here.
    pub(super) fn denied(self, denied: Denied) -> Denied {
        match denied {
            Denied::Wait { constraint, until } => {
                Denied::Wait { constraint, until: until.map(|at| self.local(at)) }
            }
            Denied::Wall { constraint } => Denied::Wall { constraint },
        }
    }
}

fn moved(at: Timestamp, by: i128) -> Timestamp {
    if at == Timestamp::MAX {
        return at;
    }
    let nanos = i128::from(at.as_nanos()) + by;
    Timestamp::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
