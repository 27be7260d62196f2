use super::*;
use crate::load::size::Size;
use crate::load::workload::Prompts;

/// Answers after `takes`, and not while it stalls.
struct Stalling {
    takes: Duration,
    /// From when until when, after the start, nothing is answered.
    stall: (Duration, Duration),
    start: Instant,
}

impl Stalling {
    fn new(takes: u64, stall: (u64, u64)) -> Self {
        let millis = Duration::from_millis;
        Self {
            takes: millis(takes),
            stall: (millis(stall.0), millis(stall.1)),
            start: Instant::now(),
        }
    }
}

impl Backend for Stalling {
    async fn call(&self, _: Job) -> Observation {
        let (from, to) = (self.start + self.stall.0, self.start + self.stall.1);
        if (from..to).contains(&Instant::now()) {
            sleep_until(to).await;
        }
        sleep(self.takes).await;
        Observation { status: Some(200), ..Observation::default() }
    }
}

/// Nobody is there.
struct Nobody;

impl Backend for Nobody {
    async fn call(&self, _: Job) -> Observation {
        Observation { failure: Some(Failure::Connect), ..Observation::default() }
    }
}

fn workload() -> Workload {
    Workload {
        model: "m".to_owned(),
        prompts: Prompts::Made(Size::Fixed(1)),
        output: None,
        streamed: 0.0,
        seed: 0,
    }
}

fn open(rate: &str, max_in_flight: usize) -> Pace {
    Pace::Open { rate: rate.parse().expect("a rate"), max_in_flight }
}

fn seconds(length: u64) -> Stretch {
    Stretch { length: Some(Duration::from_secs(length)), ..Stretch::default() }
}

async fn run<B: Backend>(backend: B, pace: Pace, stretch: Stretch) -> Tally {
    let lane = Lane::new(backend, workload(), pace);
    lane.run(stretch, &CancellationToken::new(), &CancellationToken::new()).await;
    lane.tally().lock().clone()
}

