//! One pool: a ledger, the requests waiting for it, and the one timer that wakes them.
//!
//! Everything is decided under one lock by `state`, which never waits; what it grants or refuses
//! is handed over after the lock is released. A grant that nobody takes any more is taken back and
//! given to the next in line.

mod admitted;
mod book;
mod drain;
mod grant;
mod health;
mod heir;
mod outlook;
mod shared;
mod state;
mod terms;
mod turn;
mod waiting;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

pub use self::admitted::Admitted;
use self::book::Book;
use self::grant::Grant;
pub use self::health::{News, Report, Said};
pub use self::heir::Coming;
pub use self::shared::{Answered, Written};
use self::state::{Answer, Decision, State};
pub use self::terms::{
    Bound, PoolConfig, Queue, Refused, Rejection, Request, Snapshot, TenantLimits, TenantQueue,
};
pub use self::waiting::{Asked, Repricer, Waiting};
use crate::admission::keeper::Keeper;
use crate::admission::recent::Recent;
use crate::admission::scheduler::Place;
use crate::limit::{Call, Constraint, Ledger, Level, Replica, Sharing, Twin};
use crate::time::{Epoch, Timestamp};

/// One upstream account and model: its quota and everyone who waits for it.
#[derive(Debug)]
pub struct Pool {
    epoch: Epoch,
    wake: Arc<Notify>,
    /// Tells whoever goes between the pool and other replicas that there is something to ask or tell.
    work: Arc<Notify>,
    keeper: Option<Arc<dyn Keeper>>,
    state: Mutex<State>,
    recent: Recent,
}

impl Pool {
    /// A pool whose quota is unspent, with its timer running on `tasks` until the pool is dropped.
    pub fn start(config: PoolConfig, epoch: Epoch, tasks: &TaskTracker) -> Arc<Self> {
        let ledger = Ledger::cold(config.constraints.clone(), config.cold_start, epoch.now());
        Self::go_on(config, (ledger.into(), 0), None, epoch, tasks)
    }

    /// A pool that shares its quota with other replicas.
    pub(super) fn together(
        config: PoolConfig,
        sharing: Sharing,
        epoch: Epoch,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let (quotas, start) = (config.constraints.clone(), config.cold_start);
        let replica = Replica::new(sharing, quotas, start, epoch.now());
        Self::begin(config, Book::Shared(Box::new(replica)), (None, None), epoch, tasks)
    }

    fn begin(
        config: PoolConfig,
        book: Book,
        (keeper, twin): (Option<Arc<dyn Keeper>>, Option<Twin>),
        epoch: Epoch,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let (wake, work) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let state = Mutex::new(State::new(config, book, twin, epoch.now()));
        let pool =
            Self { epoch, wake: Arc::clone(&wake), work, keeper, state, recent: Recent::default() };
        let pool = Arc::new(pool);
        tasks.spawn(keep_time(Arc::downgrade(&pool), wake));
        pool
    }

    /// Asks for admission: behind everyone who waits, or at the `place` that the request had before.
    /// Who comes back to a place is never one too many.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it cannot, or would not in time, be admitted.
    pub fn ask(self: &Arc<Self>, request: Request, place: Option<Place>) -> Result<Asked, Refused> {
        let decided = self.decide(request, place, None);
        self.asked(decided)
    }

    /// Waits for the request's turn.
    ///
    /// Dropping the future gives the place up.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it cannot, or did not in time, get one.
    pub async fn admit(self: &Arc<Self>, request: Request) -> Result<Admitted, Refused> {
        self.ask(request, None)?.admitted().await
    }

    /// Like [`Self::admit`], at the place a request had before: it goes back to the head of the
    /// line.
    ///
    /// # Errors
    ///
    /// [`Refused`], as [`Self::admit`]; but never for being one too many.
    pub async fn readmit(
        self: &Arc<Self>,
        request: Request,
        place: Place,
    ) -> Result<Admitted, Refused> {
        self.ask(request, Some(place))?.admitted().await
    }

