//! Gauges of the pools, as they are when somebody scrapes.

use std::sync::Arc;

use super::text::{Labels, Text, Value};
use crate::admission::pool::Snapshot;
use crate::admission::pools::Named;
use crate::admission::{Bound, PoolKey, Pools};
use crate::limit::{Level, Mode};

/// Pools shown one by one; the busiest of them. A pool has twelve series for each of its limits, and
/// a scrape should stay below a megabyte.
const MOST_SHOWN: usize = 100;

/// A constraint of a pool as it is now.
struct Constraint {
    labels: Labels,
    limit: u64,
    window: f64,
    level: i64,
    held: u64,
    binding: bool,
    drift: i64,
    foreign: u64,
    doubted: bool,
    exhausted: f64,
}

/// A pool that is shown.
struct Pool {
    labels: Labels,
    snapshot: Snapshot,
    constraints: Vec<Constraint>,
}

impl Constraint {
    fn of(pool: [(&str, &str); 2], level: &Level<'_>, named: &Named, binding: bool) -> Self {
        let quota = level.quota;
        let [id, profile] = pool;
        let unit = ("unit", quota.unit().as_str());
        let exhausted = level.exhausted_at.map(|at| at.since(named.pool.now()).as_secs_f64());
        Self {
            labels: Labels::new([id, profile, unit, ("window", quota.name())]),
            limit: quota.limit(),
            window: quota.window().as_secs_f64(),
            level: level.available,
            held: level.held,
            binding,
            drift: level.drift,
            foreign: level.foreign,
            doubted: level.mode == Mode::Sliding
                && !matches!(quota.mode(), Mode::Sliding | Mode::Auto),
            exhausted: exhausted.unwrap_or(f64::INFINITY),
        }
    }
}

impl Pool {
    fn of((snapshot, key, named): (Snapshot, PoolKey, Arc<Named>)) -> Self {
        let id = key.to_string();
        let profile = named.profile();
        let pool = [("pool", id.as_str()), ("profile", &profile)];
        let mut constraints = Vec::new();
        named.pool.levels(|level| {
            let binding = snapshot.bound == Some(Bound::Constraint(constraints.len()));
            constraints.push(Constraint::of(pool, &level, &named, binding));
        });
        Self { labels: Labels::new(pool), snapshot, constraints }
    }
}

/// Writes what there is to know of the pools, of classes called so.
pub(super) fn write(text: &mut Text, pools: &Pools, classes: &[Labels]) {
    let mut all: Vec<_> =
        pools.all().into_iter().map(|(key, named)| (named.pool.glance(), key, named)).collect();
    all.sort_by_key(|(snapshot, key, _)| {
        let busy = snapshot.queued as u64 + u64::from(snapshot.in_flight);
        (std::cmp::Reverse(busy), key.0)
    });
    totals(text, &all, classes);
    all.truncate(MOST_SHOWN);
    let shown: Vec<_> = all.into_iter().map(Pool::of).collect();
    each(text, &shown);
    each_constraint(text, &shown);
}

fn totals(text: &mut Text, all: &[(Snapshot, PoolKey, Arc<Named>)], classes: &[Labels]) {
    let none = Labels::new([]);
    let snapshots = || all.iter().map(|(snapshot, ..)| snapshot);
    text.family(("tidegate_queue_depth", "gauge", "Requests waiting, in all pools."), |family| {
        family.add(&none, count(snapshots().map(|it| it.queued).sum()));
    });
    text.family(
        (
            "tidegate_queue_oldest_seconds",
            "gauge",
            "How long the request that has waited longest has waited.",
        ),
        |family| {
            let oldest = snapshots().map(|it| it.oldest_wait).max().unwrap_or_default();
            family.add(&none, oldest.as_secs_f64());
        },
    );
    text.family(
        ("tidegate_class_queue_depth", "gauge", "Requests waiting, in all pools, by class."),
        |family| {
            for (class, labels) in classes.iter().enumerate() {
                let queued = |it: &Snapshot| it.classes.get(class).map_or(0, |it| it.queued);
                family.add(labels, count(snapshots().map(queued).sum()));
            }
        },
    );
    text.family(("tidegate_pools", "gauge", "Pools: upstream account and model."), |family| {
        family.add(&none, count(all.len()));
    });
    text.family(
        ("tidegate_pools_stalled", "gauge", "Pools whose timer is overdue while requests wait."),
        |family| {
            family.add(&none, count(snapshots().filter(|it| it.stalled).count()));
        },
    );
}

fn each(text: &mut Text, shown: &[Pool]) {
    let mut gauge = |name, help, value: fn(&Snapshot) -> u64| {
        text.family((name, "gauge", help), |family| {
            for pool in shown {
                family.add(&pool.labels, value(&pool.snapshot));
            }
        });
    };
    gauge("tidegate_pool_queue_depth", "Requests waiting in the pool.", |it| count(it.queued));
    gauge(
        "tidegate_pool_queue_bytes",
        "Bytes of the bodies of requests waiting in the pool.",
        |it| it.queued_bytes,
    );
    gauge("tidegate_pool_in_flight", "Requests of the pool at the upstream.", |it| {
        it.in_flight.into()
    });
    gauge(
        "tidegate_upstream_circuit_state",
        "Whether requests of the pool go: 0 they do, 1 one goes to find out, 2 none does.",
        |it| it.circuit as u64,
    );
    let (name, help) =
        ("tidegate_pool_concurrency_limit", "Requests of the pool that may be at the upstream.");
    text.family((name, "gauge", help), |family| {
        for Pool { labels, snapshot, .. } in shown {
            let limit = snapshot.concurrency.map_or(f64::INFINITY, |it| it.get().into());
            family.add(labels, limit);
        }
    });
}

fn each_constraint(text: &mut Text, shown: &[Pool]) {
    gauge(text, shown, "tidegate_limit_units", "Units allowed per window.", |it| it.limit);
    gauge(text, shown, "tidegate_window_seconds", "How long the window of a limit is.", |it| {
        it.window
    });
    gauge(
        text,
        shown,
        "tidegate_level_units",
        "Units that may be spent now; below zero in debt.",
        |it| it.level,
    );
    gauge(
        text,
        shown,
        "tidegate_held_units",
        "Units held by requests that are not settled.",
        |it| it.held,
    );
    gauge(
        text,
        shown,
        "tidegate_binding",
        "1 where the first request in line waits for this constraint.",
        |it| it.binding,
    );
    gauge(
        text,
        shown,
        "tidegate_drift_units",
        "Units by which the ledger was ahead of the upstream at the last answer; negative: behind.",
        |it| it.drift,
    );
    gauge(
        text,
        shown,
        "tidegate_foreign_units",
        "Units per window that others with the same quota are taken to use.",
        |it| it.foreign,
    );
    gauge(
        text,
        shown,
        "tidegate_mode_doubted",
        "1 where the upstream has contradicted the configured mode and sliding is used instead.",
        |it| it.doubted,
    );
    gauge(
        text,
        shown,
        "tidegate_exhausted_in_seconds",
        "When nothing will be left if it is used on as of late; +Inf if that is not in sight.",
        |it| it.exhausted,
    );
}

/// A gauge of every constraint of the pools.
fn gauge<V: Value>(
    text: &mut Text,
    shown: &[Pool],
    name: &'static str,
    help: &str,
    value: impl Fn(&Constraint) -> V,
) {
    text.family((name, "gauge", help), |family| {
        for constraint in shown.iter().flat_map(|pool| &pool.constraints) {
            family.add(&constraint.labels, value(constraint));
        }
    });
}

fn count(value: usize) -> u64 {
    value as u64
}
