//! The ledger under callers that never stop asking: nothing is rejected, nothing is wasted.

use crate::oracle::{REQUESTS, TOKENS};
use crate::run::Pair::{BucketOnBucket, FixedOnFixed, SlidingOnFixed, SlidingOnSliding};
use crate::run::{ALL, Pair, Run, are_a_million, simulate};
use crate::workload::{MILLI, MINUTE, SECOND, Workload, hours, per};

/// Every pair, at the utilisation that the maths promise.
fn saturates(workload: &Workload, pairs: &[Pair]) -> Vec<Run> {
    let runs = simulate(workload, pairs);
    runs.iter().for_each(Run::is_used);
    runs
}

#[test]
fn steady_overload() {
    let runs = saturates(&Workload { lasts: hours(96), ..Workload::steady() }, &ALL);
    are_a_million("steady overload", &runs);
}

#[test]
fn many_small_and_a_few_huge() {
    let workload = Workload {
        name: "10 % huge",
        lasts: hours(172),
        used: 500..=6_000,
        huge: (100, 100_000..=400_000),
        limits: vec![per(REQUESTS, 1_000, MINUTE), per(TOKENS, 1_500_000, MINUTE)],
        ..Workload::steady()
    };
    are_a_million("90 % small, 10 % huge", &saturates(&workload, &ALL));
}

#[test]
fn large_reservations_and_small_answers() {
    let workload = Workload {
        name: "E >> a",
        limits: vec![per(REQUESTS, 2_000, MINUTE), per(TOKENS, 750_000, MINUTE)],
        lasts: hours(21),
        used: 1_000..=2_500,
        reserved: 12_000..=16_000,
        stream: 0..=1_500 * MILLI,
        ..Workload::steady()
    };
    are_a_million("large max_tokens, small answers", &saturates(&workload, &ALL));
}

#[test]
fn requests_bind() {
    let workload = Workload {
        name: "requests bind",
        limits: vec![per(REQUESTS, 120, MINUTE), per(TOKENS, 1_500_000, MINUTE)],
        lasts: hours(67),
        used: 500..=4_000,
        ..Workload::steady()
    };
    let runs = saturates(&workload, &ALL);
    assert!(runs.iter().all(|run| run.utilisation() >= 0.99));
    are_a_million("requests bind", &runs);
}

/// With reservations of `E` for `a` used, settled after `T`, in windows of `W`: a bucket lets `L/E`
/// run at once; a log keeps the spare tokens of each for `T` out of `W`; a fixed period is used up to
/// what is left of it after as many rounds as it has time for.
#[test]
fn large_reservations_cost_what_the_maths_say() {
    for (tenths, seconds) in [(10, 6), (20, 2), (20, 12), (40, 6), (40, 12), (80, 2), (100, 12)] {
        let workload = Workload::uniform(tenths, seconds * SECOND);
        let (spare, part) = (tenths as f64 / 10.0 - 1.0, seconds as f64 / 60.0);
        let share = 1.0 / (1.0 + spare);
        let rounds = 60_u64.div_ceil(seconds) as f64;
        for run in simulate(&workload, &[BucketOnBucket, FixedOnFixed, SlidingOnSliding]) {
            let expected = match run.pair {
                BucketOnBucket => (share / part).min(1.0),
                FixedOnFixed => 1.0 - (1.0 - share).powf(rounds),
                _ => 1.0 / (1.0 + part * spare),
            };
            let used = run.utilisation();
            assert!((used - expected).abs() <= 0.02, "{:?}: {used:.4} of {expected:.4}", run.pair);
        }
    }
}

#[test]
fn reservations_a_third_above_use() {
    let workload = Workload {
        name: "E = 4/3 a",
        used: 6_000..=12_000,
        reserved: 2_000..=4_000,
        slack: 0..=500,
        limits: vec![per(REQUESTS, 600, MINUTE), per(TOKENS, 1_500_000, MINUTE)],
        ..Workload::steady()
    };
    for run in simulate(&workload, &ALL) {
        run.is_used();
        assert!(run.utilisation() >= 0.94, "{:?}", run.pair);
    }
}

#[test]
fn streams_that_are_cut_and_never_refunded() {
    // What the ledger holds beyond the reservation of a cut request it never gets back.
    let cut = Workload { name: "30 % cut", cut: 300, lasts: hours(100), ..Workload::steady() };
    are_a_million("30 % cut, never refunded", &saturates(&cut, &ALL));
}

