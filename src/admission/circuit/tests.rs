use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const RULE: Rule = Rule {
    failures: 3,
    window: Duration::from_secs(10),
    open: SECOND,
    max_open: Duration::from_secs(6),
    probes: 1,
    wait: Duration::from_secs(30),
};

/// All of what the rule says.
const LONGEST: u16 = u16::MAX;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

/// A circuit that three failures have opened at `millis`.
fn opened(rule: &Rule, millis: u64) -> Circuit {
    let mut circuit = Circuit::default();
    for left in (0..rule.failures).rev() {
        let round = circuit.begin();
        let change = circuit.failed(rule, round, LONGEST, at(millis));
        assert_eq!(change.is_some(), left == 0);
    }
    circuit
}

#[test]
fn failures_in_a_row_open_it_and_an_answer_between_them_does_not() {
    let mut circuit = Circuit::default();
    let round = circuit.begin();
    for _ in 0..2 {
        assert_eq!(circuit.failed(&RULE, round, LONGEST, at(0)), None);
    }
    assert_eq!(circuit.answered(&RULE, round, at(0)), None);
    for _ in 0..2 {
        assert_eq!(circuit.failed(&RULE, round, LONGEST, at(1)), None);
    }
    assert_eq!((circuit.check(at(1)), circuit.phase()), (Ok(()), Phase::Closed));
    assert_eq!(circuit.failed(&RULE, round, LONGEST, at(2)), Some(Change::Opened(SECOND)));
    assert_eq!((circuit.check(at(2)), circuit.phase()), (Err(Some(at(1_002))), Phase::Open));
}

#[test]
fn failures_far_apart_are_no_row() {
    let mut circuit = Circuit::default();
    let round = circuit.begin();
    for second in [0, 6, 12, 18] {
        assert_eq!(circuit.failed(&RULE, round, LONGEST, at(second * 1_000)), None, "{second}");
    }
    assert!(circuit.failed(&RULE, round, LONGEST, at(21_000)).is_some(), "three in ten seconds");
}

#[test]
fn one_goes_when_the_time_is_up_and_its_answer_lets_all_go() {
    let mut circuit = opened(&RULE, 0);
    assert_eq!(circuit.check(at(999)), Err(Some(at(1_000))));
    assert_eq!(circuit.check(at(1_000)), Ok(()));
    let probe = circuit.begin();
    assert_eq!((circuit.check(at(1_000)), circuit.phase()), (Err(None), Phase::HalfOpen));
    assert!(circuit.is_probe(probe));
    let change = circuit.answered(&RULE, probe, at(1_200));
    assert_eq!(change, Some(Change::Closed(Duration::from_millis(1_200))));
    assert_eq!((circuit.check(at(1_200)), circuit.phase()), (Ok(()), Phase::Closed));
    assert!(!circuit.is_probe(probe));
}

#[test]
fn a_probe_that_fails_has_it_open_for_twice_as_long_up_to_a_bound() {
    let mut circuit = opened(&RULE, 0);
    let mut now = 1_000;
    for seconds in [2, 4, 6, 6] {
        let probe = circuit.begin();
        let change = circuit.failed(&RULE, probe, LONGEST, at(now));
        assert_eq!(change, Some(Change::Opened(SECOND * seconds)));
        now += 1_000 * u64::from(seconds);
        assert_eq!(circuit.check(at(now - 1)), Err(Some(at(now))));
    }
    let probe = circuit.begin();
    assert!(circuit.answered(&RULE, probe, at(now)).is_some());
    for _ in 0..2 {
        let round = circuit.begin();
        assert_eq!(circuit.failed(&RULE, round, LONGEST, at(now)), None, "it begins anew");
    }
    let round = circuit.begin();
    let change = circuit.failed(&RULE, round, LONGEST, at(now));
    assert_eq!(change, Some(Change::Opened(SECOND)));
}

#[test]
fn chance_takes_up_to_half_of_the_time_away() {
    for (chance, millis) in [(0, 500), (LONGEST, 1_000)] {
        let rule = Rule { failures: 1, ..RULE };
        let mut circuit = Circuit::default();
        let round = circuit.begin();
        let change = circuit.failed(&rule, round, chance, at(0));
        assert_eq!(change, Some(Change::Opened(Duration::from_millis(millis))));
    }
}

