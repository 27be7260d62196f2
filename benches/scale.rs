//! What scale costs: one step of a request's way through admission, beside ever more of the others.
//!
//! Requests that wait in one pool, tenants that wait in it, and pools. Every step is timed alone, by the
//! CPU time of the thread, so that neither an average nor a neighbour hides what a few of them cost. All
//! sizes are built first and measured in turns, so that a machine that becomes slower does so for all.
//!
//! `bench/scale` runs this, measures streams as well, and draws what comes of it.
#![expect(clippy::print_stdout, reason = "a benchmark's report goes there")]

use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tidegate::admission::{
    Admitted, Asked, ClassRule, Pool, PoolConfig, PoolKey, Pools, Request, TenantLimits, circuit,
};
use tidegate::limit::{ColdStart, Constraint, Cost, Mode, Spent, Unit};
use tidegate::time::Epoch;
use tokio_util::task::TaskTracker;

/// As the gateway itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// Where the curve begins that has to be flat: what fewer cost is not what is asked.
const FROM: usize = 100;

/// Pools measured at most. There are 1,024 by default.
const MOST_POOLS: usize = 10_000;

/// Tenants of the lines that grow by requests, and their classes.
const FEW: u64 = 10;
const CLASSES: u64 = 3;

/// Steps of each size in a round, and those before them that bring its memory back.
const STEPS: usize = 500;
const WARM_UP: usize = 100;

/// Nobody's time runs out here; and how far apart deadlines are where callers bring their own.
const DEADLINE: Duration = Duration::from_secs(300 * 86_400);
const APART: Duration = Duration::from_secs(600);

/// What the upstream is taken to need for its own refund: short, because requests end far faster here than
/// they ever could, and those that are not settled yet would be what is measured.
const SETTLE: Duration = Duration::from_micros(100);

#[derive(Debug, Parser)]
struct Options {
    /// Passed by `cargo bench`; without it nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// Times that every size has its turn, with 500 steps.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Write the figures there.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What grows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Waiting,
    Tenants,
    Pools,
}

/// What is done beside it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody joins the line and gives up.
    Leaves,
    /// Somebody joins the line, one that was at the upstream ends, and whose turn it is goes.
    Goes,
    /// A pool is looked up and lets a request through.
    Passes,
}

#[derive(Clone, Copy, Debug)]
struct Curve {
    of: Of,
    name: &'static str,
    step: Step,
    /// Whether callers bring their own deadlines, or any of the pools is used.
    mixed: bool,
}

const CURVES: [Curve; 7] = [
    curve(Of::Waiting, "joins and gives up", Step::Leaves, false),
    curve(Of::Waiting, "joins, and another goes", Step::Goes, false),
    curve(Of::Waiting, "joins and gives up, own deadlines", Step::Leaves, true),
    curve(Of::Tenants, "joins and gives up", Step::Leaves, false),
    curve(Of::Tenants, "joins, and another goes", Step::Goes, false),
    curve(Of::Pools, "one of them, at random", Step::Passes, true),
    curve(Of::Pools, "always the same one", Step::Passes, false),
];

const fn curve(of: Of, name: &'static str, step: Step, mixed: bool) -> Curve {
    Curve { of, name, step, mixed }
}

/// Nanoseconds of CPU that this thread has used.
fn cpu() -> u64 {
    let at = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(at.tv_sec * 1_000_000_000 + at.tv_nsec).expect("a thread begins at zero")
}

fn timed<R>(work: impl FnOnce() -> R) -> (u64, R) {
    let start = cpu();
    let result = work();
    (cpu() - start, result)
}

/// The six published windows, all out of the way: what binds, where something does, is the one permit.
fn config(permits: Option<NonZeroU32>) -> PoolConfig {
    let windows = [(60, "minute"), (3_600, "hour"), (86_400, "day")];
    let constraints = [Unit::Requests, Unit::Tokens].into_iter().flat_map(|unit| {
        windows.map(|(seconds, name)| {
            let window = Duration::from_secs(seconds);
            Constraint::new(unit, Constraint::MAX_LIMIT, window, name, Mode::Bucket)
        })
    });
    let class = |(rank, share)| ClassRule { rank, share, paced: false };
    PoolConfig {
        constraints: constraints.collect::<Result<_, _>>().expect("within bounds"),
        cold_start: ColdStart::Full,
        classes: [(0, 500), (1, 250), (2, 50)].map(class).into(),
        max_queued: usize::MAX,
        per_tenant: TenantLimits::NONE,
        settle_delay: SETTLE,
        max_concurrent: permits,
        min_gap: Duration::ZERO,
        circuit: circuit::Rule::OFF,
    }
}

