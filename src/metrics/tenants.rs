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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::outcome::Fate;
use super::text::{Labels, Text, Value};
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
    most: usize,
    named: RwLock<HashMap<u64, Arc<Series>>>,
    other: Arc<Series>,
    none: Arc<Series>,
}

/// The counts of one tenant.
#[derive(Debug)]
struct Series {
    name: Box<str>,
    requests: [AtomicU64; Fate::ALL.len()],
    tokens: [AtomicU64; KINDS.len()],
    /// Microseconds.
    waited: AtomicU64,
}

impl TenantMetrics {
    /// Counts of at most so many named tenants; holders of `keys` are the first.
    pub(super) fn new(keys: &[VirtualKey], most: usize) -> Self {
        let series = |name: &str| Arc::new(Series::new(name));
        let named = keys.iter().take(most).map(|key| (key.tenant(), series(&key.name))).collect();
        Self { most, named: RwLock::new(named), other: series(OTHER), none: series(NONE) }
    }

    /// Names the holders of these keys from now on, as long as there is room. One whose key is another
    /// one now goes on counting where it was.
    pub fn name(&self, keys: &[VirtualKey]) {
        let mut named = self.named.write();
        for key in keys {
            let id = key.tenant();
            let before = named.iter().find(|(_, series)| *series.name == *key.name);
            match before.map(|(before, _)| *before) {
                Some(before) if before == id => {}
                Some(before) => {
                    let series = named.remove(&before);
                    named.extend(series.map(|series| (id, series)));
                }
                None if named.len() < self.most => {
                    named.entry(id).or_insert_with(|| Arc::new(Series::new(&key.name)));
                }
                None => {}
            }
        }
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
        if !named.contains_key(&id) {
            // Others may have come since. Names are digits of ids: a second one that has the same
            // would be a second series of that name.
            let taken = named.values().any(|series| &*series.name == name);
            if taken || named.len() >= self.most {
                return self.other.count(share);
            }
            named.insert(id, Arc::new(Series::new(name)));
        }
        if let Some(series) = named.get(&id) {
            series.count(share);
        }
    }

    /// Writes what there is to know of tenants, and what they have waiting now: in the accounts' pools,
    /// and in their own.
    pub(super) fn write(&self, text: &mut Text, [pools, own]: [&Pools; 2]) {
        let mut waiting: HashMap<u64, u64> = HashMap::new();
        let (mut at_gates, own) = (0, own.all());
        for (_, pool) in &own {
            pool.pool.each_waiting(|id, queued| {
                *waiting.entry(id).or_default() += queued as u64;
                at_gates += queued as u64;
            });
        }
        for (_, pool) in pools.all() {
            pool.pool.each_waiting(|id, queued| *waiting.entry(id).or_default() += queued as u64);
        }
        let none = Labels::new([]);
        text.family(
            (
                "tidegate_tenant_limits_queue_depth",
                "gauge",
                "Requests waiting for limits of their tenants' own, before any pool.",
            ),
            |family| family.add(&none, at_gates),
        );
        // Not while a pool is locked: whoever ends under that lock would wait for this one.
        let named = self.named.read();
        let known = named.iter().map(|(id, series)| (Arc::clone(series), waiting.remove(id)));
        let mut all: Vec<_> = known.map(|(series, depth)| (series, depth.unwrap_or(0))).collect();
        drop(named);
        all.push((Arc::clone(&self.other), waiting.into_values().sum()));
        all.push((Arc::clone(&self.none), 0));
        all.sort_unstable_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        let labels = |label, value| {
            move |series: &Series| Labels::new([("tenant", &*series.name), (label, value)])
        };
        text.family(
            ("tidegate_tenant_requests_total", "counter", "Requests by tenant and how they ended."),
            |family| {
                for fate in Fate::ALL {
                    let labels = labels("fate", fate.as_str());
                    for (series, _) in &all {
                        family.add(&labels(series), read(&series.requests[fate as usize]));
                    }
                }
            },
        );
        text.family(
            (
                "tidegate_tenant_tokens_total",
                "counter",
                "Tokens that answers to a tenant reported as used; cached is part of prompt.",
            ),
            |family| {
                for (kind, name) in KINDS.into_iter().enumerate() {
                    let labels = labels("kind", name);
                    for (series, _) in &all {
                        family.add(&labels(series), read(&series.tokens[kind]));
                    }
                }
            },
        );
        one(
            text,
            &all,
            "tidegate_tenant_wait_seconds_total",
            ("counter", "Time that a tenant's ended requests had waited in line, together."),
            |series, _| Duration::from_micros(read(&series.waited)).as_secs_f64(),
        );
        one(
            text,
            &all,
            "tidegate_tenant_queue_depth",
            ("gauge", "Requests of a tenant waiting, in all pools and for its own limits."),
            |_, depth| depth,
        );
    }
}

