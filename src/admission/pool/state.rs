//! What a pool decides under its lock. No task, no channel wait, no clock.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::book::{Book, Held as Settling};
use super::grant::Grant;
use super::shared::Together;
use super::turn::{Begun, Wait};
use super::{Admitted, Bound, PoolConfig, Queue, Refused, Request, Snapshot, TenantQueue};
use crate::admission::aimd::Aimd;
use crate::admission::circuit::Circuit;
use crate::admission::forecast::Forecast;
use crate::admission::scheduler::{Entry, Load, Place, Scheduler, Ticket};
use crate::limit::{Cost, Left, Spent, Twin};
use crate::time::Timestamp;

/// Someone who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) answer: Sender,
    /// How long they were to wait.
    pub(super) forecast: Duration,
}

/// Where an answer goes, and comes out, and the answer found. In a box: whoever waits has no room for it.
pub(super) type Sender = oneshot::Sender<Result<Box<Admitted>, Refused>>;
pub(super) type Receiver = oneshot::Receiver<Result<Box<Admitted>, Refused>>;
pub(super) type Answer = (Sender, Result<Grant, Refused>);

/// How late the timer may be before the pool counts as stalled: far above any pause of a busy
/// machine, far below what a waiting caller would put up with.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What a request may wait at least for other replicas to be asked: longer than that takes, and not
/// so long that a caller who would not wait notices.
const ASKING: Duration = Duration::from_millis(100);

/// Why a request does not go at once.
#[derive(Debug)]
enum Held {
    Refused(Refused),
    /// It has to wait, about so long.
    Waits(Duration),
}

/// What becomes of a request for admission.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for a moment; a box is for every request")]
pub(super) enum Decision {
    Go(Grant),
    No(Refused),
    Wait(Ticket, Receiver, Duration),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Book,
    /// What the ledger was at the beginning, until whoever keeps its journal has taken it.
    pub(super) twin: Option<Twin>,
    pub(super) config: PoolConfig,
    pub(super) scheduler: Scheduler<Waiter>,
    pub(super) forecast: Forecast,
    /// Answers that have ended and wait for the upstream's own refund, in order of `due`.
    pub(super) settling: VecDeque<(Timestamp, Settling, Spent)>,
    pub(super) in_flight: u32,
    pub(super) next_send: Timestamp,
    pub(super) backed_off_until: Timestamp,
    /// How many the upstream bears at once.
    pub(super) concurrency: Aimd,
    /// Whether it is there.
    pub(super) circuit: Circuit,
    /// What the first in line waits for.
    pub(super) bound: Option<Bound>,
    /// When the first in line can go, if that is known.
    pub(super) head_at: Option<Timestamp>,
    /// Whether others may pass the first in line, and when the first of them can.
    pub(super) passing: bool,
    pub(super) pass_at: Option<Timestamp>,
    /// What the timer is set to.
    armed: Option<Timestamp>,
    /// From when on nobody may start, if there is an end.
    pub(super) closing: Option<Timestamp>,
    /// Another process goes on with the ledger: nobody is let in any more.
    pub(super) handed_over: bool,
    /// What those will ask for that it was told of and that have not come yet, and how many they are.
    pub(super) coming: (Cost, u32),
    /// What is held for requests of the process before, and how many of them had not gone.
    pub(super) left: Left,
    pub(super) left_waiting: u32,
    /// What a pool that shares its quota needs beside.
    pub(super) together: Together,
}

impl State {
    pub(super) fn new(
        config: PoolConfig,
        ledger: Book,
        twin: Option<Twin>,
        now: Timestamp,
    ) -> Self {
        Self {
            ledger,
            twin,
            scheduler: Scheduler::new(&config.classes),
            forecast: Forecast::new(&config.classes),
            config,
            settling: VecDeque::new(),
            in_flight: 0,
            next_send: now,
            backed_off_until: now,
            concurrency: Aimd::default(),
            circuit: Circuit::default(),
            bound: None,
            head_at: None,
            passing: false,
            pass_at: None,
            armed: None,
            closing: None,
            handed_over: false,
            coming: (Cost::default(), 0),
            left: Left::default(),
            left_waiting: 0,
            together: Together::default(),
        }
    }

    /// Admits or refuses a newcomer (or one that comes back to its `place`), or lets it wait. One
    /// that waits may have come before others: [`Self::is_due`].
    pub(super) fn decide(
        &mut self,
        request: Request,
        place: Option<Place>,
        now: Timestamp,
    ) -> Decision {
        let mut request = request;
        if self.ledger.is_shared() {
            // To ask the other replicas is not to wait for quota.
            request.deadline = request.deadline.max(now.after(ASKING));
        }
        match self.enter(request, place, now) {
            Ok(grant) => Decision::Go(grant),
            Err(Held::Refused(refused)) => Decision::No(refused),
            Err(Held::Waits(forecast)) => {
                let (sender, answer) = oneshot::channel();
                let waiter = Waiter { answer: sender, forecast };
                let place = place.unwrap_or_else(|| self.scheduler.place());
                let ticket = self.scheduler.insert(place, request.entry(now), waiter);
                Decision::Wait(ticket, answer, forecast)
            }
        }
    }

