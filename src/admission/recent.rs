//! What a pool's requests met lately, for people who look on: what was admitted after which wait, and
//! how the upstream did.
//!
//! # Invariants
//!
//! - Takes part in no decision.
//! - Bounded: a fixed number of counts, whatever happens; adding takes no memory.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limit::{Blame, Unit};
use crate::time::Timestamp;

/// Minutes that [`Health`] counts over: long enough to see that an upstream fails now and then, short
/// enough to forget an outage that is over.
pub const HEALTH_MINUTES: u64 = MINUTES as u64;
const MINUTES: usize = 5;

/// Steps for each doubling of a wait: a quantile is exact to a sixteenth.
const STEPS: usize = 8;
/// Doublings of a millisecond that are told apart: up to 17 minutes, longer than anybody waits.
const DOUBLINGS: usize = 20;

/// What happened in a pool lately.
#[derive(Debug, Default)]
pub struct Recent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    interval: Interval,
    minutes: [Minute; MINUTES],
    last_success: Option<Timestamp>,
    last_failure: Option<(Timestamp, Failure)>,
    last_refusal: Option<(Timestamp, TurnedAway)>,
}

/// Counts of one minute since the Unix epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    minute: u64,
    successes: u64,
    failures: u64,
    refusals: u64,
}

/// What was admitted from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Requests.
    pub requests: u64,
    /// Tokens that were held for them.
    pub tokens: u64,
    /// How long they had waited.
    pub waits: Waits,
}

/// How long requests waited, by size.
#[derive(Clone, Debug)]
pub struct Waits([u32; 1 + STEPS * DOUBLINGS]);

/// How the upstream failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// It answered with this status.
    Status(u16),
    /// No connection could be made.
    Unreachable,
    /// It broke off.
    Broken,
    /// It took too long.
    Timeout,
    /// The answer was a stream that ended with an error.
    Stream,
}

/// A refusal of the upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TurnedAway {
    /// Why, as metrics name it.
    pub kind: &'static str,
    /// The quota that it named.
    pub quota: Option<(Unit, &'static str)>,
    /// Whose use was to blame for that.
    pub blame: Option<Blame>,
}

/// How the upstream does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Health {
    /// When it last began a successful answer.
    pub last_success: Option<Timestamp>,
    /// When it last failed, and how.
    pub last_failure: Option<(Timestamp, Failure)>,
    /// When it last refused a request, and why.
    pub last_refusal: Option<(Timestamp, TurnedAway)>,
    /// Successful answers that began within the last [`HEALTH_MINUTES`].
    pub successes: u64,
    /// Failures within that time.
    pub failures: u64,
    /// Refusals within that time.
    pub refusals: u64,
}

impl Recent {
    /// A request was admitted, with so many tokens held for it.
    pub fn admitted(&self, tokens: u64, waited: Duration) {
        let interval = &mut self.0.lock().interval;
        interval.requests += 1;
        interval.tokens = interval.tokens.saturating_add(tokens);
        interval.waits.count(waited);
    }

    /// What was admitted since the last call.
    pub fn take(&self) -> Interval {
        std::mem::take(&mut self.0.lock().interval)
    }

    /// A successful answer has begun.
    pub fn succeeded(&self, now: Timestamp) {
        let mut state = self.0.lock();
        state.minute(now).successes += 1;
        state.last_success = Some(now);
    }

    /// The upstream failed.
    pub fn failed(&self, failure: Failure, now: Timestamp) {
        let mut state = self.0.lock();
        state.minute(now).failures += 1;
        state.last_failure = Some((now, failure));
    }

    /// The upstream refused a request.
    pub fn refused(&self, refusal: TurnedAway, now: Timestamp) {
        let mut state = self.0.lock();
        state.minute(now).refusals += 1;
        state.last_refusal = Some((now, refusal));
    }

    /// How the upstream does.
    pub fn health(&self, now: Timestamp) -> Health {
        let state = self.0.lock();
        let oldest = (minute_of(now) + 1).saturating_sub(HEALTH_MINUTES);
        let lately = || state.minutes.iter().filter(|it| it.minute >= oldest);
        Health {
            last_success: state.last_success,
            last_failure: state.last_failure,
            last_refusal: state.last_refusal,
            successes: lately().map(|it| it.successes).sum(),
            failures: lately().map(|it| it.failures).sum(),
            refusals: lately().map(|it| it.refusals).sum(),
        }
    }
}

impl State {
    /// The counts of the minute that passes.
    fn minute(&mut self, now: Timestamp) -> &mut Minute {
        let minute = minute_of(now);
        let slot = usize::try_from(minute % HEALTH_MINUTES).unwrap_or(0);
        let counts = &mut self.minutes[slot];
        if counts.minute != minute {
            *counts = Minute { minute, ..Minute::default() };
        }
        counts
    }
}

const fn minute_of(now: Timestamp) -> u64 {
    now.as_nanos() / 60_000_000_000
}

