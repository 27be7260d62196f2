use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::{Mode, Reading};

const SECOND: u64 = 1_000_000_000;

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn tokens(tokens: u64) -> Cost {
    Cost::new(1, tokens)
}

fn ledger(limits: &[(Unit, u64, u64, Mode)]) -> Ledger {
    let constraints = limits.iter().map(|&(unit, limit, seconds, mode)| {
        Constraint::new(unit, limit, Duration::from_secs(seconds), "window", mode).unwrap()
    });
    Ledger::new(constraints.collect(), at(1_000 * SECOND))
}

fn available(ledger: &mut Ledger, now: Timestamp) -> Vec<i64> {
    ledger.levels(now).map(|level| level.available).collect()
}

fn fixed() -> Mode {
    Mode::Fixed { skew: Duration::from_millis(250) }
}

#[test]
fn a_refusal_names_the_window_that_opens_last() {
    let mut ledger =
        ledger(&[(Unit::Requests, 2, 60, Mode::Bucket), (Unit::Tokens, 1_000, 60, Mode::Bucket)]);
    let now = at(1_000 * SECOND);
    let sent = ledger.hold(tokens(900), now).unwrap().sent();
    assert_eq!(
        ledger.check(tokens(1_001), now),
        Err(Denied::Wall { constraint: 1 }),
        "above the limit no wait helps"
    );
    assert_eq!(
        ledger.check(tokens(200), now),
        Err(Denied::Wait { constraint: 1, until: None }),
        "while 900 are held there is never room for 200"
    );
    ledger.settle(sent, Spent::Exact(tokens(900)), now);
    assert_eq!(
        ledger.check(tokens(200), now),
        Err(Denied::Wait { constraint: 1, until: Some(at(1_006 * SECOND)) }),
        "100 more tokens take 6 s at 1,000 a minute"
    );
    assert_eq!(ledger.check(tokens(200), at(1_006 * SECOND)), Ok(()));
}

#[test]
fn using_more_than_was_held_is_a_debt_that_must_be_earned() {
    for mode in [Mode::Bucket, Mode::Sliding, fixed()] {
        let mut ledger = ledger(&[(Unit::Tokens, 600, 60, mode)]);
        let now = at(1_000 * SECOND);
        let mut sent = ledger.hold(tokens(600), now).unwrap().sent();
        ledger.charged(&mut sent, now);
        ledger.settle(sent, Spent::Exact(tokens(900)), now);
        assert_eq!(available(&mut ledger, now), [-300], "{mode:?}");
        let Err(Denied::Wait { until: Some(until), .. }) = ledger.check(tokens(1), now) else {
            panic!("a debt refuses");
        };
        assert!(until > at(1_010 * SECOND), "{mode:?}: {until:?}");
        assert_eq!(ledger.check(tokens(1), until), Ok(()));
    }
}

/// A request count is final once the upstream has made it: long answers do not hold requests back.
#[test]
fn a_bucket_of_requests_refills_while_answers_run() {
    let mut ledger = ledger(&[(Unit::Requests, 2, 60, Mode::Bucket)]);
    let (start, later) = (at(1_000 * SECOND), at(1_030 * SECOND));
    let mut running: Vec<_> =
        (0..2).map(|_| ledger.hold(tokens(9), start).unwrap().sent()).collect();
    assert_eq!(available(&mut ledger, later), [0], "without a head they may be charged any time");
    for sent in &mut running {
        ledger.charged(sent, later);
    }
    assert_eq!(available(&mut ledger, at(1_060 * SECOND)), [1]);
    for sent in running {
        ledger.settle(sent, Spent::Exact(tokens(9)), at(1_060 * SECOND));
    }
    assert_eq!(available(&mut ledger, at(1_060 * SECOND)), [1], "and are not refunded");
    assert_eq!(ledger.levels(at(1_060 * SECOND)).next().map(|level| level.held), Some(0));
}

