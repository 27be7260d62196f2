//! What being measured costs: each request on its way, and a scrape where ten thousand tenants were seen.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::admission::pool::{Asked, PoolConfig, Request, TenantLimits};
use tidegate::admission::{ClassRule, PoolKey, Pools, circuit};
use tidegate::identity::Access;
use tidegate::limit::{ColdStart, Constraint, Cost, Mode, Unit};
use tidegate::metrics::{Fate, Metrics, Outcome, Share, observe};
use tidegate::time::Epoch;
use tokio_util::task::TaskTracker;

const CLASSES: [&str; 3] = ["interactive", "standard", "batch"];
/// The default, and the most that can be configured.
const NAMED: [usize; 2] = [200, 1_000];
const TENANTS: u32 = 10_000;
/// As many as there can be by default; a hundred are shown.
const POOLS: u16 = 1_024;

const SHARE: Share = Share {
    fate: Fate::Completed,
    prompt: 1_200,
    completion: 300,
    cached: 0,
    waited: Duration::from_millis(3),
};

fn metrics(named: usize) -> Metrics {
    Metrics::new(&CLASSES, &[], named).expect("names are unique")
}

/// Everything that is counted of a request which waits, is streamed, and ends well: what
/// `proxy` does, in its order.
fn count(metrics: &Metrics, epoch: Epoch, tenant: (u64, &str)) {
    metrics.in_flight.inc();
    metrics.body_bytes.add(4_096);
    let (wait, span) = (SHARE.waited, Duration::from_millis(700));
    observe(&metrics.queue_wait, wait);
    metrics.observe_forecast(wait, wait);
    observe(&metrics.class_wait[1], wait);
    metrics.upstream.succeeded(epoch.now());
    observe(&metrics.upstream_head, span);
    observe(&metrics.first_token, span);
    observe(&metrics.upstream_duration, span);
    metrics.estimate_ratio.observe(1.1);
    metrics.tokens_estimated.inc_by(1_650);
    metrics.tokens_prompt.inc_by(SHARE.prompt);
    metrics.tokens_completion.inc_by(SHARE.completion);
    metrics.tokens_cached.inc_by(SHARE.cached);
    metrics.body_bytes.sub(4_096);
    metrics.in_flight.dec();
    metrics.count(Outcome::Completed);
    metrics.tenants.count(Some(tenant), &SHARE);
}

fn request(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _inside = runtime.enter();
    let (metrics, epoch) = (metrics(NAMED[0]), Epoch::start());
    let mut group = criterion.benchmark_group("metrics/request");
    for (name, first) in [("named", 0_u64), ("other", 1_000_000)] {
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                next = (next + 1) % NAMED[0] as u64;
                count(black_box(&metrics), epoch, (first + next, "0123abcd"));
            });
        });
    }
    group.finish();
}

fn config() -> PoolConfig {
    let limit = |unit, name, seconds| {
        let window = Duration::from_secs(seconds);
        Constraint::new(unit, 1_000, window, name, Mode::Bucket).expect("a valid limit")
    };
    let windows = [("minute", 60), ("hour", 3_600), ("day", 86_400)];
    let constraints = [Unit::Requests, Unit::Tokens]
        .into_iter()
        .flat_map(|unit| windows.map(|(name, seconds)| limit(unit, name, seconds)));
    let class = |rank| ClassRule { rank, share: 250, paced: false };
    PoolConfig {
        constraints: constraints.collect(),
        // Nobody goes while this is measured.
        cold_start: ColdStart::Empty,
        classes: [0, 1, 2].map(class).into(),
        max_queued: 10_000,
        per_tenant: TenantLimits::NONE,
        settle_delay: Duration::from_millis(500),
        max_concurrent: NonZeroU32::new(1),
        min_gap: Duration::ZERO,
        circuit: circuit::Rule::OFF,
    }
}

/// A scrape, with the queue of one pool as full as it may be: by one request of each tenant.
fn scrape(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let (epoch, access) = (Epoch::start(), Access::PassThrough);
    let pools = Pools::new(usize::from(POOLS), epoch, TaskTracker::new());
    let tenants = Pools::new(0, epoch, TaskTracker::new());
    for pool in 0..POOLS {
        let mut key = [0; 16];
        key[..2].copy_from_slice(&pool.to_be_bytes());
        pools.get(PoolKey(key), "model", || ("*".into(), config())).expect("room");
    }
    let callers = (0..TENANTS).map(|number| {
        let authorization = format!("Bearer key-{number}");
        access.identify(Some(authorization.as_bytes()), None, epoch.now()).expect("anybody may")
    });
    let callers: Vec<_> = callers.collect();
    let (_, full) = pools.all().swap_remove(0);
    let deadline = epoch.now().after(Duration::from_secs(86_400));
    let waiting = callers.iter().map(|caller| {
        let request = Request::new(Cost::new(1, 1_000), 4_096, deadline);
        let request = Request { tenant: caller.id, class: 1, ..request };
        full.pool.ask(request, None).expect("room")
    });
    let waiting: Vec<Asked> = waiting.collect();
    let mut group = criterion.benchmark_group("metrics/scrape");
    group.sample_size(20);
    for named in NAMED {
        let metrics = metrics(named);
        for caller in &callers {
            metrics.tenants.count(Some((caller.id, &caller.tenant)), &SHARE);
        }
        let bytes = metrics.render(&pools, &tenants).len();
        group.bench_function(format!("{named} named, {bytes} bytes"), |bencher| {
            bencher.iter(|| metrics.render(black_box(&pools), &tenants));
        });
    }
    group.finish();
    drop(waiting);
    pools.all().into_iter().for_each(|(_, named)| named.pool.close());
}

criterion_group!(benches, request, scrape);
criterion_main!(benches);
