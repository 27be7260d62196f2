use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::{Cost, Mode, Sent, Spent, Spread};

const SECOND: u64 = 1_000_000_000;

fn quota(unit: Unit, limit: u64, seconds: u64, mode: Mode) -> Constraint {
    let name = format!("{seconds}s");
    Constraint::new(unit, limit, Duration::from_secs(seconds), &name, mode).unwrap()
}

fn modes() -> impl Strategy<Value = Mode> {
    let fixed = Mode::Fixed { skew: Duration::from_millis(100) };
    prop::sample::select(vec![Mode::Bucket, fixed, Mode::Sliding, Mode::Auto])
}

/// What is done, so many milliseconds after what was done before.
#[derive(Clone, Copy, Debug)]
enum Step {
    Hold(u64),
    Charge(usize),
    Settle(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        3 => (1..300_u64).prop_map(Step::Hold),
        2 => (0..8_usize).prop_map(Step::Charge),
        3 => ((0..8_usize), (0..300_u64)).prop_map(|(which, used)| Step::Settle(which, used)),
    ];
    prop::collection::vec((0..9_000_u64, step), 1..80)
}

/// A ledger in use, in which everything is held that is asked for, whether there is room or not; and a
/// list of what was charged, kept apart from it.
struct Used {
    ledger: Ledger,
    open: Vec<Sent>,
    now: Timestamp,
    /// Of those that are open: their charge, if they have one, and what is held.
    notes: Vec<(Option<usize>, u64)>,
    charges: Vec<(Timestamp, u64)>,
}

impl Used {
    fn new(quotas: Vec<Constraint>) -> Self {
        let now = Timestamp::from_nanos(1_700_000_000 * SECOND);
        let (open, notes, charges) = Default::default();
        Self { ledger: Ledger::new(quotas, now), open, now, notes, charges }
    }

    fn step(&mut self, after: u64, step: Step) {
        self.now = self.now.after(Duration::from_millis(after));
        let now = self.now;
        match step {
            Step::Hold(tokens) => {
                self.open.push(self.ledger.place(Cost::new(1, tokens), now).sent());
                self.notes.push((None, tokens));
            }
            Step::Charge(which) if !self.open.is_empty() => {
                let which = which % self.open.len();
                self.ledger.charged(&mut self.open[which], now);
                let (charge, held) = &mut self.notes[which];
                if charge.is_none() {
                    *charge = Some(self.charges.len());
                    self.charges.push((now, *held));
                }
            }
            Step::Settle(which, used) if !self.open.is_empty() => {
                let which = which % self.open.len();
                let sent = self.open.swap_remove(which);
                let used = used.min(sent.cost().tokens);
                self.ledger.settle(sent, Spent::Exact(Cost::new(1, used)), now);
                match self.notes.swap_remove(which).0 {
                    Some(charge) => self.charges[charge].1 = used,
                    None => self.charges.push((now, used)),
                }
            }
            Step::Charge(_) | Step::Settle(..) => {}
        }
    }

    /// What a window of so many seconds has left at most, whatever the upstream counts: its limit
    /// without what was charged within it, or may yet be.
    fn left(&self, unit: Unit, limit: u64, seconds: u64) -> i64 {
        let since = self.now.as_nanos() - seconds * SECOND;
        let units = |tokens: u64| if unit == Unit::Tokens { tokens } else { 1 };
        let within = self.charges.iter().filter(|(at, _)| at.as_nanos() > since);
        let charged: u64 = within.map(|(_, tokens)| units(*tokens)).sum();
        let coming = self.notes.iter().filter(|(charge, _)| charge.is_none());
        let coming: u64 = coming.map(|(_, tokens)| units(*tokens)).sum();
        limit as i64 - (charged + coming) as i64
    }

    fn available(&mut self) -> Vec<i64> {
        let now = self.now;
        self.ledger.levels(now).map(|level| level.available).collect()
    }

