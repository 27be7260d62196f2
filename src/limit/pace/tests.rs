//! Long windows under requests that can wait, beside some that cannot.

use std::time::Duration;

use crate::limit::{
    ColdStart, Constraint, Cost, Denied, Ledger, Mode, Reading, Spent, Spread, Unit,
};
use crate::time::Timestamp;

const HOUR: u64 = 3_600 * 1_000_000_000;
const LIMIT: u64 = 24_000_000;

fn day(mode: Mode, spread: Spread) -> Constraint {
    let day = Duration::from_secs(86_400);
    Constraint::new(Unit::Tokens, LIMIT, day, "day", mode).unwrap().spread_by(spread)
}

fn at(hours: u64) -> Timestamp {
    Timestamp::from_nanos(20_000 * 24 * HOUR + hours * HOUR)
}

fn spend(ledger: &mut Ledger, tokens: u64, paced: bool, now: Timestamp) -> Result<(), Denied> {
    let mut sent = ledger.hold_as(Cost::new(1, tokens), paced, now)?.sent();
    ledger.charged(&mut sent, now);
    ledger.settle(sent, Spent::Unknown, now);
    Ok(())
}

/// Requests of a thousand tokens one after the other, as many as go: in thousands of tokens.
fn greedy(ledger: &mut Ledger, paced: bool, now: Timestamp) -> u64 {
    (0..).take_while(|_| spend(ledger, 1_000, paced, now).is_ok()).count() as u64
}

#[test]
fn what_can_wait_does_not_use_up_the_day_in_the_morning() {
    let fixed = Mode::Fixed { skew: Duration::ZERO };
    for mode in [Mode::Bucket, fixed] {
        for (even, first, each_hour) in
            [(0, 24_000, None), (500, 12_000, Some(1_000)), (1_000, 250, Some(250))]
        {
            let mut ledger = Ledger::new(vec![day(mode, Spread { even, reserve: 0 })], at(0));
            assert_eq!(greedy(&mut ledger, true, at(0)), first, "{mode:?} {even}");
            if let Some(each) = each_hour {
                assert_eq!(greedy(&mut ledger, true, at(1)), each, "{mode:?} {even}");
                let others = greedy(&mut ledger, false, at(1));
                assert!(others >= 10_000, "the rest is there for those who cannot wait: {others}");
                assert_eq!(greedy(&mut ledger, true, at(2)), 0, "and what they used counts");
            }
        }
    }
}

#[test]
fn a_reserve_is_left_alone_by_those_who_can_wait() {
    let mut ledger = Ledger::new(vec![day(Mode::Bucket, Spread { even: 0, reserve: 100 })], at(0));
    assert_eq!(greedy(&mut ledger, true, at(0)), 21_600);
    assert_eq!(greedy(&mut ledger, false, at(0)), 2_400);
    let denied = ledger.check_as(Cost::new(1, 1_000), true, at(0));
    let Err(Denied::Wait { until: Some(until), .. }) = denied else { panic!("{denied:?}") };
    assert!(spend(&mut ledger, 1_000, true, until).is_ok(), "the promise is kept");
    let huge = ledger.check_as(Cost::new(1, LIMIT), true, at(0));
    assert!(matches!(huge, Err(Denied::Wait { until: Some(_), .. })), "it can go, later: {huge:?}");
}

#[test]
fn the_end_of_the_quota_is_foreseen() {
    let mut ledger =
        Ledger::new(vec![day(Mode::Fixed { skew: Duration::ZERO }, Spread::default())], at(0));
    let minutes = |it: u64| Timestamp::from_nanos(at(0).as_nanos() + it * HOUR / 60);
    // Two million an hour: it lasts for twelve hours.
    for minute in 0..360 {
        spend(&mut ledger, 33_333, false, minutes(minute)).unwrap();
    }
    let level = ledger.levels(minutes(360)).next().unwrap();
    let foreseen = level.exhausted_at.expect("half of it is gone").since(at(0));
    let hours = foreseen.as_secs_f64() / 3_600.0;
    assert!((11.5..12.5).contains(&hours), "{hours}");
    let rested = ledger.levels(minutes(720)).next().unwrap();
    assert_eq!(rested.exhausted_at, None, "after six quiet hours nothing speaks for it");
}

#[test]
fn a_cold_start_knows_as_much_as_it_is_told() {
    let minute = Duration::from_secs(60);
    let quotas = || {
        ["minute", "other"]
            .map(|name| Constraint::new(Unit::Tokens, 60_000, minute, name, Mode::Bucket).unwrap())
    };
    let left =
        |ledger: &mut Ledger| ledger.levels(at(0)).map(|level| level.available).collect::<Vec<_>>();
    let mut full = Ledger::cold(quotas().to_vec(), ColdStart::Full, at(0));
    assert_eq!(left(&mut full), [60_000, 60_000]);
    let mut empty = Ledger::cold(quotas().to_vec(), ColdStart::Empty, at(0));
    assert_eq!(left(&mut empty), [0, 0]);
    assert!(empty.hold(Cost::new(1, 1_000), at(0)).is_err());

    let mut ledger = Ledger::cold(quotas().to_vec(), ColdStart::Probe, at(0));
    let probe = ledger.hold(Cost::new(1, 1_000), at(0)).expect("one may go");
    assert!(ledger.hold(Cost::new(1, 1_000), at(0)).is_err(), "and only one");
    ledger.release(probe, at(0));
    let mut probe = ledger.hold(Cost::new(1, 1_000), at(0)).expect("it was not sent").sent();
    ledger.charged(&mut probe, at(0));
    let shown =
        Reading { unit: Unit::Tokens, window: "minute", limit: None, remaining: Some(7_001) };
    ledger.observe(&mut probe, [shown], at(0));
    assert_eq!(left(&mut ledger), [7_001, 59_000], "what is shown, and else all of it");
}
