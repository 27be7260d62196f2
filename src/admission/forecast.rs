//! When a request that arrives now will start: from every window, the queue before it, and what the
//! requests of the recent past turned out to cost.
//!
//! The tokens that go before it are those its place in the order says: its tenant's own, what other
//! tenants of its class get meanwhile, better classes and what keeps coming to them, the guaranteed
//! share of the others. They count as what they are likely to use; itself, and what is still at the
//! upstream by then, as what is held for them. How far such forecasts were off lately corrects the
//! next one.
//!
//! # Invariants
//!
//! - Pure: integers, and `now` is an argument.
//! - Bounded: a few numbers per class.

mod memory;

use std::time::Duration;

use self::memory::{MEMORY, Mean, Rate, SPAN, part};
use crate::admission::scheduler::{Ahead, ClassRule, Part};
use crate::limit::{Cost, Unit};
use crate::time::{Timestamp, nanos};

/// The same for what requests use and how wrong forecasts were: that differs more from one to the
/// next, and neighbours in the line are wrong together.
const LONG_MEMORY: u64 = 256;

/// How many lines are remembered, at least.
const LINES: u64 = 4;

/// How far ahead better ranks are left room for: their bursts are that long, where they come as
/// independent callers do. With 5 s, interactive requests at 70 % of the quota waited 4 s beside a
/// batch and not at all without; with 30 s hardly longer than without.
const SOON: u64 = 30_000_000_000;

/// Rounds in which the forecast and what depends on it (what comes and what comes back meanwhile)
/// are brought together. One would do if the one were proportional to the other.
const ROUNDS: usize = 3;

/// Corrections stay small, in thousandths: beyond that it is not the forecast that was wrong, but
/// somebody who came later and had a right to go first.
const CORRECTION: std::ops::RangeInclusive<u64> = 800..=1_250;

const MILLI: u64 = 1_000_000;

/// Standard deviations, in hundredths, that are kept between a forecast and a deadline.
const DEVIATIONS: u64 = 80;

/// Waits below this say nothing of the queue.
const SHORT: Duration = Duration::from_millis(50);

/// What the pool is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Requests at the upstream.
    pub in_flight: u64,
    /// Tokens held for requests that have not been settled.
    pub held: u64,
    /// Requests that may be at the upstream at once.
    pub most: Option<u64>,
    /// The least time between two requests.
    pub gap: Duration,
    /// How long after the end of an answer its hold is settled.
    pub settle: Duration,
    /// What has to be left for better classes.
    pub kept_free: Cost,
}

/// What is known of the recent past.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Nanoseconds from sending to the head of the answer.
    head: Mean,
    /// Nanoseconds from sending to the end of the answer.
    service: Mean,
    /// The part of a hold that comes back, in thousandths.
    refund: Mean,
    /// Tokens held for a request.
    held: Mean,
    /// Tokens that were used, and that were taken to be likely, fading.
    used: u64,
    likely: u64,
    /// Answers seen to their end.
    seen: u64,
    classes: Vec<Class>,
}

#[derive(Clone, Debug, Default)]
struct Class {
    rank: u32,
    sent: Rate,
    requests: Rate,
    /// The most held for one request, of this span and the one before.
    largest: [u64; 2],
    /// Waits in fact and as forecast, fading.
    real: u64,
    said: u64,
    /// The square of the error, in square milliseconds, fading like the waits: over the wait it is
    /// the same for short and long ones, as errors of independent requests add up.
    spread: u64,
}

/// Where a sequence that began so ends, if each step is the same part of the one before.
fn limit_of(zeroth: u64, first: u64, second: u64) -> u64 {
    let [zeroth, first, second] = [zeroth, first, second].map(i128::from);
    let (one, two) = (first - zeroth, second - first);
    let end = if two.abs() <= second / 100 {
        second
    } else if two.abs() < one.abs() {
        second + two * two / (one - two)
    } else {
        // It does not end: further on, what is guaranteed will bound it.
        second + 16 * two
    };
    u64::try_from(end.max(0)).unwrap_or(u64::MAX)
}

impl Forecast {
    /// Nothing is known yet of these classes.
    pub fn new(rules: &[ClassRule]) -> Self {
        let class = |rule: &ClassRule| Class { rank: rule.rank, ..Class::default() };
        Self {
            head: Mean::default(),
            service: Mean::default(),
            refund: Mean::default(),
            held: Mean::default(),
            used: 0,
            likely: 0,
            seen: 0,
            classes: rules.iter().map(class).collect(),
        }
    }

