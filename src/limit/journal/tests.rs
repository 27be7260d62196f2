use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::{Hold, Learn, Mode, Reading, Spread, Unit};

const SECOND: u64 = 1_000_000_000;

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn quota(unit: Unit, limit: u64, seconds: u64, mode: Mode) -> Constraint {
    let name = if seconds == 60 { "minute" } else { "hour" };
    Constraint::new(unit, limit, Duration::from_secs(seconds), name, mode).unwrap()
}

fn quotas(mode: Mode) -> Vec<Constraint> {
    let spread = Spread { even: 500, reserve: 100 };
    vec![
        quota(Unit::Requests, 30, 60, mode),
        quota(Unit::Tokens, 60_000, 60, mode),
        quota(Unit::Tokens, 900_000, 3_600, Mode::Bucket).learning(Learn::Down).spread_by(spread),
    ]
}

/// Other constraints: with other limits, one less, one more, in another order, otherwise refilled.
fn others(mode: Mode, which: usize) -> Vec<Constraint> {
    let mut all = quotas(mode);
    match which {
        0 => all[1] = quota(Unit::Tokens, 45_000, 60, mode),
        1 => drop(all.remove(1)),
        2 => all.insert(0, quota(Unit::Tokens, 30_000, 20, mode)),
        3 => all[1] = quota(Unit::Tokens, 60_000, 60, Mode::Sliding),
        _ => all.reverse(),
    }
    all
}

/// What is done to the ledger, after how many nanoseconds.
#[derive(Clone, Copy, Debug)]
enum Step {
    Hold(u64),
    Charge(usize),
    Observe(usize, u64, Option<u64>),
    Settle(usize, u64),
    /// As `Settle`, but the upstream will do the same only so many milliseconds later.
    Later(usize, u64, u64),
    Reject(usize),
    Refuse(usize),
    Drain(Option<u64>),
    /// The constraints are others, of so many ways in which they may be.
    Reconfigure(usize),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        6 => (1..40_000_u64).prop_map(Step::Hold),
        4 => (0..8_usize).prop_map(Step::Charge),
        4 => (0..8_usize, 0..70_000_u64, prop::option::of(50_000..70_000_u64))
            .prop_map(|(which, left, limit)| Step::Observe(which, left, limit)),
        4 => (0..8_usize, 0..50_000_u64).prop_map(|(which, used)| Step::Settle(which, used)),
        4 => (0..8_usize, 0..50_000_u64, 0..3_000_u64)
            .prop_map(|(which, used, delay)| Step::Later(which, used, delay)),
        1 => (0..8_usize).prop_map(Step::Reject),
        1 => (0..8_usize).prop_map(Step::Refuse),
        1 => prop::option::of(0..90_u64).prop_map(Step::Drain),
        1 => (0..5_usize).prop_map(Step::Reconfigure),
    ];
    prop::collection::vec((0..8 * SECOND, step), 1..120)
}

fn modes() -> impl Strategy<Value = Mode> {
    let fixed = Mode::Fixed { skew: Duration::from_millis(100) };
    prop::sample::select(vec![Mode::Bucket, fixed, Mode::Sliding, Mode::Auto])
}

/// A ledger in use.
struct Used {
    ledger: Ledger,
    open: Vec<Sent>,
    later: Vec<(Timestamp, Sent, Spent)>,
    now: Timestamp,
    /// Whether a request may use more than was held for it.
    debts: bool,
    mode: Mode,
}

impl Used {
    fn new(mode: Mode) -> Self {
        let now = at(1_700_000_000 * SECOND);
        let mut ledger = Ledger::new(quotas(mode), now);
        ledger.keep_journal();
        Self { ledger, open: Vec::new(), later: Vec::new(), now, debts: true, mode }
    }