#[test]
fn refused_and_released_requests_cost_nothing() {
    let workload =
        Workload { name: "refused, released", refused: 150, released: 100, ..Workload::steady() };
    saturates(&workload, &ALL);
}

#[test]
fn admissions_and_refunds_that_take_seconds() {
    let workload = Workload {
        name: "slow",
        lasts: hours(5),
        network: 0..=3 * SECOND,
        settle_delay: 8 * SECOND,
        ..Workload::steady()
    };
    saturates(&workload, &ALL);
}

#[test]
fn the_six_limits_of_glm_4_7_for_three_hours() {
    let (hour, day) = (60 * MINUTE, 1_440 * MINUTE);
    let workload = Workload {
        name: "six windows",
        limits: vec![
            per(REQUESTS, 120, MINUTE),
            per(REQUESTS, 7_200, hour),
            per(REQUESTS, 172_800, day),
            per(TOKENS, 1_500_000, MINUTE),
            per(TOKENS, 120_000_000, hour),
            per(TOKENS, 120_000_000, day),
        ],
        // Within one day: of two, nobody could use both in three hours.
        starts: 0..=20 * hour,
        lasts: 3 * hour,
        ..Workload::steady()
    };
    saturates(&workload, &ALL);
    let midnight = 23 * hour..=24 * hour;
    simulate(&Workload { name: "over midnight", starts: midnight, ..workload }, &ALL);
}

#[test]
fn a_debt_is_paid_back_to_the_last_token() {
    let workload = Workload { name: "debt", in_debt: 100, ..Workload::steady() };
    // A log forgets a debt one window after the charge, a bucket does not: `sliding` is not safe
    // for an upstream's bucket where requests use more than they hold.
    let pairs = [BucketOnBucket, FixedOnFixed, SlidingOnSliding, SlidingOnFixed];
    let runs = simulate(&workload, &pairs);
    assert!(runs.iter().all(|run| run.utilisation() >= 0.9));
}

#[test]
fn with_nothing_on_its_way_the_ledger_is_the_upstreams_twin() {
    for run in simulate(&Workload::instant(), &ALL) {
        run.is_used();
        // The others lag behind by a slot, or by the skew.
        let exact = matches!(run.pair, BucketOnBucket);
        assert!(run.story.twin || !exact, "{:?}", run.pair);
    }
}

#[test]
fn the_two_accounts_stay_side_by_side() {
    let workload =
        Workload { name: "traced", traced: true, lasts: 20 * MINUTE, ..Workload::steady() };
    let limit = 1_500_000;
    for run in simulate(&workload, &[BucketOnBucket, SlidingOnSliding]) {
        let moments = &run.story.moments;
        assert!(moments.last().is_some_and(|last| last.admitted > 1_000 && last.at > 19 * MINUTE));
        for it in moments {
            let earned = i128::from(limit * it.at / MINUTE);
            assert!(i128::from(it.level) <= it.left, "{:?} {it:?}", run.pair);
            assert!(i128::from(it.level) + i128::from(it.held) <= i128::from(limit), "{it:?}");
            assert!(it.charged <= i128::from(limit) + earned, "{:?} {it:?}", run.pair);
        }
    }
}

#[test]
fn bursts_on_an_idle_quota() {
    // As much as fills the quota, on the whole: it is full after some pauses and used up by some
    // bursts.
    let pauses = (20, 0..=40 * SECOND);
    let workload =
        Workload { name: "bursts", pauses: pauses.clone(), lasts: hours(60), ..Workload::steady() };
    let mut runs = simulate(&workload, &ALL);
    // Charged and refunded at the last moment at which the ledger has to reckon with it.
    let exact = Workload {
        name: "exact bursts",
        network: 0..=3 * SECOND,
        pauses,
        lasts: hours(60),
        ..Workload::instant()
    };
    runs.append(&mut simulate(&exact, &ALL));
    are_a_million("bursts", &runs);
    // So few at a time that what one of them is given too much, the next one asks for; and half of
    // them without any word from the upstream.
    let large = Workload {
        name: "exact, large",
        used: 200_000..=1_000_000,
        network: 0..=10 * SECOND,
        settle_delay: 10 * SECOND,
        cut: 500,
        pauses: (500, 0..=120 * SECOND),
        lasts: 2_400 * MINUTE,
        ..exact
    };
    simulate(&large, &ALL);
}