    /// The same classes have these ranks from now on.
    pub fn reconfigure(&mut self, rules: &[ClassRule]) {
        for (class, rule) in self.classes.iter_mut().zip(rules) {
            class.rank = rule.rank;
        }
    }

    /// A request of `class` that is likely to use `fair` tokens, of those held for it, has been sent.
    pub fn sent(&mut self, class: usize, fair: u64, held: u64, now: Timestamp) {
        let Some(class) = self.classes.get_mut(class) else { return };
        let (before, span) = (class.sent.span(), now.as_nanos() / SPAN);
        if span != before {
            class.largest = [0, if span == before + 1 { class.largest[0] } else { 0 }];
        }
        class.largest[0] = class.largest[0].max(held);
        class.sent.add(fair, now);
        class.requests.add(1, now);
    }

    /// What to leave for those of better rank than `class` that may come at any moment: the largest
    /// of their recent requests, and what they send in a few seconds. Nothing, where none came lately.
    pub fn reserve(&self, class: usize, now: Timestamp) -> Cost {
        let rank = self.classes.get(class).map_or(0, |class| class.rank);
        let better = self.classes.iter().filter(|other| other.rank < rank);
        better.fold(Cost::default(), |sum, other| {
            let requests = other.requests.within(SOON, now);
            if other.requests.within(SPAN, now) == 0 {
                return sum;
            }
            let largest = other.largest.into_iter().max().unwrap_or(0);
            let tokens = other.sent.within(SOON, now).saturating_add(largest);
            let tokens = sum.tokens.saturating_add(tokens);
            Cost { requests: sum.requests.saturating_add(requests + 1), tokens, uncached: tokens }
        })
    }

    /// The head of an answer took `span`.
    pub fn head(&mut self, span: Duration) {
        self.head.add(nanos(span));
    }

    /// An answer took `span` to its end, and used so many tokens of those `held` for it, where so many
    /// were `likely`.
    pub fn ended(&mut self, span: Duration, held: u64, likely: u64, used: u64) {
        self.service.add(nanos(span));
        self.held.add(held);
        let fade = |sum: u64, new: u64| (sum - sum / LONG_MEMORY).saturating_add(new);
        (self.used, self.likely) = (fade(self.used, used), fade(self.likely, likely));
        self.seen = self.seen.saturating_add(1);
        if held > 0 {
            self.refund.add(part(held.saturating_sub(used), 1_000, held));
        }
    }

    /// A request that was to wait so long (`said`) waited so long, in a line of so many (`line`). What
    /// is learned from that was forecast a whole line ago: who forgets faster than the line moves
    /// chases their own corrections.
    pub fn waited(&mut self, class: usize, said: Duration, real: Duration, line: usize) {
        let memory = LONG_MEMORY.max(LINES * line as u64);
        // As it was before the correction, which hardly changes meanwhile.
        let plain = part(nanos(said), 1_000, self.correction(class));
        let Some(class) = self.classes.get_mut(class).filter(|_| said.max(real) >= SHORT) else {
            return;
        };
        let fade = |sum: u64, new: u64| (sum - sum / memory).saturating_add(new);
        (class.real, class.said) = (fade(class.real, nanos(real)), fade(class.said, plain));
        let error = nanos(said.abs_diff(real)) / MILLI;
        class.spread = fade(class.spread, error.saturating_mul(error));
    }

    /// Whether enough has been seen to go by: before that an estimate of what is waiting may be many
    /// times what it will use.
    pub const fn is_known(&self) -> bool {
        self.seen >= MEMORY / 2
    }

    /// What a request costs that is like those lately.
    pub fn typical(&self) -> Cost {
        Cost::new(1, self.held.get())
    }

    /// How long the head of an answer is likely to take.
    pub const fn expected_head(&self) -> Duration {
        Duration::from_nanos(match self.head.0 {
            Some(head) => head,
            None => 0,
        })
    }

    /// When a request that costs `cost` will start; `fits` says when so many units of a kind fit.
    pub fn start(
        &self,
        ahead: &Ahead,
        cost: Cost,
        load: &Load,
        now: Timestamp,
        mut fits: impl FnMut(Unit, u64) -> Timestamp,
    ) -> Timestamp {
        let mut next = |wait| self.next(ahead, cost, load, wait, now, &mut fits);
        let mut wait = 0;
        for _ in 0..ROUNDS {
            let first = next(wait);
            let second = next(first);
            wait = limit_of(wait, first, second);
        }
        now.after(Duration::from_nanos(part(wait, self.correction(ahead.class), 1_000)))
    }