    fn step(&mut self, after: u64, step: Step) {
        self.go_to(self.now.after(Duration::from_nanos(after)));
        let (now, ledger) = (self.now, &mut self.ledger);
        let pick = |open: &Vec<Sent>, which: usize| (!open.is_empty()).then(|| which % open.len());
        match step {
            Step::Hold(tokens) => {
                self.open.extend(ledger.hold(Cost::new(1, tokens), now).map(Hold::sent));
            }
            Step::Drain(after) => {
                ledger.drained(Unit::Tokens, "minute", after.map(Duration::from_secs), now);
            }
            Step::Charge(which) => {
                if let Some(which) = pick(&self.open, which) {
                    ledger.charged(&mut self.open[which], now);
                }
            }
            Step::Observe(which, remaining, limit) => {
                if let Some(which) = pick(&self.open, which) {
                    let (unit, window) = (Unit::Tokens, "minute");
                    let reading = Reading { unit, window, limit, remaining: Some(remaining) };
                    ledger.charged(&mut self.open[which], now);
                    ledger.observe(&mut self.open[which], [reading], now);
                }
            }
            Step::Settle(which, tokens) => {
                if let Some(which) = pick(&self.open, which) {
                    let sent = self.open.swap_remove(which);
                    let spent = self.used(tokens, sent.cost());
                    self.ledger.settle(sent, spent, now);
                }
            }
            Step::Later(which, tokens, millis) => {
                if let Some(which) = pick(&self.open, which) {
                    let mut sent = self.open.swap_remove(which);
                    // A debt is not waited with.
                    let spent = Spent::Exact(Cost::new(1, tokens.min(sent.cost().tokens)));
                    let due = now.after(Duration::from_millis(millis));
                    self.ledger.announce(&mut sent, spent, due);
                    let place = self.later.partition_point(|(other, ..)| *other <= due);
                    self.later.insert(place, (due, sent, spent));
                }
            }
            Step::Reject(which) => {
                if let Some(which) = pick(&self.open, which) {
                    ledger.reject(self.open.swap_remove(which), now);
                }
            }
            Step::Reconfigure(which) => {
                ledger.reconfigure(&others(self.mode, which), ColdStart::Full, now);
            }
            Step::Refuse(which) => {
                if let Some(which) = pick(&self.open, which) {
                    ledger.refused(&self.open[which], Unit::Tokens, "minute", now);
                }
            }
        }
    }

    fn go_to(&mut self, now: Timestamp) {
        self.now = now;
        while self.later.first().is_some_and(|(due, ..)| *due <= now) {
            let (due, sent, spent) = self.later.remove(0);
            self.ledger.settle(sent, spent, due);
        }
    }

    /// What a request of this cost may have used, if it used so many tokens.
    fn used(&self, tokens: u64, cost: Cost) -> Spent {
        let most = if self.debts { u64::MAX } else { cost.tokens };
        Spent::Exact(Cost::new(1, tokens.min(most)))
    }

    fn journal(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.ledger.take_journal(&mut bytes);
        bytes
    }
}

fn available(ledger: &mut Ledger, now: Timestamp) -> Vec<i64> {
    ledger.levels(now).map(|level| level.available).collect()
}

fn state(ledger: &Ledger) -> String {
    let mut ledger = ledger.clone();
    ledger.journal = None;
    format!("{ledger:?}")
}