    /// Admits a request, or says why not, or how long it will wait.
    fn enter(
        &mut self,
        request: Request,
        place: Option<Place>,
        now: Timestamp,
    ) -> Result<Grant, Held> {
        if self.handed_over || self.is_over(now) {
            return Err(Held::Refused(Refused::Closed));
        }
        let entry = request.entry(now);
        let denied = if self.scheduler.is_empty() && !self.scheduler.is_waited_elsewhere() {
            let wall = self.ledger.wall(request.cost);
            if let Some(constraint) = wall {
                return Err(Held::Refused(Refused::Wall { constraint }));
            }
            if let Some(refused) = self.given_up(now) {
                return Err(Held::Refused(refused));
            }
            let started = match self.kept_free(request.class, request.cost, now) {
                Some(wait) => Err(Wait { until: None, ..wait }),
                None => self.start(&entry, now),
            };
            match started {
                Ok(Begun { held, round, .. }) => {
                    let place = place.unwrap_or_else(|| self.scheduler.place());
                    let (place, charge) = self.scheduler.pass(place, &entry);
                    self.forecast.sent(request.class, request.fair, request.cost.tokens, now);
                    let none = (Duration::ZERO, Duration::ZERO);
                    return Ok(Grant::new(place, charge, (held, round), none, None));
                }
                Err(wait) => wait,
            }
        } else {
            let paced = self.scheduler.is_paced(request.class);
            let checked = self.ledger.check_as(request.cost, paced, now);
            checked.map_or_else(Wait::from, |()| self.behind())
        };
        if let Some(constraint) = denied.wall {
            return Err(Held::Refused(Refused::Wall { constraint }));
        }
        let late = |at: Option<Timestamp>| at.is_some_and(|at| at > request.deadline);
        if request.deadline <= now || late(denied.until) {
            return Err(self.too_late(&request, place, denied.bound, denied.until));
        }
        if denied.until.is_some_and(|at| self.is_too_late(at)) {
            return Err(Held::Refused(Refused::Closed));
        }
        if let Some(refused) = self.full(&request).filter(|_| place.is_none()) {
            return Err(Held::Refused(refused));
        }
        let start = self.starts(&entry, now).max(denied.until.unwrap_or(now));
        let margin = self.forecast.margin(request.class, start.since(now));
        // One that comes back is not behind everyone; and nobody is turned away on a guess.
        if place.is_none() && self.forecast.is_known() && late(Some(start.after(margin))) {
            let bound = self.bound.unwrap_or(denied.bound);
            return Err(self.too_late(&request, place, bound, Some(start)));
        }
        if self.forecast.is_known() && self.is_too_late(start) {
            return Err(Held::Refused(Refused::Closed));
        }
        Err(Held::Waits(start.since(now)))
    }

    fn too_late(
        &mut self,
        request: &Request,
        place: Option<Place>,
        bound: Bound,
        retry_at: Option<Timestamp>,
    ) -> Held {
        // It may come back to where it would have stood.
        let place = place.unwrap_or_else(|| self.scheduler.place()).kept(request.deadline);
        Held::Refused(Refused::TooLong { bound, retry_at, place })
    }

    /// Whether there is no room for one more to wait.
    fn full(&self, request: &Request) -> Option<Refused> {
        let retry_at = self.head_at;
        if self.scheduler.len() >= self.config.max_queued {
            return Some(Refused::Full { retry_at });
        }
        let load = self.scheduler.load_of(request.tenant);
        let bytes = load.bytes.saturating_add(request.bytes);
        let most = self.config.per_tenant;
        // One request is never too many bytes: whether it is too large was asked before.
        let too_much = load.queued > 0 && bytes > most.bytes;
        (load.queued >= most.queued || too_much).then_some(Refused::TenantFull { retry_at })
    }

    /// Whether one that has just begun to wait may be able to go: it is first in line, or others may
    /// pass the one that is.
    pub(super) fn is_due(&self, ticket: Ticket) -> bool {
        self.passing || self.scheduler.head().is_some_and(|(head, _)| head == ticket)
    }

