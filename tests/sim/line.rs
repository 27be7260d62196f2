//! A pool of the gateway's own, with callers in front of it and an upstream behind it that takes its
//! time, in virtual time: who got how much, when, and what they were told before.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tidegate::admission::{ClassRule, Pool, PoolConfig, Refused, Request, TenantLimits, circuit};
use tidegate::limit::{ColdStart, Constraint, Cost, Mode, Spent, Unit};
use tidegate::time::{Epoch, Timestamp};
use tokio::task::LocalSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::task::TaskTracker;

use crate::seed::START;

/// Tokens a minute: a thousand a second.
pub(crate) const QUOTA: u64 = 60_000;
pub(crate) const RATE: f64 = 1_000.0;

/// Far longer than anybody waits here.
const PATIENT: Duration = Duration::from_secs(1_000_000);

/// Of the requests that are turned away, one in so many waits all the same, to see when it would have
/// started. It gives its turn back when that comes.
const GHOSTS: usize = 64;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) class: usize,
    pub(crate) tenant: u64,
    pub(crate) weight: u32,
    /// Tokens held for it, taken to be likely, and used in the end.
    pub(crate) safe: u64,
    pub(crate) fair: u64,
    pub(crate) used: u64,
    /// Time at the upstream.
    pub(crate) service: Duration,
    pub(crate) patience: Duration,
}

impl Job {
    /// A request of 500 to 1,500 tokens whose estimates are somewhat high, or low.
    pub(crate) fn any(rng: &mut Rng, tenant: u64) -> Self {
        let used = rng.u64(500..1_500);
        Self {
            class: 1,
            tenant,
            weight: 1,
            safe: used * 2 + 200,
            fair: rng.u64(700..1_300),
            used,
            service: Duration::from_millis(rng.u64(500..3_000)),
            patience: PATIENT,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) job: Job,
    /// When it came, since the beginning.
    pub(crate) came: Duration,
    pub(crate) fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    /// It waited so long, and was to wait so long.
    Started { waited: Duration, forecast: Duration },
    /// It was let in and left without being served.
    Missed,
    /// It was turned away at once; it would have waited so long, where that was found out.
    Refused { would_wait: Option<Duration> },
}

impl Seen {
    pub(crate) fn waited(&self) -> Option<Duration> {
        match self.fate {
            Fate::Started { waited, .. } => Some(waited),
            Fate::Missed | Fate::Refused { .. } => None,
        }
    }
}

/// A pool that lets in `tokens` a minute, in three classes like those configured by default.
pub(crate) fn pool(tokens: u64, mode: Mode) -> PoolConfig {
    let minute = Duration::from_secs(60);
    let quota = Constraint::new(Unit::Tokens, tokens, minute, "minute", mode);
    PoolConfig {
        constraints: vec![quota.expect("within bounds")],
        cold_start: ColdStart::Empty,
        classes: [(0, 500), (1, 250), (2, 50)]
            .map(|(rank, share)| ClassRule { rank, share, paced: false })
            .into(),
        max_queued: usize::MAX,
        per_tenant: TenantLimits::NONE,
        settle_delay: Duration::from_millis(100),
        max_concurrent: None,
        min_gap: Duration::ZERO,
        circuit: circuit::Rule::OFF,
    }
}

/// Callers and what is known of their requests.
#[derive(Clone)]
pub(crate) struct Line {
    pool: std::sync::Arc<Pool>,
    epoch: Epoch,
    seen: Rc<RefCell<Vec<Seen>>>,
    refused: Rc<RefCell<usize>>,
}

/// Lets `callers` ask a pool for `lasts`; returns what became of every request that came and ended in
/// that time.
pub(crate) fn simulate<F>(config: PoolConfig, lasts: Duration, callers: F) -> Vec<Seen>
where
    F: AsyncFnOnce(Line),
{
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let epoch = Epoch::at(Timestamp::from_nanos(START));
        let pool = Pool::start(config, epoch, &TaskTracker::new());
        let line = Line { pool, epoch, seen: Rc::default(), refused: Rc::default() };
        callers(line.clone()).await;
        sleep_until(epoch.instant(Timestamp::from_nanos(START).after(lasts))).await;
        line.seen.take()
    })
}

