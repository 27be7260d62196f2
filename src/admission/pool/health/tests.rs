use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::advance;
use tokio_util::task::TaskTracker;

use super::*;
use crate::admission::circuit::Rule;
use crate::admission::{Asked, Bound, PoolConfig, Rejection, Request, TenantLimits};
use crate::limit::{ColdStart, Constraint, Cost, Mode, Spent, Unit};
use crate::time::Epoch;

const SECOND: Duration = Duration::from_secs(1);

const RULE: Rule = Rule {
    failures: 3,
    window: Duration::from_secs(60),
    open: SECOND,
    max_open: Duration::from_secs(4),
    probes: 1,
    wait: Duration::from_secs(100),
};

const WELL: Report = Report { said: Said::Well, overload: false };
const FAILED: Report = Report { said: Said::Failed, overload: false };
const BUSY: Report = Report { said: Said::Busy, overload: true };

/// All of what the rule says.
const LONGEST: u16 = u16::MAX;

struct Setup {
    pool: Arc<Pool>,
    epoch: Epoch,
}

/// A pool with plenty of quota.
fn setup(change: impl FnOnce(&mut PoolConfig)) -> Setup {
    let day = Duration::from_secs(86_400);
    let plenty = Constraint::new(Unit::Requests, 1_000_000, day, "day", Mode::Bucket);
    let mut config = PoolConfig {
        constraints: vec![plenty.unwrap()],
        cold_start: ColdStart::Full,
        classes: Vec::new(),
        max_queued: 1_000,
        per_tenant: TenantLimits::NONE,
        settle_delay: Duration::ZERO,
        max_concurrent: None,
        min_gap: Duration::ZERO,
        circuit: RULE,
    };
    change(&mut config);
    let epoch = Epoch::start();
    Setup { pool: Pool::start(config, epoch, &TaskTracker::new()), epoch }
}

impl Setup {
    fn request(&self) -> Request {
        self.patient(Duration::from_secs(1_000))
    }

    fn patient(&self, patience: Duration) -> Request {
        Request::new(Cost::new(1, 1), 1, self.epoch.now().after(patience))
    }

    /// One that goes at once.
    fn go(&self) -> Admitted {
        let Ok(Asked::Go(mut admitted)) = self.pool.ask(self.request(), None) else {
            panic!("it has to wait")
        };
        admitted.sent();
        admitted
    }

    fn wait(&self) -> impl Future<Output = Result<Admitted, Refused>> {
        self.pool.ask(self.request(), None).expect("room").admitted()
    }

    /// Opens the circuit, for a second.
    fn open(&self) {
        let all: Vec<_> = (0..3).map(|_| self.go()).collect();
        let changes: Vec<_> = all.into_iter().map(|it| fail(it).circuit).collect();
        assert_eq!(changes, [None, None, Some(Change::Opened(SECOND))]);
    }

    fn now(&self) -> Timestamp {
        self.epoch.now()
    }

    fn limit(&self) -> Option<u32> {
        self.pool.glance().concurrency.map(NonZeroU32::get)
    }
}

fn fail(mut admitted: Admitted) -> News {
    let news = admitted.report(FAILED, LONGEST);
    admitted.reject(Rejection::default());
    news
}

fn answer(mut admitted: Admitted) -> News {
    let news = admitted.report(WELL, LONGEST);
    admitted.settle(Spent::Unknown);
    news
}

