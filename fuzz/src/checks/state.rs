//! What outlives a process: bytes of a disk, which may be any, are refused or taken as they stand, and
//! a journal makes a ledger that can be used whatever is in it.

use std::time::Duration;

use super::body::{JSON, MAX};
use super::{spoilt, take};
use crate::limit::{ColdStart, Constraint, Cost, Ledger, Mode, Spent, Twin, Unit};
use crate::time::Timestamp;
use crate::usage::{Calibration, Demand, EstimateRule, Lesson, Usage};

const SECOND: u64 = 1_000_000_000;
/// Some day in 2026.
pub(super) const NOW: Timestamp = Timestamp::from_nanos(1_780_000_000 * SECOND);

/// Two limits of each kind of window.
pub(super) fn limits(mode: u8) -> Vec<Constraint> {
    let mode = match mode % 4 {
        0 => Mode::Bucket,
        1 => Mode::Sliding,
        2 => Mode::Fixed { skew: Duration::from_millis(100) },
        _ => Mode::Auto,
    };
    let limit = |unit, limit, seconds, name: &str, mode| {
        let window = Duration::from_secs(seconds);
        Constraint::new(unit, limit, window, name, mode).expect("a valid limit")
    };
    vec![
        limit(Unit::Requests, 30, 60, "minute", mode),
        limit(Unit::Tokens, 60_000, 60, "minute", mode),
        limit(Unit::Tokens, 1_000_000, 86_400, "day", Mode::Bucket),
    ]
}

pub fn check(mut data: &[u8]) {
    let [which, mode] = take(&mut data);
    match which % 5 {
        0 => load(data),
        1 => {
            // What a few bad bytes do to a good file.
            let patches: [u8; 49] = take(&mut data);
            let mut twin = Twin::of(&Ledger::new(limits(mode), NOW), NOW);
            let _ = twin.replay(data);
            load(&spoilt(twin.save(), &mut &patches[..]));
        }
        2 => replay(data, mode),
        3 => calibration(data),
        _ => {
            let mut learned = Calibration::default();
            lessons(&mut learned);
            calibration(&spoilt(learned.save(), &mut data));
        }
    }
}

fn load(data: &[u8]) {
    // What its numbers say is not known to be true: only that they can be read is looked at.
    if let Ok(twin) = Twin::load(data) {
        kept(&twin);
    }
}

/// A journal is done as far as it can be read, and it makes no difference in how many parts.
fn replay(data: &[u8], mode: u8) {
    let new = || Twin::of(&Ledger::new(limits(mode), NOW), NOW);
    let mut whole = new();
    let done = whole.replay(data);
    if done.is_ok() {
        let mut parts = new();
        // The first entry's end, if it is not far.
        let at = (1..data.len().min(300)).find(|at| parts.replay(&data[..*at]).is_ok());
        let mut parts = new();
        let (first, second) = data.split_at(at.unwrap_or(0));
        assert!(parts.replay(first).is_ok());
        assert!(parts.replay(second).is_ok(), "the rest of a journal is one");
        assert_eq!(parts.save(), whole.save());
    }
    kept(&whole);
    go_on(whole, mode);
}

/// What is saved and loaded is the same.
fn kept(twin: &Twin) {
    let saved = twin.save();
    let again = Twin::load(&saved).expect("what was saved");
    assert_eq!(again.save(), saved);
}

/// A ledger whose past is strange has a future, and no more than its limits.
fn go_on(twin: Twin, mode: u8) {
    let now = twin.at().max(NOW);
    let closed = twin.close((now, mode & 64 == 0), now);
    let mut ledger = closed.into_ledger(&limits(mode), ColdStart::Full, now);
    for after in [0, SECOND, 90 * SECOND, 2 * 86_400 * SECOND] {
        let now = now.after(Duration::from_nanos(after));
        for level in ledger.levels(now) {
            let limit = i64::try_from(level.quota.limit()).expect("a limit fits");
            assert!(level.available <= limit, "{level:?}");
        }
        let cost = Cost::new(1, 1_000);
        if let Ok(hold) = ledger.hold(cost, now) {
            let mut sent = hold.sent();
            ledger.charged(&mut sent, now);
            ledger.settle(sent, Spent::Exact(Cost::new(1, 10)), now);
        }
    }
}

/// What was learned is sound, or is not taken.
fn calibration(data: &[u8]) {
    let Some(mut learned) = Calibration::load(data) else { return };
    let saved = learned.save();
    assert_eq!(Calibration::load(&saved).expect("what was saved").save(), saved);
    lessons(&mut learned);
}

fn lessons(learned: &mut Calibration) {
    let body = br#"{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"How long is a tide?"}]}"#;
    let demand = Demand::read(JSON, body, MAX).expect("it is valid");
    let rule = EstimateRule::assumed(16_384);
    for counted in [None, Some(7), None, Some(8)] {
        let _ = learned.prompt(&rule, &demand, counted);
        let usage = Usage { prompt: 15, completion: 9, total: 24, cached: 0 };
        learned.learn(&demand, Lesson { usage, counted, cut: false });
        let _ = (learned.fair(&rule, &demand), learned.output_p99(), learned.summary());
    }
}
