use std::time::Duration;

use proptest::prelude::*;

use super::exact::{mul_div, mul_div_up};
use super::*;
use crate::limit::{Constraint, Mode, Unit};

const MINUTE: Duration = Duration::from_secs(60);

fn limit(unit: Unit, limit: u64, window: Duration) -> Constraint {
    Constraint::new(unit, limit, window, "window", Mode::Bucket).unwrap()
}

fn question(limits: Vec<Constraint>, input: u64, output: u64) -> Question {
    Question {
        limits,
        job: Job::new(input, output, Some(Duration::from_secs(10))).unwrap(),
        margin: "0.8".parse().unwrap(),
        max_concurrent: None,
        min_gap: Duration::ZERO,
        jobs: Some(1_000),
        prices: None,
    }
}

fn units() -> impl Strategy<Value = Unit> {
    prop::sample::select(&Unit::ALL)
}

fn limits() -> impl Strategy<Value = Vec<Constraint>> {
    let windows = prop_oneof![
        prop::sample::select(&[1_u64, 60, 3_600, 86_400]).prop_map(|it| it * 1_000_000_000),
        1_000_000..34_560_000_000_000_000_u64,
    ];
    let amount = prop_oneof![1..10_000_u64, 1..=Constraint::MAX_LIMIT];
    let one = (units(), amount, windows)
        .prop_map(|(unit, most, window)| limit(unit, most, Duration::from_nanos(window)));
    prop::collection::vec(one, 1..6)
}

fn margins() -> impl Strategy<Value = Margin> {
    (1..=1_000_000_u32)
        .prop_flat_map(|of| (1..=of, Just(of)))
        .prop_map(|(part, of)| format!("{part}/{of}").parse().expect("a part of the whole"))
}

fn jobs() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (1..10_000_000_u64, 0..10_000_000_u64),
        (1..500_000_000_000_u64, 0..500_000_000_000_u64),
    ]
}

/// The same, with one limit raised.
fn raised(limits: &[Constraint], index: usize, by: u64) -> Vec<Constraint> {
    let mut limits = limits.to_vec();
    let index = index % limits.len();
    let old = &limits[index];
    let more = old.limit().saturating_add(by).min(Constraint::MAX_LIMIT);
    limits[index] = limit(old.unit(), more, old.window());
    limits
}

