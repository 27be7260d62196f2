//! Charges by the time at which they were made, for windows that give them back by time.
//!
//! A sliding window returns each charge one window after it was made, a fixed one returns all
//! charges of a calendar window at its end. Both are the same log with a different expiry rule.
//!
//! # Invariants
//!
//! - Bounded: charges share slots of 1/1,024 of the window, so a log holds about a thousand slots
//!   whatever the rate. A slot expires as its *last* instant would, so sharing only ever delays.
//! - A charge is entered at the time the answer's head was seen: the upstream made it no later.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limit::{Constraint, Mode};
use crate::time::{Timestamp, nanos};

/// Slots per window. The delay it costs is at most one part in as many: 0.1 % of a window.
const SLOTS: u64 = 1_024;

/// The charges of one window that still count.
#[derive(Clone, Debug)]
pub(super) struct Log {
    slots: VecDeque<Slot>,
    used: i128,
    width: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    index: u64,
    used: i128,
}

impl Log {
    pub(super) fn empty(quota: &Constraint) -> Self {
        let width = quota.window_nanos().get().div_ceil(SLOTS);
        Self { slots: VecDeque::new(), used: 0, width }
    }

    /// Units charged that still count.
    pub(super) fn used(&self) -> i128 {
        self.used
    }

    /// Enters `units` as charged at `at`.
    pub(super) fn charge(&mut self, units: i128, at: Timestamp) {
        let index = at.as_nanos() / self.width;
        // Heads arrive in time order but for answers that overtake each other: search from the end.
        let position = self.slots.iter().rposition(|slot| slot.index <= index);
        match position {
            Some(position) if self.slots[position].index == index => {
                self.slots[position].used += units;
            }
            Some(position) => self.slots.insert(position + 1, Slot { index, used: units }),
            None => self.slots.push_front(Slot { index, used: units }),
        }
        self.used += units;
    }

    /// Changes the charge made at `at` by `units`, unless it no longer counts: then a refund is
    /// worth nothing. Tells whether it did.
    pub(super) fn amend(&mut self, units: i128, at: Timestamp) -> bool {
        let index = at.as_nanos() / self.width;
        let Ok(position) = self.slots.binary_search_by_key(&index, |slot| slot.index) else {
            return false;
        };
        self.slots[position].used += units;
        self.used += units;
        true
    }

    /// Forgets the charges that no longer count at `now`.
    pub(super) fn expire(&mut self, quota: &Constraint, now: Timestamp) {
        while let Some(slot) = self.slots.front() {
            if self.expiry(quota, slot) > now {
                break;
            }
            self.used -= slot.used;
            self.slots.pop_front();
        }
    }

    /// The first instant at which at least `units` of what is charged now no longer count, or
    /// `None` if there is not that much.
    pub(super) fn frees(
        &self,
        quota: &Constraint,
        units: i128,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (mut freed, mut at) = (0, now);
        for slot in &self.slots {
            if freed >= units {
                break;
            }
            freed += slot.used;
            at = self.expiry(quota, slot);
        }
        (freed >= units).then_some(at.max(now))
    }

    /// The instant at which nothing charged now counts any more.
    pub(super) fn clear_at(&self, quota: &Constraint, now: Timestamp) -> Timestamp {
        self.slots.back().map_or(now, |slot| self.expiry(quota, slot))
    }

    fn expiry(&self, quota: &Constraint, slot: &Slot) -> Timestamp {
        let window = quota.window_nanos().get();
        let end = slot.index.saturating_add(1).saturating_mul(self.width);
        Timestamp::from_nanos(match quota.mode() {
            // A boundary that may come `skew` early or late: the slot is past it only if it ended
            // `skew` before, and the next window is open only `skew` after.
            Mode::Fixed { skew } => boundary_from(end, window, skew),
            Mode::Bucket | Mode::Sliding => end.saturating_add(window),
        })
    }
}

/// The instant from which the window after the one that `end` lies in has surely begun.
fn boundary_from(end: u64, window: u64, skew: Duration) -> u64 {
    let skew = nanos(skew);
    end.saturating_add(skew).div_ceil(window).saturating_mul(window).saturating_add(skew)
}

/// When the calendar window that is in force at `now` ends for us.
pub(super) fn next_boundary(window: u64, skew: Duration, now: Timestamp) -> Timestamp {
    let skew = nanos(skew);
    let index = now.as_nanos().saturating_sub(skew) / window + 1;
    Timestamp::from_nanos(index.saturating_mul(window).saturating_add(skew))
}
