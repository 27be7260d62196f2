//! What each kind of limit forbids, checked on the list of what was let in, after the fact.

use crate::oracle::{Limit, Semantics};

/// Units let in at an instant; in order of time.
pub(crate) type Spend = (u64, u64);

/// By how many units the worst interval exceeds the limit, rounded up; zero or less where none does.
///
/// Over *every* interval: a bucket lets in at most `L + L/W * length`, a fixed window `L` in each
/// period, a sliding log `L` in each stretch of one window, open at its beginning.
pub(crate) fn excess(semantics: Semantics, limit: &Limit, spends: &[Spend]) -> i128 {
    match semantics {
        Semantics::Bucket => bucket(limit, spends),
        Semantics::Fixed { phase } => fixed(limit, phase, spends),
        Semantics::Sliding => sliding(limit, spends),
    }
}

/// With `S(t)` all that was let in up to `t` less what was earned up to `t`, the worst interval ends
/// in `t` and begins at the lowest `S` before it.
fn bucket(limit: &Limit, spends: &[Spend]) -> i128 {
    let (rate, window) = (i128::from(limit.limit), i128::from(limit.window));
    let (mut sum, mut lowest, mut worst) = (0, i128::MAX, i128::MIN);
    for &(at, units) in spends {
        let earned = rate * i128::from(at);
        lowest = lowest.min(sum - earned);
        sum += i128::from(units) * window;
        worst = worst.max(sum - earned - lowest);
    }
    // Nothing let in is nothing in excess.
    if spends.is_empty() { 0 } else { ceiling(worst - rate * window, window) }
}

fn fixed(limit: &Limit, phase: u64, spends: &[Spend]) -> i128 {
    let period = |at: u64| (at + limit.window - phase % limit.window) / limit.window;
    let sums = spends.chunk_by(|a, b| period(a.0) == period(b.0));
    let sums = sums.map(|period| period.iter().map(|spend| i128::from(spend.1)).sum::<i128>());
    sums.max().map_or(0, |most| most - i128::from(limit.limit))
}

fn sliding(limit: &Limit, spends: &[Spend]) -> i128 {
    let (mut oldest, mut sum, mut worst) = (0, 0, 0);
    for &(at, units) in spends {
        sum += i128::from(units);
        while spends[oldest].0 + limit.window <= at {
            sum -= i128::from(spends[oldest].1);
            oldest += 1;
        }
        worst = worst.max(sum);
    }
    worst - i128::from(limit.limit)
}

fn ceiling(dividend: i128, divisor: i128) -> i128 {
    (dividend + divisor - 1).div_euclid(divisor)
}

#[test]
fn the_laws_tell_a_breach_from_the_most_that_is_allowed() {
    let limit = Limit { unit: 0, limit: 10, window: 100 };
    let fixed = Semantics::Fixed { phase: 30 };
    for (semantics, spends, expected) in [
        (Semantics::Bucket, &[(1_000, 10), (1_010, 1), (1_100, 9)][..], 0),
        (Semantics::Bucket, &[(1_000, 10), (1_009, 1)], 1),
        (Semantics::Bucket, &[(1_000, 1), (5_000, 10), (5_020, 3)], 1),
        (fixed, &[(1_029, 10), (1_030, 10), (1_130, 4)], 0),
        (fixed, &[(1_030, 6), (1_129, 5)], 1),
        (Semantics::Sliding, &[(1_000, 4), (1_050, 6), (1_100, 4)], 0),
        (Semantics::Sliding, &[(1_000, 4), (1_050, 6), (1_099, 4)], 4),
    ] {
        assert_eq!(excess(semantics, &limit, spends), expected, "{semantics:?} {spends:?}");
    }
}
