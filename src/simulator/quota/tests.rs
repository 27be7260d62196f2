//! The oracle is itself checked against definitions: sums over the whole history of charges,
//! taken afresh at each step, instead of any running level.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_772_000_000 * SECOND;

const KINDS: [Semantics; 3] = [
    Semantics::TokenBucket,
    Semantics::FixedWindow { phase_ns: 7 * SECOND },
    Semantics::SlidingLog,
];

fn tokens(limit: u64, window_s: u64) -> Limit {
    Limit { unit: Unit::Tokens, name: Name::Minute, limit, window_ns: window_s * SECOND }
}

fn requests(limit: u64, window_s: u64) -> Limit {
    Limit { unit: Unit::Requests, name: Name::Minute, limit, window_ns: window_s * SECOND }
}

fn remaining(quota: &mut Quota, now_ns: u64) -> i64 {
    quota.remaining(now_ns)[0].remaining
}

#[test]
fn a_bucket_refills_continuously_and_exactly() {
    let mut quota = Quota::new(&[tokens(7, 3)], Semantics::TokenBucket);
    let held = quota_admit(&mut quota, START, 7);
    quota.keep(held);
    // One unit takes 3/7 s = 428,571,428.57… ns: not there one nanosecond early.
    assert!(quota.admit(START + 428_571_428, 1).is_err(), "a unit is not earned early");
    let one = quota_admit(&mut quota, START + 428_571_429, 1);
    quota.keep(one);
    // The fraction left over is not lost: seven units are earned in exactly three seconds.
    assert_eq!(remaining(&mut quota, START + 3 * SECOND), 6);
}

fn quota_admit(quota: &mut Quota, now_ns: u64, tokens: u64) -> Admission {
    quota.admit(now_ns, tokens).expect("the test has left room")
}

#[test]
fn a_fixed_window_forgets_at_its_edge_and_loses_late_refunds() {
    let mut quota = Quota::new(&[tokens(100, 60)], Semantics::FixedWindow { phase_ns: 0 });
    let edge = START.div_ceil(60 * SECOND) * 60 * SECOND;
    let early = quota_admit(&mut quota, edge - 2, 60);
    let late = quota_admit(&mut quota, edge - 1, 40);
    assert!(quota.admit(edge - 1, 1).is_err(), "the window is full to its last nanosecond");
    quota.settle(edge - 1, early, 10);
    assert_eq!(remaining(&mut quota, edge - 1), 50);
    assert_eq!(remaining(&mut quota, edge), 100);
    quota.settle(edge, late, 10);
    let level = quota.remaining(edge)[0];
    assert_eq!((level.remaining, level.refunds_lost), (100, 30), "that window is gone");
}

#[test]
fn a_sliding_log_forgets_one_window_after_each_charge() {
    let mut quota = Quota::new(&[tokens(100, 60)], Semantics::SlidingLog);
    let first = quota_admit(&mut quota, START, 60);
    let second = quota_admit(&mut quota, START + SECOND, 40);
    quota.settle(START + 2 * SECOND, first, 20);
    assert_eq!(remaining(&mut quota, START + 60 * SECOND - 1), 40);
    assert_eq!(remaining(&mut quota, START + 60 * SECOND), 60, "only what was left of it returns");
    assert_eq!(remaining(&mut quota, START + 61 * SECOND), 100);
    quota.settle(START + 61 * SECOND, second, 0);
    assert_eq!(quota.remaining(START + 61 * SECOND)[0].refunds_lost, 40);
}

#[test]
fn usage_above_the_reservation_becomes_debt() {
    for semantics in KINDS {
        let mut quota = Quota::new(&[tokens(100, 60)], semantics);
        let admission = quota_admit(&mut quota, START, 50);
        quota.settle(START, admission, 130);
        assert_eq!(remaining(&mut quota, START), -30, "{semantics:?}");
        assert!(quota.admit(START, 0).is_err(), "nothing fits while in debt: {semantics:?}");
    }
}