/// A target that stalls for two of ten seconds at 100 requests a second: 200 requests should have
/// been answered in that time, and every one of them counts with what it had to wait, though only
/// five could be sent.
#[tokio::test(start_paused = true)]
async fn a_stall_counts_for_every_request_that_should_have_been_sent_in_it() {
    let tally = run(Stalling::new(10, (4_000, 6_000)), open("100/s", 5), seconds(10)).await;
    let counts = &tally.measured;
    assert_eq!((counts.sent, counts.ok, counts.not_started), (1_000, 1_000, 0));
    let latency = counts.latency.histogram();
    // Due from 4 s to 5.5 s, and answered after 6 s.
    let slow = latency.count_between(500_000, u64::MAX);
    assert!((150..=200).contains(&slow), "{slow} requests waited half a second");
    let (max, p90) = (latency.max(), latency.value_at_quantile(0.9));
    assert!(max >= 2_000_000, "{max}: the first of them waited for the whole stall");
    assert!(p90 >= 900_000, "{p90}: one in ten was due in the stall's first half");
    // One behind the other, ten milliseconds of work at a time, five at once: what has piled up is
    // worked off at 500 a second, and then the target is as fast as before.
    assert!(latency.value_at_quantile(0.5) < 20_000);
    // All but the five that were under way were late themselves (and a few on the edge, which were
    // late by a little less than half a second and took a little more): a generator that waits for
    // answers before it sends would have seen five slow requests.
    let late = counts.behind.histogram().count_between(500_000, u64::MAX);
    assert!(slow - late <= 5 + 3, "{slow} were slow, {late} of them because they were sent late");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_sent_before_the_end_is_counted() {
    // Stalls until after the end: five are sent, 195 of those due in two seconds are not.
    let tally = run(Stalling::new(10, (0, 5_000)), open("100/s", 5), seconds(2)).await;
    let counts = &tally.measured;
    assert_eq!((counts.sent, counts.ended, counts.not_started), (5, 5, 195));
    assert_eq!(counts.over, Duration::from_secs(2));
    // With a limit of requests no more than that are missing.
    let stretch = Stretch { requests: Some(50), ..seconds(2) };
    let tally = run(Stalling::new(10, (0, 5_000)), open("100/s", 5), stretch).await;
    assert_eq!((tally.measured.sent, tally.measured.not_started), (5, 45));
}

#[tokio::test(start_paused = true)]
async fn a_fixed_rate_is_kept_whatever_the_target_does() {
    for (rate, length, expected) in
        [("100/s", 3, 300), ("90/m", 10, 15), ("1/s", 1, 1), ("0.3/s", 10, 3)]
    {
        let tally = run(Stalling::new(700, (0, 0)), open(rate, 1_000), seconds(length)).await;
        assert_eq!((tally.measured.sent, tally.measured.not_started), (expected, 0), "{rate}");
        assert!(tally.measured.behind.histogram().max() <= 1_000, "the timer's millisecond");
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_requests_are_sent_and_no_more() {
    for pace in [Pace::Closed { concurrency: 7 }, open("50/s", 3)] {
        let stretch = Stretch { requests: Some(100), ..Stretch::default() };
        let tally = run(Stalling::new(10, (0, 0)), pace, stretch).await;
        let counts = &tally.measured;
        assert_eq!((counts.sent, counts.ok, counts.not_started), (100, 100, 0), "{pace:?}");
        assert_eq!(tally.warm_up.sent, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn workers_keep_as_many_under_way_as_asked() {
    let tally = run(Stalling::new(100, (0, 0)), Pace::Closed { concurrency: 8 }, seconds(10)).await;
    let counts = &tally.measured;
    // Eight at once, a tenth of a second each. A timer may be a millisecond late.
    let rate = counts.within.ok / counts.over.as_secs_f64();
    assert!((78.0..=80.1).contains(&rate), "{rate}");
}

#[tokio::test(start_paused = true)]
async fn the_warm_up_is_counted_apart() {
    for pace in [Pace::Closed { concurrency: 2 }, open("20/s", 100)] {
        let stretch = Stretch {
            warm_up: Duration::from_secs(5),
            requests: Some(30),
            length: Some(Duration::from_secs(60)),
        };
        // Slow at first: none of it may show in what is measured.
        let tally = run(Stalling::new(100, (0, 4_000)), pace, stretch).await;
        assert_eq!((tally.measured.sent, tally.measured.ok), (30, 30), "{pace:?}");
        assert!(tally.warm_up.ok > 10 && tally.warm_up.latency.histogram().max() > 3_000_000);
        assert!(tally.measured.latency.histogram().max() < 200_000, "{pace:?}");
        assert_eq!(tally.warm_up.over, Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_what_is_under_way_end_and_an_abort_does_not() {
    for pace in [Pace::Closed { concurrency: 4 }, open("40/s", 100)] {
        let backend = Stalling::new(10, (2_000, 5_000));
        let lane = Lane::new(backend, workload(), pace);
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let (stopping, aborting) = (stop.clone(), abort.clone());
        let run = tokio::spawn({
            let lane = Arc::clone(&lane);
            async move { lane.run(Stretch::default(), &stopping, &aborting).await }
        });
        sleep(Duration::from_millis(3_000)).await;
        stop.cancel();
        sleep(Duration::from_millis(100)).await;
        let (sent, under_way) = {
            let tally = lane.tally().lock();
            (tally.measured.sent, tally.in_flight())
        };
        assert!(under_way > 0 && !run.is_finished(), "{pace:?}");
        abort.cancel();
        run.await.expect("no panic");
        let tally = lane.tally().lock().clone();
        assert_eq!((tally.measured.sent, tally.in_flight()), (sent, under_way), "{pace:?}");
        assert_eq!(tally.measured.over, Duration::from_secs(3), "until it was stopped");
    }
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_where_nobody_is() {
    for pace in [Pace::Closed { concurrency: 2 }, open("100/s", 10)] {
        let lane = Lane::new(Nobody, workload(), pace);
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let run = lane.run(seconds(60), &stop, &abort);
        tokio::time::timeout(Duration::from_secs(5), run).await.expect("it does not go on");
        assert!(!lane.was_reached());
        let sent = lane.tally().lock().measured.sent;
        assert!((HOPELESS..HOPELESS + 10).contains(&sent), "{sent}");
    }
}
