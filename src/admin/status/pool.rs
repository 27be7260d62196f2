//! A pool as `/status` shows it: what waits, what binds, what is left, what was learned.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde::Serialize;

use super::{rounded, text};
use crate::admission::pool::Snapshot;
use crate::admission::pools::Named;
use crate::admission::recent::{HEALTH_MINUTES, Health, TurnedAway};
use crate::admission::{Bound, PoolKey, Queue};
use crate::limit::{Blame, Level};
use crate::proxy::Gateway;
use crate::time::Timestamp;

/// Tenants shown of each pool: those that have most waiting.
const MOST_TENANTS: usize = 20;

#[derive(Debug, Serialize)]
pub(super) struct PoolStatus {
    pool: String,
    model: Arc<str>,
    profile: String,
    queued: usize,
    queued_bytes: u64,
    oldest_wait_seconds: f64,
    in_flight: u32,
    /// Requests that may be at the upstream, if there is a limit.
    concurrency_limit: Option<u32>,
    circuit: &'static str,
    limited_by: Option<String>,
    stalled: bool,
    upstream: UpstreamStatus,
    classes: Vec<QueueStatus>,
    tenants: Vec<QueueStatus>,
    constraints: Vec<ConstraintStatus>,
    calibration: Vec<CalibrationStatus>,
}

/// How the upstream does.
#[derive(Debug, Serialize)]
struct UpstreamStatus {
    /// What the counts below are counted over.
    window_seconds: u64,
    successes: u64,
    failures: u64,
    refusals: u64,
    last_success_at: Option<String>,
    last_failure_at: Option<String>,
    last_failure: Option<String>,
    last_refusal_at: Option<String>,
    last_refusal: Option<&'static str>,
    last_refusal_quota: Option<String>,
    last_refusal_blame: Option<&'static str>,
}

/// What has been learned of one caller's requests.
#[derive(Debug, Serialize)]
struct CalibrationStatus {
    tenant: String,
    answers: u64,
    counted: u64,
    output_median: Option<u64>,
    output_p99: Option<u64>,
}

#[derive(Debug, Serialize)]
struct QueueStatus {
    class: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    queued: usize,
    queued_bytes: u64,
    oldest_wait_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ConstraintStatus {
    unit: &'static str,
    window: String,
    window_seconds: f64,
    mode: &'static str,
    limit: u64,
    /// The limit in the configuration.
    configured_limit: Option<u64>,
    /// Whether the upstream's headers have shown another.
    learned: bool,
    available: i64,
    held: u64,
    /// Whether the first in line waits for it.
    binding: bool,
    resets_in_seconds: f64,
    configured_mode: &'static str,
    drift: i64,
    foreign: u64,
    exhausted_at: Option<String>,
}

impl PoolStatus {
    pub(super) fn of(gateway: &Gateway, key: PoolKey, named: &Named, snapshot: &Snapshot) -> Self {
        let config = gateway.config();
        let (classes, tenants) = queues(gateway, named, snapshot);
        let now = named.pool.now();
        let follows = named.profile();
        let profile = config.models.profile(&follows);
        let mut constraints = Vec::new();
        named.pool.levels(|level| {
            // In the order of the configuration, but what it does not have is no reason to guess.
            let limits = profile.map(|profile| &*profile.limits).unwrap_or_default();
            let configured = limits
                .iter()
                .find(|it| it.unit() == level.quota.unit() && it.name() == level.quota.name());
            let configured = configured.map(|it| it.limit());
            let binding = snapshot.bound == Some(Bound::Constraint(constraints.len()));
            constraints.push(ConstraintStatus::of(&level, now, configured, binding));
        });
        Self {
            pool: key.to_string(),
            model: Arc::clone(&named.model),
            profile: follows.to_string(),
            queued: snapshot.queued,
            queued_bytes: snapshot.queued_bytes,
            oldest_wait_seconds: rounded(snapshot.oldest_wait),
            in_flight: snapshot.in_flight,
            concurrency_limit: snapshot.concurrency.map(NonZeroU32::get),
            circuit: snapshot.circuit.as_str(),
            limited_by: snapshot.bound.map(|bound| named.pool.name_of(bound)),
            stalled: snapshot.stalled,
            upstream: UpstreamStatus::of(named.pool.recent().health(now)),
            classes,
            tenants,
            constraints,
            calibration: calibration(gateway, key),
        }
    }

