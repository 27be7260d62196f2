//! The most that a sender could use of a sliding log that others use as well, if it knew more than a
//! gateway can: the measure for what is lost to others, and the proof of what cannot be had.
//!
//! The sender meets with the same as the gateway does: the same requests, latencies and late refunds,
//! the same others. It knows of its own requests all there is to know, at once and exactly (when each
//! was charged, what was reserved for it, when that came back), and of those of others what they were
//! charged and when: either up to this instant, or up to the charge of the latest request of which it
//! has seen an answer, which is the most that any header could tell. It does not know the future: what
//! others will send until its own request arrives, and how long that takes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;

use crate::oracle::{Entry, Limit, Oracle, Semantics, TOKENS};
use crate::run::Pair::SlidingOnSliding;
use crate::run::begin;
use crate::workload::{Job, Shown, Workload, hours};

/// Requests that wait at any time, as in front of the gateway.
const BACKLOG: usize = 16;
/// The growth of a margin (see [`Sender`]) that was best of those tried.
pub(crate) const GROWS: u64 = 133;

/// What is known of others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sight {
    /// Everything up to this instant.
    Now,
    /// Everything up to the latest charge of which an answer has been seen.
    Heads,
}

/// A way to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) sight: Sight,
    /// Tokens that are kept free in any case.
    pub(crate) margin: u64,
    /// By how much that grows while nothing is heard, in per cent of what others ask for on average.
    pub(crate) grows: u64,
    /// Whether a smaller request may pass one that does not fit.
    pub(crate) passing: bool,
}

/// What came of it: the share of the limit that was used, and of the requests sent that were rejected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) used: f64,
    pub(crate) rejected: f64,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    /// A charge has run out.
    Expire,
    Arrive(usize),
    /// An answer is seen to a request that reached the upstream at this instant.
    Heard(u64),
    Refund(usize),
    Others,
}

struct Flight {
    job: Job,
    /// Its charge at the upstream, and in the sender's own copy of the log.
    entry: Option<Entry>,
    number: u64,
}

/// One charge in the sender's copy of the log.
struct Charge {
    at: u64,
    tokens: u64,
    known: bool,
}

struct World<'a> {
    workload: &'a Workload,
    sender: Sender,
    limit: Limit,
    oracle: Oracle,
    jobs: Rng,
    others: Rng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    waiting: VecDeque<Job>,
    flights: Vec<Flight>,
    /// Every charge in force; the first of them has this number.
    log: VecDeque<Charge>,
    first: u64,
    /// The charges of others of which nothing is known yet.
    unknown: VecDeque<u64>,
    /// Tokens charged as far as known, and on their way.
    charged: u64,
    sent: u64,
    known_to: u64,
    now: u64,
    rejected: u64,
}

/// The charge of this number in a log that begins with `first`, unless it has run out.
fn charge(log: &mut VecDeque<Charge>, first: u64, number: u64) -> Option<&mut Charge> {
    let index = usize::try_from(number.checked_sub(first)?).ok()?;
    log.get_mut(index)
}

/// Sends all of `workload` that way, in the world of the gateway's run of that number.
pub(crate) fn best(workload: &Workload, sender: Sender, round: u64) -> Outcome {
    let (mut rng, start) = begin(workload, SlidingOnSliding, round);
    let (jobs, others) = workload.sources(&mut rng).expect("others use it as well");
    let limit = *workload.limits.iter().find(|it| it.unit == TOKENS).expect("a limit of tokens");
    let mut world = World {
        workload,
        sender,
        limit,
        oracle: Oracle::new(Semantics::Sliding, &workload.limits, start),
        jobs,
        others,
        events: BinaryHeap::new(),
        made: 0,
        waiting: VecDeque::new(),
        flights: Vec::new(),
        log: VecDeque::new(),
        first: 0,
        unknown: VecDeque::new(),
        charged: 0,
        sent: 0,
        known_to: start,
        now: start,
        rejected: 0,
    };
    world.schedule(start, Event::Others);
    let end = start + workload.lasts;
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.happen(event);
        world.learn();
        if event != Event::Others || sender.sight == Sight::Now {
            world.send();
        }
    }
    let most = limit.capacity(Semantics::Sliding, start, end) as f64;
    Outcome {
        used: world.oracle.charged()[TOKENS] as f64 / most,
        rejected: world.rejected as f64 / world.flights.len() as f64,
    }
}