#[test]
fn as_many_probes_as_are_asked_for_go_one_after_the_other() {
    let rule = Rule { probes: 2, ..RULE };
    let mut circuit = opened(&rule, 0);
    let first = circuit.begin();
    assert_eq!(circuit.answered(&rule, first, at(1_100)), None);
    assert_eq!((circuit.check(at(1_100)), circuit.phase()), (Ok(()), Phase::Open));
    let second = circuit.begin();
    assert_eq!(circuit.check(at(1_200)), Err(None));
    assert_eq!(circuit.answered(&rule, first, at(1_200)), None, "it has been counted");
    assert!(circuit.answered(&rule, second, at(1_200)).is_some());
    // One that fails takes back what the one before it said.
    let mut circuit = opened(&rule, 0);
    let first = circuit.begin();
    circuit.answered(&rule, first, at(1_100));
    let second = circuit.begin();
    assert!(circuit.failed(&rule, second, LONGEST, at(1_200)).is_some());
    let third = circuit.begin();
    assert_eq!(circuit.answered(&rule, third, at(9_000)), None, "the first of two again");
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_the_next() {
    let mut circuit = opened(&RULE, 0);
    let probe = circuit.begin();
    circuit.left(probe, at(1_500));
    assert_eq!((circuit.check(at(1_500)), circuit.phase()), (Ok(()), Phase::Open));
    assert_eq!(circuit.answered(&RULE, probe, at(1_600)), None, "it is nobody's any more");
    let next = circuit.begin();
    circuit.left(probe, at(1_600));
    assert_eq!(circuit.check(at(1_600)), Err(None), "one ends once");
    assert!(circuit.answered(&RULE, next, at(1_700)).is_some());
    circuit.left(next, at(1_700));
    assert_eq!(circuit.phase(), Phase::Closed);
}

#[test]
fn what_was_sent_before_it_opened_is_old_news() {
    let mut circuit = Circuit::default();
    let old = circuit.begin();
    for _ in 0..3 {
        circuit.failed(&RULE, old, LONGEST, at(0));
    }
    assert_eq!(circuit.answered(&RULE, old, at(10)), None);
    assert_eq!(circuit.failed(&RULE, old, LONGEST, at(10)), None);
    circuit.left(old, at(10));
    assert_eq!(circuit.check(at(10)), Err(Some(at(1_000))), "neither sooner nor later");
    let probe = circuit.begin();
    assert_eq!(circuit.answered(&RULE, old, at(1_000)), None, "nor for the probe");
    assert!(circuit.is_probe(probe) && !circuit.is_probe(old));
}

#[test]
fn they_wait_for_it_from_when_it_opened_however_often_a_probe_fails() {
    let mut circuit = Circuit::default();
    assert_eq!(circuit.gives_up_at(&RULE), None);
    circuit = opened(&RULE, 5_000);
    assert_eq!(circuit.gives_up_at(&RULE), Some(at(35_000)));
    let probe = circuit.begin();
    circuit.failed(&RULE, probe, LONGEST, at(6_000));
    assert_eq!(circuit.gives_up_at(&RULE), Some(at(35_000)));
}

#[test]
fn without_a_number_of_failures_it_never_opens() {
    let mut circuit = Circuit::default();
    let round = circuit.begin();
    (0..100).for_each(|_| assert_eq!(circuit.failed(&Rule::OFF, round, 0, at(0)), None));
    assert_eq!(circuit.phase(), Phase::Closed);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send,
    Answer(usize),
    Fail(usize, u16),
    Leave(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Send),
        2 => (0_usize..8).prop_map(Step::Answer),
        4 => (0_usize..8, any::<u16>()).prop_map(|(which, chance)| Step::Fail(which, chance)),
        1 => (0_usize..8).prop_map(Step::Leave),
        3 => (0_u64..3_000).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens in whatever order: while it is not closed at most one request is on its way
    /// that was sent since, it is never open for longer than its bound, and it can always be closed.
    #[test]
    fn one_at_a_time_while_it_is_not_closed(
        probes in 1_u32..4,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let rule = Rule { probes, ..RULE };
        let (mut circuit, mut now, mut flying) = (Circuit::default(), 0_u64, Vec::new());
        for step in steps {
            let which = |n: usize, flying: &Vec<(Round, bool)>| n % flying.len().max(1);
            match step {
                Step::Pass(millis) => now += millis,
                Step::Send if circuit.check(at(now)).is_ok() => {
                    let closed = circuit.phase() == Phase::Closed;
                    flying.push((circuit.begin(), !closed));
                }
                Step::Answer(n) if !flying.is_empty() => {
                    let (round, probe) = flying.remove(which(n, &flying));
                    let was = circuit.phase();
                    let change = circuit.answered(&rule, round, at(now));
                    // Nothing but the answer to a probe closes it.
                    prop_assert!(change.is_none() || (probe && was == Phase::HalfOpen));
                    circuit.left(round, at(now));
                }
                Step::Fail(n, chance) if !flying.is_empty() => {
                    let (round, _) = flying.remove(which(n, &flying));
                    if let Some(Change::Opened(span)) = circuit.failed(&rule, round, chance, at(now)) {
                        prop_assert!(span >= rule.open / 2 && span <= rule.max_open);
                        prop_assert_eq!(circuit.check(at(now)), Err(Some(at(now).after(span))));
                    }
                    circuit.left(round, at(now));
                }
                Step::Leave(n) if !flying.is_empty() => {
                    let (round, _) = flying.remove(which(n, &flying));
                    circuit.left(round, at(now));
                }
                _ => {}
            }
            let on_their_way = flying.iter().filter(|(round, _)| circuit.is_probe(*round)).count();
            prop_assert_eq!(on_their_way, usize::from(circuit.phase() == Phase::HalfOpen));
            prop_assert_eq!(circuit.gives_up_at(&rule).is_none(), circuit.phase() == Phase::Closed);
        }
        // An upstream that is well again is found out.
        let later = at(now + 10_000);
        for (round, _) in flying {
            circuit.left(round, later);
        }
        for _ in 0..probes {
            prop_assert_eq!(circuit.check(later), Ok(()));
            let round = circuit.begin();
            circuit.answered(&rule, round, later);
        }
        prop_assert_eq!(circuit.phase(), Phase::Closed);
    }
}