#[test]
fn a_sliding_window_returns_a_charge_one_window_after_it() {
    let mut ledger = ledger(&[(Unit::Tokens, 100, 60, Mode::Sliding)]);
    let slot = 60 * SECOND / 1_024 + 1;
    let mut sent = ledger.hold(tokens(80), at(1_000 * SECOND)).unwrap().sent();
    assert_eq!(available(&mut ledger, at(2_000 * SECOND)), [20], "no head: counts for ever");
    ledger.charged(&mut sent, at(2_000 * SECOND));
    ledger.settle(sent, Spent::Exact(tokens(50)), at(2_001 * SECOND));
    assert_eq!(available(&mut ledger, at(2_060 * SECOND)), [50]);
    assert_eq!(available(&mut ledger, at(2_060 * SECOND + slot)), [100]);
}

#[test]
fn a_fixed_window_opens_at_the_boundary_and_not_within_the_skew() {
    let mut ledger = ledger(&[(Unit::Tokens, 100, 60, fixed())]);
    // 1,020 s is a boundary of the minute.
    let mut early = ledger.hold(tokens(40), at(1_000 * SECOND)).unwrap().sent();
    let mut late = ledger.hold(tokens(60), at(1_019 * SECOND)).unwrap().sent();
    ledger.charged(&mut early, at(1_001 * SECOND));
    ledger.charged(&mut late, at(1_020 * SECOND - SECOND / 10));
    for sent in [early, late] {
        ledger.settle(sent, Spent::Unknown, at(1_019 * SECOND));
    }
    assert_eq!(available(&mut ledger, at(1_020 * SECOND)), [0], "the boundary may still come");
    assert_eq!(
        available(&mut ledger, at(1_020 * SECOND + SECOND / 4)),
        [40],
        "what was charged within the skew may count in the new window"
    );
    assert_eq!(available(&mut ledger, at(1_080 * SECOND + SECOND / 4)), [100]);
}

#[test]
fn a_drained_bucket_refills_and_a_clock_that_goes_back_mints_nothing() {
    let mut ledger = ledger(&[(Unit::Tokens, 600, 60, Mode::Bucket)]);
    ledger.drained(Unit::Tokens, "window", None, at(1_000 * SECOND));
    assert_eq!(available(&mut ledger, at(1_001 * SECOND)), [10]);
    assert_eq!(available(&mut ledger, at(900 * SECOND)), [10], "dt < 0 counts as 0");
    assert_eq!(available(&mut ledger, at(1_002 * SECOND)), [20]);
    assert_eq!(available(&mut ledger, Timestamp::MAX), [600], "and no overflow");
}

#[test]
fn a_drained_window_is_asked_again_when_the_upstream_says_so() {
    for mode in [Mode::Bucket, Mode::Sliding] {
        let mut ledger = ledger(&[(Unit::Tokens, 600, 60, mode)]);
        let after = Some(Duration::from_secs(5));
        ledger.drained(Unit::Tokens, "window", after, at(1_000 * SECOND));
        let denied = ledger.check(tokens(600), at(1_000 * SECOND));
        let until = Some(at(1_005 * SECOND));
        assert_eq!(denied, Err(Denied::Wait { constraint: 0, until }), "not a minute later");
        let sent = ledger.hold(tokens(600), at(1_005 * SECOND)).expect("one may ask").sent();
        assert!(ledger.hold(tokens(50), at(1_005 * SECOND)).is_err(), "and only one");
        ledger.reject(sent, at(1_006 * SECOND));
        assert_eq!(available(&mut ledger, at(1_006 * SECOND)), [60], "it was in vain: {mode:?}");
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bucket), Just(Mode::Sliding), Just(fixed())]
}

#[test]
fn cached_tokens_are_held_and_come_back() {
    let both = [Unit::Tokens, Unit::UncachedTokens].map(|unit| (unit, 100, 60, Mode::Bucket));
    let mut ledger = ledger(&both);
    let now = Timestamp::default();
    let hold = ledger.hold(Cost::new(1, 80), now).expect("both are full");
    assert!(ledger.hold(Cost { uncached: 30, ..Cost::new(1, 10) }, now).is_err(), "held in full");
    ledger.settle(hold.sent(), Spent::Exact(Cost { uncached: 20, ..Cost::new(1, 60) }), now);
    let left: Vec<_> = ledger.levels(now).map(|level| level.available).collect();
    assert_eq!(left, [40, 80]);
}

