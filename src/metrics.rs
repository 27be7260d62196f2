//! Every metric, registered once in a registry of its own; handles are resolved up front.
//!
//! A new metric belongs here if an operator would alert on it, plot it or size by it. What is a
//! level rather than an event (queues, quotas) is read from the pools when somebody scrapes.
//!
//! # Invariants
//!
//! - Labels are closed enums or configured names, and the names of so many tenants as are told apart
//!   (`tenants`): no model, path or key as sent by a caller.
//! - `tidegate_requests_total` counts every request once, under the one outcome it had.

mod batch;
mod outcome;
mod pools;
mod refusals;
mod reloads;
mod server;
mod shared;
mod store;
mod tenants;
mod text;
mod traces;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use self::batch::BatchMetrics;
pub use self::outcome::{CircuitState, Fate, Outcome, Rejection, RetryReason, UpstreamFailure};
pub use self::refusals::{Refusal, Refusals};
pub use self::reloads::ReloadMetrics;
pub use self::server::{Refused, ServerMetrics, Shook};
pub use self::shared::SharedMetrics;
pub use self::store::StoreMetrics;
pub use self::tenants::{Share, TenantMetrics};
use self::text::{Labels, Text};
pub use self::traces::TraceMetrics;
pub use self::upstream::UpstreamMetrics;
use crate::admission::Pools;
use crate::identity::VirtualKey;
use crate::limit::Blame;

/// Waits, from "nobody noticed" to the longest that is allowed by default, about 2.5 steps a decade.
const WAIT_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Latencies of an upstream that answers in 50 ms to a few minutes.
const LATENCY_BUCKETS: &[f64] =
    &[0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 300.0];
/// Forecast over real wait: 1 is exact, below it callers wait longer than they were let in for, above
/// it some are turned away that need not be.
const FORECAST_BUCKETS: &[f64] =
    &[0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0];
/// Estimated over used tokens: 1 is exact, below is a risk, above is quota that had to wait for its
/// refund.
const RATIO_BUCKETS: &[f64] = &[0.5, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    outcomes: [IntCounter; Outcome::ALL.len()],
    rejections: [IntCounter; Rejection::ALL.len()],
    retries: [IntCounter; RetryReason::ALL.len()],
    /// By whether the limit ended it.
    capped: [IntCounter; 2],
    blames: [IntCounter; Blame::ALL.len()],
    /// In order of the index.
    classes: Vec<Labels>,
    /// Time from arrival to admission, of admitted requests.
    pub queue_wait: Histogram,
    /// How long admitted requests that had to wait were to wait, when they began to.
    pub queue_forecast: Histogram,
    /// That over the time that they did wait.
    pub forecast_ratio: Histogram,
    /// Time from arrival to admission, of admitted requests, by class.
    pub class_wait: Vec<Histogram>,
    /// Time from sending to the head of the answer.
    pub upstream_head: Histogram,
    /// Time from sending to the first content of a streamed answer.
    pub first_token: Histogram,
    /// Time from sending to the end of the answer.
    pub upstream_duration: Histogram,
    /// Tokens held at admission over tokens used.
    pub estimate_ratio: Histogram,
    /// Requests for which less was held because their prompts were counted while they waited.
    pub estimates_lowered: IntCounter,
    /// Tokens held at admission.
    pub tokens_estimated: IntCounter,
    /// Prompt tokens that answers reported.
    pub tokens_prompt: IntCounter,
    /// Completion tokens that answers reported.
    pub tokens_completion: IntCounter,
    /// Prompt tokens that the upstream had cached, part of the prompt tokens.
    pub tokens_cached: IntCounter,
    /// Answers that ended without a usage report.
    pub usage_missing: IntCounter,
    /// Streams whose callers were told that they wait.
    pub heartbeat_streams: IntCounter,
    /// Places kept for refused requests.
    pub places_kept: IntCounter,
    /// Requests that came back to the place kept for them.
    pub places_taken: IntCounter,
    /// Requests being served.
    pub in_flight: IntGauge,
    /// Open connections to the API.
    pub connections: IntGauge,
    /// Connections accepted.
    pub connections_total: IntCounter,
    /// Bytes of request bodies kept.
    pub body_bytes: IntGauge,
    /// Connections, and who was not let in.
    pub server: ServerMetrics,
    /// The state on disk.
    pub store: Arc<StoreMetrics>,
    /// The quota that replicas share.
    pub shared: SharedMetrics,
    /// Files and batches.
    pub batch: BatchMetrics,
    /// Spans sent to a collector.
    pub traces: TraceMetrics,
    /// The configuration that is read again.
    pub reloads: ReloadMetrics,
    /// The upstream's health.
    pub upstream: UpstreamMetrics,
    /// Single tenants.
    pub tenants: TenantMetrics,
    /// The last requests that were turned away.
    pub refusals: Refusals,
}

