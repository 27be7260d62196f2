//! Metrics of the configuration that a running gateway takes up.

use prometheus::{IntCounter, IntGauge};

use super::Registrar;
use crate::time::Timestamp;

/// What became of tries to take another configuration up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    applied: IntCounter,
    refused: IntCounter,
    unchanged: IntCounter,
    loaded: IntGauge,
    successful: IntGauge,
}

impl ReloadMetrics {
    /// Registers them.
    pub(super) fn register(new: &Registrar<'_>) -> prometheus::Result<Self> {
        let [applied, refused, unchanged] = new.counters(
            "tidegate_config_reloads_total",
            "Times that the configuration was read again, by what became of it.",
            "result",
            ["applied", "refused", "unchanged"],
        )?;
        let loaded = new.gauge(
            "tidegate_config_loaded_timestamp_seconds",
            "When the configuration in force was taken up, in seconds since the Unix epoch.",
        )?;
        let successful = new.gauge(
            "tidegate_config_last_reload_successful",
            "0 while the configuration could not be taken up when it was read last.",
        )?;
        Ok(Self { applied, refused, unchanged, loaded, successful })
    }

    /// The first configuration was taken up `now`.
    pub fn begun(&self, now: Timestamp) {
        self.successful.set(1);
        self.loaded.set(i64::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX));
    }

    /// Another one was taken up `now`.
    pub fn applied(&self, now: Timestamp) {
        self.applied.inc();
        self.begun(now);
    }

    /// It was not: something is wrong with it, or needs a restart.
    pub fn refused(&self) {
        self.refused.inc();
        self.successful.set(0);
    }

    /// It says the same as the one before.
    pub fn unchanged(&self) {
        self.unchanged.inc();
        self.successful.set(1);
    }
}