proptest! {
    /// Whatever was done, in whatever pieces it was taken, and however often it was saved and loaded
    /// in between: the twin is the ledger.
    #[test]
    fn a_twin_is_the_same(mode in modes(), steps in steps(), cuts in prop::collection::vec(any::<bool>(), 120)) {
        let mut used = Used::new(mode);
        let mut twin = Twin::of(&used.ledger, used.now);
        for ((after, step), cut) in steps.into_iter().zip(cuts) {
            used.step(after, step);
            if cut {
                twin.replay(&used.journal()).unwrap();
                twin = Twin::load(&twin.save()).unwrap();
            }
        }
        twin.replay(&used.journal()).unwrap();
        used.go_to(used.now);
        twin.end(used.now);
        // Denied requests count the time, too; but they leave nothing else.
        let now = used.now;
        available(&mut used.ledger, now);
        prop_assert_eq!(available(&mut twin.ledger, now), available(&mut used.ledger, now));
        let later = used.later.iter().map(|(_, sent, _)| sent.id);
        let mut ids: Vec<u64> = used.open.iter().map(|sent| sent.id).chain(later).collect();
        ids.sort_unstable();
        let mut open: Vec<u64> = twin.open.keys().map(|(_, id)| *id).collect();
        open.sort_unstable();
        prop_assert_eq!(open, ids);
    }

    /// Who inherits never has more than there was, in any window, whatever was not written down of
    /// the last moment.
    #[test]
    fn an_heir_never_has_more(mode in modes(), steps in steps(), lost in 0..10_usize, pause in 0..100_u64) {
        let mut used = Used::new(mode);
        let mut twin = Twin::of(&used.ledger, used.now);
        // Nor what a window is asked for after a refusal.
        let asks = |step: &Step| matches!(step, Step::Drain(Some(_)) | Step::Reconfigure(_));
        let steps: Vec<_> = steps.into_iter().filter(|(_, step)| !asks(step)).collect();
        let written = steps.len().saturating_sub(lost);
        for (after, step) in &steps[..written] {
            used.step(*after, *step);
        }
        twin.replay(&used.journal()).unwrap();
        let last = twin.at();
        let unwritten = Duration::from_secs(2);
        // Nobody can know what was used beyond all that was held.
        used.debts = false;
        let mut room = twin.unwritten();
        for (after, step) in &steps[written..] {
            // Before more is let go, the journal is kept.
            if let Step::Hold(tokens) = step {
                let (cost, left) = (Cost::new(1, *tokens), room);
                if cost.exceeds(left) {
                    continue;
                }
                room = Cost {
                    requests: left.requests - 1,
                    tokens: left.tokens - tokens,
                    uncached: left.uncached - tokens,
                };
            }
            // What a refusal by the upstream teaches is lost, and it is refused again.
            let harmless =
                matches!(step, Step::Hold(_) | Step::Charge(_) | Step::Settle(..) | Step::Later(..));
            if harmless && used.now.after(Duration::from_nanos(*after)) <= last.after(unwritten) {
                used.step(*after, *step);
            }
        }
        // What is at the upstream has been charged by the time the process is gone.
        let end = used.now.max(last.after(unwritten));
        used.go_to(end);
        for mut sent in std::mem::take(&mut used.open) {
            used.ledger.charged(&mut sent, end);
            used.ledger.settle(sent, Spent::Unknown, end);
        }
        for (_, sent, _) in &mut used.later {
            used.ledger.charged(sent, end);
        }
        let now = end.after(Duration::from_secs(pause));
        used.go_to(now);
        let learned: Vec<_> = used.ledger.levels(now).map(|level| level.quota.clone()).collect();
        let twin = twin.close((end, false), now);
        prop_assert!(twin.open.is_empty());
        let mut heir = twin.into_ledger(&quotas(mode), ColdStart::Full, now);
        let after: Vec<_> = heir.levels(now).map(|level| level.quota.clone()).collect();
        prop_assert_eq!(after, learned, "what was learned of limits is kept");
        let (has, had) = (available(&mut heir, now), available(&mut used.ledger, now));
        prop_assert!(has.iter().zip(&had).all(|(has, had)| has <= had), "{:?} > {:?}", has, had);
        prop_assert!(heir.levels(now).all(|level| level.held == 0));
    }

    #[test]
    fn what_is_no_journal_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        let used = Used::new(Mode::Auto);
        let mut twin = Twin::of(&used.ledger, used.now);
        let before = state(&twin.ledger);
        if twin.replay(&bytes).is_err() {
            // Nothing was understood of it, so nothing was done.
            prop_assert_eq!(state(&twin.ledger), before);
        }
        prop_assert!(Twin::load(&bytes).is_err());
    }
}

