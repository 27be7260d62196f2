//! One pool: a ledger, the requests waiting for it, and the one timer that wakes them.
//!
//! Everything is decided under one lock by `state`, which never waits; what it grants or refuses
//! is handed over after the lock is released. A grant that nobody takes any more is taken back and
//! given to the next in line.

mod admitted;
mod grant;
mod state;
mod turn;
mod waiting;

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

pub use self::admitted::Admitted;
use self::grant::Grant;
use self::state::{Answer, Decision, State};
pub use self::waiting::{Asked, Waiting};
use crate::admission::scheduler::{ClassRule, Place};
use crate::limit::{ColdStart, Constraint, Cost, Level, Unit};
use crate::time::{Epoch, Timestamp};

/// How a pool admits.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The upstream's limits.
    pub constraints: Vec<Constraint>,
    /// What is assumed of the limits at the beginning.
    pub cold_start: ColdStart,
    /// The classes that requests name by their index; empty for one.
    pub classes: Vec<ClassRule>,
    /// Requests that may wait at once.
    pub max_queued: usize,
    /// What one tenant may have waiting at once.
    pub per_tenant: TenantLimits,
    /// How long after the end of an answer the upstream's own refund is taken as made.
    pub settle_delay: Duration,
    /// Requests that may be at the upstream at once; `None` for any number.
    pub max_concurrent: Option<NonZeroU32>,
    /// The least time between two requests sent; zero for none.
    pub min_gap: Duration,
}

/// What one tenant may have waiting in a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TenantLimits {
    /// Requests.
    pub queued: usize,
    /// Bytes of memory they keep.
    pub bytes: u64,
}

impl TenantLimits {
    /// As many as the pool lets in.
    pub const NONE: Self = Self { queued: usize::MAX, bytes: u64::MAX };
}

/// A request for admission.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The most it can cost.
    pub cost: Cost,
    /// Tokens it is likely to use: what decides whose turn comes next.
    pub fair: u64,
    /// Bytes of memory it keeps while it waits.
    pub bytes: u64,
    /// When it has waited long enough.
    pub deadline: Timestamp,
    /// Index of its class.
    pub class: usize,
    /// Who asks.
    pub tenant: u64,
    /// The tenant's share relative to others of the class.
    pub weight: NonZeroU32,
}

impl Request {
    /// A request of the first class, from the one tenant there is.
    pub const fn new(cost: Cost, bytes: u64, deadline: Timestamp) -> Self {
        let (fair, weight) = (cost.tokens, NonZeroU32::MIN);
        Self { cost, fair, bytes, deadline, class: 0, tenant: 0, weight }
    }
}

/// What a request waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    /// The constraint with this index.
    Constraint(usize),
    /// A concurrency permit.
    Concurrency,
    /// The least time between two requests.
    Gap,
    /// The upstream, after it said that it cannot take more for now.
    Backoff,
}

/// What the upstream said instead of an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rejection {
    /// Whether it may have charged the request; then it counts as charged.
    pub charged: bool,
    /// The quota that is used up, by its word: unit and window.
    pub exhausted: Option<(Unit, &'static str)>,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// It costs more than a limit allows at all.
    Wall {
        /// Index of the constraint.
        constraint: usize,
    },
    /// Too many wait already.
    Full {
        /// When the next of those waiting can go, as far as is known.
        retry_at: Option<Timestamp>,
    },
    /// Too many of its tenant's, or too large ones, wait already.
    TenantFull {
        /// When the next of those waiting can go, as far as is known.
        retry_at: Option<Timestamp>,
    },
    /// It would not be admitted before its deadline.
    TooLong {
        /// What it would have waited for.
        bound: Bound,
        /// When its cost will fit, as far as is known.
        retry_at: Option<Timestamp>,
        /// The place it had, or would have had: good to come back to.
        place: Place,
    },
    /// The pool is closing.
    Closed,
}

/// What a pool looks like from outside.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests waiting.
    pub queued: usize,
    /// Bytes they keep.
    pub queued_bytes: u64,
    /// How long the first of them has waited.
    pub oldest_wait: Duration,
    /// Requests at the upstream.
    pub in_flight: u32,
    /// What the first in line waits for.
    pub bound: Option<Bound>,
    /// Whether someone should have been woken and was not.
    pub stalled: bool,
}

