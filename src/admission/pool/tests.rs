use std::num::NonZeroU32;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::admission::circuit;
use crate::admission::scheduler::ClassRule;
use crate::limit::{ColdStart, Cost, Mode, Spent, Spread, Unit};

const MINUTE: Duration = Duration::from_secs(60);

struct Setup {
    pool: Arc<Pool>,
    epoch: Epoch,
}

fn setup(change: impl FnOnce(&mut PoolConfig)) -> Setup {
    let minute = |unit, limit| Constraint::new(unit, limit, MINUTE, "minute", Mode::Bucket);
    let mut config = PoolConfig {
        constraints: vec![
            minute(Unit::Requests, 60).unwrap(),
            minute(Unit::Tokens, 6_000).unwrap(),
        ],
        cold_start: ColdStart::Full,
        classes: Vec::new(),
        max_queued: 3,
        per_tenant: TenantLimits::NONE,
        settle_delay: Duration::ZERO,
        max_concurrent: None,
        min_gap: Duration::ZERO,
        circuit: circuit::Rule::OFF,
    };
    change(&mut config);
    let epoch = Epoch::start();
    Setup { pool: Pool::start(config, epoch, &TaskTracker::new()), epoch }
}

impl Setup {
    fn request(&self, tokens: u64) -> Request {
        let deadline = self.epoch.now().after(10 * MINUTE);
        Request::new(Cost::new(1, tokens), 100, deadline)
    }

    fn levels(&self) -> Vec<(i64, u64)> {
        let mut levels = Vec::new();
        self.pool.levels(|level| levels.push((level.available, level.held)));
        levels
    }

