//! Gauges of the pools, filled when somebody scrapes.

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::TenantMetrics;
use crate::admission::pool::Snapshot;
use crate::admission::{Bound, Pools};
use crate::limit::Mode;

/// Pools shown one by one; the busiest of them. A pool has three series for each of its limits, and
/// a scrape should stay below a megabyte.
const MOST_SHOWN: usize = 100;

const POOL: [&str; 2] = ["pool", "profile"];
const CONSTRAINT: [&str; 4] = ["pool", "profile", "unit", "window"];

#[derive(Debug)]
pub(super) struct PoolGauges {
    depth: IntGaugeVec,
    bytes: IntGaugeVec,
    in_flight: IntGaugeVec,
    limit: IntGaugeVec,
    level: IntGaugeVec,
    held: IntGaugeVec,
    binding: IntGaugeVec,
    drift: IntGaugeVec,
    foreign: IntGaugeVec,
    doubted: IntGaugeVec,
    exhausted: GaugeVec,
    window: GaugeVec,
    /// By class, in order of the index.
    class_depth: Vec<IntGauge>,
    total_depth: IntGauge,
    oldest: Gauge,
    pools: IntGauge,
    stalled: IntGauge,
    /// Two scrapes at once would fill the gauges from two moments.
    scrape: Mutex<()>,
}

impl PoolGauges {
    pub(super) fn register(registry: &Registry, classes: &[&str]) -> prometheus::Result<Self> {
        let family = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone())).map(|()| gauges)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let of_classes = |name: &str, help: &str| {
            let gauges = family(name, help, &["class"])?;
            let gauges = classes.iter().map(|class| gauges.with_label_values(&[*class]));
            Ok::<_, prometheus::Error>(gauges.collect())
        };
        let oldest = Gauge::new(
            "tidegate_queue_oldest_seconds",
            "How long the request that has waited longest has waited.",
        )?;
        registry.register(Box::new(oldest.clone()))?;
        let seconds = |name: &str, help: &str| {
            let gauges = GaugeVec::new(Opts::new(name, help), &CONSTRAINT)?;
            registry.register(Box::new(gauges.clone())).map(|()| gauges)
        };
        Ok(Self {
            depth: family("tidegate_pool_queue_depth", "Requests waiting in the pool.", &POOL)?,
            bytes: family(
                "tidegate_pool_queue_bytes",
                "Bytes of the bodies of requests waiting in the pool.",
                &POOL,
            )?,
            in_flight: family(
                "tidegate_pool_in_flight",
                "Requests of the pool at the upstream.",
                &POOL,
            )?,
            limit: family("tidegate_limit_units", "Units allowed per window.", &CONSTRAINT)?,
            level: family(
                "tidegate_level_units",
                "Units that may be spent now; below zero in debt.",
                &CONSTRAINT,
            )?,
            held: family(
                "tidegate_held_units",
                "Units held by requests that are not settled.",
                &CONSTRAINT,
            )?,
            drift: family(
                "tidegate_drift_units",
                "Units by which the ledger was ahead of the upstream at the last answer; negative: behind.",
                &CONSTRAINT,
            )?,
            foreign: family(
                "tidegate_foreign_units",
                "Units per window that others with the same quota are taken to use.",
                &CONSTRAINT,
            )?,
            doubted: family(
                "tidegate_mode_doubted",
                "1 where the upstream has contradicted the configured mode and sliding is used instead.",
                &CONSTRAINT,
            )?,
            exhausted: seconds(
                "tidegate_exhausted_in_seconds",
                "When nothing will be left if it is used on as of late; +Inf if that is not in sight.",
            )?,
            window: seconds("tidegate_window_seconds", "How long the window of a limit is.")?,
            binding: family(
                "tidegate_binding",
                "1 where the first request in line waits for this constraint.",
                &CONSTRAINT,
            )?,
            class_depth: of_classes(
                "tidegate_class_queue_depth",
                "Requests waiting, in all pools, by class.",
            )?,
            total_depth: gauge("tidegate_queue_depth", "Requests waiting, in all pools.")?,
            oldest,
            pools: gauge("tidegate_pools", "Pools: upstream account and model.")?,
            stalled: gauge(
                "tidegate_pools_stalled",
                "Pools whose timer is overdue while requests wait.",
            )?,
            scrape: Mutex::new(()),
        })
    }

    /// Fills the gauges from the pools as they are now, and gathers the whole registry.
    pub(super) fn gather(
        &self,
        registry: &Registry,
        pools: &Pools,
        tenants: &TenantMetrics,
    ) -> Vec<MetricFamily> {
        let _one_at_a_time = self.scrape.lock();
        tenants.look(pools);
        let families =
            [&self.depth, &self.bytes, &self.in_flight, &self.limit, &self.level, &self.held];
        let more = [&self.binding, &self.drift, &self.foreign, &self.doubted];
        families.into_iter().chain(more).for_each(IntGaugeVec::reset);
        self.exhausted.reset();
        self.window.reset();
        let mut all: Vec<_> = pools
            .all()
            .into_iter()
            .map(|(key, named)| (named.pool.snapshot(), key, named))
            .collect();
        all.sort_by_key(|(snapshot, key, _)| {
            let busy = snapshot.queued as u64 + u64::from(snapshot.in_flight);
            (std::cmp::Reverse(busy), key.0)
        });
        self.pools.set(count(all.len()));
        self.total_depth.set(all.iter().map(|(it, ..)| count(it.queued)).sum());
        for (class, gauge) in self.class_depth.iter().enumerate() {
            let queued = |it: &Snapshot| it.classes.get(class).map_or(0, |it| count(it.queued));
            gauge.set(all.iter().map(|(it, ..)| queued(it)).sum());
        }
        self.stalled.set(count(all.iter().filter(|(it, ..)| it.stalled).count()));
        let oldest = all.iter().map(|(it, ..)| it.oldest_wait).max().unwrap_or_default();
        self.oldest.set(oldest.as_secs_f64());
        for (snapshot, key, named) in all.iter().take(MOST_SHOWN) {
            let id = key.to_string();
            let pool = [id.as_str(), &named.profile];
            self.depth.with_label_values(&pool).set(count(snapshot.queued));
            self.bytes.with_label_values(&pool).set(signed(snapshot.queued_bytes));
            self.in_flight.with_label_values(&pool).set(i64::from(snapshot.in_flight));
            let mut index = 0;
            named.pool.levels(|level| {
                let labels =
                    [id.as_str(), &named.profile, level.quota.unit().as_str(), level.quota.name()];
                self.limit.with_label_values(&labels).set(signed(level.quota.limit()));
                self.window.with_label_values(&labels).set(level.quota.window().as_secs_f64());
                self.level.with_label_values(&labels).set(level.available);
                self.held.with_label_values(&labels).set(signed(level.held));
                self.drift.with_label_values(&labels).set(level.drift);
                self.foreign.with_label_values(&labels).set(signed(level.foreign));
                let doubted = level.mode == Mode::Sliding
                    && !matches!(level.quota.mode(), Mode::Sliding | Mode::Auto);
                self.doubted.with_label_values(&labels).set(i64::from(doubted));
                let now = named.pool.now();
                let exhausted = level.exhausted_at.map(|at| at.since(now).as_secs_f64());
                let exhausted = exhausted.unwrap_or(f64::INFINITY);
                self.exhausted.with_label_values(&labels).set(exhausted);
                let binding = snapshot.bound == Some(Bound::Constraint(index));
                self.binding.with_label_values(&labels).set(i64::from(binding));
                index += 1;
            });
        }
        registry.gather().into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
