//! Whose turn it is, and whether they can go.

use std::time::Duration;

use super::book::{Held, Started};
use super::grant::Grant;
use super::shared::Going;
use super::state::{Answer, State, Waiter};
use super::{Bound, Refused};
use crate::admission::circuit::Round;
use crate::admission::scheduler::{Departure, Entry, Ticket};
use crate::limit::{Cost, Denied, Mode, Unit};
use crate::time::Timestamp;

/// At most one part in so many of a limit is kept free: a burst of others is a burst, still.
const MOST_KEPT_FREE: u64 = 4;

/// Why a request cannot go yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) bound: Bound,
    pub(super) until: Option<Timestamp>,
    pub(super) wall: Option<usize>,
}

/// A request that may go, once the other replicas let it.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) held: Held,
    /// Whether they have to be asked.
    pub(super) is_asked: bool,
    pub(super) round: Round,
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

impl State {
    /// Answers everyone whose time has come, one way or the other.
    pub(super) fn turn(&mut self, now: Timestamp) -> Vec<Answer> {
        let mut answers = Vec::new();
        self.end_waits(now);
        self.expire(&mut answers, now);
        (self.head_at, self.passing, self.pass_at) = (None, false, None);
        self.scheduler.let_all_go();
        self.give_up_waiting(&mut answers, now);
        while let Some((ticket, entry)) = self.scheduler.head() {
            let entry = *entry;
            let (class, cost, deadline) = (entry.class, entry.cost, entry.deadline);
            if let Some(wait) = self.waits_for_others(now) {
                (self.bound, self.head_at) = (Some(wait.bound), wait.until);
                break;
            }
            let kept_free = self.kept_free(class, cost, now);
            let owes = kept_free.is_some();
            if let Some(wait) = kept_free.filter(|_| !self.scheduler.is_behind(class)) {
                // Not known to be in vain: how much is kept free changes.
                (self.bound, self.head_at) = (Some(wait.bound), wait.until);
                break;
            }
            match self.start(&entry, now) {
                Ok(started) => self.go(ticket, started, owes, &mut answers, now),
                Err(Wait { wall: Some(constraint), .. }) => {
                    self.refuse(ticket, Refused::Wall { constraint }, &mut answers);
                }
                // Known only now, because it depended on what was held.
                Err(Wait { bound, until: Some(until), .. }) if until > deadline => {
                    self.refuse_late(ticket, bound, Some(until), &mut answers);
                }
                Err(Wait { until: Some(until), .. }) if self.is_too_late(until) => {
                    self.refuse(ticket, Refused::Closed, &mut answers);
                }
                // Nobody else has to wait for that.
                Err(wait) if self.is_paced_out(&wait, cost, class, now) => {
                    self.scheduler.hold_back(class);
                    self.bound = Some(wait.bound);
                    self.pass_by(wait.until);
                }
                Err(wait) => {
                    (self.bound, self.head_at) = (Some(wait.bound), wait.until);
                    self.let_pass(ticket, wait.bound, &mut answers, now);
                    break;
                }
            }
        }
        if self.scheduler.is_empty() {
            self.bound = None;
        }
        answers
    }

    fn expire(&mut self, answers: &mut Vec<Answer>, now: Timestamp) {
        while let Some(ticket) = self.scheduler.expired(now) {
            let entry = self.scheduler.get(ticket);
            let (cost, class) = entry.map_or_else(Default::default, |it| (it.cost, it.class));
            let wait = self.may_start(cost, class, now).err().unwrap_or_else(|| self.behind());
            self.refuse_late(ticket, self.bound.unwrap_or(wait.bound), wait.until, answers);
        }
    }

    /// Refuses a request that cannot go in time; its place is good to come back to.
    fn refuse_late(
        &mut self,
        ticket: Ticket,
        bound: Bound,
        retry_at: Option<Timestamp>,
        answers: &mut Vec<Answer>,
    ) {
        let Some(place) = self.scheduler.place_of(ticket) else { return };
        self.refuse(ticket, Refused::TooLong { bound, retry_at, place }, answers);
    }

