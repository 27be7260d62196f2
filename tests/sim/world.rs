//! A sender that always has something to send, the upstream, and the network between them, in
//! virtual time.
//!
//! The sender asks its ledger and nothing else. The upstream is an [`Oracle`]. After every event the
//! two are compared: what the ledger would still let go, and what is on its way, must fit into what
//! the upstream has left.

mod life;
mod story;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use tidegate::admission::scheduler::{Entry as Place, Scheduler};
use tidegate::limit::{Constraint, Cost, Denied, Hold, Ledger, Mode, Sent, Unit};
use tidegate::time::Timestamp;

pub(crate) use self::story::Story;
use crate::oracle::{Entry, Limit, Oracle, REQUESTS, Semantics};
use crate::workload::{Fate, Job, Workload, drawn};

/// Requests that wait at any time: enough that one is always there to go.
const BACKLOG: usize = 16;

/// Far more requests than any limit here lets be open: a ledger that allows that allows everything.
const MOST_OPEN: usize = 10_000;

/// How long it takes a request that is not sent to be given up.
const SHORTLY: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Wake,
    /// The request reaches the upstream.
    Arrive(usize),
    /// The sender sees the first token.
    Head(usize),
    /// The upstream replaces its reservation.
    Refund(usize),
    /// The sender ends the hold.
    End(usize),
}

struct Flight {
    job: Job,
    sent_at: u64,
    arrived_at: u64,
    held: Held,
    entry: Option<Entry>,
    /// What the ledger may give back later, by unit: the `h` of the invariant.
    pending: [i128; 2],
}

enum Held {
    Here(Hold),
    There(Sent),
}

/// Everything at once.
pub(crate) struct World<'a> {
    workload: &'a Workload,
    rng: &'a mut Rng,
    ledger: Ledger,
    oracle: Oracle,
    mode: Mode,
    watched: bool,
    waiting: Scheduler<Job>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events_made: u64,
    now: u64,
    /// A somewhat older reading of the clock, for whoever ends a request.
    late_clock: u64,
    quiet_until: u64,
    armed: Option<u64>,
    promised: Option<u64>,
    /// The sum of `pending` over all flights.
    pending: [i128; 2],
    /// Tokens by which the upstream's debts exceed what the ledger knows of.
    open_debt: i128,
    story: Story,
}

impl<'a> World<'a> {
    /// Runs `workload` from `start` to its end. Only where `watched` the ledger is looked at
    /// between its own uses.
    pub(crate) fn run(
        workload: &'a Workload,
        mode: Mode,
        semantics: Semantics,
        start: u64,
        watched: bool,
        rng: &'a mut Rng,
    ) -> Story {
        let constraint = |limit: &Limit| {
            let unit = if limit.unit == REQUESTS { Unit::Requests } else { Unit::Tokens };
            let window = Duration::from_nanos(limit.window);
            Constraint::new(unit, limit.limit, window, "window", mode).expect("within bounds")
        };
        let constraints = workload.limits.iter().map(constraint).collect();
        let mut world = Self {
            ledger: Ledger::new(constraints, Timestamp::from_nanos(start)),
            oracle: Oracle::new(semantics, &workload.limits, start),
            workload,
            rng,
            mode,
            watched,
            waiting: Scheduler::default(),
            flights: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            events_made: 0,
            now: start,
            late_clock: start,
            quiet_until: start,
            armed: None,
            promised: None,
            pending: [0; 2],
            open_debt: 0,
            story: Story { twin: true, ..Story::default() },
        };
        let end = start + workload.lasts;
        world.send();
        while let Some(Reverse((at, _, event))) = world.events.pop() {
            // A ledger that is wrong may send without end: a few faults say it as well.
            if at > end || world.story.rejected + world.story.broken > 100 {
                break;
            }
            world.now = at;
            world.happen(event);
            world.compare();
            world.send();
        }
        world.story.charged = world.oracle.charged();
        world.story
    }

