//! From one process to the next: a pool that another one goes on with, and the one that does.
//!
//! # Invariants
//!
//! - Whoever hands over lets nobody in any more; those who wait go on waiting, and what they cost has been
//!   set aside by whoever goes on.
//! - Permits are counted at both: who waits or is at the upstream there has one here.

use std::sync::Arc;

use super::book::{Book, Held};
use super::grant::Spend;
use super::state::State;
use super::{Asked, Pool, PoolConfig, Refused, Request};
use crate::admission::keeper::Keeper;
use crate::admission::scheduler::Place;
use crate::limit::{BadJournal, Cost, Heritage, Spent, Told, Twin};
use crate::time::{Epoch, Timestamp};
use tokio_util::task::TaskTracker;

impl Pool {
    /// A pool that goes on with a ledger, and has its journal kept. `waiting` others may still go by
    /// it elsewhere.
    pub(in crate::admission) fn go_on(
        config: PoolConfig,
        (heritage, waiting): (Heritage, u32),
        keeper: Option<Arc<dyn Keeper>>,
        epoch: Epoch,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let Heritage { mut ledger, twin, left, settling } = heritage;
        let twin = keeper.as_ref().map(|_| {
            ledger.keep_journal();
            twin.unwrap_or_else(|| Twin::of(&ledger, epoch.now()))
        });
        let pool = Self::begin(config, Book::Own(ledger), (keeper, twin), epoch, tasks);
        if !left.is_empty() || !settling.is_empty() {
            pool.change(|state, _| {
                let open = u32::try_from(left.at_upstream()).unwrap_or(u32::MAX);
                state.in_flight = state.in_flight.saturating_add(open).saturating_add(waiting);
                (state.left, state.left_waiting) = (left, waiting);
                let settling = settling.into_iter();
                state.settling.extend(settling.map(|(due, sent, it)| (due, Held::There(sent), it)));
            });
        }
        pool
    }

    /// Tells of a request that waits for something else first, and will then ask for no more than `cost`.
    pub fn expect(self: &Arc<Self>, cost: Cost) -> Coming {
        let mut state = self.state.lock();
        let in_time = !state.handed_over;
        if in_time {
            state.coming = (state.coming.0.plus(cost), state.coming.1.saturating_add(1));
        }
        drop(state);
        Coming { pool: in_time.then(|| Arc::clone(self)), cost }
    }

    /// [`Self::ask`] for a request that was told of before: it has its part of what was set aside, if
    /// another process goes on with the pool.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn ask_as(
        self: &Arc<Self>,
        coming: Coming,
        request: Request,
        place: Option<Place>,
    ) -> Result<Asked, Refused> {
        // One that has gone elsewhere is not expected there.
        let here = coming.pool.as_ref().is_some_and(|it| Arc::ptr_eq(it, self));
        let decided = self.decide(request, place, Some(coming).filter(|_| here));
        self.asked(decided)
    }

    /// Lets nobody in any more, for another process goes on, but those it was told of. Returns what they
    /// and those who wait cost, and how many they are; nothing if the quota is shared with other replicas
    /// anyway.
    pub fn hand_over(self: &Arc<Self>) -> Option<(Cost, u32)> {
        let mut set_aside = None;
        self.change(|state, _| set_aside = state.hand_over());
        set_aside
    }

    /// Does what the process before says of its requests in its journal.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if it is none.
    pub fn hear(self: &Arc<Self>, journal: &[u8]) -> Result<(), BadJournal> {
        let told = Told::read(journal)?;
        self.change(|state, now| {
            for told in told {
                state.hear_before(told, now);
            }
        });
        Ok(())
    }

    /// The process before has ended: what it has not said of its requests is not known, and if it did not
    /// end `in_order`, neither is whether those have gone that had not.
    pub fn end_of_before(self: &Arc<Self>, in_order: bool) {
        self.change(|state, now| state.end_of_before(in_order, now));
    }
}

/// A request that a pool was told of, and that has not come yet.
#[derive(Debug)]
pub struct Coming {
    /// None for one that is not counted: it was told of too late, or has come.
    pool: Option<Arc<Pool>>,
    cost: Cost,
}

impl Coming {
    /// Is one that is coming no longer; tells whether it was.
    pub(super) fn arrive(mut self, state: &mut State) -> bool {
        // The lock is held: it is not to be taken once more.
        let counted = self.pool.take().is_some();
        if counted {
            state.expect_no_more(self.cost);
        }
        counted
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.state.lock().expect_no_more(self.cost);
        }
    }
}

impl State {
    fn expect_no_more(&mut self, cost: Cost) {
        self.coming = (self.coming.0.minus(cost), self.coming.1.saturating_sub(1));
    }

    fn hand_over(&mut self) -> Option<(Cost, u32)> {
        if self.ledger.is_shared() {
            return None;
        }
        self.handed_over = true;
        let (mut cost, mut count) = self.coming;
        for (_, entry, _) in self.scheduler.waiting() {
            cost = cost.plus(entry.cost);
            count = count.saturating_add(1);
        }
        Some((cost, count))
    }

    fn hear_before(&mut self, told: Told, now: Timestamp) {
        let Some(ledger) = self.ledger.own() else { return };
        match self.left.hear(ledger, told, now) {
            Some((sent, used)) => {
                self.end_hold(Held::There(sent), Spend::Spent(Spent::Exact(used)), now);
            }
            // It has its permit since before.
            None if matches!(told, Told::Went(..)) => {
                let had_none = self.left_waiting == 0;
                self.in_flight = self.in_flight.saturating_add(u32::from(had_none));
                self.left_waiting = self.left_waiting.saturating_sub(1);
            }
            None => {}
        }
    }

    fn end_of_before(&mut self, in_order: bool, now: Timestamp) {
        let (open, reserve) = self.left.end();
        for sent in open {
            self.end_hold(Held::There(sent), Spend::Unsaid, now);
        }
        self.in_flight = self.in_flight.saturating_sub(std::mem::take(&mut self.left_waiting));
        let Some(reserve) = reserve else { return };
        if in_order {
            self.ledger.give_back(Held::There(reserve), now);
        } else {
            self.ledger.settle(Held::There(reserve), Spent::Unknown, now);
        }
    }
}