impl Line {
    fn now(&self) -> Duration {
        self.epoch.now().since(Timestamp::from_nanos(START))
    }

    /// Sends `jobs`, each after a pause, without waiting for their ends.
    pub(crate) fn open(&self, mut jobs: impl FnMut() -> Option<(Duration, Job)> + 'static) {
        let line = self.clone();
        tokio::task::spawn_local(async move {
            while let Some((pause, job)) = jobs() {
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                let line = line.clone();
                tokio::task::spawn_local(async move { line.run(job).await });
            }
        });
    }

    /// Keeps `depth` requests in the line at any time.
    pub(crate) fn closed(&self, depth: usize, jobs: impl FnMut() -> Job + 'static) {
        let jobs = Rc::new(RefCell::new(jobs));
        for _ in 0..depth {
            let (line, jobs) = (self.clone(), Rc::clone(&jobs));
            tokio::task::spawn_local(async move {
                loop {
                    let job = jobs.borrow_mut()();
                    let (started, start) = tokio::sync::oneshot::channel();
                    let own = line.clone();
                    tokio::task::spawn_local(
                        async move { own.run_telling(job, Some(started)).await },
                    );
                    // The next one comes when this one leaves the line.
                    let _ = start.await;
                }
            });
        }
    }

    async fn run(&self, job: Job) {
        self.run_telling(job, None).await;
    }

    async fn run_telling(&self, job: Job, told: Option<tokio::sync::oneshot::Sender<()>>) {
        let came = self.now();
        let deadline = self.epoch.now().after(job.patience);
        let request = Request {
            fair: job.fair,
            class: job.class,
            tenant: job.tenant,
            weight: NonZeroU32::new(job.weight).expect("above zero"),
            ..Request::new(Cost::new(1, job.safe), 1_000, deadline)
        };
        let note = |fate| self.seen.borrow_mut().push(Seen { job, came, fate });
        let asked = match self.pool.ask(request, None) {
            Ok(asked) => asked,
            Err(refused) => return note(self.turned_away(request, refused).await),
        };
        let admitted = asked.admitted().await;
        drop(told);
        let Ok(mut admitted) = admitted else { return note(Fate::Missed) };
        let (waited, forecast) = (admitted.waited(), admitted.forecast());
        note(Fate::Started { waited, forecast });
        admitted.sent();
        sleep(job.service / 4).await;
        admitted.charged();
        sleep(job.service * 3 / 4).await;
        admitted.settle(Spent::Exact(Cost::new(1, job.used)));
    }

    /// Finds out, for some, when they would have started.
    async fn turned_away(&self, request: Request, refused: Refused) -> Fate {
        let number = self.refused.replace_with(|number| *number + 1);
        let Refused::TooLong { place, .. } = refused else { return Fate::Missed };
        if !number.is_multiple_of(GHOSTS) {
            return Fate::Refused { would_wait: None };
        }
        let since = self.epoch.now();
        let deadline = since.after(Duration::from_secs(86_400));
        // It takes nothing, so nobody's forecast may count it.
        let ghost = self.pool.readmit(Request { deadline, fair: 0, ..request }, place).await;
        drop(ghost);
        Fate::Refused { would_wait: Some(self.epoch.now().since(since)) }
    }
}

/// A pause between two arrivals that come `rate` times a second, independently of each other.
pub(crate) fn pause(rng: &mut Rng, rate: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate)
}

/// The value below which so many per cent of the values are.
pub(crate) fn quantile(mut values: Vec<Duration>, percent: usize) -> Duration {
    values.sort_unstable();
    let index = percent * values.len() / 100;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