    /// Forgets a request that gave up. Tells whether it was first in line, so that others may go.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let first = self.scheduler.head().is_some_and(|(head, _)| head == ticket);
        self.scheduler.remove(ticket).is_some() && first
    }

    /// Sets the timer to the next thing that is due; tells whether it has to be woken for that.
    pub(super) fn rearm(&mut self, now: Timestamp) -> bool {
        // Where nobody waits, settling can be caught up with when somebody comes.
        let settle = self.settling.front().map(|(due, ..)| *due);
        let deadline = self.scheduler.next_deadline();
        let given_up = self.gives_up_at(now);
        let due = [self.head_at, self.pass_at, deadline, settle, given_up, self.closing];
        let due = due.into_iter().flatten().min();
        let Some(due) = due.filter(|_| !self.scheduler.is_empty()) else { return false };
        // At `now` nothing is due any more; a timer set to it could only spin.
        let due = due.max(now.after(Duration::from_nanos(1)));
        let sooner = self.armed.is_none_or(|armed| due < armed);
        if sooner {
            self.armed = Some(due);
        }
        sooner
    }

    /// Lowers what a waiting request can cost; tells whether it did.
    pub(super) fn lower(&mut self, ticket: Ticket, cost: Cost) -> bool {
        self.scheduler.lower(ticket, cost)
    }

    pub(super) fn disarm(&mut self) {
        self.armed = None;
    }

    pub(super) fn armed(&self) -> Option<Timestamp> {
        self.armed
    }

    pub(super) fn back_off(&mut self, until: Timestamp) {
        self.backed_off_until = self.backed_off_until.max(until);
    }

    /// Admits in another way from now on. Whoever may go by that is let go by [`Self::turn`].
    pub(super) fn reconfigure(&mut self, config: PoolConfig, now: Timestamp) {
        let before = std::mem::replace(&mut self.config, config);
        let PoolConfig { constraints, cold_start, classes, min_gap, .. } = &self.config;
        if before.constraints != *constraints {
            self.ledger.reconfigure(constraints, *cold_start, now);
            // Constraints are known by their index.
            self.bound = None;
        }
        self.scheduler.reconfigure(classes);
        self.forecast.reconfigure(classes);
        if *min_gap < before.min_gap {
            self.next_send = self.next_send.min(now.after(*min_gap));
        }
    }

    pub(super) fn snapshot(&mut self, now: Timestamp) -> Snapshot {
        let forecasts = self.outlook(now);
        Snapshot { forecasts, ..self.glance(now) }
    }

    /// A snapshot without forecasts.
    pub(super) fn glance(&self, now: Timestamp) -> Snapshot {
        let loads = self.scheduler.loads();
        let oldest = (0..loads.len()).filter_map(|class| self.scheduler.oldest(class)).min();
        let late = self.armed.is_some_and(|at| now.since(at) > STALLED_AFTER);
        let lost = self.armed.is_none() && self.in_flight == 0 && self.settling.is_empty();
        Snapshot {
            queued: self.scheduler.len(),
            queued_bytes: loads.iter().map(|load| load.bytes).sum(),
            oldest_wait: oldest.map_or(Duration::ZERO, |arrived| now.since(arrived)),
            in_flight: self.in_flight,
            concurrency: self.concurrency.limit(self.config.max_concurrent),
            circuit: self.circuit.phase(),
            bound: self.bound,
            stalled: !self.scheduler.is_empty() && (late || lost),
            classes: (0..loads.len())
                .map(|class| queue(loads[class], self.scheduler.oldest(class), now))
                .collect(),
            forecasts: Vec::new(),
        }
    }

    /// Requests waiting.
    pub(super) fn queued(&self) -> usize {
        self.scheduler.len()
    }

    /// The tenants that have most waiting.
    pub(super) fn tenants(&self, most: usize, now: Timestamp) -> Vec<TenantQueue> {
        let classes = 0..self.scheduler.loads().len();
        let mut all: Vec<_> = classes
            .flat_map(|class| self.scheduler.tenants(class).map(move |it| (class, it.0, it.1)))
            .collect();
        all.sort_unstable_by_key(|(class, tenant, load)| (Reverse(load.queued), *class, *tenant));
        all.truncate(most);
        let view = |(class, tenant, load)| {
            let oldest = self.scheduler.oldest_of(class, tenant);
            TenantQueue { class, tenant, queue: queue(load, oldest, now) }
        };
        all.into_iter().map(view).collect()
    }

    /// Tells how many requests of each tenant wait, for each class.
    pub(super) fn each_waiting(&self, mut each: impl FnMut(u64, usize)) {
        for class in 0..self.scheduler.loads().len() {
            self.scheduler.tenants(class).for_each(|(tenant, load)| each(tenant, load.queued));
        }
    }

    pub(super) fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.scheduler.is_empty() && self.in_flight == 0 && self.ledger.is_untouched(now)
    }
}

fn queue(load: Load, oldest: Option<Timestamp>, now: Timestamp) -> Queue {
    let oldest_wait = oldest.map_or(Duration::ZERO, |arrived| now.since(arrived));
    Queue { queued: load.queued, bytes: load.bytes, oldest_wait }
}

impl Request {
    pub(super) fn entry(&self, arrived: Timestamp) -> Entry {
        let Self { cost, fair, bytes, deadline, class, tenant, weight } = *self;
        Entry { cost, fair, bytes, arrived, deadline, class, tenant, weight }
    }
}