#[test]
fn a_journal_cut_in_an_entry_is_done_up_to_there() {
    let mut used = Used::new(Mode::Bucket);
    used.step(0, Step::Hold(1_000));
    let first = used.journal().len();
    used.step(SECOND, Step::Hold(2_000));
    let second = used.journal();
    let mut twin = Twin::of(&Used::new(Mode::Bucket).ledger, used.now);
    assert!(twin.replay(&second[..second.len() - 1]).is_err());
    assert!(first > 0 && twin.open.is_empty());
    assert!(first < 40, "an entry is small: {first} bytes");
}

#[test]
fn a_snapshot_of_a_later_version_is_refused() {
    #[derive(Serialize)]
    struct Later {
        version: u32,
    }
    let bytes = rmp_serde::to_vec_named(&Later { version: 2 }).unwrap();
    assert_eq!(Twin::load(&bytes).unwrap_err(), BadJournal::Version(2));
}

#[test]
fn what_changed_in_the_configuration_counts_from_the_restart_on() {
    let now = at(1_700_000_000 * SECOND);
    let mut used = Used::new(Mode::Bucket);
    used.step(0, Step::Hold(40_000));
    used.step(0, Step::Settle(0, 40_000));
    let inherit = |quotas: Vec<Constraint>, start| {
        let bytes = Twin::of(&used.ledger, used.now).save();
        Twin::load(&bytes).unwrap().close((now, true), now).into_ledger(&quotas, start, now)
    };
    let left = |quotas, start| available(&mut inherit(quotas, start), now);
    // As it was; a smaller minute in another mode; a larger one; a day that is new.
    assert_eq!(left(quotas(Mode::Bucket), ColdStart::Full), [29, 20_000, 860_000]);
    let minute = |limit, mode| vec![quota(Unit::Tokens, limit, 60, mode)];
    assert_eq!(left(minute(50_000, Mode::Sliding), ColdStart::Full), [10_000]);
    assert_eq!(left(minute(90_000, Mode::Bucket), ColdStart::Full), [50_000]);
    let day = vec![quota(Unit::Tokens, 1_000_000, 86_400, Mode::Bucket)];
    // What others know to have been used within it was used of that, too.
    assert_eq!(left(day.clone(), ColdStart::Full), [960_000]);
    assert_eq!(left(day.clone(), ColdStart::Empty), [0]);
    // Nothing is known at all: the first request may go and ask.
    let mut probing = inherit(day, ColdStart::Probe);
    assert!(probing.hold(Cost::new(1, 10), now).is_ok());
    assert!(probing.hold(Cost::new(1, 10), now).is_err());
    // Something is known: there is nothing to ask.
    assert!(
        inherit(minute(50_000, Mode::Bucket), ColdStart::Probe)
            .hold(Cost::new(1, 20_000), now)
            .is_err()
    );
}

#[test]
fn whoever_keeps_the_journal_is_told_once_to_wake_and_once_to_hurry() {
    let mut used = Used::new(Mode::Bucket);
    // 200 ms of the hour's and of the minute's tokens are 50 and 200, of requests one. Nobody limits
    // tokens that were not cached.
    let mut calls = |costs: &[Cost]| -> Vec<Call> {
        let calls = costs.iter().map(|cost| {
            assert!(used.ledger.hold(*cost, used.now).is_ok());
            used.ledger.take_call()
        });
        let calls = calls.collect();
        used.journal();
        calls
    };
    let tokens = |tokens| Cost { requests: 0, tokens, uncached: 9_999 };
    for _ in 0..2 {
        let told = calls(&[tokens(60), tokens(40), tokens(1), tokens(5_000)]);
        assert_eq!(told, [Call::Wake, Call::None, Call::Hurry, Call::None]);
    }
    assert_eq!(calls(&[Cost::new(1, 0)]), [Call::Hurry], "half of one request is none");
}
