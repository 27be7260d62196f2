//! Metrics of the quota that replicas share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// Calls on one machine take 0.1 ms, in one region 1 ms; the default budget is 50 ms.
const CALL_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Calls of the shared log, and what is seen there. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedMetrics {
    calls: HistogramVec,
    /// Calls that were not made because the server does not answer.
    pub refused: IntCounter,
    /// 1 while each replica goes on with its share only.
    pub degraded: IntGauge,
    /// Connections made, the first included.
    pub connections: IntCounter,
    /// Epochs that ended, of all pools: state of the server's that was lost, or might have been.
    pub epochs: IntCounter,
    /// Times that another replica was faster, and what was asked had to be decided anew.
    pub contended: IntCounter,
    free: IntCounter,
    asked: IntCounter,
    replicas: IntGauge,
    entries: IntGauge,
    pools: Arc<Mutex<BTreeMap<Box<str>, Seen>>>,
}

/// What was last seen of a pool.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    replicas: i64,
    entries: i64,
}

impl SharedMetrics {
    /// Registers them.
    ///
    /// # Errors
    ///
    /// If a metric of the same name is there already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let calls = HistogramVec::new(
            HistogramOpts::new(
                "tidegate_shared_call_seconds",
                "Time of calls to the server of the shared quota.",
            )
            .buckets(CALL_BUCKETS.to_vec()),
            &["operation", "outcome"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let held = IntCounterVec::new(
            Opts::new(
                "tidegate_shared_holds_total",
                "Requests let go: those that the server was asked for, and those that it was only \
                 told of because there was plenty (or because it was away).",
            ),
            &["how"],
        )?;
        registry.register(Box::new(held.clone()))?;
        let (free, asked) = (held.with_label_values(&["free"]), held.with_label_values(&["asked"]));
        // There from the beginning, so that a scrape is complete.
        calls.with_label_values(&["append", "ok"]);
        Ok(Self {
            calls,
            refused: counter(
                "tidegate_shared_refused_total",
                "Calls not made because the server of the shared quota did not answer before.",
            )?,
            degraded: gauge(
                "tidegate_shared_degraded",
                "1 while the server of the shared quota does not answer in time.",
            )?,
            connections: counter(
                "tidegate_shared_connections_total",
                "Connections made to the server of the shared quota.",
            )?,
            epochs: counter(
                "tidegate_shared_epochs_total",
                "Times that replicas had to say anew what they know of a pool.",
            )?,
            contended: counter(
                "tidegate_shared_contended_total",
                "Times that another replica was faster, so that a call had to be repeated.",
            )?,
            free,
            asked,
            replicas: gauge(
                "tidegate_shared_replicas",
                "Replicas that share a quota, this one included; the most of any pool.",
            )?,
            entries: gauge(
                "tidegate_shared_log_entries",
                "Entries of the pools' logs since their snapshots.",
            )?,
            pools: Arc::default(),
        })
    }

    /// So many requests were let go without asking, and so many were asked for.
    pub fn held(&self, free: u64, asked: u64) {
        self.free.inc_by(free);
        self.asked.inc_by(asked);
    }

    /// A call has ended.
    pub fn called(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        self.calls.with_label_values(&[operation, outcome]).observe(took.as_secs_f64());
    }

    /// So many replicas share this pool.
    pub fn set_replicas(&self, pool: &str, count: usize) {
        let mut pools = self.pools.lock();
        pools.entry(pool.into()).or_default().replicas = i64::try_from(count).unwrap_or(i64::MAX);
        self.replicas.set(pools.values().map(|seen| seen.replicas).max().unwrap_or(0));
    }

    /// The pool's log has so many entries since its snapshot.
    pub fn set_entries(&self, pool: &str, count: u64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut pools = self.pools.lock();
        let before = match pools.get_mut(pool) {
            Some(seen) => std::mem::replace(&mut seen.entries, count),
            None => {
                pools.insert(pool.into(), Seen { entries: count, ..Seen::default() });
                0
            }
        };
        self.entries.add(count - before);
    }

    /// The pool is not used any more.
    pub fn forget(&self, pool: &str) {
        let mut pools = self.pools.lock();
        if let Some(seen) = pools.remove(pool) {
            self.entries.sub(seen.entries);
        }
        self.replicas.set(pools.values().map(|seen| seen.replicas).max().unwrap_or(0));
    }
}