fn end(mut admitted: Admitted, rng: &mut fastrand::Rng) {
    let used = Spent::Exact(Cost::new(1, admitted.cost().tokens / rng.u64(2..5)));
    admitted.sent();
    admitted.charged();
    admitted.settle(used);
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Caller {
    tenant: u64,
    class: usize,
}

impl Caller {
    /// The caller with this number, where there are so many tenants.
    fn new(number: usize, tenants: u64) -> Self {
        let number = number as u64;
        let class = (number / FEW % CLASSES) as usize;
        Self { tenant: number % tenants, class }
    }
}

/// A pool in which always as many wait, and one is at the upstream.
struct Line {
    pool: Arc<Pool>,
    epoch: Epoch,
    rng: fastrand::Rng,
    /// Whether callers bring their own deadlines; they wait equally long otherwise.
    own: bool,
    tenants: u64,
    waiting: FuturesUnordered<BoxFuture<'static, (Caller, Admitted)>>,
    going: Option<(Caller, Admitted)>,
}

impl Line {
    async fn new(waiting: usize, tenants: u64, own: bool, tasks: &TaskTracker) -> Self {
        let epoch = Epoch::start();
        let pool = Pool::start(config(Some(NonZeroU32::MIN)), epoch, tasks);
        let rng = fastrand::Rng::with_seed(1);
        let (asked, going) = (FuturesUnordered::new(), None);
        let mut line = Self { pool, epoch, rng, own, tenants, waiting: asked, going };
        // One of them goes at once.
        for number in 0..=waiting {
            let caller = Caller::new(number, tenants);
            let request = line.draw(caller);
            let asked = line.pool.ask(request, None).expect("room");
            line.joined(caller, asked);
        }
        line.going = line.waiting.next().await;
        line
    }

    fn draw(&mut self, caller: Caller) -> Request {
        let sooner = APART.mul_f64(self.rng.f64());
        let wait = if self.own { DEADLINE - sooner } else { DEADLINE };
        let cost = Cost::new(1, self.rng.u64(1_000..20_000));
        let request = Request::new(cost, 4_000, self.epoch.now().after(wait));
        let fair = cost.tokens / 4;
        Request { tenant: caller.tenant, class: caller.class, fair, ..request }
    }

    fn joined(&self, caller: Caller, asked: Asked) {
        let admitted = asked.admitted();
        let admitted = async move { (caller, admitted.await.expect("nobody is refused")) };
        self.waiting.push(admitted.boxed());
    }

    /// Somebody joins and gives up: where there are few tenants one of them, else one more.
    fn leaves(&mut self) -> u64 {
        let number = self.rng.usize(..1 << 32);
        let caller = Caller::new(number, if self.tenants == FEW { FEW } else { u64::MAX });
        let request = self.draw(caller);
        let (spent, ()) = timed(|| {
            let asked = self.pool.ask(black_box(request), None).expect("room");
            assert!(matches!(asked, Asked::Wait(_)), "there is one permit");
        });
        spent
    }

    /// Who went last comes again, and ends; whose turn it is goes.
    async fn goes(&mut self) -> u64 {
        let (caller, admitted) = self.going.take().expect("there is one permit");
        let request = self.draw(caller);
        let (spent, asked) = timed(|| {
            let asked = self.pool.ask(black_box(request), None).expect("room");
            end(admitted, &mut self.rng);
            asked
        });
        self.joined(caller, asked);
        self.going = self.waiting.next().await;
        spent
    }
}

/// So many pools that let everybody through.
struct Many {
    pools: Pools,
    keys: Vec<PoolKey>,
    rng: fastrand::Rng,
}

impl Many {
    fn new(count: usize, tasks: &TaskTracker) -> Self {
        let pools = Pools::new(count, Epoch::start(), tasks.clone());
        let mut rng = fastrand::Rng::with_seed(1);
        let keys: Vec<_> = (0..count).map(|_| PoolKey(rng.u128(..).to_le_bytes())).collect();
        let mut many = Self { pools, keys, rng };
        for index in 0..count {
            many.passes(index);
        }
        many
    }

    /// One of the pools lets a request through, which ends.
    fn passes(&mut self, index: usize) -> u64 {
        let (key, epoch) = (self.keys[index], self.pools.epoch());
        let cost = Cost::new(1, self.rng.u64(1_000..20_000));
        let request = Request::new(cost, 4_000, epoch.now().after(DEADLINE));
        let (spent, ()) = timed(|| {
            let named = self.pools.get(black_box(key), "model", || ("*".into(), config(None)));
            match named.expect("room").pool.ask(request, None) {
                Ok(Asked::Go(admitted)) => end(admitted, &mut self.rng),
                _ => unreachable!("nothing is in the way"),
            }
        });
        spent
    }
}

enum Subject {
    Line(Box<Line>),
    Many(Many),
}

/// One curve at one size.
struct Point {
    subject: Subject,
    curve: Curve,
    size: usize,
    times: Vec<u64>,
}

impl Point {
    async fn new(curve: Curve, size: usize, tasks: &TaskTracker) -> Self {
        let subject = match curve.of {
            Of::Pools => Subject::Many(Many::new(size, tasks)),
            Of::Tenants => Subject::Line(Box::new(Line::new(size, u64::MAX, false, tasks).await)),
            Of::Waiting => Subject::Line(Box::new(Line::new(size, FEW, curve.mixed, tasks).await)),
        };
        Self { subject, curve, size, times: Vec::new() }
    }

    async fn step(&mut self) -> u64 {
        match (&mut self.subject, self.curve.step) {
            (Subject::Line(line), Step::Leaves) => line.leaves(),
            (Subject::Line(line), _) => line.goes().await,
            (Subject::Many(many), _) => {
                let any = if self.curve.mixed { many.keys.len() } else { 1 };
                let index = many.rng.usize(..any);
                many.passes(index)
            }
        }
    }

    /// What a request has left behind is done before it is measured, and after.
    async fn round(&mut self) {
        for _ in 0..WARM_UP {
            self.step().await;
        }
        for _ in 0..STEPS {
            let spent = self.step().await;
            self.times.push(spent);
        }
        tokio::task::yield_now().await;
    }

    /// The figures, less what it takes to look at the clock.
    fn measured(mut self, clock: u64) -> Measured {
        self.times.sort_unstable();
        let at = |percent: usize| self.times[(self.times.len() - 1) * percent / 100];
        let [p50, p99] = [50, 99].map(|percent| at(percent).saturating_sub(clock));
        let (of, name) = (self.curve.of, self.curve.name);
        Measured { of, name, size: self.size, samples: self.times.len(), p50, p99 }
    }
}

/// Nanoseconds of CPU for one step.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    of: Of,
    name: &'static str,
    size: usize,
    samples: usize,
    p50: u64,
    p99: u64,
}

