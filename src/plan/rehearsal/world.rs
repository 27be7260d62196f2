//! The jobs, the line, the ledger and the upstream, one event after the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

use super::{Arrivals, Run, Scenario, Used, Wait, percent};
use crate::admission::scheduler::{Charge, Entry, Scheduler};
use crate::limit::{Cost, Denied, Ledger, Mode, Sent, Spent, Unit};
use crate::plan::capacity::Question;
use crate::plan::profile::{Example, Spread};
use crate::simulator::quota::{Admission, Limit, Name, Quota, Semantics, Unit as Counted};
use crate::time::{Timestamp, nanos};

/// A midnight (UTC), so that windows of the calendar begin with the rehearsal.
const START: u64 = 20_000 * 86_400 * 1_000_000_000;

/// What happens at an instant.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    /// The answer of a job ends.
    End(usize),
    /// Its refund is counted.
    Settle(usize),
    /// The first in line may have its turn.
    Look,
    /// The next job comes.
    Arrive,
}

/// A job at the upstream.
struct Flight {
    sent: Sent,
    charge: Charge,
    used: u64,
    counted: Vec<Option<Admission>>,
}

/// Everything at once.
pub(super) struct World<'a> {
    question: &'a Question,
    scenario: &'a Scenario,
    rng: Rng,
    ledger: Ledger,
    line: Scheduler<Example>,
    /// The upstream: one model for each limit.
    upstream: Vec<Quota>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    in_flight: u32,
    next_send: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    /// When the line is looked at next.
    looks_at: Option<u64>,
    now: u64,
    waits: Spread,
    came: u64,
    started: u64,
    refused: u64,
    overdrawn: u64,
    used_tokens: u64,
}

impl<'a> World<'a> {
    /// Plays a scenario from its beginning to its end.
    pub(super) fn run(question: &'a Question, scenario: &'a Scenario) -> Run {
        let mut world = Self {
            question,
            scenario,
            rng: Rng::with_seed(scenario.seed),
            ledger: Ledger::new(question.limits.clone(), Timestamp::from_nanos(START)),
            line: Scheduler::default(),
            upstream: question.limits.iter().map(upstream).collect(),
            flights: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            next_send: START,
            events: BinaryHeap::new(),
            made: 0,
            looks_at: None,
            now: START,
            waits: Spread::default(),
            came: 0,
            started: 0,
            refused: 0,
            overdrawn: 0,
            used_tokens: 0,
        };
        let end = START.saturating_add(nanos(scenario.lasts));
        match scenario.arrivals {
            Arrivals::AtOnce(jobs) => (0..jobs).for_each(|_| world.arrive()),
            Arrivals::Random { .. } => world.expect_next(),
        }
        world.send();
        while let Some(Reverse((at, _, event))) = world.events.pop() {
            if at > end {
                world.now = end;
                break;
            }
            world.now = at;
            world.happen(event);
            world.send();
        }
        world.told()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                self.arrive();
                self.expect_next();
            }
            Event::Look => self.looks_at = self.looks_at.filter(|at| *at > self.now),
            Event::End(flight) => self.end(flight),
            Event::Settle(flight) => self.settle(flight),
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    /// Has the next job come, if there is one.
    fn expect_next(&mut self) {
        if let Arrivals::Random { per_second_micros, jobs } = self.scenario.arrivals
            && self.came < jobs
        {
            let pause = pause(&mut self.rng, per_second_micros);
            self.at(self.now.saturating_add(pause), Event::Arrive);
        }
    }

    fn arrive(&mut self) {
        self.came += 1;
        let index = self.rng.usize(..self.scenario.examples.len());
        let job = self.scenario.examples[index];
        let cost = Cost::new(1, job.held.max(used(&job)));
        let now = Timestamp::from_nanos(self.now);
        if self.ledger.wall(cost).is_some() {
            self.refused += 1;
            return;
        }
        let place = self.line.place();
        self.line.insert(place, Entry::new(cost, now, Timestamp::MAX), job);
    }

    /// Sends whatever may go.
    fn send(&mut self) {
        while let Some((ticket, entry)) = self.line.head() {
            let (cost, arrived) = (entry.cost, entry.arrived);
            let most = self.question.max_concurrent;
            if most.is_some_and(|most| self.in_flight >= most.get()) {
                return;
            }
            if self.now < self.next_send {
                return self.look_at(self.next_send);
            }
            let now = Timestamp::from_nanos(self.now);
            let hold = match self.ledger.hold(cost, now) {
                Ok(hold) => hold,
                Err(Denied::Wait { until: Some(until), .. }) => {
                    return self.look_at(until.as_nanos().max(self.now + 1));
                }
                // A settle is waited for; a wall was found when the job came.
                Err(Denied::Wait { until: None, .. } | Denied::Wall { .. }) => return,
            };
            let Some(departure) = self.line.dispatch(ticket) else { return };
            self.waits.add(millis(now.since(arrived)));
            self.started += 1;
            self.next_send = self.now.saturating_add(nanos(self.question.min_gap));
            self.go(hold.sent(), departure.charge, departure.item);
        }
    }

