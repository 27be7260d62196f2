//! Counts what became of requests, and how long it took. Pure.
//!
//! # Invariants
//!
//! - **Bounded.** Counters and histograms of a fixed size, however long the run is.
//! - **Every request once.** What was sent is answered, failed, or still under way: nothing else.
//! - **Rates are of a time, not of requests.** A request that lies only partly within the time that a
//!   rate is taken over counts for the part that lies within. So a start with nothing under way and an
//!   end that waits for stragglers bias no rate, however short the time is beside a request's.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::observation::{Failure, Observation};
use super::quota::Quota;

/// The longest time told apart: a day. A longer one counts as one.
const LONGEST_MICROS: u64 = 86_400_000_000;

/// Three significant figures: an error of a thousandth, in a quarter of a megabyte.
const FIGURES: u8 = 3;

/// Times by how often they were seen, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_MICROS, FIGURES);
        Self(histogram.expect("the bounds are constant, and as the library wants them"))
    }

    fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The histogram.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// One request and when it was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// When it should have started: at a fixed rate its turn, else when it was sent.
    pub(crate) due: Instant,
    /// When it was sent.
    pub(crate) at: Instant,
    /// Whether it belongs to the warm-up.
    pub(crate) warm_up: bool,
}

/// The counts of one part of a run.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// Requests that were sent.
    pub(crate) sent: u64,
    /// Requests that have ended, in whatever way.
    pub(crate) ended: u64,
    /// Requests answered with a whole completion.
    pub(crate) ok: u64,
    /// Requests that were due and could not be sent before the end.
    pub(crate) not_started: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// By the order of [`Failure::ALL`].
    pub(crate) failures: [u64; Failure::ALL.len()],
    /// 429s that the gateway gave on its own account, that came from the upstream, and that came as
    /// an event within a stream.
    pub(crate) refused_by_gateway: u64,
    pub(crate) refused_by_upstream: u64,
    pub(crate) refused_in_stream: u64,
    /// What answers say they used.
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// Completions that did not say what they used.
    pub(crate) without_usage: u64,
    /// From when a request was due to the end of its whole completion.
    pub(crate) latency: Times,
    /// The same of every request, whatever became of it.
    pub(crate) latency_of_all: Times,
    /// From when a request was due to its first event with a choice; streams only.
    pub(crate) first_token: Times,
    /// What the gateway says a request has waited.
    pub(crate) gateway_wait: Times,
    /// How much later than due requests were sent.
    pub(crate) behind: Times,
    pub(crate) quota: Quota,
    /// The time that rates are taken over, so far.
    pub(crate) over: Duration,
    /// Requests, completions and tokens within that time.
    pub(crate) within: Within,
}

/// What lay within the time that rates are taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Within {
    pub(crate) ended: f64,
    pub(crate) ok: f64,
    pub(crate) prompt_tokens: f64,
    pub(crate) completion_tokens: f64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            sent: 0,
            ended: 0,
            ok: 0,
            not_started: 0,
            statuses: BTreeMap::new(),
            failures: [0; Failure::ALL.len()],
            refused_by_gateway: 0,
            refused_by_upstream: 0,
            refused_in_stream: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            without_usage: 0,
            latency: Times::new(),
            latency_of_all: Times::new(),
            first_token: Times::new(),
            gateway_wait: Times::new(),
            behind: Times::new(),
            quota: Quota::default(),
            over: Duration::ZERO,
            within: Within::default(),
        }
    }
}

impl Counts {
    /// Failures of this kind.
    pub(crate) fn failed(&self, kind: Failure) -> u64 {
        let place = Failure::ALL.iter().position(|it| *it == kind);
        place.and_then(|place| self.failures.get(place)).copied().unwrap_or(0)
    }

    /// 429s, whoever gave them.
    pub(crate) fn refused(&self) -> u64 {
        self.refused_by_gateway + self.refused_by_upstream + self.refused_in_stream
    }