/// A family with one series for each tenant.
fn one<V: Value>(
    text: &mut Text,
    all: &[(Arc<Series>, u64)],
    name: &'static str,
    (kind, help): (&str, &str),
    value: impl Fn(&Series, u64) -> V,
) {
    text.family((name, kind, help), |family| {
        for (series, depth) in all {
            family.add(&Labels::new([("tenant", &series.name)]), value(series, *depth));
        }
    });
}

impl Series {
    fn new(name: &str) -> Self {
        let (requests, tokens) = Default::default();
        Self { name: name.into(), requests, tokens, waited: AtomicU64::new(0) }
    }

    fn count(&self, share: &Share) {
        let Share { fate, prompt, completion, cached, waited } = *share;
        add(&self.requests[fate as usize], 1);
        for (sum, tokens) in self.tokens.iter().zip([prompt, completion, cached]) {
            add(sum, tokens);
        }
        add(&self.waited, u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Counts have nothing to do with each other: no order is needed.
fn add(sum: &AtomicU64, more: u64) {
    if more > 0 {
        sum.fetch_add(more, Ordering::Relaxed);
    }
}

fn read(sum: &AtomicU64) -> u64 {
    sum.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::time::Epoch;

    fn share(fate: Fate) -> Share {
        let waited = Duration::from_millis(500);
        Share { fate, prompt: 10, completion: 5, cached: 2, waited }
    }

    /// The value of a series, as it is written; `None` if it is not there.
    fn value(metrics: &TenantMetrics, series: &str) -> Option<f64> {
        let page = page(metrics);
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    fn page(metrics: &TenantMetrics) -> String {
        let mut text = Text::default();
        let none = Pools::new(1, Epoch::start(), TaskTracker::new());
        metrics.write(&mut text, [&none, &none]);
        text.into_string()
    }

    /// All requests of a tenant.
    fn requests(metrics: &TenantMetrics, name: &str) -> u64 {
        let named = metrics.named.read();
        let all = named.values().chain([&metrics.other, &metrics.none]);
        let found = all.filter(|series| &*series.name == name);
        found.flat_map(|series| series.requests.iter().map(read)).sum()
    }

    /// Names that have series, of all families.
    fn names(metrics: &TenantMetrics) -> Vec<String> {
        let page = page(metrics);
        let tenants = page.split("{tenant=\"").skip(1).filter_map(|rest| rest.split('"').next());
        let mut names: Vec<_> = tenants.map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn whoever_is_answered_gets_a_name_while_there_are_any() {
        let metrics = TenantMetrics::new(&[], 2);
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
        let of = |family: &str| value(&metrics, &format!("tidegate_tenant_{family}}}"));
        assert_eq!(of("tokens_total{tenant=\"c\",kind=\"prompt\""), Some(20.0));
        assert_eq!(of("tokens_total{tenant=\"c\",kind=\"completion\""), Some(10.0));
        assert_eq!(of("tokens_total{tenant=\"c\",kind=\"cached\""), Some(4.0));
        assert_eq!(of("wait_seconds_total{tenant=\"c\""), Some(1.0));
        assert_eq!(of("requests_total{tenant=\"c\",fate=\"gone\""), Some(1.0));
        assert_eq!(of("queue_depth{tenant=\"c\""), Some(0.0));
        assert_eq!(of("queue_depth{tenant=\"a\""), None);
    }

    #[test]
    fn holders_of_keys_are_named_from_the_start_and_first() {
        let key = |name: &str, digit: u8| VirtualKey::new(name, [digit; 32]);
        let keys = [key("team-a", 1), key("team-b", 2), key("team-c", 3)];
        let metrics = TenantMetrics::new(&keys, 2);
        assert_eq!(names(&metrics), [NONE, OTHER, "team-a", "team-b"]);
        metrics.count(Some((keys[2].tenant(), "team-c")), &share(Fate::Completed));
        metrics.count(Some((keys[1].tenant(), "team-b")), &share(Fate::Refused));
        assert_eq!((requests(&metrics, OTHER), requests(&metrics, "team-b")), (1, 1));
    }

    #[test]
    fn two_tenants_whose_digits_are_the_same_make_one_series() {
        let metrics = TenantMetrics::new(&[], 2);
        for id in [1, 2, 2] {
            metrics.count(Some((id, "0a0b0c0d")), &share(Fate::Completed));
        }
        assert_eq!((requests(&metrics, "0a0b0c0d"), requests(&metrics, OTHER)), (1, 2));
    }

    /// However many come and in whatever order: no more names than allowed, every request counted
    /// once, and no series ever goes down.
    #[test]
    fn names_are_bounded_and_no_counter_goes_down() {
        let metrics = TenantMetrics::new(&[], 7);
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