    fn look_at(&mut self, at: u64) {
        if self.looks_at.is_none_or(|other| at < other) {
            self.looks_at = Some(at);
            self.at(at, Event::Look);
        }
    }

    /// A job reaches the upstream, which counts it in every window.
    fn go(&mut self, sent: Sent, charge: Charge, job: Example) {
        let held = sent.cost().tokens;
        let now = self.now;
        let counted: Vec<_> =
            self.upstream.iter_mut().map(|quota| quota.admit(now, held).ok()).collect();
        self.overdrawn += u64::from(counted.iter().any(Option::is_none));
        let used = used(&job);
        self.used_tokens = self.used_tokens.saturating_add(used);
        let flight = Some(Flight { sent, charge, used, counted });
        let index = self.free.pop().unwrap_or(self.flights.len());
        if index == self.flights.len() {
            self.flights.push(flight);
        } else {
            self.flights[index] = flight;
        }
        self.in_flight += 1;
        let latency = job.latency.or(self.question.job.latency).unwrap_or_default();
        self.at(now.saturating_add(nanos(latency)), Event::End(index));
    }

    /// The answer has ended: the upstream gives back what was not used.
    fn end(&mut self, index: usize) {
        let Some(flight) = &mut self.flights[index] else { return };
        for (quota, counted) in self.upstream.iter_mut().zip(&mut flight.counted) {
            if let Some(counted) = counted.take() {
                quota.settle(self.now, counted, flight.used);
            }
        }
        self.ledger.charged(&mut flight.sent, Timestamp::from_nanos(self.now));
        self.in_flight -= 1;
        let delay = nanos(self.scenario.settle_delay);
        self.at(self.now.saturating_add(delay), Event::Settle(index));
    }

    /// The gateway takes it as given back.
    fn settle(&mut self, index: usize) {
        let Some(Flight { sent, charge, used, .. }) = self.flights[index].take() else { return };
        self.free.push(index);
        let spent = Spent::Exact(Cost::new(1, used));
        self.ledger.settle(sent, spent, Timestamp::from_nanos(self.now));
        self.line.settle(charge, used);
    }

    fn told(mut self) -> Run {
        let (now, waiting) = (Timestamp::from_nanos(self.now), self.line.len());
        while let Some((ticket, entry)) = self.line.head() {
            self.waits.add(millis(now.since(entry.arrived)));
            self.line.remove(ticket);
        }
        let lasted = now.since(Timestamp::from_nanos(START));
        let used = self.question.limits.iter().map(|limit| {
            let units = match limit.unit() {
                Unit::Requests => self.started,
                Unit::Tokens | Unit::UncachedTokens => self.used_tokens,
            };
            // In units x nanoseconds.
            let there = u128::from(limit.limit()) * lasted.max(limit.window()).as_nanos();
            let part = u128::from(units) * limit.window().as_nanos();
            Used { limit: limit.to_string(), units, percent: percent(part, there) }
        });
        Run {
            seconds: crate::plan::answer::seconds(lasted).as_f64(),
            came: self.came,
            started: self.started,
            refused: self.refused,
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            used: used.collect(),
            wait: Wait::of(&self.waits),
            overdrawn: self.overdrawn,
        }
    }
}

/// The upstream's own account of one limit.
fn upstream(limit: &crate::limit::Constraint) -> Quota {
    let unit = match limit.unit() {
        Unit::Requests => Counted::Requests,
        Unit::Tokens | Unit::UncachedTokens => Counted::Tokens,
    };
    let semantics = match limit.mode() {
        Mode::Bucket => Semantics::TokenBucket,
        Mode::Fixed { .. } => Semantics::FixedWindow { phase_ns: 0 },
        Mode::Sliding | Mode::Auto => Semantics::SlidingLog,
    };
    // Only the length of a window counts here, not what it is called.
    let window_ns = nanos(limit.window());
    let limit = Limit { unit, name: Name::Day, limit: limit.limit(), window_ns };
    Quota::new(&[limit], semantics)
}

fn used(job: &Example) -> u64 {
    job.input.saturating_add(job.output)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds between two of so many millionths of a job a second that come independently.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is drawn at random need not be exact, and `as` saturates"
)]
fn pause(rng: &mut Rng, per_second_micros: u64) -> u64 {
    let mean = 1e15 / per_second_micros.max(1) as f64;
    (-(1.0 - rng.f64()).ln() * mean) as u64
}