    /// The wait that follows from what comes and comes back in the next `wait` nanoseconds.
    fn next(
        &self,
        ahead: &Ahead,
        cost: Cost,
        load: &Load,
        wait: u64,
        now: Timestamp,
        fits: &mut impl FnMut(Unit, u64) -> Timestamp,
    ) -> u64 {
        let held_for = self.service.get().saturating_add(nanos(load.settle)).max(1);
        let before = self.before(ahead, wait, now);
        // What is on its way back by then, and what those before will still have out.
        let back = part(load.held, self.refund.get(), 1_000);
        let back = part(back, wait.min(held_for), held_for);
        let fair = self.really(before.fair);
        let spare = before.safe.saturating_sub(fair);
        let out = part(spare, held_for.min(wait.max(1)), wait.max(1));
        let needed = |own: u64| fair.saturating_add(out).saturating_add(own).saturating_sub(back);
        let mut at = now;
        for unit in Unit::ALL {
            let units = match unit {
                Unit::Requests => before.requests.saturating_add(cost.requests),
                Unit::Tokens => needed(cost.tokens),
                Unit::UncachedTokens if cost.uncached == 0 => continue,
                // In the proportion of the request itself.
                Unit::UncachedTokens => {
                    part(needed(cost.tokens), cost.uncached, cost.tokens).max(cost.uncached)
                }
            };
            at = at.max(fits(unit, units.saturating_add(load.kept_free.of(unit))));
        }
        nanos(at.since(now)).max(self.gates(before.requests, load))
    }

    /// The tokens that are used where so many were likely.
    fn really(&self, fair: u64) -> u64 {
        if self.likely == 0 { fair } else { part(fair, self.used, self.likely) }
    }

    /// What goes before in the next `wait` nanoseconds.
    fn before(&self, ahead: &Ahead, wait: u64, now: Timestamp) -> Part {
        let Ahead { class, own, better, lower, share, lower_share } = *ahead;
        let rank = self.classes.get(class).map_or(0, |class| class.rank);
        let ranked = self.classes.iter().filter(|other| other.rank < rank);
        let coming: u64 = ranked.map(|other| other.sent.within(wait, now)).sum();
        // Some of what came lately still waits; what was sent lately is what comes.
        let mut first = better.fair.saturating_add(coming);
        if share > 0 {
            // The guarantee bounds what better ranks can take.
            let others = part(own.fair, 1_000 - u64::from(share), u64::from(share));
            first = first.min(others.max(1));
        }
        let own_and_first = own.fair.saturating_add(first);
        let lower_share = u64::from(lower_share.min(999));
        let last = part(own_and_first, lower_share, 1_000 - lower_share).min(lower.fair);
        let taken = |of: Part, fair: u64| Part {
            requests: part(of.requests, fair, of.fair),
            fair,
            safe: part(of.safe, fair, of.fair),
        };
        [taken(better, first), taken(lower, last)].into_iter().fold(own, |sum, it| Part {
            requests: sum.requests.saturating_add(it.requests),
            fair: sum.fair.saturating_add(it.fair),
            safe: sum.safe.saturating_add(it.safe.max(it.fair)),
        })
    }

    /// The wait for a permit and for the gaps, behind so many requests.
    fn gates(&self, requests: u64, load: &Load) -> u64 {
        let gaps = nanos(load.gap).saturating_mul(requests);
        let permits = load.most.map_or(0, |most| {
            let missing = load.in_flight.saturating_add(requests + 1).saturating_sub(most);
            part(self.service.get(), missing, most)
        });
        gaps.max(permits)
    }

    /// How much later than forecast a wait so long may well end.
    pub fn margin(&self, class: usize, wait: Duration) -> Duration {
        let Some(Class { spread, real, .. }) = self.classes.get(class) else {
            return Duration::ZERO;
        };
        let deviation = part(*spread, nanos(wait), (*real).max(1)).isqrt();
        Duration::from_millis(part(deviation, DEVIATIONS, 100))
    }

    fn correction(&self, class: usize) -> u64 {
        let Some(Class { real, said, .. }) = self.classes.get(class) else { return 1_000 };
        if *said == 0 {
            return 1_000;
        }
        part(*real, 1_000, *said).clamp(*CORRECTION.start(), *CORRECTION.end())
    }
}

#[cfg(test)]
mod tests;