    fn end(&mut self, sent: &Sent, observed: &Observation, now: Instant) {
        self.ended += 1;
        if let Some(status) = observed.status {
            *self.statuses.entry(status).or_default() += 1;
        }
        if let Some(failure) = observed.failure
            && let Some(place) = Failure::ALL.iter().position(|it| *it == failure)
        {
            self.failures[place] += 1;
        }
        match (observed.status, observed.event_status) {
            (Some(429), _) if observed.is_gateways() => self.refused_by_gateway += 1,
            (Some(429), _) => self.refused_by_upstream += 1,
            (_, Some(429)) => self.refused_in_stream += 1,
            _ => {}
        }
        let usage = observed.usage.unwrap_or_default();
        self.prompt_tokens += usage.prompt;
        self.cached_tokens += usage.cached;
        self.completion_tokens += usage.completion;
        let took = now.saturating_duration_since(sent.due);
        self.latency_of_all.record(took);
        if observed.is_ok() {
            self.ok += 1;
            self.without_usage += u64::from(observed.usage.is_none());
            self.latency.record(took);
        }
        if let Some(first) = observed.first_token {
            self.first_token.record(first.saturating_duration_since(sent.due));
        }
        if let Some(wait) = observed.wait_ms() {
            self.gateway_wait.record(Duration::from_millis(wait));
        }
        self.behind.record(sent.at.saturating_duration_since(sent.due));
        self.quota.note(&observed.headers);
    }
}

/// A span of time that rates are taken over; without an end it goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Instant,
    pub(crate) to: Option<Instant>,
}

impl Span {
    /// The share of a request that lies within, from 0 to 1.
    fn share(&self, from: Instant, to: Instant) -> f64 {
        let end = self.to.map_or(to, |end| end.min(to));
        let inside = end.saturating_duration_since(from.max(self.from));
        let whole = to.saturating_duration_since(from);
        if whole.is_zero() {
            // A request of no length is within or not.
            let within = from >= self.from && self.to.is_none_or(|end| from < end);
            return f64::from(u8::from(within));
        }
        inside.as_secs_f64() / whole.as_secs_f64()
    }
}

/// The counts of a target: of its warm-up, and of what is measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) warm_up: Counts,
    pub(crate) measured: Counts,
    spans: Option<(Span, Span)>,
    last_end: Option<Instant>,
}

impl Tally {
    /// A stretch of load begins: a warm-up until `measured_from`, then what is measured until `to`.
    pub(crate) fn begin(&mut self, now: Instant, measured_from: Instant, to: Option<Instant>) {
        let warm_up = Span { from: now, to: Some(measured_from) };
        self.spans = Some((warm_up, Span { from: measured_from, to }));
        self.last_end = None;
    }

    /// It is over earlier than was said: nothing is started any more.
    pub(crate) fn cut_short(&mut self, now: Instant) {
        if let Some((_, measured)) = &mut self.spans {
            measured.to = Some(measured.to.map_or(now, |to| to.min(now)).max(measured.from));
        }
    }

    /// A request is sent.
    pub(crate) fn sent(&mut self, sent: &Sent) {
        self.of(sent.warm_up).sent += 1;
    }

    /// A request has ended.
    pub(crate) fn ended(&mut self, sent: &Sent, observed: &Observation, now: Instant) {
        self.of(sent.warm_up).end(sent, observed, now);
        self.last_end = self.last_end.max(Some(now));
        let Some((warm_up, measured)) = self.spans else { return };
        let usage = observed.usage.unwrap_or_default();
        for (counts, span) in [(&mut self.warm_up, warm_up), (&mut self.measured, measured)] {
            let share = span.share(sent.at, now);
            counts.within.ended += share;
            counts.within.ok += if observed.is_ok() { share } else { 0.0 };
            counts.within.prompt_tokens += share * usage.prompt as f64;
            counts.within.completion_tokens += share * usage.completion as f64;
        }
    }

    /// The stretch is over: every request has ended, or was abandoned at `now`. Load that was
    /// `exhausted` lasted until its last answer, any other until it was told to end.
    pub(crate) fn finish(&mut self, now: Instant, exhausted: bool) {
        let Some((warm_up, measured)) = self.spans.take() else { return };
        let last = self.last_end.take().unwrap_or(now).max(measured.from);
        let told = measured.to.unwrap_or(last);
        let end = if exhausted { told.min(last) } else { told };
        let warm_end = warm_up.to.unwrap_or(now).min(now);
        self.warm_up.over += warm_end.saturating_duration_since(warm_up.from);
        self.measured.over += end.saturating_duration_since(measured.from);
    }

    /// Requests that were sent and have not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        let left = |counts: &Counts| counts.sent - counts.ended;
        left(&self.warm_up) + left(&self.measured)
    }

    /// Whether a request was sent at all.
    pub(crate) fn any_sent(&self) -> bool {
        self.warm_up.sent + self.measured.sent > 0
    }

    /// The counts of the part that a request belongs to.
    pub(crate) fn of(&mut self, warm_up: bool) -> &mut Counts {
        if warm_up { &mut self.warm_up } else { &mut self.measured }
    }
}

#[cfg(test)]
mod tests;