    /// Ends an admission whose request has to be sent again, and puts the request back at its place:
    /// in one step, so that nobody behind it goes first. Nobody at all goes before `until`.
    ///
    /// # Errors
    ///
    /// [`Refused`], as [`Self::readmit`].
    pub async fn retry(
        self: &Arc<Self>,
        admitted: Admitted,
        rejection: Rejection,
        request: Request,
        until: Timestamp,
    ) -> Result<Admitted, Refused> {
        self.put_back(admitted, rejection, request, until)?.admitted().await
    }

    fn decide(
        self: &Arc<Self>,
        request: Request,
        place: Option<Place>,
        coming: Option<Coming>,
    ) -> Decision {
        let (decided, answers, rearm, now) = self.locked(|state, now| {
            let barred = state.handed_over;
            if coming.is_some_and(|coming| coming.arrive(state)) {
                state.handed_over = false;
            }
            let decided = state.decide(request, place, now);
            state.handed_over = barred;
            let Decision::Wait(ticket, ..) = decided else {
                return (decided, Vec::new(), false, now);
            };
            let answers = if state.is_due(ticket) { state.turn(now) } else { Vec::new() };
            (decided, answers, state.rearm(now), now)
        });
        let rearm = self.deliver(answers, now) | rearm;
        self.wake_if(rearm);
        decided
    }

    /// The state, and the time: looked at under the lock, so that it does not go back from one to the next.
    fn lock(&self) -> (MutexGuard<'_, State>, Timestamp) {
        let state = self.state.lock();
        (state, self.epoch.now())
    }

    /// Changes the state, and has what was written down of that kept.
    fn locked<R>(&self, change: impl FnOnce(&mut State, Timestamp) -> R) -> R {
        let (mut state, now) = self.lock();
        state.catch_up(now);
        let result = change(&mut state, now);
        let (call, has_work) = (state.ledger.take_call(), state.has_work());
        drop(state);
        if has_work {
            self.work.notify_one();
        }
        if let Some(keeper) = &self.keeper {
            match call {
                Call::None => {}
                Call::Wake => keeper.wake(),
                Call::Hurry => keeper.hurry(),
            }
        }
        result
    }

    /// Moves what was done to the ledger since the last time to the end of `journal`. The first time
    /// there is also the twin to do it to.
    pub fn take_journal(&self, journal: &mut Vec<u8>) -> Option<Twin> {
        let mut state = self.state.lock();
        state.ledger.take_journal(journal);
        state.twin.take()
    }

    fn asked(self: &Arc<Self>, decided: Decision) -> Result<Asked, Refused> {
        match decided {
            Decision::Go(grant) => Ok(Asked::Go(Admitted::new(Arc::clone(self), grant))),
            Decision::No(refused) => Err(refused),
            Decision::Wait(ticket, answer, forecast) => {
                Ok(Asked::Wait(Waiting::new(Arc::clone(self), ticket, answer, forecast)))
            }
        }
    }

    /// Holds everyone back until `until`: the upstream cannot take more.
    pub fn back_off(self: &Arc<Self>, until: Timestamp) {
        self.change(|state, _| state.back_off(until));
    }

    /// Admits in this way from now on. What was spent stays spent, who waits stays in line, and what is
    /// at the upstream ends as it began.
    pub fn reconfigure(self: &Arc<Self>, config: PoolConfig) {
        self.change(|state, now| state.reconfigure(config, now));
    }

    /// Refuses everyone who waits and whoever comes.
    pub fn close(self: &Arc<Self>) {
        self.drain(self.epoch.now(), Duration::ZERO);
    }

