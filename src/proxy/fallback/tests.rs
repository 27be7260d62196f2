use std::time::Duration;

use proptest::prelude::*;

use super::{Why, cause_of, cause_of_miss, next_look};
use crate::admission::Bound;
use crate::config::{Cause, Config, Overrides};
use crate::metrics::RetryReason;

#[test]
fn it_is_looked_after_the_time_and_then_whenever_the_wait_has_doubled() {
    let seconds = Duration::from_secs;
    let mut looks = Vec::new();
    let mut looked = Duration::ZERO;
    while let Some(look) = next_look(seconds(10), looked).filter(|look| *look < seconds(600)) {
        looks.push(look.as_secs());
        looked = look;
    }
    assert_eq!(looks, [10, 20, 40, 80, 160, 320]);
    assert_eq!(next_look(Duration::ZERO, Duration::ZERO), Some(seconds(1)));
    assert_eq!(next_look(Duration::MAX, seconds(1)), Some(Duration::MAX));
    assert_eq!(next_look(seconds(1), Duration::MAX), None, "there is no later");
}

proptest! {
    /// However it is configured: never before its time, always later than the time before, and seldom.
    #[test]
    fn looks_come_in_order_and_do_not_pile_up(after in 0_u64..=100_000_000, most in 1_u64..=86_400) {
        let (after, most) = (Duration::from_micros(after), Duration::from_secs(most));
        let (mut looked, mut count) = (Duration::ZERO, 0);
        while let Some(look) = next_look(after, looked).filter(|look| *look <= most) {
            prop_assert!(look > looked && look >= after);
            prop_assert!(count == 0 || look - looked >= Duration::from_millis(500));
            (looked, count) = (look, count + 1);
        }
        // A day has 17 of them, and the first comes for itself.
        prop_assert!(count <= 18, "{count}");
    }
}

#[test]
fn what_is_waited_for_and_what_fails_says_what_is_wrong() {
    for (bound, cause) in [
        (Bound::Constraint(0), Cause::Quota),
        (Bound::Gap, Cause::Quota),
        (Bound::Replicas, Cause::Quota),
        (Bound::Concurrency, Cause::Overload),
        (Bound::Backoff, Cause::Overload),
        (Bound::Circuit, Cause::Failure),
    ] {
        assert_eq!(cause_of(bound), cause, "{bound:?}");
    }
    for reason in RetryReason::ALL {
        let cause = match reason {
            RetryReason::Quota => Cause::Quota,
            RetryReason::Overload => Cause::Overload,
            _ => Cause::Failure,
        };
        assert_eq!(cause_of_miss(reason), cause, "{reason:?}");
    }
}

#[test]
fn a_fallback_is_for_its_causes_and_for_those_who_wait_for_long() {
    let text = r#"
        [upstream]
        base_url = "http://h"
        [models."*"]
        output_reservation = { default = 1 }
        limits = [{ unit = "tokens", limit = 9, per = "1m" }]
        [[fallback]]
        name = "x"
        for = "a"
        model = "b"
        on = ["quota"]
        after = "5s"
    "#;
    let config = Config::parse(text, [], &Overrides::default()).unwrap();
    let seconds = |wait| Some(Duration::from_secs(wait));
    for (cause, waits, is_met) in [
        (Cause::Quota, seconds(4), false),
        (Cause::Quota, seconds(5), true),
        (Cause::Quota, None, true),
        (Cause::Overload, seconds(60), false),
        (Cause::Failure, None, false),
    ] {
        let why = Why { cause, bound: None, waits, again: false };
        assert_eq!(why.is_met_by(&config.fallbacks[0]), is_met, "{cause:?} {waits:?}");
    }
}