    /// What pools are put in order by.
    pub(super) fn name(&self) -> (&str, &str) {
        (&self.model, &self.pool)
    }
}

impl ConstraintStatus {
    pub(super) fn of(
        level: &Level<'_>,
        now: Timestamp,
        configured: Option<u64>,
        binding: bool,
    ) -> Self {
        let limit = level.quota.limit();
        Self {
            unit: level.quota.unit().as_str(),
            window: level.quota.name().to_owned(),
            window_seconds: level.quota.window().as_secs_f64(),
            mode: level.mode.as_str(),
            configured_mode: level.quota.mode().as_str(),
            limit,
            configured_limit: configured,
            learned: configured.is_some_and(|configured| configured != limit),
            available: level.available,
            held: level.held,
            binding,
            resets_in_seconds: level.resets_at.since(now).as_secs_f64(),
            drift: level.drift,
            foreign: level.foreign,
            exhausted_at: level.exhausted_at.map(text),
        }
    }
}

impl UpstreamStatus {
    fn of(health: Health) -> Self {
        let Health { last_success, last_failure, last_refusal, successes, failures, refusals } =
            health;
        let quota =
            |it: TurnedAway| it.quota.map(|(unit, name)| format!("{}/{name}", unit.as_str()));
        Self {
            window_seconds: HEALTH_MINUTES * 60,
            successes,
            failures,
            refusals,
            last_success_at: last_success.map(text),
            last_failure_at: last_failure.map(|(at, _)| text(at)),
            last_failure: last_failure.map(|(_, failure)| failure.to_string()),
            last_refusal_at: last_refusal.map(|(at, _)| text(at)),
            last_refusal: last_refusal.map(|(_, refusal)| refusal.kind),
            last_refusal_quota: last_refusal.and_then(|(_, refusal)| quota(refusal)),
            last_refusal_blame: last_refusal.and_then(|(_, it)| it.blame.map(Blame::as_str)),
        }
    }
}

/// What waits in a pool by class, and the tenants that have most waiting.
fn queues(
    gateway: &Gateway,
    named: &Named,
    snapshot: &Snapshot,
) -> (Vec<QueueStatus>, Vec<QueueStatus>) {
    let classes = gateway.config().classes.all();
    let name =
        |index: usize| classes.get(index).map_or_else(String::new, |class| class.name.to_string());
    let line = |class, tenant, queue: &Queue| QueueStatus {
        class: name(class),
        tenant,
        queued: queue.queued,
        queued_bytes: queue.bytes,
        oldest_wait_seconds: rounded(queue.oldest_wait),
        forecast_seconds: None,
    };
    let classes = snapshot.classes.iter().enumerate();
    let classes = classes.zip(&snapshot.forecasts).map(|((class, queue), forecast)| QueueStatus {
        forecast_seconds: Some(rounded(*forecast)),
        ..line(class, None, queue)
    });
    let classes = classes.collect();
    let tenants = named.pool.tenants(MOST_TENANTS);
    let tenants =
        tenants.iter().map(|it| line(it.class, Some(gateway.tenant(it.tenant)), &it.queue));
    (classes, tenants.collect())
}

/// What has been learned of the pool's callers; at most twenty are shown.
fn calibration(gateway: &Gateway, key: PoolKey) -> Vec<CalibrationStatus> {
    let learned = gateway.learned(key, 20).into_iter();
    let shown = learned.map(|(tenant, summary)| CalibrationStatus {
        tenant: tenant.to_string(),
        answers: summary.answers,
        counted: summary.counted,
        output_median: summary.output_median,
        output_p99: summary.output_p99,
    });
    shown.collect()
}