    fn held(&mut self) -> Vec<u64> {
        let now = self.now;
        self.ledger.levels(now).map(|level| level.held).collect()
    }
}

fn quotas(limits: [u64; 3], mode: Mode) -> Vec<Constraint> {
    vec![
        quota(Unit::Requests, limits[0], 60, mode),
        quota(Unit::Tokens, limits[1], 60, mode),
        quota(Unit::Tokens, limits[2], 600, mode),
    ]
}

fn limits() -> impl Strategy<Value = [u64; 3]> {
    (1..50_u64, 1..2_000_u64, 1..9_000_u64).prop_map(|(one, two, three)| [one, two, three])
}

proptest! {
    /// What was spent stays spent, whenever limits change: there is as much more as a limit was raised
    /// by, or less; nothing that is held changes; and what is changed back is as it was.
    #[test]
    fn a_change_of_limits_conserves_what_was_spent(
        mode in modes(), (before, after) in (limits(), limits()), steps in steps(), at in 0..80_usize,
    ) {
        let mut used = Used::new(quotas(before, mode));
        for (index, (wait, step)) in steps.into_iter().enumerate() {
            used.step(wait, step);
            if index != at {
                continue;
            }
            let (had, held) = (used.available(), used.held());
            used.ledger.reconfigure(&quotas(after, mode), ColdStart::Full, used.now);
            let moved: Vec<_> = (0..3).map(|it| had[it] - before[it] as i64 + after[it] as i64).collect();
            prop_assert_eq!(used.available(), moved);
            prop_assert_eq!(used.held(), held.clone());
            let (now, mut back) = (used.now, used.ledger.clone());
            back.reconfigure(&quotas(before, mode), ColdStart::Full, now);
            let back: Vec<_> = back.levels(now).map(|level| level.available).collect();
            prop_assert_eq!(back, had);
        }
        for sent in std::mem::take(&mut used.open) {
            used.ledger.settle(sent, Spent::Unknown, used.now);
        }
        prop_assert_eq!(used.held(), vec![0; 3], "everything that was held is settled");
    }

    /// Where nothing refills by itself, a limit that was changed is as if it had always been so, whatever
    /// place its window has now; what is still at the upstream settles in it to the unit.
    #[test]
    fn a_changed_window_is_like_one_that_was_always_so(
        (before, after) in (limits(), limits()), steps in steps(), at in 0..80_usize,
    ) {
        let mode = Mode::Fixed { skew: Duration::ZERO };
        let mut changed = Used::new(quotas(before, mode));
        let mut always = Used::new(quotas(after, mode));
        let mut turned = quotas(after, mode);
        turned.reverse();
        for (index, (wait, step)) in steps.into_iter().enumerate() {
            changed.step(wait, step);
            always.step(wait, step);
            if index == at {
                changed.ledger.reconfigure(&turned, ColdStart::Full, changed.now);
            }
            if index >= at {
                let (mut left, mut held) = (changed.available(), changed.held());
                left.reverse();
                held.reverse();
                prop_assert_eq!((left, held), (always.available(), always.held()));
            }
        }
    }

    /// One that joins others in use has no more than its limit without what was charged within its
    /// window, or may yet be; where that is what it goes by, for ever after.
    #[test]
    fn one_that_joins_has_no_more_than_one_that_was_there(
        mode in modes(), seconds in 1..60_u64, steps in steps(), at in 0..80_usize,
    ) {
        let mut used = Used::new(quotas([1_000, 4_000, 9_000], mode));
        let new = [quota(Unit::Tokens, 3_000, seconds, mode), quota(Unit::Requests, 40, seconds, mode)];
        let next: Vec<_> = new.into_iter().chain(quotas([1_000, 4_000, 9_000], mode)).collect();
        for (index, (wait, step)) in steps.into_iter().enumerate() {
            used.step(wait, step);
            if index == at {
                used.ledger.reconfigure(&next, ColdStart::Full, used.now);
            }
            // A fixed period may have begun since, and a bucket has refilled: both are right.
            let log = matches!(mode, Mode::Sliding | Mode::Auto);
            if (index == at && !matches!(mode, Mode::Fixed { .. })) || (index > at && log) {
                let has = used.available();
                let left = [(Unit::Tokens, 3_000), (Unit::Requests, 40)];
                let left = left.map(|(unit, limit)| used.left(unit, limit, seconds));
                prop_assert!(has[0] <= left[0] && has[1] <= left[1], "{has:?} > {left:?}");
            }
        }
        for sent in std::mem::take(&mut used.open) {
            used.ledger.settle(sent, Spent::Unknown, used.now);
        }
        prop_assert!(used.held().iter().all(|held| *held == 0), "everything is settled");
    }
}

