//! The proof of admission: a hold in every window and a concurrency permit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Bound;
use super::Pool;
use super::Rejection;
use super::grant::{Grant, Spend};
use crate::admission::scheduler::Place;
use crate::limit::{Blame, Cost, Reading, Spent, Unit};

/// A request that may go upstream.
///
/// Dropped before [`Self::sent`] it leaves no trace; dropped after, what it held is charged.
#[must_use = "dropping it gives the admission up"]
pub struct Admitted {
    pub(super) pool: Arc<Pool>,
    pub(super) grant: Option<Grant>,
    place: Place,
    cost: Cost,
    waited: Duration,
    forecast: Duration,
    bound: Option<Bound>,
}

impl Admitted {
    pub(super) fn new(pool: Arc<Pool>, grant: Grant) -> Self {
        let Grant { place, waited, forecast, bound, .. } = grant;
        Self { pool, cost: grant.cost(), grant: Some(grant), place, waited, forecast, bound }
    }

    pub(super) fn into_grant(mut self) -> Option<Grant> {
        self.grant.take()
    }

    /// What is held.
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// The place it had in line, for [`Pool::readmit`].
    pub const fn place(&self) -> Place {
        self.place
    }

    /// How long it waited.
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// How long it was to wait, by the forecast when it began to.
    pub const fn forecast(&self) -> Duration {
        self.forecast
    }

    /// What it waited for last; `None` if it did not wait.
    pub const fn bound(&self) -> Option<Bound> {
        self.bound
    }

    /// The pool that admitted it.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Marks the request as handed upstream; called before its first byte is.
    pub fn sent(&mut self) {
        if let Some(grant) = &mut self.grant {
            grant.mark_sent(self.pool.epoch.now());
        }
    }

    /// The head of an answer arrived: the upstream has charged the request by now.
    pub fn charged(&mut self) {
        if let Some(grant) = &mut self.grant {
            self.pool.locked(|state, now| state.charged(grant, now));
        }
    }

    /// The head of an answer shows what is left of the quota. To be called after [`Self::charged`]
    /// where the request was charged. Returns how many tokens the upstream has reserved for it, at
    /// least and at most, where that can be told.
    pub fn observe<'a>(
        &mut self,
        readings: impl Iterator<Item = Reading<'a>>,
    ) -> Option<(u64, u64)> {
        let mut reserved = None;
        if let Some(grant) = &mut self.grant {
            self.pool.change(|state, now| reserved = state.observe(grant, readings, now));
        }
        reserved
    }

    /// The upstream refused the request because a quota was used up; tells whose use that is due to.
    /// To be called before [`Self::reject`].
    pub fn blame(&self, unit: Unit, window: &str) -> Blame {
        self.grant.as_ref().map_or(Blame::Unlisted, |grant| {
            self.pool.locked(|state, now| state.blame(grant, (unit, window), now))
        })
    }

    /// The answer has ended: replaces the hold by what was used, once the upstream has had time to
    /// do the same.
    pub fn settle(mut self, spent: Spent) {
        self.settle_here(spent);
    }

    /// [`Self::settle`], for whoever cannot part with it; nothing more comes of it.
    pub fn settle_here(&mut self, spent: Spent) {
        self.end(Spend::Spent(spent));
    }

    /// The upstream refused the request. Returns the place that it may come back to.
    pub fn reject(mut self, rejection: Rejection) -> Place {
        let mut place = self.place;
        if let Some(grant) = self.grant.take() {
            self.pool.change(|state, now| place = state.reject(grant, rejection, now));
        }
        place
    }

    fn end(&mut self, spend: Spend) {
        if let Some(grant) = self.grant.take() {
            self.pool.change(|state, now| state.end(grant, spend, now));
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.end(Spend::Unsaid);
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("cost", &self.cost).field("waited", &self.waited).finish()
    }
}
