//! `/status`: everything there is to see of the gateway at one moment.
//!
//! # Invariants
//!
//! - Bounded: the busiest pools, the tenants with most waiting or most used, the last refusals.

mod pool;
mod tenant;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::pool::PoolStatus;
use self::tenant::TenantQuota;
use crate::admission::pool::Snapshot;
use crate::admission::pools::Named;
use crate::admission::{PoolKey, Pools};
use crate::batch::BatchStatus;
use crate::metrics::{Outcome, Refusal};
use crate::proxy::{Gateway, Told};
use crate::store::history::{Counts, OTHER};
use crate::time::Timestamp;

/// Pools shown: those with most to do. Each is some 2 KB, which are sent every second to whoever
/// watches; `/metrics` shows as many.
const MOST_POOLS: usize = 100;

/// Tenants shown of those that have used anything today: a screen full; the others are added up.
const MOST_TENANTS: usize = 20;

/// Everything `/status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    at: String,
    uptime_seconds: f64,
    draining: bool,
    config: ConfigStatus,
    in_flight: i64,
    connections: i64,
    body_bytes: i64,
    pools: Vec<PoolStatus>,
    /// Pools that there are; more than are shown, if there are too many.
    pools_total: usize,
    /// Tenants with limits of their own, as far as they have used any: the busiest of them.
    tenants: Vec<TenantQuota>,
    today: Today,
    refusals: Vec<RefusalStatus>,
    pub(super) batches: Vec<BatchStatus>,
}

/// The configuration in force, and what became of the last try to take up another.
#[derive(Debug, Serialize)]
struct ConfigStatus {
    generation: u64,
    loaded_at: String,
    refused_at: Option<String>,
    refused: Option<String>,
}

/// Who used how much since midnight.
#[derive(Debug, Serialize)]
struct Today {
    since: String,
    tenants: Vec<TenantStatus>,
}

#[derive(Debug, Default, Serialize)]
struct TenantStatus {
    tenant: Arc<str>,
    tokens: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    requests: u64,
    completed: u64,
    refused: u64,
}

/// A request that was turned away.
#[derive(Debug, Serialize)]
struct RefusalStatus {
    at: String,
    tenant: Option<Arc<str>>,
    model: Option<Arc<str>>,
    source: &'static str,
    reason: Box<str>,
    status: Option<u16>,
    limited_by: Option<Arc<str>>,
    retry_after_seconds: Option<f64>,
}

impl Status {
    /// The status now, without the batches.
    pub fn of(gateway: &Gateway) -> Self {
        let (all, pools_total) = busiest(gateway.pools());
        let pools =
            all.iter().map(|(snapshot, key, named)| PoolStatus::of(gateway, *key, named, snapshot));
        let mut pools: Vec<_> = pools.collect();
        pools.sort_by(|a, b| a.name().cmp(&b.name()));
        let (tenants, _) = busiest(gateway.tenants());
        let tenants =
            tenants.iter().map(|(snapshot, key, named)| TenantQuota::of(*key, named, snapshot));
        let mut tenants: Vec<_> = tenants.collect();
        tenants.sort_by(|a, b| a.name().cmp(b.name()));
        let (metrics, epoch) = (gateway.metrics(), gateway.pools().epoch());
        let refusals = metrics.refusals.latest().into_iter();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: text(epoch.now()),
            uptime_seconds: rounded(epoch.uptime()),
            draining: gateway.is_draining(),
            config: ConfigStatus::of(gateway),
            in_flight: metrics.in_flight.get(),
            connections: metrics.connections.get(),
            body_bytes: metrics.body_bytes.get(),
            pools,
            pools_total,
            tenants,
            today: Today::of(gateway),
            refusals: refusals
                .map(|it| RefusalStatus::of(text(epoch.timestamp(it.at)), it))
                .collect(),
            batches: Vec::new(),
        }
    }
}

impl ConfigStatus {
    fn of(gateway: &Gateway) -> Self {
        let Told { generation, loaded, refused } = gateway.reloads().told();
        let (refused_at, refused) = refused.map(|(at, why)| (text(at), why)).unzip();
        Self { generation, loaded_at: text(loaded), refused_at, refused }
    }
}

/// The pools with most to do, and how many there are.
fn busiest(pools: &Pools) -> (Vec<(Snapshot, PoolKey, Arc<Named>)>, usize) {
    let all = pools.all().into_iter();
    let mut all: Vec<_> = all.map(|(key, named)| (named.pool.snapshot(), key, named)).collect();
    let total = all.len();
    if total > MOST_POOLS {
        all.sort_by_key(|(snapshot, key, _)| {
            (Reverse(snapshot.queued as u64 + u64::from(snapshot.in_flight)), key.0)
        });
        all.truncate(MOST_POOLS);
    }
    (all, total)
}

impl Today {
    fn of(gateway: &Gateway) -> Self {
        let (since, mut tenants) = gateway.history().today();
        let tokens = |counts: &Counts| counts.prompt.saturating_add(counts.completion);
        tenants.sort_by(|(a, used), (b, more)| {
            let order = |counts: &Counts| Reverse((tokens(counts), counts.requests()));
            (order(used), a).cmp(&(order(more), b))
        });
        // Those that stand for several come last, with those for whom there is no room.
        let mut others = Counts::default();
        let mut shown = 0;
        let before = tenants.len();
        tenants.retain(|(tenant, counts)| {
            let named = &**tenant != OTHER && shown < MOST_TENANTS;
            if named {
                shown += 1;
            } else {
                others.add(counts);
            }
            named
        });
        if tenants.len() < before {
            tenants.push((OTHER.into(), others));
        }
        let tenants = tenants.into_iter().map(|(tenant, counts)| TenantStatus {
            tokens: tokens(&counts),
            prompt_tokens: counts.prompt,
            completion_tokens: counts.completion,
            requests: counts.requests(),
            completed: counts.completed,
            refused: counts.refused,
            tenant,
        });
        Self { since: text(since), tenants: tenants.collect() }
    }
}

impl RefusalStatus {
    fn of(at: String, refusal: Refusal) -> Self {
        let Refusal { tenant, model, outcome, status, code, limited_by, retry_after, .. } = refusal;
        let upstream = outcome == Outcome::UpstreamError;
        let reason = match code.filter(|_| upstream) {
            Some(code) => code,
            None => outcome.as_str().into(),
        };
        let source = if upstream { "upstream" } else { "gateway" };
        let retry_after_seconds = retry_after.map(rounded);
        Self { at, tenant, model, source, reason, status, limited_by, retry_after_seconds }
    }
}

/// Seconds with three decimals: more is noise.
fn rounded(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// An instant as text.
fn text(at: Timestamp) -> String {
    String::from_utf8_lossy(&at.rfc3339()).into_owned()
}