    /// Sends whatever the ledger lets go.
    fn send(&mut self) {
        while self.now >= self.quiet_until {
            while self.waiting.len() < BACKLOG {
                let job = self.workload.draw(self.rng);
                let place = self.waiting.place();
                let cost = cost(job.hold);
                let (arrived, deadline) = (self.time(), Timestamp::MAX);
                self.waiting.insert(place, Place { cost, bytes: 0, arrived, deadline }, job);
            }
            let (place, entry) = self.waiting.head().expect("somebody always waits");
            let (cost, now) = (entry.cost, self.time());
            match self.ledger.hold(cost, now) {
                Ok(hold) => {
                    let (_, job) = self.waiting.remove(place).expect("the head waits");
                    self.promised = None;
                    assert!(self.flights.len() < MOST_OPEN, "{MOST_OPEN} requests at once");
                    self.take_off(job, hold);
                    self.compare();
                    self.pause();
                }
                Err(Denied::Wait { until: Some(until), .. }) => {
                    let until = until.as_nanos();
                    assert!(until > self.now, "a wait that has ended");
                    let kept = self.promised != Some(self.now) || self.workload.in_debt > 0;
                    assert!(kept, "at {} there was to be room for {cost:?}", self.now);
                    self.promised = Some(until);
                    if self.armed.is_none_or(|armed| armed <= self.now || until < armed) {
                        self.armed = Some(until);
                        self.schedule(until, Event::Wake);
                    }
                    return;
                }
                Err(Denied::Wait { until: None, .. }) => {
                    assert!(self.flights.len() > self.free.len(), "nobody is left to wait for");
                    self.promised = None;
                    return;
                }
                Err(denied) => unreachable!("{cost:?}: {denied:?}"),
            }
        }
    }

    /// Now and then nobody asks for a while.
    fn pause(&mut self) {
        let (share, pause) = &self.workload.pauses;
        if drawn(self.rng, *share) {
            self.quiet_until = self.now + self.rng.u64(pause.clone());
            self.schedule(self.quiet_until, Event::Wake);
        }
    }

    fn take_off(&mut self, job: Job, hold: Hold) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        let held = if job.fate == Fate::Released {
            self.schedule(self.now + SHORTLY, Event::End(index));
            Held::Here(hold)
        } else {
            self.story.sent += 1;
            self.schedule(self.now + job.there, Event::Arrive(index));
            Held::There(hold.sent())
        };
        let (sent_at, arrived_at) = (self.now, self.now);
        let flight = Flight { job, sent_at, arrived_at, held, entry: None, pending: [0; 2] };
        self.flights[index] = Some(flight);
        self.set_pending(index, [1, i128::from(job.hold)]);
    }

    /// The invariant: what the ledger lets go, and what it may give back, the upstream has left.
    fn compare(&mut self) {
        if !self.watched {
            return;
        }
        let now = self.time();
        let mut broken = None;
        for (index, (level, limit)) in
            self.ledger.levels(now).zip(&self.workload.limits).enumerate()
        {
            let pending = self.pending[limit.unit];
            let ours = (i128::from(level.available) + pending) * i128::from(limit.window);
            let theirs = self.oracle.remaining(index, self.now);
            if ours > theirs {
                broken = Some((index, ours - theirs));
            }
            let settled = self.flights.len() == self.free.len();
            self.story.twin &= !settled || theirs - ours < i128::from(limit.window);
        }
        if let Some((index, by)) = broken {
            self.story.broken += 1;
            let (units, now) = (by / i128::from(self.workload.limits[index].window), self.now);
            self.story
                .fault(|| format!("window {index} is {units} ahead of the upstream at {now}"));
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.events_made += 1;
        self.events.push(Reverse((at, self.events_made, event)));
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }
}

fn cost(tokens: u64) -> Cost {
    Cost::new(1, tokens)
}