fn table(all: &[Measured]) -> String {
    let mut text = String::from("| CPU ns for one step, p50 / p99 |");
    let line = |text: &mut String, part: String| text.write_str(&part).expect("memory");
    SIZES.iter().for_each(|size| line(&mut text, format!(" {size} |")));
    text += &format!(" p99, most / {FROM} |\n| --- |{}\n", " ---: |".repeat(SIZES.len() + 1));
    for Curve { of, name, .. } in CURVES {
        line(&mut text, format!("| {of:?}: {name} |"));
        let mine: Vec<_> = all.iter().filter(|it| (it.of, it.name) == (of, name)).collect();
        for size in SIZES {
            let point = mine.iter().find(|it| it.size == size);
            let cell = point.map_or_else(|| "-".into(), |it| format!("{} / {}", it.p50, it.p99));
            line(&mut text, format!(" {cell} |"));
        }
        let first = mine.iter().find(|it| it.size == FROM).map_or(f64::NAN, |it| it.p99 as f64);
        let last = mine.last().map_or(f64::NAN, |it| it.p99 as f64);
        line(&mut text, format!(" {:.2} |\n", last / first));
    }
    text
}

async fn measure(rounds: usize) -> Vec<Measured> {
    let tasks = TaskTracker::new();
    let mut points = Vec::new();
    for curve in CURVES {
        for size in SIZES.into_iter().filter(|size| curve.of != Of::Pools || *size <= MOST_POOLS) {
            points.push(Point::new(curve, size, &tasks).await);
        }
    }
    let mut clock = Vec::new();
    for _ in 0..rounds {
        clock.extend((0..STEPS).map(|_| timed(|| ()).0));
        for point in &mut points {
            point.round().await;
        }
    }
    clock.sort_unstable();
    let clock = clock.get(clock.len() / 2).copied().unwrap_or(0);
    points.into_iter().map(|point| point.measured(clock)).collect()
}

fn main() {
    let options = Options::parse();
    if !options.bench {
        return println!("nothing measured: run it as `cargo bench --bench scale`");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let all = runtime.expect("a runtime").block_on(measure(options.rounds.max(1)));
    println!("{}", table(&all));
    if let Some(file) = options.json {
        let text = serde_json::to_string_pretty(&all).expect("figures");
        fs::write(file, text).expect("a file that can be written");
    }
}
