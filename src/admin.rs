//! The admin port: what the gateway knows of itself, read-only.

mod usage;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::admission::pool::Snapshot;
use crate::admission::pools::Named;
use crate::admission::{PoolKey, Queue};
use crate::batch::{BatchStatus, Batches};
use crate::config::Config;
use crate::proxy::Gateway;

/// Tenants shown of each pool: those that have most waiting.
const MOST_TENANTS: usize = 20;

/// The admin port's pages.
pub fn app(gateway: Arc<Gateway>, batches: Option<Arc<Batches>>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(move |gateway| status(gateway, batches)))
        .route("/config", get(config))
        .route("/usage", get(usage::usage))
        .with_state(gateway)
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let text = gateway.metrics().render(gateway.pools());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, format)], text).into_response()
}

/// Ready to be sent requests: not while draining, nor when a pool's timer has died.
async fn readyz(State(gateway): State<Arc<Gateway>>) -> (StatusCode, &'static str) {
    let stalled = || gateway.pools().all().iter().any(|(_, named)| named.pool.snapshot().stalled);
    if gateway.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if stalled() {
        (StatusCode::SERVICE_UNAVAILABLE, "dispatch has stalled\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn config(State(gateway): State<Arc<Gateway>>) -> String {
    gateway.config().to_toml()
}

async fn status(
    State(gateway): State<Arc<Gateway>>,
    batches: Option<Arc<Batches>>,
) -> Json<Status> {
    let mut status = Status::of(&gateway);
    if let Some(batches) = batches {
        match batches.status().await {
            Ok(batches) => status.batches = batches,
            Err(problem) => tracing::warn!(%problem, "the status lacks the batches"),
        }
    }
    Json(status)
}

/// Everything `/status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    draining: bool,
    in_flight: i64,
    connections: i64,
    body_bytes: i64,
    pools: Vec<PoolStatus>,
    batches: Vec<BatchStatus>,
}

#[derive(Debug, Serialize)]
struct PoolStatus {
    pool: String,
    model: Arc<str>,
    profile: String,
    queued: usize,
    queued_bytes: u64,
    oldest_wait_seconds: f64,
    in_flight: u32,
    limited_by: Option<String>,
    stalled: bool,
    classes: Vec<QueueStatus>,
    tenants: Vec<QueueStatus>,
    constraints: Vec<ConstraintStatus>,
    calibration: Vec<CalibrationStatus>,
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
struct ConstraintStatus {
    unit: &'static str,
    window: String,
    window_seconds: f64,
    mode: &'static str,
    limit: u64,
    available: i64,
    held: u64,
    resets_in_seconds: f64,
    configured_mode: &'static str,
    drift: i64,
    foreign: u64,
    exhausted_at: Option<String>,
}

impl Status {
    /// The status now, without the batches.
    pub fn of(gateway: &Gateway) -> Self {
        let mut pools: Vec<_> =
            gateway.pools().all().iter().map(|(key, named)| pool(gateway, *key, named)).collect();
        pools.sort_by(|a, b| (&a.model, &a.pool).cmp(&(&b.model, &b.pool)));
        let metrics = gateway.metrics();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            draining: gateway.is_draining(),
            in_flight: metrics.in_flight.get(),
            connections: metrics.connections.get(),
            body_bytes: metrics.body_bytes.get(),
            pools,
            batches: Vec::new(),
        }
    }
}

fn pool(gateway: &Gateway, key: PoolKey, named: &Named) -> PoolStatus {
    let snapshot = named.pool.snapshot();
    let (classes, tenants) = queues(gateway.config(), named, &snapshot);
    let now = named.pool.now();
    let mut constraints = Vec::new();
    named.pool.levels(|level| {
        constraints.push(ConstraintStatus {
            unit: level.quota.unit().as_str(),
            window: level.quota.name().to_owned(),
            window_seconds: level.quota.window().as_secs_f64(),
            mode: level.mode.as_str(),
            configured_mode: level.quota.mode().as_str(),
            drift: level.drift,
            foreign: level.foreign,
            exhausted_at: level
                .exhausted_at
                .map(|at| String::from_utf8_lossy(&at.rfc3339()).into_owned()),
            limit: level.quota.limit(),
            available: level.available,
            held: level.held,
            resets_in_seconds: level.resets_at.since(now).as_secs_f64(),
        });
    });
    let limited_by = snapshot.bound.map(|bound| named.pool.name_of(bound));
    PoolStatus {
        pool: key.to_string(),
        model: Arc::clone(&named.model),
        profile: named.profile.to_string(),
        queued: snapshot.queued,
        queued_bytes: snapshot.queued_bytes,
        oldest_wait_seconds: rounded(snapshot.oldest_wait),
        in_flight: snapshot.in_flight,
        limited_by,
        stalled: snapshot.stalled,
        classes,
        tenants,
        constraints,
        calibration: calibration(gateway, key),
    }
}

/// What waits in a pool by class, and the tenants that have most waiting.
fn queues(
    config: &Config,
    named: &Named,
    snapshot: &Snapshot,
) -> (Vec<QueueStatus>, Vec<QueueStatus>) {
    let name = |index: usize| {
        config.classes.all().get(index).map_or_else(String::new, |class| class.name.to_string())
    };
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
        tenants.iter().map(|it| line(it.class, Some(tenant(config, it.tenant)), &it.queue));
    (classes, tenants.collect())
}

/// A tenant by the name of its key, or by the digits that stand for it in the log.
fn tenant(config: &Config, id: u64) -> String {
    let key = config.keys.iter().find(|key| key.tenant() == id);
    key.map_or_else(|| format!("{:08x}", id >> 32), |key| key.name.to_string())
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

/// Seconds with three decimals: more is noise.
fn rounded(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000.0).round() / 1_000.0
}
