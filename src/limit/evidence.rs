//! Finds out how the upstream refills a window, from what it shows to be left.
//!
//! Between two looks the level changes by what this pool spent, which is known, and by what came
//! back. Continuous refill brings back `L/W` times the time between them, a fixed window nothing at
//! all but everything at once at the same point of every period, a sliding log what was spent one
//! window before. A way to refill is adopted only after looks that no other explains, and none of
//! which contradicts it; until then, and again after any contradiction, the window counts as
//! `sliding`, which is safe whatever the truth is.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limit::constraint::Constraint;
use crate::limit::log::Periods;
use crate::limit::window::Acting;
use crate::time::Timestamp;

/// Looks are at least this part of a window apart.
const APART: u64 = 16;
/// Looks in a row that only continuous refill explains, before it is believed: half a window.
const REFILLS: u8 = 8;
/// Jumps at the same phase, before fixed periods are believed.
const JUMPS: u8 = 3;
/// How far amounts may be off, in per cent of what would come back.
const TOLERANCE: i128 = 25;
/// What is added to the uncertainty of a phase on either side: clocks drift, and networks delay.
const SKEW: Duration = Duration::from_millis(250);

/// What has been seen for and against.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    last: Option<Look>,
    /// What was spent by when, over the last window: what a sliding log would bring back.
    spent: VecDeque<(Timestamp, i128)>,
    refills: u8,
    jumps: u8,
    /// In which part of the period every jump so far was.
    phase: Option<Arc>,
}

/// A part of a circle, in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Arc {
    start: u64,
    length: u64,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    sent_at: Timestamp,
    seen_at: Timestamp,
    view: View,
}

/// What the window looks like at one instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Units left by the upstream's word.
    pub(super) shown: i128,
    /// Units this pool has spent in all.
    pub(super) spent: i128,
    /// Units of which it is not known whether they are among those, or will come back.
    pub(super) unsure: i128,
}

impl Evidence {
    /// Takes another look into account; returns the way to refill that is believed from now on, if
    /// that changes.
    pub(super) fn weigh(
        &mut self,
        quota: &Constraint,
        view: View,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Option<Acting> {
        let look = Look { sent_at, seen_at: now, view };
        let Some(last) = self.last else {
            self.spent.push_back((now, view.spent));
            self.last = Some(look);
            return None;
        };
        let window = quota.window_nanos().get();
        if sent_at < last.seen_at
            || sent_at.as_nanos() - last.seen_at.as_nanos() < window / APART
        {
            return None;
        }
        self.last = Some(look);
        let slid = self.slid(&last, &look, quota);
        self.spent.push_back((now, view.spent));
        self.judge(quota, &last, &look, slid)
    }

    /// What a sliding log would have brought back between two looks, at least and at most.
    fn slid(&mut self, last: &Look, look: &Look, quota: &Constraint) -> (i128, i128) {
        let ago = |at: Timestamp| at.as_nanos().saturating_sub(quota.window_nanos().get());
        let spent_by = |at: u64, late: bool| {
            let index = self.spent.partition_point(|(when, _)| when.as_nanos() <= at);
            let index = if late { index } else { index.saturating_sub(1) };
            self.spent.get(index).or(self.spent.back()).map_or(0, |(_, spent)| *spent)
        };
        let least = spent_by(ago(look.sent_at), false) - spent_by(ago(last.seen_at), true);
        let most = spent_by(ago(look.seen_at), true) - spent_by(ago(last.sent_at), false);
        while self.spent.len() > 2 && self.spent[1].0.as_nanos() < ago(last.sent_at) {
            self.spent.pop_front();
        }
        (least.max(0), most.max(0))
    }

    fn judge(
        &mut self,
        quota: &Constraint,
        last: &Look,
        look: &Look,
        (least_slid, most_slid): (i128, i128),
    ) -> Option<Acting> {
        let (window, limit) = (quota.window_nanos().get(), i128::from(quota.limit()));
        let back = look.view.shown - last.view.shown + look.view.spent - last.view.spent;
        let unsure = last.view.unsure + look.view.unsure;
        let elapsed = i128::from(look.seen_at.as_nanos() - last.seen_at.as_nanos());
        let earned = limit * elapsed / i128::from(window);
        let tolerance = earned * TOLERANCE / 100;
        let explains = |least: i128, most: i128| {
            back + unsure + tolerance >= least && back - unsure - tolerance <= most
        };
        // A full bucket takes in no more; then it says nothing.
        let full = look.view.shown + unsure + tolerance >= limit;
        let (refilled, slid, nothing) =
            (explains(earned, earned), explains(least_slid, most_slid), explains(0, 0));
        if full && !nothing {
            // Only a jump fills it while it is used: but so may anything after a pause.
            return self.jump(quota, last, look, slid || refilled);
        }
        match (refilled, slid, nothing) {
            (true, false, false) => {
                self.jumps = 0;
                self.refills = self.refills.saturating_add(1);
                (self.refills == REFILLS).then_some(Acting::Bucket)
            }
            (true, _, _) => None,
            (false, ..) => {
                let adopted = self.refills >= REFILLS;
                self.refills = 0;
                if !nothing {
                    return self.jump(quota, last, look, slid);
                }
                adopted.then_some(Acting::Sliding)
            }
        }
    }

    /// More came back than by refill. Tells whether periods are believed from now on.
    fn jump(
        &mut self,
        quota: &Constraint,
        last: &Look,
        look: &Look,
        explained: bool,
    ) -> Option<Acting> {
        if explained {
            return None;
        }
        let window = quota.window_nanos().get();
        let (from, to) = (last.sent_at.as_nanos(), look.seen_at.as_nanos());
        let length = to - from;
        if length >= window {
            return None;
        }
        let seen = Arc { start: from % window, length };
        let believed = self.jumps >= JUMPS;
        let common = self.phase.and_then(|phase| phase.common(seen, window));
        self.jumps = if common.is_some() { self.jumps.saturating_add(1) } else { 1 };
        let phase = common.unwrap_or(seen);
        self.phase = Some(phase);
        let skew = Duration::from_nanos(phase.length / 2) + SKEW;
        if self.jumps >= JUMPS && skew < quota.window() / 4 {
            let phase = (phase.start + phase.length / 2) % window;
            return Some(Acting::Fixed(Periods { phase, skew }));
        }
        believed.then_some(Acting::Sliding)
    }
}

impl Arc {
    /// What two arcs of a circle of this size have in common.
    fn common(self, other: Self, circle: u64) -> Option<Self> {
        let ahead = |from: u64, to: u64| (to + circle - from) % circle;
        let begun = |first: Self, second: Self| {
            let offset = ahead(first.start, second.start);
            let left = first.length.checked_sub(offset)?;
            Some(Self { start: second.start, length: left.min(second.length) })
        };
        begun(self, other).or_else(|| begun(other, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arcs_have_in_common_what_lies_on_both() {
        let arc = |start, length| Arc { start, length };
        for (one, other, expected) in [
            (arc(10, 20), arc(15, 5), Some(arc(15, 5))),
            (arc(10, 20), arc(25, 20), Some(arc(25, 5))),
            (arc(90, 20), arc(5, 20), Some(arc(5, 5))),
            (arc(5, 20), arc(90, 20), Some(arc(5, 5))),
            (arc(10, 20), arc(40, 20), None),
        ] {
            assert_eq!(one.common(other, 100), expected);
        }
    }
}
