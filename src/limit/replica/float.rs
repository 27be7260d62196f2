//! What may go without the log's leave while there is plenty.

use std::time::Duration;

use super::Replica;
use super::common::Word;
use crate::limit::{Cost, Denied};
use crate::time::Timestamp;

/// One part in so many of each limit may be let go without having asked, by all replicas together.
const FLOATING: u64 = 8;

/// How long ago the log may have been heard of for requests to go without having asked: longer than
/// the second between two signs of life.
const FRESH: Duration = Duration::from_millis(1_250);

/// How long what is free may be on its way to the others, reckoned from when they had more than half
/// left: [`FRESH`], and far longer than a call may take.
pub(super) const KNOWN_AFTER: Duration = Duration::from_millis(1_500);

impl Replica {
    /// Whether a request may go without the log's leave.
    pub(super) fn is_free(&mut self, cost: Cost, at: Timestamp) -> bool {
        let is_fresh = at.since(self.heard_at) <= FRESH;
        if !self.sharing.float || !is_fresh || self.alone.is_some() || !self.asked.is_empty() {
            return false;
        }
        let told = self.told.iter().flat_map(|(_, words)| words);
        let unknown = told.chain(&self.fresh).fold(cost, |sum, (_, word)| match word {
            Word::Held { cost, .. } => sum.plus(*cost),
            _ => sum,
        });
        let share = FLOATING * u64::from(self.sharing.replicas.max(1));
        self.view.twin.ledger.levels(at).all(|level| {
            let limit = level.quota.limit();
            is_plenty(level.available, limit) && unknown.of(level.quota.unit()) <= limit / share
        })
    }

    /// Whether a request leaves what others may have taken without anybody knowing.
    pub(super) fn leaves_enough(&mut self, cost: Cost, at: Timestamp) -> Result<(), Denied> {
        if !self.sharing.float || self.sharing.replicas < 2 || self.is_free(cost, at) {
            return Ok(());
        }
        let guarded = self.guarded.iter().zip(self.view.twin.ledger.levels(at)).enumerate();
        for (constraint, (until, level)) in guarded {
            let limit = level.quota.limit();
            // One that takes more than the rest at once would never find it alone.
            let needed = cost.of(level.quota.unit()).saturating_add(limit / FLOATING).min(limit);
            let has = i128::from(level.available);
            if *until > at && has < i128::from(needed) {
                return Err(Denied::Wait { constraint, until: Some(*until) });
            }
        }
        Ok(())
    }
}

/// Whether more than half of a limit is left.
pub(super) fn is_plenty(available: i64, limit: u64) -> bool {
    i128::from(available) * 2 > i128::from(limit)
}
