//! What single tenants do: bounded, however many callers there are.
//!
//! # Invariants
//!
//! - At most so many tenants are named as configured, for as long as the process lives. The holders
//!   of configured keys come first, then whoever first gets a whole answer: a name is not to be had
//!   for a key that the upstream does not know.
//! - Everybody else counts as [`OTHER`], and goes on from zero under the name that they may get: no
//!   counter ever goes down, and each request counts under one tenant.
//! - A name is that of a configured key, or the digits that the log has as well; never a key.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::Registrar;
use super::outcome::Fate;
use crate::admission::Pools;
use crate::identity::VirtualKey;

/// Stands for tenants that are not named. No configured key can be called so.
const OTHER: &str = "(other)";

/// Stands for the tenant of requests that did not come to have one.
const NONE: &str = "(none)";

/// The kinds of tokens; cached is part of prompt.
const KINDS: [&str; 3] = ["prompt", "completion", "cached"];

/// What a request that has ended comes to.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// How it ended.
    pub fate: Fate,
    /// Tokens of its prompt, the cached ones included.
    pub prompt: u64,
    /// Tokens of its answer.
    pub completion: u64,
    /// Tokens of its prompt that the upstream had in its cache.
    pub cached: u64,
    /// How long it waited in line.
    pub waited: Duration,
}

/// The metrics of single tenants.
#[derive(Debug)]
pub struct TenantMetrics {
    requests: IntCounterVec,
    tokens: IntCounterVec,
    waited: CounterVec,
    depth: IntGaugeVec,
    most: usize,
    named: RwLock<HashMap<u64, Series>>,
    other: Series,
    none: Series,
}

/// The series of one tenant, resolved once.
#[derive(Debug)]
struct Series {
    requests: [IntCounter; Fate::ALL.len()],
    tokens: [IntCounter; KINDS.len()],
    waited: Counter,
    depth: IntGauge,
}

impl TenantMetrics {
    /// Registers them, with at most so many named tenants; holders of `keys` are the first.
    pub(super) fn register(
        new: &Registrar<'_>,
        keys: &[VirtualKey],
        most: usize,
    ) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("tidegate_tenant_requests_total", "Requests by tenant and how they ended."),
            &["tenant", "fate"],
        )?;
        let tokens = IntCounterVec::new(
            Opts::new(
                "tidegate_tenant_tokens_total",
                "Tokens that answers to a tenant reported as used; cached is part of prompt.",
            ),
            &["tenant", "kind"],
        )?;
        let waited = CounterVec::new(
            Opts::new(
                "tidegate_tenant_wait_seconds_total",
                "Time that a tenant's requests which have ended had waited in line, together.",
            ),
            &["tenant"],
        )?;
        let depth = IntGaugeVec::new(
            Opts::new("tidegate_tenant_queue_depth", "Requests of a tenant waiting, in all pools."),
            &["tenant"],
        )?;
        new.0.register(Box::new(requests.clone()))?;
        new.0.register(Box::new(tokens.clone()))?;
        new.0.register(Box::new(waited.clone()))?;
        new.0.register(Box::new(depth.clone()))?;
        let series = |name: &str| Series::resolve(name, &requests, &tokens, &waited, &depth);
        let (other, none) = (series(OTHER), series(NONE));
        let named = keys.iter().take(most).map(|key| (key.tenant(), series(&key.name))).collect();
        let named = RwLock::new(named);
        Ok(Self { requests, tokens, waited, depth, most, named, other, none })
    }

    /// Counts a request that has ended, of this tenant if it came to have one: its id and name.
    pub fn count(&self, tenant: Option<(u64, &str)>, share: &Share) {
        let Some((id, name)) = tenant else { return self.none.count(share) };
        let named = self.named.read();
        if let Some(series) = named.get(&id) {
            return series.count(share);
        }
        let full = named.len() >= self.most;
        drop(named);
        if full || share.fate != Fate::Completed {
            return self.other.count(share);
        }
        let mut named = self.named.write();
        // Others may have come since.
        if named.len() >= self.most && !named.contains_key(&id) {
            return self.other.count(share);
        }
        let resolve =
            || Series::resolve(name, &self.requests, &self.tokens, &self.waited, &self.depth);
        named.entry(id).or_insert_with(resolve).count(share);
    }

    /// Sets the gauges from what waits in the pools now.
    pub(super) fn look(&self, pools: &Pools) {
        let mut waiting: HashMap<u64, i64> = HashMap::new();
        for (_, pool) in pools.all() {
            pool.pool.each_waiting(|tenant, queued| {
                *waiting.entry(tenant).or_default() += i64::try_from(queued).unwrap_or(i64::MAX);
            });
        }
        // Not before: whoever ends under a pool's lock waits for this one.
        for (id, series) in self.named.read().iter() {
            series.depth.set(waiting.remove(id).unwrap_or(0));
        }
        self.other.depth.set(waiting.into_values().sum());
    }
}

