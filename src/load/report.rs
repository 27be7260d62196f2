//! What a run has shown: the numbers that text and JSON are made of.

use std::collections::BTreeMap;

use serde::Serialize;

use super::observation::Failure;
use super::quota::window_seconds;
use super::tally::{Counts, Tally, Times};

/// Everything that is told of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was asked for.
    pub(crate) settings: Settings,
    /// Whether somebody stopped it before it was done.
    pub(crate) interrupted: bool,
    /// One for each target.
    pub(crate) targets: Vec<TargetReport>,
    /// The second target's figures over the first's.
    pub(crate) ratios: Option<Ratios>,
}

/// How the load was made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) model: String,
    /// Requests under way at all times; `None` at a fixed rate.
    pub(crate) concurrency: Option<usize>,
    /// Requests due in a second; `None` at a fixed concurrency.
    pub(crate) rate: Option<String>,
    pub(crate) max_in_flight: Option<usize>,
    pub(crate) warm_up_seconds: f64,
    pub(crate) duration_seconds: Option<f64>,
    pub(crate) requests: Option<u64>,
    pub(crate) prompt_tokens: String,
    pub(crate) output_tokens: Option<String>,
    pub(crate) streamed_share: f64,
    pub(crate) seed: u64,
    pub(crate) timeout_seconds: f64,
}

/// What one target has shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TargetReport {
    pub(crate) url: String,
    /// `None` if there was no warm-up.
    pub(crate) warm_up: Option<Figures>,
    pub(crate) measured: Figures,
}

/// The figures of one part of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// The time that rates are taken over.
    pub(crate) seconds: f64,
    pub(crate) requests: Requests,
    pub(crate) per_second: PerSecond,
    /// By HTTP status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) refused_429: Refused,
    /// By kind, those that happened.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    pub(crate) tokens: Tokens,
    pub(crate) latency: Spread,
    pub(crate) latency_of_all: Spread,
    pub(crate) first_token: Spread,
    pub(crate) gateway_wait: Spread,
    pub(crate) started_late: Spread,
    pub(crate) quota: Vec<QuotaUse>,
}

/// Requests by what became of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Requests {
    pub(crate) sent: u64,
    /// Whole completions.
    pub(crate) ok: u64,
    /// Answered with an error status.
    pub(crate) error_status: u64,
    /// Without a whole answer.
    pub(crate) errors: u64,
    /// Still under way when the run was aborted.
    pub(crate) abandoned: u64,
    /// Due, and not sent before the end.
    pub(crate) not_started: u64,
}

/// What happened in a second, on average.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PerSecond {
    /// Requests that ended, in whatever way.
    pub(crate) requests: f64,
    pub(crate) ok: f64,
    pub(crate) prompt_tokens: f64,
    pub(crate) completion_tokens: f64,
}

/// 429s by who gave them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Refused {
    pub(crate) gateway: u64,
    pub(crate) upstream: u64,
    /// As an event in a stream that had begun.
    pub(crate) in_stream: u64,
}

/// What answers say they used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    /// Of those, from the upstream's cache.
    pub(crate) cached: u64,
    pub(crate) completion: u64,
    /// Completions that do not say.
    pub(crate) answers_without_usage: u64,
}

/// Times, in milliseconds; all zero where there is none.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) mean_ms: f64,
    pub(crate) min_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p99_9_ms: f64,
    pub(crate) max_ms: f64,
    /// The whole distribution: the share of requests, and the time within which they were.
    pub(crate) percentiles: Vec<Percentile>,
}

/// One point of a distribution.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentile {
    pub(crate) percentile: f64,
    pub(crate) ms: f64,
    /// Requests within this time.
    pub(crate) count: u64,
}

/// A limit as the target's headers showed it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct QuotaUse {
    /// Unit and window: `tokens-minute`.
    pub(crate) name: String,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining_at_start: Option<u64>,
    pub(crate) remaining_at_end: Option<u64>,
    pub(crate) lowest_remaining: Option<u64>,
    /// The share of the limit that was used up at the end.
    pub(crate) used_at_end: Option<f64>,
    /// What this run used in a second, over what the limit gives in one.
    pub(crate) used_of_rate: Option<f64>,
}

/// The second target's figures over the first's; `None` where the first one has none.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratios {
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) ok_per_second: Option<f64>,
    pub(crate) completion_tokens_per_second: Option<f64>,
    pub(crate) latency_p50: Option<f64>,
    pub(crate) latency_p99: Option<f64>,
    pub(crate) first_token_p50: Option<f64>,
    pub(crate) first_token_p99: Option<f64>,
}