proptest! {
    /// However large the numbers: the quotient is the largest that does not exceed the product.
    #[test]
    fn products_are_divided_exactly(a: u128, b: u64, c in 1..=1_u128 << 127) {
        // b < 2^64: the product in two halves of 64 bits, by hand.
        let (high, low) = ((a >> 64) * u128::from(b), (a & u128::from(u64::MAX)) * u128::from(b));
        let middle = high + (low >> 64);
        let (top, bottom) = (middle >> 64, (middle << 64) | (low & u128::from(u64::MAX)));
        // (top, bottom) / c, bit by bit from the top, without a shortcut.
        let (mut rest, mut quotient, mut overflown) = (0_u128, 0_u128, false);
        for bit in (0..256).rev() {
            let word = if bit >= 128 { top >> (bit - 128) } else { bottom >> bit };
            rest = (rest << 1) | (word & 1);
            overflown |= quotient >> 127 == 1;
            quotient <<= 1;
            if rest >= c {
                rest -= c;
                quotient |= 1;
            }
        }
        let expected = (!overflown).then_some(quotient);
        prop_assert_eq!(mul_div(a, u128::from(b), c), expected);
        let up = expected.and_then(|it| it.checked_add(u128::from(rest > 0)));
        prop_assert_eq!(mul_div_up(a, u128::from(b), c), up);
    }

    /// Rates are ordered as the products of their parts are, where those fit.
    #[test]
    fn rates_are_ordered_like_fractions(a: u64, b in 1..=u64::MAX, c: u64, d in 1..=u64::MAX) {
        let wide = |x: u64, y: u64| u128::from(x) * u128::from(y);
        let rate = |jobs: u64, nanos: u64| Rate::new(jobs.into(), nanos.into());
        prop_assert_eq!(rate(a, b).cmp(&rate(c, d)), wide(a, d).cmp(&wide(c, b)));
        prop_assert_eq!(rate(a, b), rate(a, b));
    }

    /// One more job than there may be is above the limit, and none fewer; with a margin as well.
    #[test]
    fn the_most_jobs_fit_and_one_more_does_not(
        limits in limits(),
        (input, output) in jobs(),
        margin in margins(),
    ) {
        let question = Question { margin, ..question(limits, input, output) };
        for alone in question.plan().limits {
            let cost = u128::from(alone.cost_milli);
            let limit = u128::from(alone.limit.limit()) * 1_000;
            let most = u128::from(alone.max_jobs);
            prop_assert!(most * cost <= limit && limit < (most + 1) * cost);
            let (part, of) = margin.of(limit).unwrap();
            let most = u128::from(alone.practical_jobs);
            prop_assert!(most * cost * of <= part && part < (most + 1) * cost * of);
            let kept = u128::from(alone.keep_below) * 1_000;
            prop_assert!(kept * of <= part && part < (kept + 1_000) * of);
            prop_assert!(alone.practical_jobs <= alone.max_jobs);
        }
    }

    /// Whoever gets a higher limit has more, or as much, of everything; and waits no longer.
    #[test]
    fn more_is_never_less(
        limits in limits(),
        (input, output) in jobs(),
        index: usize,
        by in 1..1_000_000_u64,
        count in 1..1_000_000_u64,
    ) {
        let before = question(limits, input, output);
        let before = Question { jobs: Some(count), ..before };
        let after = Question { limits: raised(&before.limits, index, by), ..before.clone() };
        let (before, after) = (before.plan(), after.plan());
        prop_assert!(before.sustained.most <= after.sustained.most);
        prop_assert!(before.sustained.practical <= after.sustained.practical);
        for (before, after) in before.windows.iter().zip(&after.windows) {
            prop_assert!(before.max_jobs <= after.max_jobs);
            prop_assert!(before.practical_jobs <= after.practical_jobs);
        }
        let (before, after) = (before.finish.unwrap(), after.finish.unwrap());
        for (before, after) in [
            (before.whole.bucket, after.whole.bucket),
            (before.practical.bucket, after.practical.bucket),
            (before.paced, after.paced),
        ] {
            let last = |it: Option<Duration>| it.unwrap_or(Duration::MAX);
            prop_assert!(last(after) <= last(before));
        }
    }

    /// All limits together never allow more than one of them, and the long run no more than any
    /// window of the longest length, unless that one begins with units saved up.
    #[test]
    fn together_is_at_most_alone(limits in limits(), (input, output) in jobs()) {
        let plan = question(limits, input, output).plan();
        for alone in &plan.limits {
            prop_assert!(plan.sustained.most <= alone.rate);
            let same = plan.windows.iter().find(|it| it.window == alone.limit.window()).unwrap();
            prop_assert!(same.max_jobs <= alone.max_jobs);
            prop_assert!(same.practical_jobs <= same.max_jobs);
        }
        prop_assert!(!plan.sustained.bounds.is_empty());
        prop_assert!(plan.sustained.practical <= plan.sustained.most);
    }

    /// Little's law: so many workers keep up, and one fewer does not.
    #[test]
    fn workers_keep_up_and_one_fewer_does_not(
        jobs in 1..1_000_000_u128,
        per in 1..1_000_000_000_000_u128,
        latency in 1..1_000_000_000_000_u64,
    ) {
        let (rate, latency) = (Rate::new(jobs, per), Duration::from_nanos(latency));
        let workers = rate.workers(latency);
        // So many jobs are begun in the time that one takes.
        let of = |workers: u64| Rate::new(workers.into(), latency.as_nanos());
        prop_assert!(of(workers) >= rate && of(workers - 1) < rate);
    }
}

