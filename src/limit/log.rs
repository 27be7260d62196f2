//! Charges by the time at which they were made, for windows that give them back by time.
//!
//! A sliding window returns each charge one window after it was made, a fixed one returns all
//! charges of a period at its end. Both are views of the same log with different rules of expiry.
//!
//! # Invariants
//!
//! - Bounded: charges share slots of 1/1,024 of the window, so a log holds about a thousand slots
//!   whatever the rate. A slot expires as its *last* instant would, so sharing only ever delays.
//! - A charge is entered at the time the answer's head was seen: the upstream made it no later.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{Timestamp, nanos};

/// Slots per window. The delay it costs is at most one part in as many: 0.1 % of a window.
const SLOTS: u64 = 1_024;

/// When a window's periods begin, for an upstream that gives everything back at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Periods {
    /// The beginning of one period, in nanoseconds since the Unix epoch.
    pub(super) phase: u64,
    /// How early or late a beginning may be.
    pub(super) skew: Duration,
}

/// The charges of one window that still count.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Log {
    slots: VecDeque<Slot>,
    window: u64,
    width: u64,
    sliding: View,
    fixed: Option<View>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Slot {
    index: u64,
    used: i64,
}

/// The slots that still count under one rule: all from `first` on.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct View {
    periods: Option<Periods>,
    first: usize,
    used: i128,
}

impl Log {
    /// A log without charges for windows of so many nanoseconds; read as fixed periods, too, if
    /// those are given.
    pub(super) fn empty(window: u64, periods: Option<Periods>) -> Self {
        let view = |periods| View { periods, first: 0, used: 0 };
        Self {
            slots: VecDeque::new(),
            window,
            width: window.div_ceil(SLOTS),
            sliding: view(None),
            fixed: periods.map(|it| view(Some(it))),
        }
    }

    /// Reads the log as fixed periods from now on.
    pub(super) fn set_periods(&mut self, periods: Periods) {
        let used = self.slots.iter().map(|slot| i128::from(slot.used)).sum();
        self.fixed = Some(View { periods: Some(periods), first: 0, used });
    }

    /// Units charged that still count: as a sliding window, or in fixed periods.
    pub(super) fn used(&self, fixed: bool) -> i128 {
        self.view(fixed).used
    }

    /// Enters `units` as charged at `at`.
    pub(super) fn charge(&mut self, units: i128, at: Timestamp) {
        let index = at.as_nanos() / self.width;
        let used = i64::try_from(units).unwrap_or(i64::MAX);
        // Heads arrive in time order but for answers that overtake each other: search from the end.
        let position = self.slots.iter().rposition(|slot| slot.index <= index);
        match position {
            Some(position) if self.slots[position].index == index => {
                self.slots[position].used = self.slots[position].used.saturating_add(used);
                self.count(position, units);
            }
            Some(position) => self.insert(position + 1, Slot { index, used }),
            None => self.insert(0, Slot { index, used }),
        }
    }

    fn insert(&mut self, position: usize, slot: Slot) {
        let units = i128::from(slot.used);
        self.slots.insert(position, slot);
        for view in [Some(&mut self.sliding), self.fixed.as_mut()].into_iter().flatten() {
            // What is older than something that has run out has run out too.
            view.first += usize::from(position < view.first);
        }
        self.count(position, units);
    }

    /// Adds to the views in which the slot still counts; tells whether it does as a sliding window.
    fn count(&mut self, position: usize, units: i128) -> bool {
        for view in [Some(&mut self.sliding), self.fixed.as_mut()].into_iter().flatten() {
            if position >= view.first {
                view.used += units;
            }
        }
        position >= self.sliding.first
    }

    /// Changes the charge made at `at` by `units`, unless it no longer counts: then a refund is
    /// worth nothing. Tells whether it did.
    pub(super) fn amend(&mut self, units: i128, at: Timestamp) -> bool {
        let index = at.as_nanos() / self.width;
        let Ok(position) = self.slots.binary_search_by_key(&index, |slot| slot.index) else {
            return false;
        };
        let change = i64::try_from(units).unwrap_or(0);
        self.slots[position].used = self.slots[position].used.saturating_add(change);
        let fixed = self.fixed.as_ref().is_some_and(|view| position >= view.first);
        self.count(position, units) || fixed
    }

