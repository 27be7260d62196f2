//! What a pool decides under its lock. No task, no channel wait, no clock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Admitted, Bound, PoolConfig, Refused, Rejection, Request, Snapshot};
use crate::admission::scheduler::{Entry, Place, Scheduler};
use crate::limit::{Blame, Cost, Denied, Hold, Ledger, Reading, Sent, Spent, Unit};
use crate::time::Timestamp;

/// Someone who waits, and the answer found for them.
pub(super) type Waiter = oneshot::Sender<Result<Admitted, Refused>>;
pub(super) type Answer = (Waiter, Result<Grant, Refused>);

/// How late the timer may be before the pool counts as stalled: far above any pause of a busy
/// machine, far below what a waiting caller would put up with.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// A granted request, before it is wrapped in its guard.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) place: Place,
    pub(super) waited: Duration,
    pub(super) bound: Option<Bound>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Here(Hold),
    There(Sent),
    Moving,
}

/// What becomes of a request for admission.
#[derive(Debug)]
pub(super) enum Decision {
    Go(Grant),
    No(Refused),
    Wait(Place, oneshot::Receiver<Result<Admitted, Refused>>),
}

/// How a grant ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spend {
    /// With an answer.
    Spent(Spent),
    /// Refused upstream, not charged.
    Nothing,
    /// Dropped: nothing was sent, or nobody knows.
    Unsaid,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    config: PoolConfig,
    scheduler: Scheduler<Waiter>,
    /// Answers that have ended and wait for the upstream's own refund, in order of `due`.
    settling: VecDeque<(Timestamp, Sent, Spent)>,
    in_flight: u32,
    next_send: Timestamp,
    backed_off_until: Timestamp,
    /// What the first in line waits for.
    bound: Option<Bound>,
    /// When the first in line can go, if that is known.
    head_at: Option<Timestamp>,
    /// What the timer is set to.
    armed: Option<Timestamp>,
    closed: bool,
}

impl Grant {
    pub(super) fn cost(&self) -> Cost {
        match &self.held {
            Held::Here(hold) => hold.cost(),
            Held::There(sent) => sent.cost(),
            Held::Moving => Cost::default(),
        }
    }

    pub(super) fn mark_sent(&mut self) {
        self.held = match std::mem::replace(&mut self.held, Held::Moving) {
            Held::Here(hold) => Held::There(hold.sent()),
            other => other,
        };
    }
}

impl State {
    pub(super) fn new(config: PoolConfig, now: Timestamp) -> Self {
        Self {
            ledger: Ledger::cold(config.constraints.clone(), config.cold_start, now),
            config,
            scheduler: Scheduler::default(),
            settling: VecDeque::new(),
            in_flight: 0,
            next_send: now,
            backed_off_until: now,
            bound: None,
            head_at: None,
            armed: None,
            closed: false,
        }
    }

    /// Settles what has become due, each at its own time.
    pub(super) fn catch_up(&mut self, now: Timestamp) {
        while self.settling.front().is_some_and(|(due, ..)| *due <= now) {
            if let Some((due, sent, spent)) = self.settling.pop_front() {
                self.ledger.settle(sent, spent, due);
            }
        }
    }

    /// Admits or refuses a newcomer (or one that comes back to its `place`), or lets it wait.
    pub(super) fn decide(
        &mut self,
        request: Request,
        place: Option<Place>,
        now: Timestamp,
    ) -> Decision {
        match self.enter(request, place, now) {
            Ok(grant) => Decision::Go(grant),
            Err(Some(refused)) => Decision::No(refused),
            Err(None) => {
                let (waiter, answer) = oneshot::channel();
                Decision::Wait(self.wait(request, place, waiter, now), answer)
            }
        }
    }

    /// `Err(None)` if it has to wait.
    fn enter(
        &mut self,
        request: Request,
        place: Option<Place>,
        now: Timestamp,
    ) -> Result<Grant, Option<Refused>> {
        if self.closed {
            return Err(Some(Refused::Closed));
        }
        let first = self.scheduler.head().is_none_or(|(head, _)| place.is_some_and(|it| it < head));
        let denied = if first {
            match self.start(request.cost, now) {
                Ok(hold) => {
                    let place = place.unwrap_or_else(|| self.scheduler.place());
                    let held = Held::Here(hold);
                    return Ok(Grant { place, waited: Duration::ZERO, bound: None, held });
                }
                Err(wait) => wait,
            }
        } else {
            self.ledger.check(request.cost, now).map_or_else(Wait::from, |()| self.behind())
        };
        if let Some(constraint) = denied.wall {
            return Err(Some(Refused::Wall { constraint }));
        }
        if request.deadline <= now || denied.until.is_some_and(|at| at > request.deadline) {
            let (bound, retry_at) = (denied.bound, denied.until);
            // It may come back to where it would have stood.
            let place = place.unwrap_or_else(|| self.scheduler.place());
            return Err(Some(Refused::TooLong { bound, retry_at, place }));
        }
        if place.is_none() && self.scheduler.len() >= self.config.max_queued {
            return Err(Some(Refused::Full { retry_at: self.head_at }));
        }
        Err(None)
    }

