use proptest::prelude::*;

use super::*;
use crate::limit::{Mode, Unit};
use crate::plan::{Job, Margin, Plan};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn limit(unit: Unit, limit: u64, window: Duration, mode: Mode) -> Constraint {
    Constraint::new(unit, limit, window, "window", mode).unwrap()
}

fn question(limits: Vec<Constraint>, input: u64) -> Question {
    Question {
        limits,
        job: Job::new(input * 1_000, 0, None).unwrap(),
        margin: Margin::WHOLE,
        max_concurrent: None,
        min_gap: Duration::ZERO,
        jobs: None,
        prices: None,
    }
}

fn scenario(input: u64, held: u64, latency: Duration, arrivals: Arrivals) -> Scenario {
    Scenario {
        examples: vec![Example { input, output: 0, held, latency: Some(latency) }],
        arrivals,
        lasts: DAY,
        settle_delay: Duration::ZERO,
        seed: 1,
    }
}

const AT_ONCE: Duration = Duration::ZERO;

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bucket), Just(Mode::Fixed { skew: Duration::ZERO }), Just(Mode::Sliding),]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// What is worked out is what happens: the last of so many jobs starts when the plan says, by
    /// the gateway's own ledger, and the upstream's count has room for each.
    #[test]
    fn the_last_job_starts_when_the_plan_says(
        is_bucket: bool,
        requests in 1..50_u64,
        tokens in 100..5_000_u64,
        hourly in 100..50_000_u64,
        input in 1..100_u64,
        jobs in 1..600_u64,
    ) {
        let mode = if is_bucket { Mode::Bucket } else { Mode::Fixed { skew: Duration::ZERO } };
        let limits = vec![
            limit(Unit::Requests, requests, MINUTE, mode),
            limit(Unit::Tokens, tokens, MINUTE, mode),
            limit(Unit::Tokens, hourly, HOUR, mode),
        ];
        let question = Question { jobs: Some(jobs), ..question(limits, input) };
        let Plan { finish, .. } = question.plan();
        let finish = finish.unwrap().whole;
        let expected = if is_bucket { finish.bucket } else { finish.fixed }.unwrap();
        let scenario = Scenario {
            lasts: expected + DAY,
            ..scenario(input, input, AT_ONCE, Arrivals::AtOnce(jobs))
        };
        let run = World::run(&question, &scenario);
        prop_assert_eq!((run.started, run.waiting, run.overdrawn), (jobs, 0, 0));
        // The last event is the end of the last job, which takes no time.
        let seen = Duration::from_secs_f64(run.seconds);
        let difference = seen.abs_diff(expected);
        prop_assert!(difference <= Duration::from_micros(2), "{:?} for {:?}", seen, expected);
    }

    /// Whatever the limits and the jobs: nothing that goes is too much for the upstream, and nobody
    /// is lost.
    #[test]
    fn nothing_is_overdrawn_and_nobody_is_lost(
        (one, two) in (modes(), modes()),
        requests in 1..50_u64,
        tokens in 1_000..50_000_u64,
        (used, more) in (1..1_000_u64, 0..2_000_u64),
        latency in 0..100_000_u64,
        rate in 10_000..10_000_000_u64,
        seed: u64,
    ) {
        let limits =
            vec![limit(Unit::Requests, requests, MINUTE, one), limit(Unit::Tokens, tokens, MINUTE, two)];
        let arrivals = Arrivals::Random { per_second_micros: rate, jobs: 500 };
        let latency = Duration::from_millis(latency);
        let scenario = Scenario { seed, ..scenario(used, used + more, latency, arrivals) };
        let question = question(limits, used);
        let run = World::run(&question, &scenario);
        prop_assert_eq!(run.overdrawn, 0);
        prop_assert_eq!(run.came, run.started + run.waiting + run.refused);
        prop_assert_eq!(run.refused > 0, used + more > tokens);
        let again = World::run(&question, &scenario);
        prop_assert_eq!(format!("{run:?}"), format!("{again:?}"));
    }
}

#[test]
fn only_the_limit_that_binds_is_worth_doubling() {
    let limits = vec![
        limit(Unit::Requests, 1_000, MINUTE, Mode::Bucket),
        limit(Unit::Tokens, 6_000, MINUTE, Mode::Bucket),
    ];
    // Ten jobs a second come to six a minute.
    let arrivals = Arrivals::Random { per_second_micros: 10_000_000, jobs: 2_000 };
    let scenario = scenario(1_000, 1_000, Duration::from_secs(1), arrivals);
    let rehearsal = Rehearsal::run(&question(limits, 1_000), &scenario);
    let [requests, tokens] = &rehearsal.doubled[..] else { panic!("two limits") };
    assert_eq!((requests.more_jobs_per_day, tokens.more_jobs_per_day), (0, 8_640));
    assert_eq!(requests.wait_p95_ms, rehearsal.run.wait.p95_ms);
    let (before, after) = (rehearsal.run.wait.p95_ms, tokens.wait_p95_ms);
    // As fast again: about half of the wait for those who wait long.
    assert!(after * 100 > before * 45 && after * 100 < before * 55, "{after} of {before}");
    let used = &rehearsal.run.used[1];
    assert!(used.percent > 99.0 && used.percent < 102.0, "{used:?}");
}

#[test]
fn gates_of_the_configuration_hold_jobs_back() {
    let base = question(vec![limit(Unit::Requests, 1_000_000, MINUTE, Mode::Bucket)], 1);
    let jobs = scenario(1, 1, Duration::from_secs(10), Arrivals::AtOnce(100));
    for (most, gap_ms, expected) in [(None, 0, 10.0), (Some(10), 0, 100.0), (None, 500, 59.5)] {
        let question = Question {
            max_concurrent: most.and_then(std::num::NonZeroU32::new),
            min_gap: Duration::from_millis(gap_ms),
            ..base.clone()
        };
        let run = World::run(&question, &jobs);
        assert_eq!((run.started, run.seconds), (100, expected), "{most:?} {gap_ms}");
    }
}
