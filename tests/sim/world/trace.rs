//! The two accounts of the tokens side by side, after every event: for people to look at.

use tidegate::limit::Mode;

use super::World;
use crate::oracle::TOKENS;

/// What the first window of tokens looks like at an instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Nanoseconds since the beginning.
    pub(crate) at: u64,
    /// What the ledger would let go, and what it holds.
    pub(crate) level: i64,
    pub(crate) held: u64,
    /// Whether it goes by what is safe whatever the upstream does.
    pub(crate) sliding: bool,
    /// What the upstream has left.
    pub(crate) left: i128,
    /// Requests that the upstream has let in, and the tokens that it counts for them by now.
    pub(crate) admitted: usize,
    pub(crate) charged: i128,
}

impl World<'_> {
    pub(super) fn trace(&mut self) {
        let index = self.workload.limits.iter().position(|limit| limit.unit == TOKENS);
        let Some(index) = index.filter(|_| self.workload.traced) else { return };
        let now = self.time();
        let (level, held, mode) = self
            .ledger
            .levels(now)
            .nth(index)
            .map(|level| (level.available, level.held, level.mode))
            .expect("as many levels as limits");
        self.story.moments.push(Moment {
            at: self.now - self.started,
            level,
            held,
            sliding: mode == Mode::Sliding,
            left: self.oracle.shown(index, self.now).1,
            admitted: self.story.requests.len(),
            charged: self.oracle.charged()[TOKENS],
        });
    }
}