#[test]
fn the_first_exceeded_limit_names_the_rejection_and_nothing_is_charged() {
    let limits = [
        Limit::per(Unit::Tokens, Name::Day, 50),
        Limit::per(Unit::Tokens, Name::Minute, 100),
        Limit::per(Unit::Requests, Name::Hour, 1),
    ];
    let mut quota = Quota::new(&limits, Semantics::TokenBucket);
    let named = |quota: &mut Quota, tokens| {
        let rejection = quota.admit(START, tokens).expect_err("too much");
        (rejection.limit.unit, rejection.limit.name)
    };
    assert_eq!(named(&mut quota, 101), (Unit::Tokens, Name::Minute));
    assert_eq!(named(&mut quota, 51), (Unit::Tokens, Name::Day));
    assert!(quota.remaining(START).iter().all(|level| level.charged == 0));
    let admission = quota_admit(&mut quota, START, 50);
    assert_eq!(named(&mut quota, 101), (Unit::Requests, Name::Hour));
    quota.keep(admission);
    let rejected: Vec<_> = quota.remaining(START).iter().map(|level| level.rejected).collect();
    assert_eq!(rejected, [1, 1, 1]);
}

#[test]
fn a_rejected_request_costs_a_request_only_where_that_is_the_rule() {
    for (rule, left) in [(false, 5), (true, 4)] {
        let limits = [requests(5, 60), tokens(10, 60)];
        let mut quota = Quota::new(&limits, Semantics::TokenBucket).charging_rejected(rule);
        assert!(quota.admit(START, 11).is_err());
        assert_eq!(remaining(&mut quota, START), left);
    }
}

#[test]
fn a_refusal_tells_the_end_of_the_window_on_the_clock() {
    let mut quota = Quota::new(&[requests(0, 60)], Semantics::TokenBucket);
    let minute = START.div_ceil(60 * SECOND) * 60 * SECOND;
    for (ago, reset) in [(0, 60 * SECOND), (1, 1), (56 * SECOND, 56 * SECOND)] {
        let rejection = quota.clone().admit(minute - ago, 0).expect_err("no request is allowed");
        assert_eq!(rejection.reset_ns, reset);
    }
    assert!(quota.admit(minute, 0).is_err());
}

#[test]
fn time_that_steps_back_earns_nothing() {
    let mut quota = Quota::new(&[tokens(60, 60)], Semantics::TokenBucket);
    let all = quota_admit(&mut quota, START, 60);
    quota.keep(all);
    assert_eq!(remaining(&mut quota, START + 10 * SECOND), 10);
    assert_eq!(remaining(&mut quota, START), 10);
    assert_eq!(remaining(&mut quota, START + 10 * SECOND), 10);
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Admit(u64),
    /// Settles the oldest outstanding request with this percentage of its reservation.
    Settle(u64),
    Keep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..9 * SECOND).prop_map(Step::Wait),
        1 => (0..40_u64).prop_map(|seconds| Step::Wait(seconds * SECOND)),
        4 => (0..60_u64).prop_map(Step::Admit),
        2 => (0..=100_u64).prop_map(Step::Settle),
        1 => Just(Step::Keep),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Everything that changed what was charged: when it did, for which admission (made when), and
/// by how many units.
#[derive(Clone, Copy)]
struct Event {
    at: u64,
    admitted: u64,
    units: i128,
}

/// What the definition of each semantics leaves free, from the whole history.
fn free_by_definition(limit: Limit, semantics: Semantics, events: &[Event], now: u64) -> i128 {
    let (most, window) = (i128::from(limit.limit), i128::from(limit.window_ns));
    match semantics {
        // The least, over every instant s (just before and just after each event), of
        // L + r (now - s) less what was charged after s.
        Semantics::TokenBucket => {
            let (mut least, mut after) = (most * window, 0);
            for event in events.iter().rev() {
                let earned = most * i128::from(now - event.at);
                for charged in [after, after + event.units] {
                    least = least.min(most * window + earned - charged * window);
                }
                after += event.units;
            }
            least.div_euclid(window)
        }
        Semantics::FixedWindow { phase_ns } => {
            let number = |at: u64| (at - phase_ns) / limit.window_ns;
            let inside = events
                .iter()
                .filter(|e| number(e.admitted) == number(now) && number(e.at) == number(now));
            most - inside.map(|event| event.units).sum::<i128>()
        }
        Semantics::SlidingLog => {
            let inside = events.iter().filter(|e| e.admitted + limit.window_ns > now);
            most - inside.map(|event| event.units).sum::<i128>()
        }
    }
}

