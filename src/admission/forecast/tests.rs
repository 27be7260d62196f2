use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((1_000_000 + seconds) * SECOND)
}

fn rules() -> [ClassRule; 2] {
    [0, 1].map(|rank| ClassRule { rank, share: 100, paced: false })
}

/// A thousand tokens a second, and nothing saved up.
fn fits(unit: Unit, units: u64) -> Timestamp {
    let nanos = if unit == Unit::Tokens { units * SECOND / 1_000 } else { 0 };
    at(0).after(Duration::from_nanos(nanos))
}

fn wait(forecast: &Forecast, ahead: &Ahead, tokens: u64) -> u64 {
    let start = forecast.start(ahead, Cost::new(1, tokens), &Load::default(), at(0), fits);
    start.since(at(0)).as_secs()
}

fn tokens(fair: u64) -> Part {
    Part { requests: fair / 100, fair, safe: fair }
}

#[test]
fn what_is_ahead_goes_first_and_what_keeps_coming_to_better_classes() {
    let forecast = Forecast::new(&rules());
    let mut ahead = Ahead { class: 1, own: tokens(10_000), share: 100, ..Ahead::default() };
    assert_eq!(wait(&forecast, &ahead, 2_000), 12, "ten seconds, and its own two");
    ahead.better = tokens(6_000);
    assert_eq!(wait(&forecast, &ahead, 2_000), 18);
    for (share, waits, why) in [
        (50, 36, "half of the quota goes to the better class, and goes on doing so"),
        (120, 102, "all of it would: then the guarantee decides, a tenth for 10,000 tokens"),
    ] {
        let mut forecast = forecast.clone();
        for tenths in (0..12_000).rev() {
            let now = Timestamp::from_nanos(at(0).as_nanos() - tenths * SECOND / 10);
            forecast.sent(0, share, 100, now);
        }
        assert_eq!(wait(&forecast, &ahead, 2_000), waits, "{why}");
    }
}

#[test]
fn what_was_held_too_much_comes_back_and_likely_is_corrected_to_real() {
    let mut forecast = Forecast::new(&rules());
    assert!(!forecast.is_known());
    let mut ahead = Ahead { class: 0, own: tokens(10_000), ..Ahead::default() };
    for _ in 0..100 {
        forecast.ended(Duration::from_millis(10), 1_000, 1_000, 500);
    }
    assert!(forecast.is_known());
    assert_eq!(wait(&forecast, &ahead, 1_000), 6, "half of ten seconds, and its own");
    let load = Load { held: 4_000, ..Load::default() };
    let start = forecast.start(&ahead, Cost::new(1, 1_000), &load, at(0), fits);
    assert_eq!(start.since(at(0)).as_secs(), 4, "2,000 of them are on their way back");
    // A wait that is always a tenth longer than forecast is forecast a tenth longer.
    ahead.own = tokens(100_000);
    for _ in 0..2_000 {
        let said = forecast.start(&ahead, Cost::new(1, 1_000), &Load::default(), at(0), fits);
        let said = said.since(at(0));
        forecast.waited(0, said, Duration::from_millis(56_100), 1);
    }
    assert_eq!(wait(&forecast, &ahead, 1_000), 56);
}

#[test]
fn permits_and_gaps_bound_a_wait_as_well() {
    let mut forecast = Forecast::new(&rules());
    for _ in 0..100 {
        forecast.ended(Duration::from_secs(3), 100, 100, 100);
    }
    let own = Part { requests: 5, ..Part::default() };
    let ahead = Ahead { class: 0, own, ..Ahead::default() };
    let permits = Load { in_flight: 2, most: Some(2), ..Load::default() };
    let start = forecast.start(&ahead, Cost::new(1, 1), &permits, at(0), fits);
    assert_eq!(start.since(at(0)).as_secs(), 9, "six have to end first, two at a time, 3 s each");
    let gap = Load { gap: Duration::from_secs(2), ..Load::default() };
    let start = forecast.start(&ahead, Cost::new(1, 1), &gap, at(0), fits);
    assert_eq!(start.since(at(0)).as_secs(), 10);
}