#[test]
fn what_is_at_the_upstream_settles_in_the_windows_that_it_knew() {
    let mut used = Used::new(quotas([10, 1_000, 5_000], Mode::Bucket));
    used.step(0, Step::Hold(400));
    used.step(0, Step::Charge(0));
    // The minute of tokens goes, one of a day comes before all others.
    let day = quota(Unit::Tokens, 50_000, 86_400, Mode::Bucket);
    let now = used.now;
    let [requests, _, long] = quotas([10, 1_000, 5_000], Mode::Bucket).try_into().unwrap();
    let next = vec![day, long, requests];
    used.ledger.reconfigure(&next, ColdStart::Full, now);
    assert_eq!(used.available(), [49_600, 4_600, 9]);
    assert_eq!(used.held(), [400, 400, 0], "a request's charge is final");
    let sent = used.open.remove(0);
    assert_eq!(used.ledger.label(0), 3, "no window is taken for one that went");
    used.ledger.settle(sent, Spent::Exact(Cost::new(1, 100)), now);
    assert_eq!((used.available(), used.held()), (vec![49_900, 4_900, 9], vec![0; 3]));
    used.ledger.reconfigure(&next, ColdStart::Full, now);
    assert_eq!(used.ledger.label(0), 0, "nobody knows any more: they count anew");
}

#[test]
fn nothing_changes_where_nothing_was_changed() {
    let mut used = Used::new(quotas([10, 1_000, 5_000], Mode::Bucket));
    used.step(0, Step::Hold(400));
    let before = format!("{:?}", used.ledger);
    used.ledger.reconfigure(&quotas([10, 1_000, 5_000], Mode::Bucket), ColdStart::Full, used.now);
    used.ledger.reconfigure(&quotas([10, 1_000, 5_000], Mode::Bucket), ColdStart::Empty, used.now);
    let after = format!("{:?}", used.ledger);
    let same = |text: &str| text.replace("labels: [0, 1, 2], unused: 3", "labels: [], unused: 0");
    assert_eq!(same(&after), same(&before));
}

#[test]
fn a_spread_and_its_use_follow_the_limit() {
    let spread = |limit, even| {
        let quota = quota(Unit::Tokens, limit, 60, Mode::Bucket);
        vec![quota.spread_by(Spread { even, reserve: 0 })]
    };
    let mut used = Used::new(spread(1_000, 500));
    used.step(0, Step::Hold(400));
    let now = used.now;
    let paced =
        |ledger: &mut Ledger, tokens| ledger.check_as(Cost::new(1, tokens), true, now).is_ok();
    assert!(paced(&mut used.ledger, 100) && !paced(&mut used.ledger, 101), "of five hundred");
    used.ledger.reconfigure(&spread(2_000, 500), ColdStart::Full, now);
    assert!(paced(&mut used.ledger, 600) && !paced(&mut used.ledger, 601), "of a thousand");
    used.ledger.reconfigure(&spread(2_000, 0), ColdStart::Full, now);
    assert!(paced(&mut used.ledger, 1_600), "not spread any more");
}