impl World<'_> {
    fn schedule(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    fn happen(&mut self, event: Event) {
        while self.log.front().is_some_and(|it| it.at + self.limit.window <= self.now) {
            let gone = self.log.pop_front().filter(|it| it.known);
            self.charged -= gone.map_or(0, |it| it.tokens);
            self.first += 1;
        }
        match event {
            Event::Expire => {}
            Event::Arrive(index) => self.arrive(index),
            Event::Heard(charged_at) => self.known_to = self.known_to.max(charged_at),
            Event::Refund(index) => {
                let flight = &mut self.flights[index];
                let Job { reserve, used, .. } = flight.job;
                if let Some(entry) = flight.entry.take() {
                    self.oracle.refund(entry, used, self.now);
                }
                let charge = charge(&mut self.log, self.first, flight.number);
                if let Some(charge) = charge {
                    charge.tokens = used;
                    self.charged -= reserve - used;
                }
            }
            Event::Others => {
                let others = self.workload.draw_others(&mut self.others);
                let (gap, tokens) = others.expect("others use it as well");
                self.schedule(self.now + gap, Event::Others);
                if self.oracle.admit(tokens, self.now).is_ok() {
                    let number = self.enter(tokens, false);
                    self.unknown.push_back(number);
                }
            }
        }
    }

    fn arrive(&mut self, index: usize) {
        let job = self.flights[index].job;
        self.sent -= job.reserve;
        let (now, ended) = (self.now, self.now + job.first_token + job.stream);
        let Ok(entry) = self.oracle.admit(job.reserve, now) else {
            self.rejected += 1;
            return self.schedule(now + job.back, Event::Heard(now));
        };
        let number = self.enter(job.reserve, true);
        self.charged += job.reserve;
        let flight = &mut self.flights[index];
        (flight.entry, flight.number) = (Some(entry), number);
        self.schedule(now + job.first_token + job.back, Event::Heard(now));
        self.schedule(ended + job.refund, Event::Refund(index));
    }

    /// Copies a charge of the upstream's; returns its number.
    fn enter(&mut self, tokens: u64, known: bool) -> u64 {
        self.log.push_back(Charge { at: self.now, tokens, known });
        self.schedule(self.now + self.limit.window, Event::Expire);
        self.first + self.log.len() as u64 - 1
    }

    /// Takes note of what others were charged, as far as it can be known.
    fn learn(&mut self) {
        if self.sender.sight == Sight::Now {
            self.known_to = self.now;
        }
        while let Some(number) = self.unknown.front() {
            if let Some(charge) = charge(&mut self.log, self.first, *number) {
                if charge.at > self.known_to {
                    return;
                }
                charge.known = true;
                self.charged += charge.tokens;
            }
            self.unknown.pop_front();
        }
    }

    /// Sends whatever fits beside the margin.
    fn send(&mut self) {
        let (share, Limit { limit, window, .. }) = (self.workload.foreign.0, self.limit);
        // After a window all of that has run out. So many nanoseconds times the limit still fit.
        let age = (self.now - self.known_to).min(window);
        let since = limit * age / window * u64::from(share) / 1_000 * self.sender.grows / 100;
        let margin = self.sender.margin + since;
        let passing = if self.sender.passing { BACKLOG } else { 1 };
        loop {
            while self.waiting.len() < BACKLOG {
                self.waiting.push_back(self.workload.draw(&mut self.jobs));
            }
            let room = limit.saturating_sub(self.charged + self.sent + margin);
            let fits = self.waiting.iter().take(passing).position(|job| job.reserve <= room);
            let Some(job) = fits.and_then(|index| self.waiting.remove(index)) else { return };
            self.sent += job.reserve;
            self.schedule(self.now + job.there, Event::Arrive(self.flights.len()));
            self.flights.push(Flight { job, entry: None, number: 0 });
        }
    }
}

/// The workload of `others_use_a_part_of_the_quota`, for as long as a curve takes.
pub(crate) fn shared(share: u16) -> Workload {
    Workload {
        name: "best",
        foreign: (share, 5_000..=30_000),
        shown: Shown::ALL,
        lasts: hours(8),
        ..Workload::steady()
    }
}

/// The outcomes of a way to send with each of these margins.
pub(crate) fn curve(
    workload: &Workload,
    sender: Sender,
    margins: impl Iterator<Item = u64>,
) -> Vec<(u64, Outcome)> {
    margins.map(|margin| (margin, best(workload, Sender { margin, ..sender }, 1))).collect()
}