impl Series {
    fn resolve(
        name: &str,
        requests: &IntCounterVec,
        tokens: &IntCounterVec,
        waited: &CounterVec,
        depth: &IntGaugeVec,
    ) -> Self {
        Self {
            requests: Fate::ALL.map(|fate| requests.with_label_values(&[name, fate.as_str()])),
            tokens: KINDS.map(|kind| tokens.with_label_values(&[name, kind])),
            waited: waited.with_label_values(&[name]),
            depth: depth.with_label_values(&[name]),
        }
    }

    fn count(&self, share: &Share) {
        let Share { fate, prompt, completion, cached, waited } = *share;
        self.requests[fate as usize].inc();
        let [of_prompt, of_completion, of_cached] = &self.tokens;
        of_prompt.inc_by(prompt);
        of_completion.inc_by(completion);
        of_cached.inc_by(cached);
        self.waited.inc_by(waited.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use prometheus::core::Collector;

    use super::*;

    fn metrics(keys: &[VirtualKey], most: usize) -> TenantMetrics {
        TenantMetrics::register(&Registrar(&Registry::new()), keys, most).unwrap()
    }

    fn share(fate: Fate) -> Share {
        let waited = Duration::from_millis(500);
        Share { fate, prompt: 10, completion: 5, cached: 2, waited }
    }

    fn requests(metrics: &TenantMetrics, name: &str) -> u64 {
        let of = |fate: Fate| metrics.requests.with_label_values(&[name, fate.as_str()]).get();
        Fate::ALL.map(of).into_iter().sum()
    }

    /// Names that have series, of all metrics.
    fn names(metrics: &TenantMetrics) -> Vec<String> {
        let families = [
            metrics.requests.collect(),
            metrics.tokens.collect(),
            metrics.waited.collect(),
            metrics.depth.collect(),
        ];
        let series = families.iter().flatten().flat_map(|it| it.get_metric());
        let labels = series.flat_map(|it| it.get_label()).filter(|it| it.name() == "tenant");
        let mut names: Vec<_> = labels.map(|it| it.value().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn whoever_is_answered_gets_a_name_while_there_are_any() {
        let metrics = metrics(&[], 2);
        metrics.count(Some((1, "a")), &share(Fate::Refused));
        metrics.count(Some((2, "b")), &share(Fate::Failed));
        assert_eq!(names(&metrics), [NONE, OTHER], "nobody was answered");
        metrics.count(Some((2, "b")), &share(Fate::Completed));
        metrics.count(Some((3, "c")), &share(Fate::Completed));
        metrics.count(Some((1, "a")), &share(Fate::Completed));
        metrics.count(Some((3, "c")), &share(Fate::Gone));
        metrics.count(None, &share(Fate::Refused));
        assert_eq!(names(&metrics), [NONE, OTHER, "b", "c"], "a came too late");
        for (name, count) in [(NONE, 1), (OTHER, 3), ("b", 1), ("c", 2)] {
            assert_eq!(requests(&metrics, name), count, "{name}");
        }
        assert_eq!(metrics.tokens.with_label_values(&["c", "prompt"]).get(), 20);
        assert_eq!(metrics.tokens.with_label_values(&["c", "completion"]).get(), 10);
        assert_eq!(metrics.tokens.with_label_values(&["c", "cached"]).get(), 4);
        let waited = metrics.waited.with_label_values(&["c"]).get();
        assert!((waited - 1.0).abs() < 1e-9, "{waited}");
    }

    #[test]
    fn holders_of_keys_are_named_from_the_start_and_first() {
        let key = |name: &str, digit: u8| VirtualKey {
            name: name.into(),
            digest: [digit; 32],
            heartbeats: true,
            weight: std::num::NonZeroU32::MIN,
            class: None,
        };
        let keys = [key("team-a", 1), key("team-b", 2), key("team-c", 3)];
        let metrics = metrics(&keys, 2);
        assert_eq!(names(&metrics), [NONE, OTHER, "team-a", "team-b"]);
        metrics.count(Some((keys[2].tenant(), "team-c")), &share(Fate::Completed));
        metrics.count(Some((keys[1].tenant(), "team-b")), &share(Fate::Refused));
        assert_eq!((requests(&metrics, OTHER), requests(&metrics, "team-b")), (1, 1));
    }

    /// However many come and in whatever order: no more names than allowed, every request counted
    /// once, and no series ever goes down.
    #[test]
    fn names_are_bounded_and_no_counter_goes_down() {
        let metrics = metrics(&[], 7);
        let mut before = HashMap::new();
        let mut random = fastrand::Rng::with_seed(7);
        for round in 1..=200_u64 {
            for _ in 0..10 {
                let id = random.u64(0..50);
                let fate = Fate::ALL[random.usize(0..Fate::ALL.len())];
                metrics.count(Some((id, &format!("{id:08x}"))), &share(fate));
            }
            let names = names(&metrics);
            assert!(names.len() <= 9, "{names:?}");
            let now: HashMap<_, _> =
                names.into_iter().map(|name| (name.clone(), requests(&metrics, &name))).collect();
            assert_eq!(now.values().sum::<u64>(), round * 10);
            for (name, count) in &before {
                assert!(now[name] >= *count, "{name} went down");
            }
            before = now;
        }
        assert_eq!(before.len(), 9, "all names were given");
    }
}