    /// Lets smaller requests go before one that a window of another kind than a bucket has no room
    /// for. What such a window has left at its end is lost, so somebody should use it; a bucket
    /// loses nothing while it fills. Together they are no larger than the one they pass.
    fn let_pass(&mut self, head: Ticket, bound: Bound, answers: &mut Vec<Answer>, now: Timestamp) {
        let Bound::Constraint(index) = bound else { return };
        let Some((unit, mode)) =
            self.ledger.levels(now).nth(index).map(|level| (level.quota.unit(), level.mode))
        else {
            return;
        };
        if mode == Mode::Bucket {
            return;
        }
        self.passing = true;
        let most = self.scheduler.get(head).map_or(0, |entry| entry.cost.of(unit));
        for ticket in self.scheduler.behind_head() {
            let Some(entry) = self.scheduler.get(ticket) else { continue };
            let entry = *entry;
            let (cost, deadline) = (entry.cost, entry.deadline);
            let passed = self.scheduler.bypassed(head).of(unit).saturating_add(cost.of(unit));
            if passed > most {
                continue;
            }
            match self.start(&entry, now) {
                Ok(started) => {
                    self.scheduler.bypass(head, cost);
                    self.go(ticket, started, false, answers, now);
                }
                // The timer is set to the first that can; whoever it wakes looks at all again.
                Err(Wait { until: Some(until), wall: None, .. }) if until <= deadline => {
                    self.pass_by(Some(until));
                }
                Err(_) => {}
            }
        }
    }

    /// Has the timer look again at `until`, if that is known.
    fn pass_by(&mut self, until: Option<Timestamp>) {
        self.pass_at = [self.pass_at, until].into_iter().flatten().min();
    }

    /// Whether a request would not have to wait, or not as long, if its class did not keep to the
    /// spread of long windows.
    fn is_paced_out(&mut self, wait: &Wait, cost: Cost, class: usize, now: Timestamp) -> bool {
        self.scheduler.is_paced(class)
            && wait.bound != Bound::Replicas
            && match self.ledger.check_as(cost, false, now) {
                Ok(()) => self.gates(now).is_ok(),
                Err(Denied::Wait { until: other, .. }) => other.is_some() && other != wait.until,
                Err(Denied::Wall { .. }) => false,
            }
    }

    fn go(
        &mut self,
        ticket: Ticket,
        begun: Begun,
        owes: bool,
        answers: &mut Vec<Answer>,
        now: Timestamp,
    ) {
        let Begun { held, is_asked, round } = begun;
        let Some(departure) = self.scheduler.dispatch_owing(ticket, owes) else {
            // Nobody waits there: nobody is to be charged.
            self.in_flight = self.in_flight.saturating_sub(1);
            self.circuit.left(round, now);
            return self.ledger.give_back(held, now);
        };
        if is_asked {
            self.together.going.push(Going { departure, held, round });
        } else {
            answers.push(self.gone(departure, (held, round), now));
        }
    }

    /// A request that waited goes.
    pub(super) fn gone(
        &mut self,
        departure: Departure<Waiter>,
        held: (Held, Round),
        now: Timestamp,
    ) -> Answer {
        let Departure { entry, item, place, charge, .. } = departure;
        let Waiter { answer, forecast } = item;
        let waited = now.since(entry.arrived);
        let line = self.scheduler.loads().get(entry.class).map_or(0, |load| load.queued);
        self.forecast.waited(entry.class, forecast, waited, line);
        self.forecast.sent(entry.class, entry.fair, entry.cost.tokens, now);
        (answer, Ok(Grant::new(place, charge, held, (waited, forecast), self.bound)))
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, refused: Refused, answers: &mut Vec<Answer>) {
        if let Some((_, waiter)) = self.scheduler.remove(ticket) {
            answers.push((waiter.answer, Err(refused)));
        }
    }

