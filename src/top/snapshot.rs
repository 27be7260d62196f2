//! What `/status` says, as much of it as is shown.
//!
//! The gateway may be older or newer than this program: what is missing is left empty, what is
//! unknown is not read.

use serde::Deserialize;

/// The gateway at one moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub(super) version: String,
    pub(super) draining: bool,
    pub(super) in_flight: i64,
    pub(super) connections: i64,
    pub(super) pools: Vec<Pool>,
    pub(super) today: Today,
    pub(super) refusals: Vec<Refusal>,
    pub(super) batches: Vec<Batch>,
}

/// What has been used since midnight.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Today {
    pub(super) tenants: Vec<Tenant>,
}

/// Who used it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tenant {
    pub(super) tenant: String,
    pub(super) tokens: u64,
    pub(super) requests: u64,
    pub(super) refused: u64,
}

/// A request that was turned away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) at: String,
    pub(super) tenant: Option<String>,
    pub(super) model: Option<String>,
    pub(super) source: String,
    pub(super) reason: String,
    pub(super) limited_by: Option<String>,
}

/// How the upstream does: counts of the last minutes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Upstream {
    pub(super) window_seconds: u64,
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) refusals: u64,
    pub(super) last_failure: Option<String>,
}

/// An upstream account and a model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub(super) pool: String,
    pub(super) model: String,
    pub(super) profile: String,
    pub(super) queued: u64,
    pub(super) oldest_wait_seconds: f64,
    pub(super) in_flight: u64,
    pub(super) limited_by: Option<String>,
    pub(super) stalled: bool,
    pub(super) upstream: Upstream,
    pub(super) classes: Vec<Queue>,
    pub(super) tenants: Vec<Queue>,
    pub(super) constraints: Vec<Constraint>,
}

/// What waits of one class, or of one tenant in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Queue {
    pub(super) class: String,
    pub(super) tenant: Option<String>,
    pub(super) queued: u64,
    pub(super) oldest_wait_seconds: f64,
    pub(super) forecast_seconds: Option<f64>,
}

/// One limit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Constraint {
    pub(super) unit: String,
    pub(super) window: String,
    pub(super) mode: String,
    pub(super) limit: u64,
    pub(super) learned: bool,
    pub(super) available: i64,
    pub(super) held: u64,
    pub(super) resets_in_seconds: f64,
    pub(super) exhausted_at: Option<String>,
}

/// A batch that has not ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Batch {
    pub(super) batch: String,
    pub(super) tenant: String,
    pub(super) status: String,
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

impl Constraint {
    /// As it is named elsewhere: `tokens/minute`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.unit, self.window)
    }

    /// Units that are used or held.
    pub(super) fn used(&self) -> u64 {
        let left = u64::try_from(self.available).unwrap_or(0);
        // In debt more than the limit is used.
        let debt = u64::try_from(self.available.saturating_neg()).unwrap_or(0);
        self.limit.saturating_sub(left).saturating_add(debt)
    }

    /// The share of the limit that is used or held, from 0 to 1.
    pub(super) fn share(&self) -> f64 {
        if self.limit == 0 { 1.0 } else { (self.used() as f64 / self.limit as f64).min(1.0) }
    }
}