    /// Spends `tokens` for good.
    async fn spend(&self, tokens: u64) {
        let mut admitted = self.pool.admit(self.request(tokens)).await.unwrap();
        admitted.sent();
        admitted.settle(Spent::Unknown);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_releases_what_was_not_sent_and_charges_what_was() {
    let setup = setup(|_| ());
    let admitted = setup.pool.admit(setup.request(1_000)).await.unwrap();
    assert_eq!(setup.levels(), [(59, 1), (5_000, 1_000)]);
    drop(admitted);
    assert_eq!(setup.levels(), [(60, 0), (6_000, 0)]);

    let mut admitted = setup.pool.admit(setup.request(1_000)).await.unwrap();
    admitted.sent();
    drop(admitted);
    assert_eq!(setup.levels(), [(59, 0), (5_000, 0)], "nobody knows what it cost");

    let mut admitted = setup.pool.admit(setup.request(1_000)).await.unwrap();
    admitted.sent();
    admitted.reject(Rejection::default());
    assert_eq!(setup.levels(), [(59, 0), (5_000, 0)], "a refused request is not charged");
    assert_eq!(setup.pool.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_go_in_order_when_their_cost_fits() {
    let setup = setup(|_| ());
    setup.spend(6_000).await;
    let start = setup.epoch.now();
    let waits = [1_000, 500, 100].map(|tokens| setup.pool.admit(setup.request(tokens)));
    let done = join_all(waits.map(|wait| async {
        let mut admitted = wait.await.unwrap();
        let (waited, bound) = (admitted.waited(), admitted.bound());
        admitted.sent();
        admitted.settle(Spent::Unknown);
        (setup.epoch.now().since(start).as_secs(), waited.as_secs(), bound)
    }));
    let tokens = Some(Bound::Constraint(1));
    // 100 tokens a second; a smaller request behind a larger one waits for it.
    assert_eq!(done.await, [(10, 10, tokens), (15, 15, tokens), (16, 16, tokens)]);
    assert_eq!(setup.pool.snapshot().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_settle_wakes_the_next_in_line() {
    let setup = setup(|config| config.settle_delay = Duration::from_millis(500));
    let mut first = setup.pool.admit(setup.request(6_000)).await.unwrap();
    first.sent();
    let mut second = pin!(setup.pool.admit(setup.request(3_000)));
    assert!(poll!(second.as_mut()).is_pending());
    first.settle(Spent::Exact(Cost::new(1, 1_000)));
    assert!(poll!(second.as_mut()).is_pending(), "the upstream has not refunded it yet");
    let before = setup.epoch.now();
    assert!(second.await.is_ok());
    let waited = setup.epoch.now().since(before);
    assert!((500..=502).contains(&waited.as_millis()), "{waited:?}");
}

/// What is cut without a head may still be on its way: the room it takes stays taken until it has
/// surely arrived. A debt, on the other hand, is there at once.
#[tokio::test(start_paused = true)]
async fn a_cut_request_keeps_its_room_for_a_while_and_a_debt_counts_at_once() {
    let setup = setup(|config| config.settle_delay = Duration::from_millis(500));
    let mut cut = setup.pool.admit(setup.request(6_000)).await.unwrap();
    cut.sent();
    drop(cut);
    advance(Duration::from_millis(400)).await;
    assert_eq!(setup.levels()[1], (0, 6_000), "no refill beside it");
    advance(Duration::from_millis(200)).await;
    assert_eq!(setup.levels()[1], (10, 0), "the refill of the last 100 ms");
    advance(MINUTE).await;
    let mut debtor = setup.pool.admit(setup.request(1_000)).await.unwrap();
    debtor.sent();
    debtor.settle(Spent::Exact(Cost::new(1, 7_000)));
    assert_eq!(setup.levels()[1], (-1_000, 0));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_waited_for_is_refused_at_once() {
    let setup = setup(|_| ());
    setup.spend(6_000).await;
    let wall = setup.pool.admit(setup.request(6_001)).await;
    assert_eq!(wall.unwrap_err(), Refused::Wall { constraint: 1 });
    let mut hurried = setup.request(1_000);
    hurried.deadline = setup.epoch.now().after(Duration::from_secs(9));
    let refused = setup.pool.admit(hurried).await.unwrap_err();
    let Refused::TooLong { bound: Bound::Constraint(1), retry_at: Some(at), .. } = refused else {
        panic!("1,000 tokens take 10 s, not 9: {refused:?}");
    };
    assert_eq!(at.since(setup.epoch.now()), Duration::from_secs(10));
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut wait = Box::pin(setup.pool.admit(setup.request(10)));
        assert!(poll!(wait.as_mut()).is_pending());
        waiting.push(wait);
    }
    let full = setup.pool.admit(setup.request(10)).await.unwrap_err();
    assert!(matches!(full, Refused::Full { retry_at: Some(_) }), "{full:?}");
    let snapshot = setup.pool.snapshot();
    assert_eq!((snapshot.queued, snapshot.queued_bytes, snapshot.stalled), (3, 300, false));
    setup.pool.close();
    for wait in waiting {
        assert_eq!(wait.await.unwrap_err(), Refused::Closed);
    }
    assert_eq!(setup.pool.admit(setup.request(1)).await.unwrap_err(), Refused::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_as_soon_as_it_is_known_to_be_in_vain() {
    let setup = setup(|_| ());
    let mut first = setup.pool.admit(setup.request(6_000)).await.unwrap();
    first.sent();
    let mut request = setup.request(6_000);
    request.deadline = setup.epoch.now().after(Duration::from_secs(50));
    let mut second = pin!(setup.pool.admit(request));
    assert!(poll!(second.as_mut()).is_pending(), "the first may come back unspent");
    first.settle(Spent::Unknown);
    let Poll::Ready(Err(refused)) = poll!(second.as_mut()) else { panic!("60 s, not 50") };
    assert!(matches!(refused, Refused::TooLong { retry_at: Some(_), .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_wait_by_timer() {
    let setup = setup(|config| config.max_concurrent = NonZeroU32::new(1));
    let first = setup.pool.admit(setup.request(10)).await.unwrap();
    let start = setup.epoch.now();
    let mut request = setup.request(10);
    request.deadline = start.after(Duration::from_secs(3));
    let refused = setup.pool.admit(request).await.unwrap_err();
    assert!(matches!(refused, Refused::TooLong { bound: Bound::Concurrency, retry_at: None, .. }));
    assert_eq!(setup.epoch.now().since(start).as_secs(), 3);
    drop(first);
    assert_eq!(setup.levels(), [(60, 0), (6_000, 0)]);
}

#[tokio::test(start_paused = true)]
async fn permits_gaps_and_backoff_hold_back_and_let_go() {
    let one = setup(|config| config.max_concurrent = NonZeroU32::new(1));
    let first = one.pool.admit(one.request(10)).await.unwrap();
    let mut second = pin!(one.pool.admit(one.request(10)));
    assert!(poll!(second.as_mut()).is_pending());
    drop(first);
    assert!(matches!(poll!(second.as_mut()), Poll::Ready(Ok(_))), "woken by the permit, at once");

    let gap = setup(|config| config.min_gap = Duration::from_millis(500));
    let start = gap.epoch.now();
    for sent_ms in [0, 500, 1_000] {
        gap.spend(1).await;
        assert_eq!(gap.epoch.now().since(start).as_millis(), sent_ms);
    }
    gap.pool.back_off(gap.epoch.now().after(Duration::from_secs(4)));
    gap.spend(1).await;
    assert_eq!(gap.epoch.now().since(start).as_millis(), 5_000);
    assert_eq!(gap.epoch.now().since(start).as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_request_put_back_goes_first() {
    let setup = setup(|_| ());
    let mut first = setup.pool.admit(setup.request(6_000)).await.unwrap();
    first.sent();
    let mut second = pin!(setup.pool.admit(setup.request(100)));
    assert!(poll!(second.as_mut()).is_pending());
    let place = first.place();
    let rejection = Rejection { exhausted: Some((Unit::Tokens, "minute")), ..Rejection::default() };
    let until = setup.epoch.now().after(Duration::from_secs(1));
    let mut again = pin!(setup.pool.retry(first, rejection, setup.request(600), until));
    assert!(poll!(again.as_mut()).is_pending());
    assert_eq!(setup.levels()[1].0, 0, "the hold that came back is no quota to spend");
    assert!(poll!(second.as_mut()).is_pending(), "it may not overtake");
    assert_eq!(again.await.unwrap().place(), place);
    assert!(second.await.is_ok());
}

/// A window that is not a bucket has no room for the first in line until a whole charge runs out:
/// what is left meanwhile goes to smaller requests, up to the size of the one they pass. In a bucket
/// nobody passes: there what is left is on its way to the first in line.
#[tokio::test(start_paused = true)]
async fn smaller_requests_pass_a_large_one_where_waiting_for_it_would_waste_quota() {
    for (mode, expected) in [(Mode::Sliding, vec![0, 0, 0]), (Mode::Bucket, vec![])] {
        let setup = setup(|config| {
            let minute = Constraint::new(Unit::Tokens, 6_000, MINUTE, "minute", mode);
            config.constraints = vec![minute.unwrap()];
            config.max_queued = 10;
        });
        setup.spend(4_000).await;
        let start = setup.epoch.now();
        let mut large = pin!(setup.pool.admit(setup.request(2_500)));
        assert!(poll!(large.as_mut()).is_pending());
        let mut small: Vec<_> =
            (0..4).map(|_| Box::pin(setup.pool.admit(setup.request(800)))).collect();
        let mut passed = Vec::new();
        for wait in &mut small {
            if let Poll::Ready(admitted) = poll!(wait.as_mut()) {
                let mut admitted = admitted.unwrap();
                admitted.sent();
                admitted.settle(Spent::Exact(Cost::new(1, 100)));
                passed.push(setup.epoch.now().since(start).as_secs());
            }
        }
        assert_eq!(passed, expected, "{mode:?}: the fourth would make it more than 2,500");
        assert!(large.await.is_ok());
        assert!(setup.epoch.now().since(start) <= MINUTE + Duration::from_secs(1), "{mode:?}");
    }
}

/// Three classes in one queue: a better rank goes first, a guarantee before it, and each tenant's
/// limits are its own.
#[tokio::test(start_paused = true)]
async fn classes_go_by_rank_and_tenants_have_limits_of_their_own() {
    let setup = setup(|config| {
        config.classes =
            [(0, 0), (1, 100)].map(|(rank, share)| ClassRule { rank, share, paced: false }).into();
        config.max_queued = 100;
        config.per_tenant = TenantLimits { queued: 5, bytes: 450 };
    });
    setup.spend(6_000).await;
    let from = |class, tenant| Request { class, tenant, ..setup.request(1_000) };
    let order = Mutex::new(Vec::new());
    let run = |class, tenant| {
        let (setup, order) = (&setup, &order);
        async move {
            let mut admitted = setup.pool.admit(from(class, tenant)).await?;
            order.lock().push(class);
            admitted.sent();
            admitted.settle(Spent::Unknown);
            Ok::<_, Refused>(())
        }
    };
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(run(1, 1))).collect();
    waits
        .iter_mut()
        .for_each(|wait| assert!(futures_util::FutureExt::now_or_never(wait).is_none()));
    let refused = setup.pool.admit(from(0, 1)).await.unwrap_err();
    assert!(matches!(refused, Refused::TenantFull { .. }), "500 bytes: {refused:?}");
    waits.extend((0..4).map(|_| Box::pin(run(0, 2))));
    assert!(join_all(waits).await.iter().all(Result::is_ok));
    // The better rank first, but a tenth of what is sent is due to the other.
    assert_eq!(order.into_inner(), [0, 1, 0, 0, 0, 1, 1, 1]);
}

/// What can wait keeps to the spread of the window, and nobody has to wait for it.
#[tokio::test(start_paused = true)]
async fn a_paced_class_waits_without_holding_up_the_others() {
    let setup = setup(|config| {
        config.classes = [(0, false), (1, true)]
            .map(|(rank, paced)| ClassRule { rank, share: 500, paced })
            .into();
        let hour = Constraint::new(Unit::Tokens, 60_000, 60 * MINUTE, "hour", Mode::Bucket);
        let spread = Spread { even: 900, reserve: 100 };
        config.constraints = vec![hour.unwrap().spread_by(spread)];
        config.max_queued = 100;
    });
    let from = |class| Request { class, ..setup.request(3_000) };
    let run = |class| {
        let setup = &setup;
        async move {
            let mut admitted = setup.pool.admit(from(class)).await?;
            admitted.sent();
            admitted.settle(Spent::Unknown);
            Ok::<_, Refused>(setup.epoch.now())
        }
    };
    let start = setup.epoch.now();
    // A tenth of the hour may go at once, and then a thousand tokens a minute.
    assert!(run(1).await.is_ok() && run(1).await.is_ok());
    let mut third = Box::pin(run(1));
    assert!(poll!(&mut third).is_pending());
    for _ in 0..10 {
        assert_eq!(run(0).await, Ok(start), "others pass it at once");
    }
    let refused = setup.pool.admit(from(1)).await.unwrap_err();
    assert!(matches!(refused, Refused::TooLong { .. }), "half an hour behind: {refused:?}");
    drop(third);
    advance(36 * MINUTE).await;
    assert!(run(1).await.is_ok(), "what the others used is paid back by then");
}

#[tokio::test(start_paused = true)]
async fn the_timer_sleeps_while_nothing_is_due() {
    let setup = setup(|config| config.max_concurrent = NonZeroU32::new(1));
    let first = setup.pool.admit(setup.request(10)).await.unwrap();
    let mut second = pin!(setup.pool.admit(setup.request(10)));
    assert!(poll!(second.as_mut()).is_pending());
    let armed = setup.pool.state.lock().armed();
    assert_eq!(armed, Some(setup.request(10).deadline), "set to the deadline, nothing sooner");
    advance(MINUTE).await;
    assert_eq!(setup.pool.state.lock().armed(), armed);
    drop(first);
    second.await.unwrap().reject(Rejection::default());
}

#[tokio::test(start_paused = true)]
async fn a_cost_that_comes_down_while_it_waits_lets_the_request_go() {
    let setup = setup(|_| ());
    setup.spend(3_000).await;
    let Asked::Wait(waiting) = setup.pool.ask(setup.request(4_000), None).unwrap() else {
        unreachable!("3,000 are left");
    };
    let repricer = waiting.repricer();
    let mut waiting = pin!(waiting);
    assert!(!repricer.lower(Cost::new(1, 5_000)), "that is more");
    assert!(!repricer.lower(Cost::new(1, 4_000)), "that is the same");
    assert!(!repricer.lower(Cost { uncached: 5_000, ..Cost::new(1, 1) }), "more in one unit");
    assert!(repricer.lower(Cost::new(1, 3_500)), "less, and still too much");
    assert!(poll!(&mut waiting).is_pending());
    assert!(repricer.lower(Cost::new(1, 2_500)));
    let Poll::Ready(Ok(admitted)) = poll!(&mut waiting) else { unreachable!("there is room") };
    assert_eq!(admitted.cost(), Cost::new(1, 2_500));
    assert_eq!(setup.levels()[1], (500, 2_500));
    assert!(!repricer.lower(Cost::new(1, 1)), "it has gone");
    drop(admitted);
    assert_eq!(setup.levels()[1], (3_000, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is dropped whenever: in the end nobody waits, nothing is held, every permit is
    /// free, and exactly what was sent and not refused has been charged.
    #[test]
    fn cancelled_at_any_point_nothing_leaks(
        requests in prop::collection::vec((1..3_000_u64, 0..4_000_u64, 0..5_u8, 0..2_000_u64), 1..40),
        most in 1..4_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let charged = runtime.block_on(async {
            let setup = setup(|config| {
                // So slow to refill that the run earns nothing worth mentioning.
                config.constraints = vec![
                    Constraint::new(Unit::Tokens, 100_000, MINUTE * 60 * 24 * 300, "long", Mode::Bucket).unwrap(),
                ];
                config.max_queued = 100;
                config.max_concurrent = NonZeroU32::new(most);
                config.settle_delay = Duration::from_millis(100);
            });
            let runs = requests.iter().map(|&(tokens, patience_ms, fate, service_ms)| {
                let setup = &setup;
                async move {
                    let run = async {
                        let Ok(mut admitted) = setup.pool.admit(setup.request(tokens)).await else { return 0 };
                        if fate == 0 { return 0 }
                        admitted.sent();
                        tokio::time::sleep(Duration::from_millis(service_ms)).await;
                        match fate {
                            1 => { admitted.reject(Rejection::default()); 0 }
                            2 => { admitted.settle(Spent::Exact(Cost::new(1, tokens / 2))); tokens / 2 }
                            3 => { admitted.settle(Spent::Unknown); tokens }
                            _ => { drop(admitted); tokens }
                        }
                    };
                    tokio::time::timeout(Duration::from_millis(patience_ms), run).await.ok()
                }
            });
            let done: Vec<Option<u64>> = join_all(runs).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let snapshot = setup.pool.snapshot();
            assert_eq!((snapshot.queued, snapshot.queued_bytes, snapshot.in_flight), (0, 0, 0));
            let levels = setup.levels();
            assert_eq!(levels[0].1, 0, "nothing is held");
            let charged = 100_000 - levels[0].0;
            let sure: u64 = done.iter().flatten().sum();
            let most: u64 = requests.iter().zip(&done)
                .map(|(request, done)| done.unwrap_or(request.0)).sum();
            // Those cut while at the upstream are charged, those cut while waiting are not. The few
            // tokens earned meanwhile are below the tolerance.
            (charged, i64::try_from(sure).unwrap(), i64::try_from(most).unwrap())
        });
        prop_assert!(charged.0 <= charged.2 && charged.0 >= charged.1 - 1, "{charged:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_serves_those_whose_turn_comes_before_it_and_tells_the_rest_early() {
    let setup = setup(|_| ());
    setup.spend(6_000).await;
    let (start, second) = (setup.epoch.now(), Duration::from_secs(1));
    // 100 tokens a second: their turns are after 20, 40 and 60 seconds.
    let mut waits: Vec<_> =
        (0..3).map(|_| Box::pin(setup.pool.admit(setup.request(2_000)))).collect();
    for wait in &mut waits {
        assert!(poll!(wait.as_mut()).is_pending());
    }
    setup.pool.drain(start.after(31 * second), second);
    assert_eq!(setup.pool.last_start(), Some(start.after(30 * second)));
    let late = setup.pool.admit(setup.request(4_000)).await;
    assert_eq!(late.unwrap_err(), Refused::Closed, "40 seconds, not 30");
    let served = waits.remove(0).await.unwrap();
    assert_eq!(setup.epoch.now().since(start), 20 * second);
    for wait in waits {
        assert_eq!(wait.await.unwrap_err(), Refused::Closed);
    }
    assert_eq!(setup.epoch.now().since(start), 20 * second, "told as soon as it is known");
    drop(served);
    drop(setup.pool.admit(setup.request(10)).await.expect("there is time for a small one"));
    advance(10 * second).await;
    assert_eq!(setup.pool.admit(setup.request(1)).await.unwrap_err(), Refused::Closed);
}

#[tokio::test(start_paused = true)]
async fn who_hands_over_serves_those_who_wait_and_lets_nobody_in() {
    let setup = setup(|_| ());
    setup.spend(6_000).await;
    let mut wait = pin!(setup.pool.admit(setup.request(1_000)));
    assert!(poll!(wait.as_mut()).is_pending());
    assert_eq!(setup.pool.hand_over(), Some((Cost::new(1, 1_000), 1)), "to be set aside");
    assert_eq!(setup.pool.admit(setup.request(1)).await.unwrap_err(), Refused::Closed);
    assert_eq!(wait.await.unwrap().cost(), Cost::new(1, 1_000));
}

#[tokio::test(start_paused = true)]
async fn who_was_told_of_before_may_come_after_another_process_goes_on() {
    let setup = setup(|_| ());
    let coming = setup.pool.expect(Cost::new(1, 700));
    let gone = setup.pool.expect(Cost::new(1, 5_000));
    drop(gone);
    assert_eq!(setup.pool.hand_over(), Some((Cost::new(1, 700), 1)));
    let late = setup.pool.expect(Cost::new(1, 1));
    let refused = setup.pool.ask_as(late, setup.request(1), None);
    assert_eq!(refused.unwrap_err(), Refused::Closed, "nothing was set aside for it");
    let asked = setup.pool.ask_as(coming, setup.request(700), None).expect("it was told of");
    assert_eq!(asked.admitted().await.unwrap().cost(), Cost::new(1, 700));
    assert_eq!(setup.pool.admit(setup.request(1)).await.unwrap_err(), Refused::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_for_a_moment_that_another_thread_has_seen_already() {
    let setup = setup(|config| {
        let minute = |unit| Constraint::new(unit, 1 << 40, MINUTE, "minute", Mode::Bucket);
        config.constraints = vec![minute(Unit::Requests).unwrap()];
    });
    let setup = Arc::new(setup);
    let ask = |setup: Arc<Setup>| {
        for _ in 0..20_000 {
            let asked = setup.pool.ask(setup.request(10), None);
            assert!(matches!(asked, Ok(Asked::Go(_))), "there is room for everyone");
        }
    };
    let asking: Vec<_> = (0..4).map(|_| Arc::clone(&setup)).collect();
    for task in asking.into_iter().map(|it| tokio::task::spawn_blocking(move || ask(it))) {
        task.await.unwrap();
    }
}
