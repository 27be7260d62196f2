//! What is to be known of the state on disk.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Registrar;

/// Commits, from one that only the system's memory takes part in to one behind a disk that hangs.
const COMMIT_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];

/// The metrics of the store; all zero where nothing is kept.
#[derive(Debug)]
pub struct StoreMetrics {
    /// Commits that went well.
    pub commits: IntCounter,
    /// Commits that failed.
    pub errors: IntCounter,
    /// How long commits that went well took.
    pub commit_seconds: Histogram,
    /// 1 while the last try to commit has failed.
    pub degraded: IntGauge,
    /// Bytes of events since the last snapshots.
    pub journal_bytes: IntGauge,
    /// Bytes that wait to be committed.
    pub backlog_bytes: IntGauge,
    /// Times that what waited was dropped, to be asked for again as a whole.
    pub dropped: IntCounter,
    /// When the last commit was, in seconds since the Unix epoch.
    pub last_commit: IntGauge,
}

impl StoreMetrics {
    pub(super) fn register(new: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            commits: new
                .counter("tidegate_store_commits_total", "Commits of the state on disk.")?,
            errors: new.counter("tidegate_store_errors_total", "Commits that failed.")?,
            commit_seconds: new.histogram(
                "tidegate_store_commit_seconds",
                "Time that a commit of the state on disk took.",
                COMMIT_BUCKETS,
            )?,
            degraded: new.gauge(
                "tidegate_store_degraded",
                "1 while state cannot be written: a crash now would forget what waits.",
            )?,
            journal_bytes: new.gauge(
                "tidegate_store_journal_bytes",
                "Bytes of events on disk since the last snapshots.",
            )?,
            backlog_bytes: new.gauge(
                "tidegate_store_backlog_bytes",
                "Bytes of snapshots and events that wait for a commit.",
            )?,
            dropped: new.counter(
                "tidegate_store_backlog_dropped_total",
                "Times that what waited grew too large and was dropped for snapshots of everything.",
            )?,
            last_commit: new.gauge(
                "tidegate_store_last_commit_timestamp_seconds",
                "When the last commit was, in seconds since the Unix epoch; 0 if there was none.",
            )?,
        })
    }
}
