//! A tenant with limits of its own as `/status` shows it: what waits for them, and what is left.

use serde::Serialize;

use super::pool::ConstraintStatus;
use super::rounded;
use crate::admission::pool::Snapshot;
use crate::admission::pools::Named;
use crate::admission::{Bound, PoolKey};

/// What a tenant has left of its own limits.
#[derive(Debug, Serialize)]
pub(super) struct TenantQuota {
    tenant: String,
    /// As the state and the log name it.
    pool: String,
    queued: usize,
    oldest_wait_seconds: f64,
    /// Requests that were let past and have not ended.
    in_flight: u32,
    limited_by: Option<String>,
    stalled: bool,
    constraints: Vec<ConstraintStatus>,
}

impl TenantQuota {
    pub(super) fn of(key: PoolKey, named: &Named, snapshot: &Snapshot) -> Self {
        let now = named.pool.now();
        let mut constraints = Vec::new();
        named.pool.levels(|level| {
            let binding = snapshot.bound == Some(Bound::Constraint(constraints.len()));
            let configured = Some(level.quota.limit());
            constraints.push(ConstraintStatus::of(&level, now, configured, binding));
        });
        Self {
            tenant: named.model.to_string(),
            pool: key.to_string(),
            queued: snapshot.queued,
            oldest_wait_seconds: rounded(snapshot.oldest_wait),
            in_flight: snapshot.in_flight,
            limited_by: snapshot.bound.map(|bound| named.pool.name_of(bound)),
            stalled: snapshot.stalled,
            constraints,
        }
    }

    /// What they are put in order by.
    pub(super) fn name(&self) -> &str {
        &self.tenant
    }
}