#[test]
fn margins_and_decimals_are_read_exactly() {
    for (text, shown) in [
        ("0.8", "80 %"),
        ("80%", "80 %"),
        ("80 %", "80 %"),
        ("1", "100 %"),
        ("5/6", "83.3 %"),
        (".5", "50 %"),
        ("0.000001", "0 %"),
        ("33.3333%", "33.3 %"),
        ("2 / 3", "66.7 %"),
    ] {
        assert_eq!(text.parse::<Margin>().map(|it| it.to_string()), Ok(shown.to_owned()), "{text}");
    }
    for wrong in ["", "0", "0%", "1.1", "-1", "x", "1/0", "0/1", "3/2", "0.0000001", ".", "1/2/3"] {
        assert_eq!(wrong.parse::<Margin>(), Err(NoMargin), "{wrong}");
    }
    let margin: Margin = "5/6".parse().unwrap();
    assert_eq!((margin.whole_of(120), margin.whole_of(7_200)), (100, 6_000));
    assert_eq!(Decimal::parse("12.5", 3).map(Decimal::scaled), Some(12_500));
    assert_eq!(Decimal::parse("12.5678", 3), None);
    assert_eq!(Decimal::new(12_500, 3).to_string(), "12.5");
    assert_eq!(Decimal::new(12_000, 3).to_string(), "12");
    assert_eq!(Decimal::new(5, 3).to_string(), "0.005");
}

#[test]
fn a_job_above_a_limit_never_goes() {
    let limits = vec![limit(Unit::Tokens, 1_000, MINUTE), limit(Unit::Requests, 10, MINUTE)];
    let plan = question(limits, 900_000, 100_001).plan();
    assert_eq!(plan.walls().count(), 1);
    assert!(plan.sustained.most.is_zero() && plan.sustained.practical.is_zero());
    assert_eq!((plan.sustained.most.gap(), plan.windows[0].max_jobs), (None, 0));
    let never = Times { bucket: None, fixed: None };
    let finish = plan.finish.unwrap();
    assert_eq!((finish.whole, finish.practical, finish.paced), (never, never, None));
    assert_eq!(Job::new(0, 0, None), Err(BadJob::Empty));
    assert_eq!(Job::new(u64::MAX, 1, None), Err(BadJob::TooLarge));
    assert_eq!(Job::new(Job::MOST_TOKENS * 1_000, 1, None), Err(BadJob::TooLarge));
}

#[test]
fn what_the_configuration_puts_between_jobs_counts_too() {
    let limits = vec![limit(Unit::Requests, 120, MINUTE)];
    let base = question(limits, 1_000, 0);
    for (most, gap, expected, bound) in [
        (None, 0, 120, Bound::Limit(0)),
        (Some(5), 0, 30, Bound::Concurrency),
        (None, 1_000, 60, Bound::Gap),
        (Some(100), 500, 120, Bound::Limit(0)),
    ] {
        let question = Question {
            max_concurrent: most.and_then(std::num::NonZeroU32::new),
            min_gap: Duration::from_millis(gap),
            ..base.clone()
        };
        let plan = question.plan();
        assert_eq!(plan.sustained.most.within(MINUTE), expected, "{most:?} {gap}");
        assert_eq!(plan.sustained.bounds[0], bound);
        assert_eq!(plan.windows[0].max_jobs, expected);
    }
}

#[test]
fn costs_are_exact() {
    let job = Job::new(2_000_000, 500_000, None).unwrap();
    let cost = Cost::of(&job, Prices { input_micros: 600_000, output_micros: 2_200_000 });
    // 2,000 tokens at 0.60 and 500 at 2.20 a million.
    assert_eq!(cost.of_jobs(1).to_string(), "0.0023");
    assert_eq!(cost.of_jobs(48_000).to_string(), "110.4");
    let tiny =
        Cost::of(&Job::new(1, 0, None).unwrap(), Prices { input_micros: 1, output_micros: 0 });
    assert_eq!(tiny.of_jobs(u64::MAX).to_string(), "18446.744074");
}