    /// Shows every constraint's level to `visit`.
    pub fn levels(&self, visit: impl FnMut(Level<'_>)) {
        let (mut state, now) = self.lock();
        state.catch_up(now);
        state.ledger.levels(now).for_each(visit);
    }

    /// What happened in it lately, as those told who use it.
    pub const fn recent(&self) -> &Recent {
        &self.recent
    }

    /// How many requests wait.
    pub fn queued(&self) -> usize {
        self.state.lock().queued()
    }

    /// How long the head of an answer is likely to take; zero while nothing is known.
    pub fn expected_head(&self) -> Duration {
        self.state.lock().expected_head()
    }

    /// What a request waits for, as callers, logs and metrics name it: "tokens/minute".
    pub fn name_of(&self, bound: Bound) -> String {
        match bound {
            Bound::Constraint(index) => {
                self.constraint(index).map_or_else(String::new, |quota| quota.to_string())
            }
            Bound::Concurrency => "concurrency".to_owned(),
            Bound::Gap => "gap".to_owned(),
            Bound::Backoff => "backoff".to_owned(),
            Bound::Replicas => "replicas".to_owned(),
            Bound::Circuit => "circuit".to_owned(),
        }
    }

    /// The constraint with this index.
    pub fn constraint(&self, index: usize) -> Option<Constraint> {
        self.state.lock().ledger.constraint(index)
    }

    /// The instant that the pool goes by now.
    pub fn now(&self) -> Timestamp {
        self.epoch.now()
    }

    /// What the pool looks like now.
    pub fn snapshot(&self) -> Snapshot {
        let (mut state, now) = self.lock();
        state.catch_up(now);
        state.snapshot(now)
    }

    /// The same without forecasts, which take most of the time.
    pub fn glance(&self) -> Snapshot {
        let (mut state, now) = self.lock();
        state.catch_up(now);
        state.glance(now)
    }

    /// The tenants that have most waiting, at most `most` of them.
    pub fn tenants(&self, most: usize) -> Vec<TenantQueue> {
        let (state, now) = self.lock();
        state.tenants(most, now)
    }

    /// Tells of every tenant that waits how many of its requests do, for each class; in no order, and
    /// under the lock, so `each` is short.
    pub fn each_waiting(&self, each: impl FnMut(u64, usize)) {
        self.state.lock().each_waiting(each);
    }

    /// Whether a new pool in its place would decide alike.
    pub fn is_untouched(&self) -> bool {
        let (mut state, now) = self.lock();
        state.catch_up(now);
        state.is_untouched(now)
    }

    /// Changes the state, then hands out what that made possible.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State, Timestamp)) {
        let rearm = self.change_quietly(change);
        self.wake_if(rearm);
    }

    /// [`Self::change`], but leaves waking the timer to the caller: tells whether it has to be.
    fn change_quietly(self: &Arc<Self>, change: impl FnOnce(&mut State, Timestamp)) -> bool {
        let (answers, rearm, now) = self.locked(|state, now| {
            change(state, now);
            state.catch_up(now);
            (state.turn(now), state.rearm(now), now)
        });
        self.deliver(answers, now) | rearm
    }

    /// Hands the answers out, and what nobody takes to the next in line; tells whether the timer has
    /// to be woken for that.
    fn deliver(self: &Arc<Self>, mut answers: Vec<Answer>, now: Timestamp) -> bool {
        let mut rearm = false;
        while let Some(untaken) = self.hand_out(answers) {
            let (next, again) = self.locked(|state, _| {
                for grant in untaken {
                    state.take_back(grant, now);
                }
                (state.turn(now), state.rearm(now))
            });
            (answers, rearm) = (next, rearm | again);
        }
        rearm
    }

    /// Delivers the answers; returns the grants that nobody waited for any more, if any.
    fn hand_out(self: &Arc<Self>, answers: Vec<Answer>) -> Option<Vec<Grant>> {
        let mut untaken = Vec::new();
        for (waiter, answer) in answers {
            let answer = answer.map(|grant| Box::new(Admitted::new(Arc::clone(self), grant)));
            if let Err(Ok(admitted)) = waiter.send(answer) {
                untaken.extend(admitted.into_grant());
            }
        }
        (!untaken.is_empty()).then_some(untaken)
    }

    fn wake_if(&self, rearm: bool) {
        if rearm {
            self.wake.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.wake.notify_one();
        self.work.notify_one();
    }
}

/// The pool's one timer: sleeps until something is due or a change moves that forward.
async fn keep_time(pool: Weak<Pool>, wake: Arc<Notify>) {
    loop {
        let due = {
            let Some(pool) = pool.upgrade() else { return };
            pool.change_quietly(|state, _| state.disarm());
            pool.state.lock().armed().map(|at| pool.epoch.instant(at))
        };
        match due {
            Some(due) => {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = wake.notified() => {}
                }
            }
            None => wake.notified().await,
        }
    }
}

#[cfg(test)]
mod tests;
