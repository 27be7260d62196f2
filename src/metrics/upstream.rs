//! What is to be known of the upstream's health.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use super::Registrar;
use super::outcome::{CircuitState, UpstreamFailure};
use crate::time::Timestamp;

/// The metrics of the upstream's health. Attempts count, not requests: what is tried again counts
/// each time.
#[derive(Debug)]
pub struct UpstreamMetrics {
    failures: [IntCounter; UpstreamFailure::ALL.len()],
    consecutive: IntGauge,
    last_success: IntGauge,
    circuits: [IntCounter; CircuitState::ALL.len()],
    fallbacks: IntCounterVec,
    /// Times that fewer requests were allowed at the upstream, because it was overloaded.
    pub concurrency_cuts: IntCounter,
}

impl UpstreamMetrics {
    pub(super) fn register(new: &Registrar<'_>) -> prometheus::Result<Self> {
        let help = "Requests that went to a fallback, by its name and why; none without one.";
        let fallbacks = Opts::new("tidegate_fallbacks_total", help);
        let fallbacks = IntCounterVec::new(fallbacks, &["fallback", "cause"])?;
        new.0.register(Box::new(fallbacks.clone()))?;
        Ok(Self {
            failures: new.counters(
                "tidegate_upstream_failures_total",
                "Attempts that the upstream failed, by how: those tried again included.",
                "kind",
                UpstreamFailure::ALL.map(UpstreamFailure::as_str),
            )?,
            consecutive: new.gauge(
                "tidegate_upstream_consecutive_failures",
                "Attempts that the upstream has failed since its last success.",
            )?,
            last_success: new.gauge(
                "tidegate_upstream_last_success_timestamp_seconds",
                "When the upstream last answered well, in seconds since the Unix epoch; 0 if it never did.",
            )?,
            circuits: new.counters(
                "tidegate_upstream_circuit_transitions_total",
                "Times that the circuit of a pool got into a state.",
                "to",
                CircuitState::ALL.map(CircuitState::as_str),
            )?,
            fallbacks,
            concurrency_cuts: new.counter(
                "tidegate_concurrency_cuts_total",
                "Times that fewer requests were allowed at an overloaded upstream.",
            )?,
        })
    }

    /// The upstream has answered well.
    pub fn succeeded(&self, now: Timestamp) {
        self.consecutive.set(0);
        let seconds = now.as_nanos() / 1_000_000_000;
        self.last_success.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// There is a fallback of this name: it is shown before a request goes there.
    pub fn has_fallback(&self, name: &str, cause: &str) {
        self.fallbacks.with_label_values(&[name, cause]);
    }

    /// A request went to a fallback.
    pub fn fell_back(&self, name: &str, cause: &str) {
        self.fallbacks.with_label_values(&[name, cause]).inc();
    }

    /// The circuit of a pool got into a state.
    pub fn circuit(&self, to: CircuitState) {
        self.circuits[to as usize].inc();
    }

    /// The upstream has failed an attempt. An answer that blames the request, or that names a quota,
    /// is neither: somebody is there who says no.
    pub fn failed(&self, how: UpstreamFailure) {
        self.failures[how as usize].inc();
        self.consecutive.inc();
    }
}