proptest! {
    /// However long a request ran, settling leaves exactly what only the used units would have.
    #[test]
    fn settling_leaves_exactly_what_was_used(
        mode in modes(),
        spent in 0..50_u64,
        (used, held) in (0..=50_u64).prop_flat_map(|held| (0..=held, Just(held))),
        ran in (0..30_000_u64).prop_map(|ms| ms * 1_000_000),
    ) {
        let start = at(1_000 * SECOND);
        let mut expected = ledger(&[(Unit::Tokens, 100, 60, mode)]);
        let mut actual = expected.clone();
        for (ledger, first) in [(&mut expected, used), (&mut actual, held)] {
            let mut before = ledger.hold(tokens(spent), start).unwrap().sent();
            ledger.charged(&mut before, start);
            ledger.settle(before, Spent::Unknown, start);
            let mut sent = ledger.hold(tokens(first), start).unwrap().sent();
            ledger.charged(&mut sent, start);
            ledger.settle(sent, Spent::Exact(tokens(used)), at(start.as_nanos() + ran));
        }
        let (now, later) = (at(start.as_nanos() + ran), at(start.as_nanos() + 90 * SECOND));
        if mode == Mode::Bucket && ran > 0 {
            // The bucket could not fill beside the hold: never more than without the wait.
            prop_assert!(available(&mut actual, now) <= available(&mut expected, now));
        } else {
            prop_assert_eq!(available(&mut actual, now), available(&mut expected, now));
        }
        prop_assert_eq!(available(&mut actual, later), available(&mut expected, later));
    }

    /// A request that one window refuses changes nothing in any, and one that is released is as if
    /// it had never been.
    #[test]
    fn all_or_nothing(
        first in modes(), second in modes(), costs in prop::collection::vec(0..400_u64, 1..40),
    ) {
        let mut ledger = ledger(&[
            (Unit::Requests, 20, 60, first),
            (Unit::Tokens, 1_000, 60, second),
            (Unit::Tokens, 2_000, 3_600, Mode::Bucket),
        ]);
        let now = at(1_000 * SECOND);
        let mut held = 0;
        for cost in costs {
            let before = available(&mut ledger, now);
            match ledger.hold(tokens(cost), now) {
                Ok(hold) if cost % 3 == 0 => {
                    ledger.release(hold, now);
                    prop_assert_eq!(&available(&mut ledger, now), &before);
                }
                Ok(hold) => {
                    held += hold.cost().tokens;
                    let _ = hold.sent();
                    let expected: Vec<_> = before.iter().zip([1, cost, cost])
                        .map(|(level, cost)| level - i64::try_from(cost).unwrap()).collect();
                    prop_assert_eq!(available(&mut ledger, now), expected);
                }
                Err(_) => prop_assert_eq!(&available(&mut ledger, now), &before),
            }
            let levels: Vec<_> = ledger.levels(now).map(|level| (level.held, level.available)).collect();
            prop_assert_eq!(levels[1].0, held, "conservation: what is held is what was admitted");
            prop_assert_eq!(levels[1].1, 1_000 - i64::try_from(held).unwrap());
        }
    }

    /// The promised instant is kept, and is the first one.
    #[test]
    fn a_promise_is_kept_to_the_nanosecond(
        mode in modes(), limit in 1..10_000_u64, seconds in 1..100_u64,
        spends in prop::collection::vec((0..3_000_u64, 0..5_000_u64), 1..20), ask in 1..10_000_u64,
    ) {
        let mut ledger = ledger(&[(Unit::Tokens, limit, seconds, mode)]);
        let mut now = 1_000 * SECOND;
        for (gap, cost) in spends {
            now += gap * 1_000_000;
            if let Ok(hold) = ledger.hold(tokens(cost), at(now)) {
                let mut sent = hold.sent();
                ledger.charged(&mut sent, at(now));
                ledger.settle(sent, Spent::Unknown, at(now));
            }
        }
        match ledger.check(tokens(ask), at(now)) {
            Ok(()) => {}
            Err(Denied::Wall { .. }) => prop_assert!(ask > limit),
            Err(Denied::Wait { until, .. }) => {
                let until = until.expect("nothing is held");
                prop_assert_eq!(ledger.clone().check(tokens(ask), until), Ok(()));
                let before = at(until.as_nanos() - 1);
                prop_assert!(ledger.check(tokens(ask), before).is_err());
            }
        }
    }
}