#[tokio::test(start_paused = true)]
async fn while_it_is_open_they_wait_and_the_first_in_line_finds_out() {
    let setup = setup(|_| ());
    setup.open();
    let start = setup.now();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(setup.wait())).collect();
    for wait in &mut waiting {
        assert!(poll!(wait.as_mut()).is_pending());
    }
    let seen = setup.pool.snapshot();
    assert_eq!((seen.bound, seen.circuit, seen.queued), (Some(Bound::Circuit), Phase::Open, 3));
    assert_eq!(seen.forecasts.len(), 1);
    let mut probe = waiting.remove(0).await.unwrap();
    assert_eq!((setup.now().since(start).as_secs(), probe.is_probe()), (1, true));
    assert_eq!(probe.bound(), Some(Bound::Circuit));
    assert_eq!(setup.pool.glance().circuit, Phase::HalfOpen);
    advance(Duration::from_secs(5)).await;
    for wait in &mut waiting {
        assert!(poll!(wait.as_mut()).is_pending(), "one goes, and no more");
    }
    probe.sent();
    assert_eq!(answer(probe).circuit, Some(Change::Closed(Duration::from_secs(6))));
    let before = setup.now();
    for admitted in join_all(waiting).await {
        assert!(!admitted.unwrap().is_probe());
    }
    assert_eq!(setup.now(), before, "all go at once");
    assert_eq!(setup.pool.glance().circuit, Phase::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_is_the_next_probe() {
    let setup = setup(|_| ());
    setup.open();
    let start = setup.now();
    let first = setup.wait();
    let mut second = pin!(setup.wait());
    let mut probe = first.await.unwrap();
    // 1 s, and then 2, 4 and 4 again more: it may be tried again.
    for seconds in [3, 7, 11] {
        probe.sent();
        let news = probe.report(FAILED, LONGEST);
        assert!(matches!(news.circuit, Some(Change::Opened(_))));
        let (rejection, request) = (Rejection::default(), setup.request());
        probe = setup.pool.retry(probe, rejection, request, setup.now()).await.unwrap();
        assert_eq!(setup.now().since(start).as_secs(), seconds);
        assert!(poll!(second.as_mut()).is_pending(), "it came later");
    }
    answer(probe);
    assert!(matches!(poll!(second.as_mut()), Poll::Ready(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_hangs_up_leaves_the_line_to_the_next() {
    let setup = setup(|_| ());
    setup.open();
    let (first, second) = (setup.wait(), setup.wait());
    let mut probe = first.await.unwrap();
    let before = setup.now();
    probe.sent();
    drop(probe);
    let next = second.await.unwrap();
    assert!(next.is_probe());
    assert_eq!(setup.now(), before);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_it_for_longer_than_is_configured() {
    let setup = setup(|config| config.circuit.wait = Duration::from_secs(2));
    setup.open();
    let start = setup.now();
    let (first, second) = (setup.wait(), setup.wait());
    let probe = first.await.unwrap();
    let mut second = pin!(second);
    assert!(poll!(second.as_mut()).is_pending());
    let news = fail(probe);
    assert_eq!(news.circuit, Some(Change::Opened(2 * SECOND)));
    let refused = second.await.unwrap_err();
    assert_eq!(setup.now().since(start), 2 * SECOND, "counted from when it opened");
    assert_eq!(refused, Refused::Circuit { retry_at: Some(start.after(3 * SECOND)) });
    let next = setup.pool.ask(setup.request(), None).unwrap_err();
    assert_eq!(next, refused, "nor does whoever comes");
    assert_eq!(setup.pool.queued(), 0);
    advance(SECOND).await;
    let probe = setup.go();
    assert!(probe.is_probe(), "but it is found out when it is back");
    let meanwhile = setup.pool.ask(setup.request(), None).unwrap_err();
    assert_eq!(meanwhile, Refused::Circuit { retry_at: None });
    answer(probe);
    drop(setup.go());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_before_that() {
    let setup = setup(|config| config.circuit.max_open = 8 * SECOND);
    setup.open();
    let refused = |result: Result<Admitted, Refused>| match result.unwrap_err() {
        Refused::TooLong { bound, retry_at, .. } => (bound, retry_at),
        other => panic!("{other:?}"),
    };
    let at_once = setup.pool.admit(setup.patient(SECOND / 2)).await;
    let (bound, retry_at) = refused(at_once);
    assert_eq!((bound, retry_at), (Bound::Circuit, Some(setup.now().after(SECOND))));
    let probe = setup.wait().await.unwrap();
    let before = setup.now();
    let waited = setup.pool.admit(setup.patient(2 * SECOND)).await;
    assert_eq!(refused(waited), (Bound::Circuit, None), "nobody knows when the probe will end");
    assert_eq!(setup.now().since(before), 2 * SECOND);
    drop(probe);
}

#[tokio::test(start_paused = true)]
async fn only_failures_of_different_requests_count_but_a_probe_always_does() {
    let setup = setup(|_| ());
    let again = Report { said: Said::FailedAgain, overload: false };
    for _ in 0..10 {
        let mut admitted = setup.go();
        assert_eq!(admitted.report(again, LONGEST), News::default(), "it may be the request's own");
        drop(admitted);
    }
    setup.open();
    let mut probe = setup.wait().await.unwrap();
    probe.sent();
    assert_eq!(probe.report(again, LONGEST).circuit, Some(Change::Opened(2 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn whoever_says_no_is_there() {
    let setup = setup(|_| ());
    let no = Report { said: Said::No, overload: false };
    for _ in 0..10 {
        assert_eq!(fail(setup.go()), News::default());
        assert_eq!(fail(setup.go()), News::default());
        assert_eq!(setup.go().report(no, LONGEST), News::default());
    }
    setup.open();
    let mut probe = setup.wait().await.unwrap();
    assert!(matches!(probe.report(no, LONGEST).circuit, Some(Change::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn an_overload_leaves_fewer_at_the_upstream_and_answers_bring_them_back() {
    let setup = setup(|_| ());
    let mut running: Vec<_> = (0..10).map(|_| setup.go()).collect();
    assert_eq!(setup.limit(), None);
    advance(SECOND).await;
    for (nth, admitted) in running.iter_mut().enumerate() {
        let news = admitted.report(BUSY, LONGEST);
        assert_eq!(news, News { cut: nth == 0, circuit: None }, "once in a round trip");
    }
    assert_eq!(setup.limit(), Some(7));
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(setup.wait())).collect();
    running.truncate(7);
    for wait in &mut waiting {
        assert!(poll!(wait.as_mut()).is_pending(), "all permits are taken");
    }
    assert_eq!(setup.pool.glance().bound, Some(Bound::Concurrency));
    drop(running.pop());
    let first = waiting.remove(0).await.unwrap();
    // Seven answers raise the limit by one: that alone lets the next one go.
    for admitted in &mut running {
        admitted.report(WELL, LONGEST);
    }
    assert_eq!((setup.limit(), poll!(waiting[0].as_mut()).is_pending()), (Some(7), true));
    running[0].report(WELL, LONGEST);
    assert_eq!(setup.limit(), Some(8));
    let second = waiting.remove(0).await.unwrap();
    assert!(poll!(waiting[0].as_mut()).is_pending());
    drop((waiting, running, first, second));
    let mut one = setup.go();
    for _ in 0..1_000 {
        one.report(WELL, LONGEST);
    }
    assert_eq!(setup.limit(), None, "it bears any number again");
}

#[tokio::test(start_paused = true)]
async fn overload_opens_the_circuit_only_when_one_at_a_time_is_too_many() {
    let setup = setup(|_| ());
    let mut changes = Vec::new();
    for in_flight in [8_usize, 8, 8, 1, 1, 1] {
        advance(SECOND).await;
        let mut running = Vec::new();
        while running.len() < in_flight.min(setup.limit().map_or(8, |it| it as usize)) {
            running.push(setup.go());
        }
        changes.push(running[0].report(BUSY, LONGEST).circuit.is_some());
    }
    // 8, 5 and 3 of them are too many; then 2 of 1, and three times one in a row.
    assert_eq!(changes, [false, false, false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_finds_it_busy_leaves_it_open() {
    let setup = setup(|_| ());
    let others = [setup.go(), setup.go(), setup.go()];
    setup.open();
    let mut probe = setup.wait().await.unwrap();
    probe.sent();
    // Four are there: it is not one at a time that is too many.
    let news = probe.report(BUSY, LONGEST);
    assert_eq!(news.circuit, Some(Change::Opened(2 * SECOND)));
    drop(others);
}
