//! How much has happened since an instant: exact for what is recent, rounded up for what is not.
//!
//! # Invariants
//!
//! - Bounded: events share slots, at most [`PER_WIDTH`] of each width, and each width is twice the
//!   one before. The slot that an instant falls into counts in full, so an answer is never too small
//!   as long as what is entered is not negative.
//! - What was entered can be changed later, at the instant at which it was entered.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The shortest time for which events are told apart: well below the time to a first token.
const GRAIN: u64 = 5_000_000;
/// Slots of one width: a few make the error a small part of how long ago an instant was.
const PER_WIDTH: usize = 8;
/// Widths; the slots of the last reach back for days, and are forgotten after that.
const WIDTHS: u8 = 24;

/// Amounts by the time at which they came up.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct History {
    /// Oldest first; a slot reaches from the end of the one before, exclusive, to its own `last`.
    slots: VecDeque<Slot>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Slot {
    last: Timestamp,
    width: u8,
    units: i128,
}

impl History {
    /// Enters `units` at `at`.
    pub(super) fn add(&mut self, at: Timestamp, units: i128) {
        if units == 0 {
            return;
        }
        let newest = self.slots.back().map(|slot| slot.last);
        if newest.is_some_and(|last| at <= last) {
            return self.change(at, units);
        }
        let before = self.slots.len().checked_sub(2).map(|index| self.slots[index].last);
        match (self.slots.back_mut(), before) {
            (Some(slot), Some(before))
                if slot.width == 0 && at.as_nanos() - before.as_nanos() <= GRAIN =>
            {
                slot.last = at;
                slot.units += units;
            }
            _ => {
                self.slots.push_back(Slot { last: at, width: 0, units });
                self.merge();
            }
        }
    }

    /// Changes what was entered at `at` by `units`.
    pub(super) fn change(&mut self, at: Timestamp, units: i128) {
        let index = self.slots.partition_point(|slot| slot.last < at);
        if let Some(slot) = self.slots.get_mut(index) {
            slot.units += units;
        }
    }

    /// What was entered at `at` and after it, or somewhat more.
    pub(super) fn since(&self, at: Timestamp) -> i128 {
        self.slots.iter().rev().take_while(|slot| slot.last >= at).map(|slot| slot.units).sum()
    }

    /// Keeps the slots of each width few, by making two into one of the next.
    fn merge(&mut self) {
        let mut end = self.slots.len();
        for width in 0..WIDTHS {
            // Older slots are never narrower, and at most one was added: so there is one too many of
            // this width if the one that many before the last still has it.
            let Some(first) = end.checked_sub(PER_WIDTH + 1) else { return };
            if self.slots[first].width != width {
                return;
            }
            end = first;
            if width + 1 == WIDTHS {
                self.slots.pop_front();
                return;
            }
            if let Some(older) = self.slots.remove(end)
                && let Some(slot) = self.slots.get_mut(end)
            {
                slot.units += older.units;
                slot.width = width + 1;
            }
            end += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the list of all events: never less than it says, and no more than what came since
        /// half as long again before (and a few events apart, where they are rare).
        #[test]
        fn a_history_never_says_less_and_hardly_more(
            events in prop::collection::vec((0..50_000_000_u64, 0..1_000_u32, any::<bool>()), 1..600),
            asked in prop::collection::vec(any::<prop::sample::Index>(), 8),
        ) {
            let mut history = History::default();
            let mut all: Vec<(u64, i128)> = Vec::new();
            let mut now = 1_000_000_000;
            for (gap, units, amended) in events {
                now += gap;
                let units = i128::from(units);
                history.add(Timestamp::from_nanos(now), units);
                all.push((now, units));
                if amended && all.len() > 3 {
                    let middle = all.len() / 2;
                    let (at, old) = &mut all[middle];
                    history.change(Timestamp::from_nanos(*at), -*old);
                    *old = 0;
                }
            }
            prop_assert!(history.slots.len() <= PER_WIDTH * usize::from(WIDTHS));
            for index in asked {
                let (at, _) = all[index.index(all.len())];
                let exact = |from: u64| all.iter().filter(|it| it.0 >= from).map(|it| it.1).sum::<i128>();
                let said = history.since(Timestamp::from_nanos(at));
                prop_assert!(said >= exact(at), "{said} of {}", exact(at));
                let margin = (now - at) / 2 + 60_000_000;
                prop_assert!(said <= exact(at.saturating_sub(margin)));
            }
        }
    }
}