    /// Whether a request has to leave what there is to better classes, whose requests may come at any
    /// moment. In a bucket that costs nothing but a start: what is left there is not lost.
    pub(super) fn kept_free(&mut self, class: usize, cost: Cost, now: Timestamp) -> Option<Wait> {
        let reserve = self.forecast.reserve(class, now);
        if reserve.requests == 0 {
            return None;
        }
        let mut wait: Option<Wait> = None;
        for (index, level) in self.ledger.levels(now).enumerate() {
            let (unit, limit) = (level.quota.unit(), level.quota.limit());
            let kept = reserve.of(unit).min(limit / MOST_KEPT_FREE);
            let needed = cost.of(unit).saturating_add(kept).min(limit);
            let missing = i128::from(needed) - i128::from(level.available);
            if level.mode != Mode::Bucket || missing <= 0 {
                continue;
            }
            let window = i128::try_from(level.quota.window().as_nanos()).unwrap_or(i128::MAX);
            let span = missing.saturating_mul(window) / i128::from(limit) + 1;
            let at = now.after(Duration::from_nanos(u64::try_from(span).unwrap_or(u64::MAX)));
            if wait.is_none_or(|wait| wait.until < Some(at)) {
                wait = Some(Wait { bound: Bound::Constraint(index), until: Some(at), wall: None });
            }
        }
        wait
    }

    /// What a request of a class leaves, of each unit, where a bucket binds.
    pub(super) fn kept_for_better(&mut self, class: usize, now: Timestamp) -> Cost {
        let mut kept = self.forecast.reserve(class, now);
        for level in self.ledger.levels(now) {
            let most = level.quota.limit() / MOST_KEPT_FREE;
            let most = if level.mode == Mode::Bucket { most } else { 0 };
            match level.quota.unit() {
                Unit::Requests => kept.requests = kept.requests.min(most),
                Unit::Tokens => kept.tokens = kept.tokens.min(most),
                Unit::UncachedTokens => kept.uncached = kept.uncached.min(most),
            }
        }
        kept
    }

    /// Holds what a request needs; tells whether it still has to be asked for.
    pub(super) fn start(&mut self, entry: &Entry, now: Timestamp) -> Result<Begun, Wait> {
        let (cost, class) = (entry.cost, entry.class);
        // No permit, gap or backoff is worth waiting for in front of a wall.
        if let Some(constraint) = self.ledger.wall(cost) {
            return Err(Denied::Wall { constraint }.into());
        }
        self.gates(now)?;
        let (paced, asks) = (self.scheduler.is_paced(class), self.together.asking);
        let turn = || self.scheduler.turn(entry);
        let started = self.ledger.start(cost, (paced, asks), turn, now).map_err(Wait::from)?;
        let (held, is_asked) = match started {
            Started::Now(held) => (held, false),
            Started::Asked(held) => (held, true),
            Started::HasToAsk => {
                self.together.wants = true;
                return Err(Wait { bound: Bound::Replicas, until: None, wall: None });
            }
        };
        self.in_flight += 1;
        self.next_send = now.after(self.config.min_gap);
        Ok(Begun { held, is_asked, round: self.circuit.begin() })
    }

    pub(super) fn may_start(
        &mut self,
        cost: Cost,
        class: usize,
        now: Timestamp,
    ) -> Result<(), Wait> {
        let paced = self.scheduler.is_paced(class);
        self.ledger.check_as(cost, paced, now).map_err(Wait::from)?;
        self.gates(now)
    }

    /// What a request waits for that could go if it were not for those ahead: what they wait for.
    pub(super) fn behind(&self) -> Wait {
        Wait { bound: self.bound.unwrap_or(Bound::Concurrency), until: None, wall: None }
    }

    /// Everything but the ledger that can hold a request back.
    fn gates(&self, now: Timestamp) -> Result<(), Wait> {
        if let Err(until) = self.circuit.check(now) {
            return Err(Wait { bound: Bound::Circuit, until, wall: None });
        }
        let most = self.concurrency.limit(self.config.max_concurrent);
        if most.is_some_and(|most| self.in_flight >= most.get()) {
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