impl TargetReport {
    /// What a target's counts say.
    pub(crate) fn new(url: &str, tally: &Tally) -> Self {
        let warm_up = &tally.warm_up;
        Self {
            url: url.to_owned(),
            warm_up: (!warm_up.over.is_zero()).then(|| Figures::of(warm_up)),
            measured: Figures::of(&tally.measured),
        }
    }
}

impl Figures {
    fn of(counts: &Counts) -> Self {
        let seconds = counts.over.as_secs_f64();
        let rate = |within: f64| if seconds > 0.0 { within / seconds } else { 0.0 };
        let within = counts.within;
        let per_second = PerSecond {
            requests: rate(within.ended),
            ok: rate(within.ok),
            prompt_tokens: rate(within.prompt_tokens),
            completion_tokens: rate(within.completion_tokens),
        };
        let errors = Failure::ALL.map(|kind| (kind.as_str(), counts.failed(kind)));
        let failed: u64 = errors.iter().map(|(_, count)| count).sum();
        Self {
            seconds,
            requests: Requests {
                sent: counts.sent,
                ok: counts.ok,
                error_status: counts.ended - counts.ok - failed,
                errors: failed,
                abandoned: counts.sent - counts.ended,
                not_started: counts.not_started,
            },
            per_second,
            statuses: counts.statuses.clone(),
            refused_429: Refused {
                gateway: counts.refused_by_gateway,
                upstream: counts.refused_by_upstream,
                in_stream: counts.refused_in_stream,
            },
            errors: errors.into_iter().filter(|(_, count)| *count > 0).collect(),
            tokens: Tokens {
                prompt: counts.prompt_tokens,
                cached: counts.cached_tokens,
                completion: counts.completion_tokens,
                answers_without_usage: counts.without_usage,
            },
            latency: Spread::of(&counts.latency),
            latency_of_all: Spread::of(&counts.latency_of_all),
            first_token: Spread::of(&counts.first_token),
            gateway_wait: Spread::of(&counts.gateway_wait),
            started_late: Spread::of(&counts.behind),
            quota: quota(counts, per_second),
        }
    }
}

/// What the headers showed, and how this run's use compares with it.
fn quota(counts: &Counts, per_second: PerSecond) -> Vec<QuotaUse> {
    let used = |name: &str| match name.split('-').next()? {
        "requests" => Some(per_second.ok),
        "tokens" => Some(per_second.prompt_tokens + per_second.completion_tokens),
        _ => None,
    };
    let seen = counts.quota.seen().iter().map(|seen| {
        let limit = seen.limit.filter(|limit| *limit > 0).map(|limit| limit as f64);
        let given = limit.zip(window_seconds(&seen.name)).map(|(limit, window)| limit / window);
        QuotaUse {
            name: seen.name.clone(),
            limit: seen.limit,
            remaining_at_start: seen.first,
            remaining_at_end: seen.last,
            lowest_remaining: seen.lowest,
            used_at_end: limit.zip(seen.last).map(|(limit, left)| 1.0 - left as f64 / limit),
            used_of_rate: used(&seen.name).zip(given).map(|(used, given)| used / given),
        }
    });
    seen.collect()
}

impl Spread {
    fn of(times: &Times) -> Self {
        let histogram = times.histogram();
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile: f64| millis(histogram.value_at_quantile(quantile));
        // Two points for each halving of what is left above: enough to draw the tail, few to keep.
        let points = histogram.iter_quantiles(2);
        let mut below = 0;
        let percentiles = points
            .map(|point| {
                below += point.count_since_last_iteration();
                let percentile = point.quantile_iterated_to() * 100.0;
                Percentile { percentile, ms: millis(point.value_iterated_to()), count: below }
            })
            .collect();
        Self {
            count: histogram.len(),
            mean_ms: histogram.mean() / 1_000.0,
            min_ms: millis(histogram.min()),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            max_ms: millis(histogram.max()),
            percentiles,
        }
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

impl Ratios {
    /// The second's figures over the first's.
    pub(crate) fn new(first: &Figures, second: &Figures) -> Self {
        let ratio = |of: fn(&Figures) -> f64| {
            let (below, above) = (of(first), of(second));
            (below > 0.0).then(|| above / below)
        };
        Self {
            requests_per_second: ratio(|it| it.per_second.requests),
            ok_per_second: ratio(|it| it.per_second.ok),
            completion_tokens_per_second: ratio(|it| it.per_second.completion_tokens),
            latency_p50: ratio(|it| it.latency.p50_ms),
            latency_p99: ratio(|it| it.latency.p99_ms),
            first_token_p50: ratio(|it| it.first_token.p50_ms),
            first_token_p99: ratio(|it| it.first_token.p99_ms),
        }
    }
}