    /// Takes `units` off the oldest charges that count. Whatever was really charged less than is
    /// entered here, what is left of the newest charges is never too little: so no later expiry
    /// gives back what is still in force.
    pub(super) fn forgive(&mut self, units: i128, fixed: bool) {
        let mut left = units;
        for position in self.view(fixed).first..self.slots.len() {
            if left <= 0 {
                break;
            }
            let part = i128::from(self.slots[position].used).clamp(0, left);
            self.slots[position].used -= i64::try_from(part).unwrap_or(0);
            self.count(position, -part);
            left -= part;
        }
    }

    /// Forgets the charges that no longer count at `now`, and tells `returned` what came back by
    /// that, and when.
    pub(super) fn expire(
        &mut self,
        now: Timestamp,
        fixed: bool,
        mut returned: impl FnMut(Timestamp, i128),
    ) {
        let (window, width) = (self.window, self.width);
        for view in [Some(&mut self.sliding), self.fixed.as_mut()].into_iter().flatten() {
            while let Some(slot) = self.slots.get(view.first) {
                let gone = expiry(window, width, view.periods, slot);
                if gone > now {
                    break;
                }
                view.used -= i128::from(slot.used);
                view.first += 1;
                if view.periods.is_some() == fixed {
                    returned(gone, i128::from(slot.used));
                }
            }
        }
        let gone =
            self.fixed.as_ref().map_or(self.sliding.first, |it| it.first.min(self.sliding.first));
        if gone == 0 {
            return;
        }
        self.slots.drain(..gone);
        for view in [Some(&mut self.sliding), self.fixed.as_mut()].into_iter().flatten() {
            view.first -= gone;
        }
    }

    /// The first instant at which at least `units` of what is charged now no longer count, or
    /// `None` if there is not that much.
    pub(super) fn frees(&self, units: i128, now: Timestamp, fixed: bool) -> Option<Timestamp> {
        let view = self.view(fixed);
        let (mut freed, mut at) = (0, now);
        for slot in self.slots.range(view.first..) {
            if freed >= units {
                break;
            }
            freed += i128::from(slot.used);
            at = expiry(self.window, self.width, view.periods, slot);
        }
        (freed >= units).then_some(at.max(now))
    }

    /// The instant at which nothing charged now counts any more.
    pub(super) fn clear_at(&self, now: Timestamp) -> Timestamp {
        let newest = self.slots.back();
        newest.map_or(now, |slot| expiry(self.window, self.width, None, slot))
    }

    /// What was charged and still counts as a sliding window, and until when each slot reaches.
    pub(super) fn charges(&self) -> impl Iterator<Item = (Timestamp, i128)> {
        let end = |slot: &Slot| slot.index.saturating_add(1).saturating_mul(self.width);
        let counting = self.slots.range(self.sliding.first..);
        counting.map(move |slot| (Timestamp::from_nanos(end(slot)), i128::from(slot.used)))
    }

    fn view(&self, fixed: bool) -> &View {
        self.fixed.as_ref().filter(|_| fixed).unwrap_or(&self.sliding)
    }
}

fn expiry(window: u64, width: u64, periods: Option<Periods>, slot: &Slot) -> Timestamp {
    let end = slot.index.saturating_add(1).saturating_mul(width);
    Timestamp::from_nanos(match periods {
        // A boundary that may come `skew` early or late: the slot is past it only if it ended
        // `skew` before, and the next period is open only `skew` after.
        Some(periods) => periods.open_from(end, window),
        None => end.saturating_add(window),
    })
}

impl Periods {
    /// The instant from which the period after the one that `end` lies in has surely begun.
    fn open_from(&self, end: u64, window: u64) -> u64 {
        let (phase, skew) = (self.phase % window, nanos(self.skew));
        let since = end.saturating_add(skew).saturating_sub(phase);
        since.div_ceil(window).saturating_mul(window).saturating_add(phase).saturating_add(skew)
    }

    /// When the period that is in force at `now` ends for us.
    pub(super) fn next(&self, window: u64, now: Timestamp) -> Timestamp {
        let (phase, skew) = (self.phase % window, nanos(self.skew));
        let index = now.as_nanos().saturating_sub(skew).saturating_sub(phase) / window + 1;
        Timestamp::from_nanos(index.saturating_mul(window).saturating_add(phase + skew))
    }
}