impl Metrics {
    /// Registers everything, for these classes of requests and these keys of callers; at most so
    /// many tenants are told apart.
    ///
    /// # Errors
    ///
    /// If two metrics share a name: a mistake in this file.
    pub fn new(
        classes: &[&str],
        keys: &[VirtualKey],
        max_tenants: usize,
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let new = Registrar(&registry);
        let outcomes = new.counters(
            "tidegate_requests_total",
            "Requests by the one outcome each had.",
            "outcome",
            Outcome::ALL.map(Outcome::as_str),
        )?;
        let rejections = new.counters(
            "tidegate_upstream_rejections_total",
            "429 and overload answers of the upstream, by kind, passed on or retried.",
            "kind",
            Rejection::ALL.map(Rejection::as_str),
        )?;
        let retries = new.counters(
            "tidegate_retries_total",
            "Requests sent to the upstream again, by reason.",
            "reason",
            RetryReason::ALL.map(RetryReason::as_str),
        )?;
        let blames = new.counters(
            "tidegate_upstream_quota_rejections_total",
            "Refusals of the upstream that name a quota, by whose use they are due to.",
            "blame",
            Blame::ALL.map(Blame::as_str),
        )?;
        let capped = new.counters(
            "tidegate_output_capped_total",
            "Answers to requests with an output limit of the gateway's own, by what ended them.",
            "ended",
            ["other", "length"],
        )?;
        let tokens = new.counters(
            "tidegate_tokens_used_total",
            "Tokens that answers reported as used; cached is part of prompt.",
            "kind",
            ["prompt", "completion", "cached"],
        )?;
        let [tokens_prompt, tokens_completion, tokens_cached] = tokens;
        let build = IntGaugeVec::new(
            Opts::new("tidegate_build_info", "Always 1; the version is in the label."),
            &["version"],
        )?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            outcomes,
            rejections,
            retries,
            capped,
            blames,
            classes: classes.iter().map(|class| Labels::new([("class", class)])).collect(),
            queue_wait: new.histogram(
                "tidegate_queue_wait_seconds",
                "Time from arrival to admission, of admitted requests.",
                WAIT_BUCKETS,
            )?,
            queue_forecast: new.histogram(
                "tidegate_queue_forecast_seconds",
                "Wait that was forecast when it began, of admitted requests that had to wait.",
                WAIT_BUCKETS,
            )?,
            forecast_ratio: new.histogram(
                "tidegate_queue_forecast_ratio",
                "Forecast over real wait, of admitted requests that had to wait.",
                FORECAST_BUCKETS,
            )?,
            class_wait: new.histograms(
                "tidegate_class_wait_seconds",
                "Time from arrival to admission, of admitted requests, by class.",
                WAIT_BUCKETS,
                "class",
                classes,
            )?,
            upstream_head: new.histogram(
                "tidegate_upstream_head_seconds",
                "Time from sending a request to the head of its answer.",
                LATENCY_BUCKETS,
            )?,
            first_token: new.histogram(
                "tidegate_upstream_first_token_seconds",
                "Time from sending a request to the first event of its streamed answer.",
                LATENCY_BUCKETS,
            )?,
            upstream_duration: new.histogram(
                "tidegate_upstream_duration_seconds",
                "Time from sending a request to the end of its answer.",
                LATENCY_BUCKETS,
            )?,
            estimate_ratio: new.histogram(
                "tidegate_estimate_ratio",
                "Tokens held at admission over tokens used, of answers that reported usage.",
                RATIO_BUCKETS,
            )?,
            estimates_lowered: new.counter(
                "tidegate_estimates_lowered_total",
                "Requests for which less was held once their prompts had been counted.",
            )?,
            tokens_estimated: new.counter(
                "tidegate_tokens_estimated_total",
                "Tokens held at admission, of answers that reported usage.",
            )?,
            tokens_prompt,
            tokens_completion,
            tokens_cached,
            usage_missing: new.counter(
                "tidegate_usage_missing_total",
                "Successful answers without a usage report; they are charged as held.",
            )?,
            heartbeat_streams: new.counter(
                "tidegate_heartbeat_streams_total",
                "Streams that began with comments because the request still waited.",
            )?,
            places_kept: new.counter(
                "tidegate_places_kept_total",
                "Places kept for requests that were refused for waiting too long.",
            )?,
            places_taken: new.counter(
                "tidegate_places_taken_total",
                "Requests that came back to the place kept for them.",
            )?,
            in_flight: new.gauge("tidegate_requests_in_flight", "Requests being served.")?,
            connections: new.gauge("tidegate_connections", "Open connections to the API.")?,
            connections_total: new
                .counter("tidegate_connections_total", "Connections to the API accepted.")?,
            body_bytes: new
                .gauge("tidegate_body_bytes", "Bytes of request bodies kept in memory.")?,
            server: ServerMetrics::register(&new)?,
            store: Arc::new(StoreMetrics::register(&new)?),
            shared: SharedMetrics::register(&registry)?,
            batch: BatchMetrics::register(&new)?,
            traces: TraceMetrics::register(&new)?,
            reloads: ReloadMetrics::register(&new)?,
            upstream: UpstreamMetrics::register(&new)?,
            tenants: TenantMetrics::new(keys, max_tenants),
            refusals: Refusals::default(),
            registry,
        })
    }

    /// Counts a request that has ended.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }

    /// Counts a refusal of the upstream.
    pub fn count_rejection(&self, kind: Rejection) {
        self.rejections[kind as usize].inc();
    }

    /// Counts a refusal of the upstream that named a quota.
    pub fn count_blame(&self, blame: Blame) {
        self.blames[blame as usize].inc();
    }

    /// Counts an answer to a request whose output was limited; `cut` if the limit ended it.
    pub fn count_capped(&self, cut: bool) {
        self.capped[usize::from(cut)].inc();
    }

    /// Counts a request that is sent again.
    pub fn count_retry(&self, reason: RetryReason) {
        self.retries[reason as usize].inc();
    }

    /// Observes how long a request was to wait, and did.
    pub fn observe_forecast(&self, forecast: Duration, waited: Duration) {
        if !waited.is_zero() {
            observe(&self.queue_forecast, forecast);
            self.forecast_ratio.observe(forecast.as_secs_f64() / waited.as_secs_f64());
        }
    }

    /// Everything in the Prometheus text format, levels read from `pools` now, and what waits for limits
    /// of its tenants' own from `tenants`.
    pub fn render(&self, pools: &Pools, tenants: &Pools) -> String {
        let mut families = self.registry.gather();
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        // Encoding into memory fails only for families without a metric, and those are left out.
        let _ = TextEncoder::new().encode(&families, &mut text);
        let mut text = Text::after(String::from_utf8(text).unwrap_or_default());
        pools::write(&mut text, pools, &self.classes);
        self.tenants.write(&mut text, [pools, tenants]);
        text.into_string()
    }
}

/// Makes metrics and registers them.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let counter = IntCounter::new(name, help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let gauge = IntGauge::new(name, help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options)?;
        self.0.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }

    /// One histogram for each value of a label, all visible from the start.
    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        label: &str,
        values: &[&str],
    ) -> prometheus::Result<Vec<Histogram>> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let family = HistogramVec::new(options, &[label])?;
        self.0.register(Box::new(family.clone()))?;
        Ok(values.iter().map(|value| family.with_label_values(&[*value])).collect())
    }

    /// One counter for each value of a label, all visible from the start.
    fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> prometheus::Result<[IntCounter; N]> {
        let family = IntCounterVec::new(Opts::new(name, help), &[label])?;
        self.0.register(Box::new(family.clone()))?;
        Ok(values.map(|value| family.with_label_values(&[value])))
    }
}

/// Observes a duration in seconds.
pub fn observe(histogram: &Histogram, span: Duration) {
    histogram.observe(span.as_secs_f64());
}
