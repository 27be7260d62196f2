use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::{Cost, Hold, Mode, Sent, Spent, Spread};

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

/// A ledger in use, in which everything is held that is asked for, whether there is room or not.
struct Used {
    ledger: Ledger,
    open: Vec<Sent>,
    now: Timestamp,
    /// Whether requests go only where there is room.
    asks: bool,
}

impl Used {
    fn new(quotas: Vec<Constraint>) -> Self {
        let now = Timestamp::from_nanos(1_700_000_000 * SECOND);
        Self { ledger: Ledger::new(quotas, now), open: Vec::new(), now, asks: false }
    }

    fn step(&mut self, after: u64, step: Step) {
        self.now = self.now.after(Duration::from_millis(after));
        let now = self.now;
        match step {
            Step::Hold(tokens) if self.asks => {
                self.open.extend(self.ledger.hold(Cost::new(1, tokens), now).map(Hold::sent));
            }
            Step::Hold(tokens) => {
                self.open.push(self.ledger.place(Cost::new(1, tokens), now).sent());
            }
            Step::Charge(which) => {
                let count = self.open.len().max(1);
                if let Some(sent) = self.open.get_mut(which % count) {
                    self.ledger.charged(sent, now);
                }
            }
            Step::Settle(which, used) if !self.open.is_empty() => {
                let sent = self.open.swap_remove(which % self.open.len());
                let used = used.min(sent.cost().tokens);
                self.ledger.settle(sent, Spent::Exact(Cost::new(1, used)), now);
            }
            Step::Settle(..) => {}
        }
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

    /// One that joins never has more than one that had been there all along, if another of its unit
    /// reaches back as far.
    #[test]
    fn one_that_joins_has_no_more_than_one_that_was_there(
        mode in modes(), seconds in 1..60_u64, steps in steps(), at in 0..80_usize,
    ) {
        let old = || quotas([1_000, 4_000, 9_000], mode);
        let new = [quota(Unit::Tokens, 3_000, seconds, mode), quota(Unit::Requests, 40, seconds, mode)];
        let with = || new.iter().cloned().chain(old()).collect::<Vec<_>>();
        let (mut joined, mut always) = (Used::new(old()), Used::new(with()));
        for (index, (wait, step)) in steps.into_iter().enumerate() {
            joined.step(wait, step);
            always.step(wait, step);
            if index == at {
                joined.ledger.reconfigure(&with(), ColdStart::Full, joined.now);
                prop_assert_eq!(joined.held(), always.held());
            }
            if index >= at {
                let (has, had) = (joined.available(), always.available());
                // What nobody would have let go is a debt, which a log forgets too soon.
                let fine = has.iter().zip(&had).all(|(has, had)| has <= had || *had < 0);
                prop_assert!(fine, "{:?} > {:?}", has, had);
            }
        }
        for sent in std::mem::take(&mut joined.open) {
            joined.ledger.settle(sent, Spent::Unknown, joined.now);
        }
        prop_assert_eq!(joined.held(), vec![0; 5]);
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
