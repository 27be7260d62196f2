//! Metrics of the spans that are sent to a collector.

use prometheus::IntCounter;

use super::Registrar;

/// What became of spans. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    /// The collector took them.
    pub exported: IntCounter,
    /// There was no room for them: too many waited to be sent.
    pub dropped: IntCounter,
    /// The collector did not take them.
    pub failed: IntCounter,
}

impl TraceMetrics {
    /// Registers them.
    pub(super) fn register(new: &Registrar<'_>) -> prometheus::Result<Self> {
        let [exported, dropped, failed] = new.counters(
            "tidegate_trace_spans_total",
            "Spans of requests that were traced, by what became of them.",
            "outcome",
            ["exported", "dropped", "failed"],
        )?;
        Ok(Self { exported, dropped, failed })
    }
}