/// One upstream account and model: its quota and everyone who waits for it.
#[derive(Debug)]
pub struct Pool {
    epoch: Epoch,
    wake: Arc<Notify>,
    state: Mutex<State>,
}

impl Pool {
    /// A pool whose quota is unspent, with its timer running on `tasks` until the pool is dropped.
    pub fn start(config: PoolConfig, epoch: Epoch, tasks: &TaskTracker) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let state = Mutex::new(State::new(config, epoch.now()));
        let pool = Arc::new(Self { epoch, wake: Arc::clone(&wake), state });
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
        let decided = self.decide(request, place);
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
        let (mut place, grant) = (admitted.place(), admitted.into_grant());
        let mut decided = Decision::No(Refused::Closed);
        self.change(|state, now| {
            if let Some(grant) = grant {
                place = state.reject(grant, rejection, now);
            }
            state.back_off(until);
            decided = state.decide(request, Some(place), now);
        });
        self.asked(decided)?.admitted().await
    }

    fn decide(self: &Arc<Self>, request: Request, place: Option<Place>) -> Decision {
        let now = self.epoch.now();
        let mut state = self.state.lock();
        state.catch_up(now);
        let decided = state.decide(request, place, now);
        if let Decision::Wait(ticket, _) = decided {
            let answers = if state.is_due(ticket) { state.turn(now) } else { Vec::new() };
            let rearm = state.rearm(now);
            drop(state);
            let rearm = self.deliver(answers, now) | rearm;
            self.wake_if(rearm);
        }
        decided
    }

    fn asked(self: &Arc<Self>, decided: Decision) -> Result<Asked, Refused> {
        match decided {
            Decision::Go(grant) => Ok(Asked::Go(Admitted::new(Arc::clone(self), grant))),
            Decision::No(refused) => Err(refused),
            Decision::Wait(ticket, answer) => {
                Ok(Asked::Wait(Waiting::new(Arc::clone(self), ticket, answer)))
            }
        }
    }

    /// Holds everyone back until `until`: the upstream cannot take more.
    pub fn back_off(self: &Arc<Self>, until: Timestamp) {
        self.change(|state, _| state.back_off(until));
    }

    /// Refuses everyone who waits and whoever comes.
    pub fn close(self: &Arc<Self>) {
        self.change(|state, _| state.close());
    }

    /// Shows every constraint's level to `visit`.
    pub fn levels(&self, visit: impl FnMut(Level<'_>)) {
        let now = self.epoch.now();
        let mut state = self.state.lock();
        state.catch_up(now);
        state.ledger.levels(now).for_each(visit);
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
        }
    }

    /// The constraint with this index.
    pub fn constraint(&self, index: usize) -> Option<Constraint> {
        self.state.lock().ledger.constraint(index).cloned()
    }

    /// The instant that the pool goes by now.
    pub fn now(&self) -> Timestamp {
        self.epoch.now()
    }

    /// What the pool looks like now.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.epoch.now();
        let mut state = self.state.lock();
        state.catch_up(now);
        state.snapshot(now)
    }

    /// Whether a new pool in its place would decide alike.
    pub fn is_untouched(&self) -> bool {
        let now = self.epoch.now();
        let mut state = self.state.lock();
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
        let now = self.epoch.now();
        let mut state = self.state.lock();
        state.catch_up(now);
        change(&mut state, now);
        state.catch_up(now);
        let answers = state.turn(now);
        let rearm = state.rearm(now);
        drop(state);
        self.deliver(answers, now) | rearm
    }

    /// Hands the answers out, and what nobody takes to the next in line; tells whether the timer has
    /// to be woken for that.
    fn deliver(self: &Arc<Self>, mut answers: Vec<Answer>, now: Timestamp) -> bool {
        let mut rearm = false;
        while let Some(untaken) = self.hand_out(answers) {
            let mut state = self.state.lock();
            for grant in untaken {
                state.take_back(grant, now);
            }
            answers = state.turn(now);
            rearm |= state.rearm(now);
        }
        rearm
    }

    /// Delivers the answers; returns the grants that nobody waited for any more, if any.
    fn hand_out(self: &Arc<Self>, answers: Vec<Answer>) -> Option<Vec<Grant>> {
        let mut untaken = Vec::new();
        for (waiter, answer) in answers {
            let answer = answer.map(|grant| Admitted::new(Arc::clone(self), grant));
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