impl Interval {
    /// Adds another pool's.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.tokens = self.tokens.saturating_add(other.tokens);
        for (mine, more) in self.waits.0.iter_mut().zip(other.waits.0) {
            *mine = mine.saturating_add(more);
        }
    }
}

impl Default for Waits {
    fn default() -> Self {
        Self([0; 1 + STEPS * DOUBLINGS])
    }
}

impl Waits {
    fn count(&mut self, waited: Duration) {
        let step = &mut self.0[step_of(waited)];
        *step = step.saturating_add(1);
    }

    /// The wait that this share of requests did not exceed, in seconds, to a sixteenth; zero below a
    /// millisecond. `None` if there was no request.
    pub fn quantile(&self, percent: u64) -> Option<f64> {
        let all: u64 = self.0.iter().copied().map(u64::from).sum();
        let rank = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let step = self.0.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        step.map(seconds_of)
    }
}

/// The step that a wait belongs to: none below a millisecond, then eight for each doubling.
fn step_of(waited: Duration) -> usize {
    let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    let Some(doublings) = millis.checked_ilog2() else { return 0 };
    let doublings = usize::try_from(doublings).unwrap_or(DOUBLINGS);
    if doublings >= DOUBLINGS {
        return STEPS * DOUBLINGS;
    }
    // Below 2^20 before the shift.
    let eighths = usize::try_from((millis << 3) >> doublings).unwrap_or(STEPS);
    1 + doublings * STEPS + (eighths - STEPS)
}

/// The middle of a step, in seconds.
fn seconds_of(step: usize) -> f64 {
    let Some(step) = step.checked_sub(1) else { return 0.0 };
    let (doublings, eighths) = (step / STEPS, step % STEPS);
    let whole = u32::try_from(doublings).map_or(f64::MAX, |it| 2_f64.powi(it.cast_signed()));
    let part = u32::try_from(STEPS + eighths).map_or(0.0, f64::from) + 0.5;
    whole * part / 8.0 / 1_000.0
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Broken => f.write_str("broke off"),
            Self::Timeout => f.write_str("timeout"),
            Self::Stream => f.write_str("stream error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn health_counts_the_last_minutes_and_remembers_the_last_of_each() {
        let recent = Recent::default();
        let start = Timestamp::from_nanos(1_770_292_800_000_000_000);
        let refusal = TurnedAway { kind: "token_quota", quota: None, blame: None };
        for minute in 0..7_u32 {
            let now = start.after(minute * MINUTE);
            recent.succeeded(now);
            recent.failed(Failure::Status(500), now);
            recent.refused(refusal, now);
        }
        let now = start.after(6 * MINUTE);
        let health = recent.health(now);
        assert_eq!((health.successes, health.failures, health.refusals), (5, 5, 5));
        let later = recent.health(now.after(3 * MINUTE));
        assert_eq!((later.successes, later.failures, later.refusals), (2, 2, 2));
        let old = recent.health(now.after(60 * MINUTE));
        assert_eq!((old.successes, old.failures, old.refusals), (0, 0, 0));
        assert_eq!(old.last_success, Some(now));
        assert_eq!(old.last_failure, Some((now, Failure::Status(500))));
        assert_eq!(old.last_refusal, Some((now, refusal)));
    }

    #[test]
    fn an_interval_is_taken_once_and_intervals_add_up() {
        let recent = Recent::default();
        recent.admitted(100, Duration::ZERO);
        recent.admitted(200, Duration::from_secs(3));
        let mut first = recent.take();
        assert_eq!((first.requests, first.tokens), (2, 300));
        assert_eq!(first.waits.quantile(50), Some(0.0));
        let empty = recent.take();
        assert_eq!((empty.requests, empty.tokens, empty.waits.quantile(95)), (0, 0, None));
        recent.admitted(1, Duration::from_secs(3));
        first.add(&recent.take());
        assert_eq!((first.requests, first.tokens), (3, 301));
        assert!(first.waits.quantile(50).is_some_and(|it| (2.8..3.2).contains(&it)));
    }

    proptest! {
        /// Whatever was waited, a quantile is that of the sorted waits, to a sixteenth.
        #[test]
        fn quantiles_are_nearly_those_of_the_waits(
            mut waits in prop::collection::vec(0..1_000_000_u64, 1..80),
            percent in 1..=100_u64,
        ) {
            let recent = Recent::default();
            for millis in &waits {
                recent.admitted(1, Duration::from_millis(*millis));
            }
            waits.sort_unstable();
            let rank = (waits.len() as u64 * percent).div_ceil(100);
            let exact = waits[usize::try_from(rank).unwrap() - 1] as f64 / 1_000.0;
            let told = recent.take().waits.quantile(percent).unwrap();
            prop_assert!((told - exact).abs() <= exact / 16.0 + 0.001, "{told} for {exact}");
        }
    }

    #[test]
    fn the_longest_waits_have_a_step_too() {
        let recent = Recent::default();
        recent.admitted(1, Duration::MAX);
        assert!(recent.take().waits.quantile(50).is_some_and(|it| it > 900.0));
    }
}