    /// Lets a request wait.
    fn wait(
        &mut self,
        request: Request,
        place: Option<Place>,
        waiter: Waiter,
        now: Timestamp,
    ) -> Place {
        let Request { cost, bytes, deadline } = request;
        let place = place.unwrap_or_else(|| self.scheduler.place());
        self.scheduler.insert(place, Entry { cost, bytes, arrived: now, deadline }, waiter);
        if self.scheduler.head().is_some_and(|(head, _)| head == place)
            && let Err(wait) = self.may_start(cost, now)
        {
            (self.bound, self.head_at) = (Some(wait.bound), wait.until);
        }
        place
    }

    /// Forgets a request that gave up. Tells whether it was first in line, so that others may go.
    pub(super) fn leave(&mut self, place: Place) -> bool {
        let first = self.scheduler.head().is_some_and(|(head, _)| head == place);
        self.scheduler.remove(place).is_some() && first
    }

    /// Answers everyone whose time has come, one way or the other.
    pub(super) fn turn(&mut self, now: Timestamp) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some(place) = self.scheduler.expired(now) {
            if let Some((entry, waiter)) = self.scheduler.remove(place) {
                let wait = self.may_start(entry.cost, now).err().unwrap_or_else(|| self.behind());
                let (bound, retry_at) = (self.bound.unwrap_or(wait.bound), wait.until);
                answers.push((waiter, Err(Refused::TooLong { bound, retry_at, place })));
            }
        }
        self.head_at = None;
        while let Some((place, entry)) = self.scheduler.head() {
            let Entry { cost, arrived, deadline, .. } = *entry;
            let answer = match self.start(cost, now) {
                Ok(hold) => {
                    let (waited, bound) = (now.since(arrived), self.bound);
                    Ok(Grant { place, waited, bound, held: Held::Here(hold) })
                }
                Err(Wait { wall: Some(constraint), .. }) => Err(Refused::Wall { constraint }),
                // Known only now, because it depended on what was held.
                Err(Wait { bound, until: Some(until), .. }) if until > deadline => {
                    Err(Refused::TooLong { bound, retry_at: Some(until), place })
                }
                Err(wait) => {
                    (self.bound, self.head_at) = (Some(wait.bound), wait.until);
                    break;
                }
            };
            if let Some((_, waiter)) = self.scheduler.remove(place) {
                answers.push((waiter, answer));
            }
        }
        if self.scheduler.is_empty() {
            self.bound = None;
        }
        answers
    }

    /// Sets the timer to the next thing that is due; tells whether it has to be woken for that.
    pub(super) fn rearm(&mut self, now: Timestamp) -> bool {
        // Where nobody waits, settling can be caught up with when somebody comes.
        let settle = self.settling.front().map(|(due, ..)| *due);
        let due =
            [self.head_at, self.scheduler.next_deadline(), settle].into_iter().flatten().min();
        let Some(due) = due.filter(|_| !self.scheduler.is_empty()) else { return false };
        // At `now` nothing is due any more; a timer set to it could only spin.
        let due = due.max(now.after(Duration::from_nanos(1)));
        let sooner = self.armed.is_none_or(|armed| due < armed);
        if sooner {
            self.armed = Some(due);
        }
        sooner
    }

    pub(super) fn disarm(&mut self) {
        self.armed = None;
    }

    pub(super) fn armed(&self) -> Option<Timestamp> {
        self.armed
    }

    pub(super) fn charged(&mut self, grant: &mut Grant, now: Timestamp) {
        self.catch_up(now);
        if let Held::There(sent) = &mut grant.held {
            self.ledger.charged(sent, now);
        }
    }

    /// Takes what the head of an answer shows for what it is.
    pub(super) fn observe<'a>(
        &mut self,
        grant: &mut Grant,
        readings: impl Iterator<Item = Reading<'a>>,
        now: Timestamp,
    ) {
        self.catch_up(now);
        if let Held::There(sent) = &mut grant.held {
            self.ledger.observe(sent, readings, now);
        }
    }

    /// Whose use it is that the upstream had no room for the request.
    pub(super) fn blame(&mut self, grant: &Grant, of: (Unit, &str), now: Timestamp) -> Blame {
        self.catch_up(now);
        match &grant.held {
            Held::There(sent) => self.ledger.refused(sent, of.0, of.1, now),
            Held::Here(_) | Held::Moving => Blame::Unlisted,
        }
    }

    /// Ends a grant and frees its permit.
    pub(super) fn end(&mut self, grant: Grant, spend: Spend, now: Timestamp) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (grant.held, spend) {
            (Held::Here(hold), _) => self.ledger.release(hold, now),
            (Held::There(sent), Spend::Nothing) => self.ledger.reject(sent, now),
            // A debt is the upstream's at once; only a refund has to be waited for. A refund in one
            // unit beside a debt in another is forgone: the hold ends once.
            (Held::There(sent), Spend::Spent(Spent::Exact(used))) if used.exceeds(sent.cost()) => {
                let used = used.max(sent.cost());
                self.ledger.settle(sent, Spent::Exact(used), now);
            }
            (Held::There(sent), Spend::Spent(spent)) => self.settle_later(sent, spent, now),
            // Cut before its head, it may still be on its way to the upstream.
            (Held::There(sent), Spend::Unsaid) => self.settle_later(sent, Spent::Unknown, now),
            (Held::Moving, _) => {}
        }
    }

    /// Ends a grant that the upstream refused. What it says of a quota comes after what it says of
    /// the request: a hold that is given back is no quota to spend.
    pub(super) fn reject(&mut self, grant: Grant, rejection: Rejection, now: Timestamp) {
        let spend = if rejection.charged { Spend::Unsaid } else { Spend::Nothing };
        let cost = grant.cost();
        self.end(grant, spend, now);
        if let Some((unit, window)) = rejection.exhausted {
            self.ledger.drained(cost, unit, window, now);
        }
    }

    fn settle_later(&mut self, sent: Sent, spent: Spent, now: Timestamp) {
        self.settling.push_back((now.after(self.config.settle_delay), sent, spent));
    }

    pub(super) fn take_back(&mut self, grant: Grant, now: Timestamp) {
        self.end(grant, Spend::Unsaid, now);
    }

    pub(super) fn back_off(&mut self, until: Timestamp) {
        self.backed_off_until = self.backed_off_until.max(until);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        while let Some((place, _)) = self.scheduler.head() {
            if let Some((_, waiter)) = self.scheduler.remove(place) {
                // A waiter that has gone needs no answer.
                let _ = waiter.send(Err(Refused::Closed));
            }
        }
    }

    pub(super) fn snapshot(&self, now: Timestamp) -> Snapshot {
        let oldest = self.scheduler.head().map(|(_, entry)| entry.arrived);
        let late = self.armed.is_some_and(|at| now.since(at) > STALLED_AFTER);
        let lost = self.armed.is_none() && self.in_flight == 0 && self.settling.is_empty();
        Snapshot {
            queued: self.scheduler.len(),
            queued_bytes: self.scheduler.bytes(),
            oldest_wait: oldest.map_or(Duration::ZERO, |arrived| now.since(arrived)),
            in_flight: self.in_flight,
            bound: self.bound,
            stalled: !self.scheduler.is_empty() && (late || lost),
        }
    }

    pub(super) fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.scheduler.is_empty() && self.in_flight == 0 && self.ledger.is_untouched(now)
    }

    fn start(&mut self, cost: Cost, now: Timestamp) -> Result<Hold, Wait> {
        // No permit, gap or backoff is worth waiting for in front of a wall.
        if let Some(constraint) = self.ledger.wall(cost) {
            return Err(Denied::Wall { constraint }.into());
        }
        self.gates(now)?;
        let hold = self.ledger.hold(cost, now).map_err(Wait::from)?;
        self.in_flight += 1;
        self.next_send = now.after(self.config.min_gap);
        Ok(hold)
    }

    fn may_start(&mut self, cost: Cost, now: Timestamp) -> Result<(), Wait> {
        self.ledger.check(cost, now).map_err(Wait::from)?;
        self.gates(now)
    }

    /// What a request waits for that could go if it were not for those ahead: what they wait for.
    fn behind(&self) -> Wait {
        Wait { bound: self.bound.unwrap_or(Bound::Concurrency), until: None, wall: None }
    }

    /// Everything but the ledger that can hold a request back.
    fn gates(&self, now: Timestamp) -> Result<(), Wait> {
        if self.config.max_concurrent.is_some_and(|most| self.in_flight >= most.get()) {
            return Err(Wait { bound: Bound::Concurrency, until: None, wall: None });
        }
        for (bound, until) in
            [(Bound::Gap, self.next_send), (Bound::Backoff, self.backed_off_until)]
        {
            if now < until {
                return Err(Wait { bound, until: Some(until), wall: None });
            }
        }
        Ok(())
    }
}

/// Why the first in line cannot go yet.
#[derive(Clone, Copy, Debug)]
struct Wait {
    bound: Bound,
    until: Option<Timestamp>,
    wall: Option<usize>,
}

impl From<Denied> for Wait {
    fn from(denied: Denied) -> Self {
        let (constraint, until, wall) = match denied {
            Denied::Wall { constraint } => (constraint, None, Some(constraint)),
            Denied::Wait { constraint, until } => (constraint, until, None),
        };
        Self { bound: Bound::Constraint(constraint), until, wall }
    }
}