#[test]
fn where_others_use_a_window_one_request_finds_out_what_they_have_left() {
    let mut ledger = ledger(&[(Unit::Tokens, 1_000, 60, Mode::Sliding)]);
    let second = |second: u64| at((1_000 + second) * SECOND);
    let head = |ledger: &mut Ledger, sent: &mut Sent, shown: Option<u64>, now| {
        ledger.charged(sent, now);
        let shown = Reading { unit: Unit::Tokens, window: "window", limit: None, remaining: shown };
        ledger.observe(sent, [shown], now);
    };
    // What is missing from the second answer on, others have used.
    for (sent_at, shown) in [(0, 990), (1, 500)] {
        let mut sent = ledger.hold(tokens(10), second(sent_at)).unwrap().sent();
        head(&mut ledger, &mut sent, Some(shown), second(sent_at));
    }
    // Lately seen: as many as there is room for.
    let both = [2, 2].map(|now| ledger.hold(tokens(10), second(now)).unwrap().sent());
    for mut sent in both {
        head(&mut ledger, &mut sent, None, second(2));
    }
    // Later, one goes and tells.
    let mut first = ledger.hold(tokens(10), second(8)).unwrap().sent();
    let blind = Denied::Wait { constraint: 0, until: None };
    assert_eq!(ledger.check(tokens(10), second(8)), Err(blind));
    head(&mut ledger, &mut first, Some(470), second(9));
    assert_eq!(ledger.check(tokens(10), second(9)), Ok(()));
}

/// A fixed window of 1,000 until 1,020 s, and the next. Late in the first this pool uses 910, so that in
/// a log hardly anything would be left, and others use `theirs`. At the beginning of the second it uses
/// 500, and the answer shows `shown`; at `second` it asks for `more` and is refused. Tells whose use that
/// is due to.
fn blamed(theirs: u64, shown: u64, more: u64, second: u64) -> Blame {
    let mut ledger = ledger(&[(Unit::Tokens, 1_000, 60, fixed())]);
    for (units, shown, second) in [(900, 100, 1_010), (10, 90 - theirs, 1_011), (500, shown, 1_021)]
    {
        let now = at(second * SECOND);
        let mut sent = ledger.hold(tokens(units), now).unwrap().sent();
        ledger.charged(&mut sent, now);
        let (unit, window, remaining) = (Unit::Tokens, "window", Some(shown));
        ledger.observe(&mut sent, [Reading { unit, window, limit: None, remaining }], now);
        ledger.settle(sent, Spent::Unknown, now);
    }
    let now = at(second * SECOND);
    let sent = ledger.hold(tokens(more), now).unwrap().sent();
    ledger.refused(&sent, Unit::Tokens, "window", now)
}

#[test]
fn what_a_period_lacks_is_put_down_to_others_if_they_can_have_taken_it() {
    use Blame::{Attributable, Foreign};
    assert_eq!(blamed(20, 500, 480, 1_022), Foreign);
    assert_eq!(blamed(0, 500, 480, 1_022), Attributable, "there was never a sign of others");
    assert_eq!(blamed(20, 500, 300, 1_022), Attributable, "nobody takes so much at once");
    assert_eq!(blamed(20, 500, 300, 1_050), Foreign, "but in half a minute");
    assert_eq!(blamed(20, 300, 170, 1_060), Attributable, "when it began, too much was gone");
}
