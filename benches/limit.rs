//! Costs of admission per request: the ledger, and the pool on its idle path.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::admission::{Pool, PoolConfig, Request, TenantLimits, circuit};
use tidegate::limit::{ColdStart, Constraint, Cost, Ledger, Mode, Reading, Spent, Unit};
use tidegate::time::{Epoch, Timestamp};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

const HELD: Cost = Cost::new(1, 20_000);
const USED: Cost = Cost::new(1, 15_000);

/// Between two requests. The ledger's time is virtual: how often the machine gets there does not
/// decide how full its windows are.
const GAP: Duration = Duration::from_millis(10);

/// The six published windows. Their limits are out of the way: a refusal is cheaper than a hold.
fn six(mode: Mode) -> Vec<Constraint> {
    let windows = [(60, "minute"), (3_600, "hour"), (86_400, "day")];
    let units = [Unit::Requests, Unit::Tokens].into_iter();
    let all = units.flat_map(|unit| windows.map(|(seconds, name)| (unit, seconds, name)));
    let constraint = |(unit, seconds, name)| {
        let window = Duration::from_secs(seconds);
        Constraint::new(unit, Constraint::MAX_LIMIT, window, name, mode)
    };
    all.map(constraint).collect::<Result<_, _>>().expect("within bounds")
}

/// A ledger that has seen a request in every slot of each of its windows, and the time.
fn worn(mode: Mode) -> (Ledger, Timestamp) {
    let start = Timestamp::from_nanos(1_772_064_000_000_000_000);
    let end = start.after(Duration::from_secs(86_400));
    let mut times: Vec<_> = [86_400, 3_600, 60]
        .into_iter()
        .flat_map(|seconds| {
            let window = Duration::from_secs(seconds);
            (0..2_048).map(move |half| Duration::from_secs(86_400) - window + window * half / 2_048)
        })
        .collect();
    times.sort_unstable();
    let mut ledger = Ledger::new(six(mode), start);
    for time in times {
        spend(&mut ledger, start.after(time));
    }
    (ledger, end)
}

/// The whole life of a request in the ledger.
fn spend(ledger: &mut Ledger, now: Timestamp) {
    let hold = ledger.hold(black_box(HELD), now).expect("there is room");
    let mut sent = hold.sent();
    ledger.charged(&mut sent, now);
    ledger.settle(sent, Spent::Exact(USED), now);
}

fn ledger(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger");
    let skew = Duration::from_millis(250);
    for mode in [Mode::Bucket, Mode::Sliding, Mode::Fixed { skew }] {
        let (mut ledger, mut now) = worn(mode);
        group.bench_function(format!("hold_charge_settle/{}", mode.as_str()), |bencher| {
            bencher.iter(|| {
                now = now.after(GAP);
                spend(&mut ledger, now);
            });
        });
    }
    // A window that is full says when it will have room, which is a walk over its slots.
    let (mut ledger, now) = worn(Mode::Sliding);
    let rest = ledger.levels(now).map(|level| level.available).min().expect("six windows");
    let rest = Cost::new(1, u64::try_from(rest).expect("not in debt"));
    let _held = ledger.hold(rest, now).expect("there is room");
    group.bench_function("refuse/sliding", |bencher| {
        // All but the last of the 2,048 requests of the last minute.
        let most = Cost::new(1, USED.tokens * 2_000);
        bencher.iter(|| ledger.check(black_box(most), now).expect_err("it is full"));
    });
    group.finish();
}

/// The same with what an answer's headers show, with and without a journal of it; that is taken ten times
/// a second, as a store does.
fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for kept in [false, true] {
        let (mut ledger, mut now) = worn(Mode::Bucket);
        if kept {
            ledger.keep_journal();
        }
        let (mut taken, mut count) = (Vec::new(), 0_u32);
        let shown = |unit, window| Reading {
            unit,
            window,
            limit: Some(Constraint::MAX_LIMIT),
            remaining: Some(Constraint::MAX_LIMIT - 50_000),
        };
        group.bench_function(if kept { "on" } else { "off" }, |bencher| {
            bencher.iter(|| {
                now = now.after(GAP);
                let mut sent = ledger.hold(black_box(HELD), now).expect("there is room").sent();
                ledger.charged(&mut sent, now);
                let shown = [shown(Unit::Requests, "day"), shown(Unit::Tokens, "minute")];
                ledger.observe(&mut sent, shown, now);
                ledger.announce(&mut sent, Spent::Exact(USED), now);
                ledger.settle(sent, Spent::Exact(USED), now);
                count += 1;
                if count.is_multiple_of(10) {
                    taken.clear();
                    ledger.take_journal(&mut taken);
                }
                black_box(ledger.take_call());
            });
        });
    }
    group.finish();
}

fn pool(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let config = PoolConfig {
        constraints: six(Mode::Bucket),
        cold_start: ColdStart::Full,
        classes: Vec::new(),
        max_queued: 10_000,
        per_tenant: TenantLimits::NONE,
        // Short, because requests end far faster here than they ever could: what waits to be settled
        // would be what is measured.
        settle_delay: Duration::from_micros(100),
        max_concurrent: None,
        min_gap: Duration::ZERO,
        circuit: circuit::Rule::OFF,
    };
    let epoch = Epoch::start();
    let guard = runtime.enter();
    let pool = Pool::start(config, epoch, &TaskTracker::new());
    drop(guard);
    criterion.bench_function("pool/admit_settle_idle", |bencher| {
        bencher.iter_custom(|times| {
            runtime.block_on(async {
                let deadline = epoch.now().after(Duration::from_secs(3_600));
                let start = Instant::now();
                for _ in 0..times {
                    let request = Request::new(black_box(HELD), 1_000, deadline);
                    let mut admitted = pool.admit(request).await.expect("nobody is before it");
                    admitted.sent();
                    admitted.charged();
                    admitted.settle(Spent::Exact(USED));
                }
                start.elapsed()
            })
        });
    });
}

criterion_group!(benches, ledger, journal, pool);
criterion_main!(benches);
