//! What is to be known of batches.

use prometheus::{IntCounter, IntGauge};

use super::Registrar;

/// The states in which a batch can end.
const ENDS: [&str; 4] = ["completed", "failed", "expired", "cancelled"];

/// The metrics of files and batches; all zero where there are none.
#[derive(Debug)]
pub struct BatchMetrics {
    /// Batches that have not ended.
    pub running: IntGauge,
    ended: [IntCounter; ENDS.len()],
    /// Requests that were answered well.
    pub lines_completed: IntCounter,
    /// Requests that failed for good.
    pub lines_failed: IntCounter,
    /// Requests that failed and were tried again.
    pub retries: IntCounter,
    /// Bytes of files and results.
    pub stored_bytes: IntGauge,
}

impl BatchMetrics {
    pub(super) fn register(new: &Registrar<'_>) -> prometheus::Result<Self> {
        let ended = new.counters(
            "tidegate_batches_total",
            "Batches that have ended, by the state that they ended in.",
            "status",
            ENDS,
        )?;
        let [lines_completed, lines_failed] = new.counters(
            "tidegate_batch_requests_total",
            "Requests of batches whose result was committed; those of no result are not counted.",
            "result",
            ["completed", "failed"],
        )?;
        Ok(Self {
            running: new.gauge("tidegate_batches_running", "Batches that have not ended.")?,
            ended,
            lines_completed,
            lines_failed,
            retries: new.counter(
                "tidegate_batch_retries_total",
                "Requests of batches that failed and were to be tried again.",
            )?,
            stored_bytes: new.gauge(
                "tidegate_batch_stored_bytes",
                "Bytes of the files and results that are kept.",
            )?,
        })
    }

    /// A batch has ended in the state of this name.
    pub fn count(&self, status: &str) {
        if let Some(at) = ENDS.iter().position(|it| *it == status) {
            self.ended[at].inc();
        }
    }
}
