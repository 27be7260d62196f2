//! A sender that always has something to send, the upstream, and the network between them, in
//! virtual time.
//!
//! The sender asks its ledger and nothing else. The upstream is an [`Oracle`]. After every event the
//! two are compared: what the ledger would still let go, and what is on its way, must fit into what
//! the upstream has left.

mod event;
mod life;
mod story;
mod trace;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use tidegate::admission::scheduler::{Entry as Place, Scheduler};
use tidegate::limit::{ColdStart, Constraint, Cost, Denied, Hold, Ledger, Mode, Sent, Unit};
use tidegate::time::Timestamp;

use self::event::Event;
pub(crate) use self::story::Story;
use self::trace::Moment;
use crate::oracle::{Entry, Limit, Oracle, REQUESTS, Semantics, TOKENS};
use crate::workload::{Fate, Job, Workload, drawn};

/// Requests that wait at any time: enough that one is always there to go.
const BACKLOG: usize = 16;

/// Far more requests than any limit here lets be open: a ledger that allows that allows everything.
const MOST_OPEN: usize = 10_000;

/// How long it takes a request that is not sent to be given up.
const SHORTLY: u64 = 1_000_000;

struct Flight {
    job: Job,
    sent_at: u64,
    arrived_at: u64,
    held: Held,
    entry: Option<Entry>,
    /// What the head will show of each window: its limit, and what was left at the charge.
    shown: Vec<(u64, i128)>,
    /// The window that had no room for it.
    refused_by: Option<usize>,
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
    /// What is asked for, and what others ask for, where somebody else is to see the same.
    jobs: Option<Rng>,
    others: Option<Rng>,
    ledger: Ledger,
    oracle: Oracle,
    mode: Mode,
    watched: bool,
    waiting: Scheduler<Job>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events_made: u64,
    started: u64,
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
        let constraint = |(index, limit): (usize, &Limit)| {
            let window = Duration::from_nanos(limit.window);
            Constraint::new(unit(limit), limit.limit, window, NAMES[index], mode)
                .expect("within bounds")
        };
        let constraints = workload.limits.iter().enumerate().map(constraint).collect();
        let known = workload.used_before == 0;
        let (jobs, others) = workload.sources(rng).unzip();
        let cold = if known { ColdStart::Full } else { ColdStart::Probe };
        let mut world = Self {
            ledger: Ledger::cold(constraints, cold, Timestamp::from_nanos(start)),
            oracle: Oracle::new(semantics, &workload.limits, start),
            workload,
            rng,
            jobs,
            others,
            mode,
            watched,
            waiting: Scheduler::default(),
            flights: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            events_made: 0,
            started: start,
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
        for (part, per_cent) in &workload.relimits {
            world.schedule(start + workload.lasts / 1_000 * part, Event::Relimit(*per_cent));
        }
        world.schedule(start, Event::Foreign);
        for limit in workload.limits.iter().filter(|limit| !known && limit.unit == TOKENS) {
            let before = limit.limit * u64::from(workload.used_before) / 1_000;
            world.oracle.admit(before, start).expect("there is room for what was used before");
        }
        world.send();
        while let Some(Reverse((at, _, event))) = world.events.pop() {
            // A ledger that is wrong may send without end: a few faults say it as well.
            let foreign = workload.foreign.0 > 0 || !workload.relimits.is_empty();
            if at > end || !foreign && world.story.rejected + world.story.broken > 100 {
                break;
            }
            world.now = at;
            let is_seen = event.is_seen();
            world.happen(event);
            world.compare();
            if is_seen {
                world.send();
            }
            world.trace();
        }
        world.story.charged = world.oracle.charged();
        let now = world.time();
        world.story.modes = world.ledger.levels(now).map(|level| level.mode.as_str()).collect();
        world.story
    }

    /// Sends whatever the ledger lets go.
    fn send(&mut self) {
        while self.now >= self.quiet_until {
            while self.waiting.len() < BACKLOG {
                let job = self.workload.draw(self.jobs.as_mut().unwrap_or(self.rng));
                let place = self.waiting.place();
                let cost = cost(job.hold);
                let (arrived, deadline) = (self.time(), Timestamp::MAX);
                self.waiting.insert(place, Place::new(cost, arrived, deadline), job);
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
                    let shared = self.workload.foreign.0 > 0 || !self.workload.relimits.is_empty();
                    let kept =
                        self.promised != Some(self.now) || self.workload.in_debt > 0 || shared;
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
        let flight = Flight {
            job,
            sent_at,
            arrived_at,
            held,
            entry: None,
            shown: Vec::new(),
            refused_by: None,
            pending: [0; 2],
        };
        self.flights[index] = Some(flight);
        let pending = if self.is_shown() { job.reserve } else { job.hold };
        self.set_pending(index, [1, i128::from(pending)]);
    }

    /// The invariant: what the ledger lets go, and what it may give back, the upstream has left.
    fn compare(&mut self) {
        if !self.watched || self.workload.foreign.0 > 0 || !self.workload.relimits.is_empty() {
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

    /// Whether the heads of answers show anything.
    fn is_shown(&self) -> bool {
        self.workload.shown.windows != 0
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.events_made += 1;
        self.events.push(Reverse((at, self.events_made, event)));
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }
}

/// Names for as many windows as there are.
const NAMES: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];

fn unit(limit: &Limit) -> Unit {
    if limit.unit == REQUESTS { Unit::Requests } else { Unit::Tokens }
}

fn cost(tokens: u64) -> Cost {
    Cost::new(1, tokens)
}