/// Runs the steps on one token limit, comparing with the definition after each.
fn check_against_definition(semantics: Semantics, steps: &[Step]) -> Result<(), TestCaseError> {
    let limit = tokens(100, 20);
    let mut quota = Quota::new(&[limit], semantics);
    let (mut now, mut events, mut open) = (START, Vec::new(), std::collections::VecDeque::new());
    // Zero at the start, so that the bucket's clock begins there.
    prop_assert_eq!(remaining(&mut quota, now), 100);
    for step in steps {
        match *step {
            Step::Wait(lasting) => now += lasting,
            Step::Admit(cost) => {
                let free = free_by_definition(limit, semantics, &events, now);
                let admitted = quota.admit(now, cost);
                prop_assert_eq!(admitted.is_ok(), i128::from(cost) <= free);
                if let Ok(admission) = admitted {
                    events.push(Event { at: now, admitted: now, units: i128::from(cost) });
                    open.push_back((admission, now));
                }
            }
            Step::Settle(percent) => {
                if let Some((admission, admitted)) = open.pop_front() {
                    let actual = admission.tokens() * percent / 100;
                    let units = i128::from(actual) - i128::from(admission.tokens());
                    quota.settle(now, admission, actual);
                    events.push(Event { at: now, admitted, units });
                }
            }
            Step::Keep => {
                if let Some((admission, _)) = open.pop_front() {
                    quota.keep(admission);
                }
            }
        }
        let level = quota.remaining(now)[0];
        prop_assert_eq!(
            i128::from(level.remaining),
            free_by_definition(limit, semantics, &events, now)
        );
        prop_assert!((0..=100).contains(&level.remaining), "never above the limit, nor in debt");
        let (counted, net) = (quota.counters(), events.iter().map(|e| e.units).sum::<i128>());
        prop_assert_eq!(i128::from(counted.tokens_used + counted.tokens_held), net);
        let held: u64 = open.iter().map(|(admission, _)| admission.tokens()).sum();
        prop_assert_eq!(counted.tokens_held, held);
        prop_assert_eq!(i128::from(level.charged) - i128::from(level.refunds_lost), net);
        prop_assert_eq!(counted.requests, counted.admitted + counted.rejected);
        let possible = quota.capacity(Unit::Tokens, START, now).expect("it has a token limit");
        prop_assert!(
            counted.tokens_used + counted.tokens_held <= possible + most_refunded(&events)
        );
    }
    Ok(())
}

/// Units given back, which may be admitted a second time.
fn most_refunded(events: &[Event]) -> u64 {
    let back: i128 = events.iter().map(|event| (-event.units).max(0)).sum();
    u64::try_from(back).expect("a sum of what was charged")
}

proptest! {
    /// Decisions, levels and counts agree with the definition at every step of any history.
    #[test]
    fn a_bucket_is_what_its_definition_says(steps in steps()) {
        check_against_definition(KINDS[0], &steps)?;
    }

    /// The same for windows on a clock with a phase.
    #[test]
    fn a_fixed_window_is_what_its_definition_says(steps in steps()) {
        check_against_definition(KINDS[1], &steps)?;
    }

    /// The same for the log.
    #[test]
    fn a_sliding_log_is_what_its_definition_says(steps in steps()) {
        check_against_definition(KINDS[2], &steps)?;
    }

    /// A caller that takes every unit the moment it is free gets exactly the stated capacity.
    #[test]
    fn capacity_is_what_a_greedy_caller_gets(
        limit in 1..50_u64, window in 1..5_u64, lasting in 0..20_000_u64, phase in 0..5_u64,
    ) {
        let millis = SECOND / 1_000;
        for semantics in [
            Semantics::TokenBucket,
            Semantics::FixedWindow { phase_ns: phase * SECOND },
            Semantics::SlidingLog,
        ] {
            let limit = tokens(limit, window);
            let mut quota = Quota::new(&[limit], semantics);
            let mut taken = 0;
            for step in 0..=lasting {
                let now = START + step * millis;
                let free = u64::try_from(remaining(&mut quota, now)).expect("never in debt");
                let all = quota_admit(&mut quota, now, free);
                quota.keep(all);
                taken += free;
            }
            let end = START + lasting * millis;
            prop_assert_eq!(quota.capacity(Unit::Tokens, START, end), Some(taken));
            prop_assert!(limit.pro_rata(START, end) <= taken);
        }
    }
}

#[test]
fn limits_read_back_as_they_are_written() {
    for text in ["requests/minute=120", "tokens/day=120000000", "tokens/minute=1500000@3s"] {
        let limit: Limit = text.parse().expect("well formed");
        assert_eq!(limit.to_string(), text);
    }
    for text in ["", "minute=3", "tokens/minute", "tokens/week=1", "cells/day=1", "tokens/day=1@0s"]
    {
        assert!(text.parse::<Limit>().is_err(), "{text}");
    }
    assert_eq!("fixed:250ms".parse(), Ok(Semantics::FixedWindow { phase_ns: 250_000_000 }));
    assert!("leaky".parse::<Semantics>().is_err());
}
