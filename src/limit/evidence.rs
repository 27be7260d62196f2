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

use serde::{Deserialize, Serialize};

use crate::limit::constraint::Constraint;
use crate::limit::log::Periods;
use crate::limit::window::Acting;
use crate::time::Timestamp;

/// Looks are at least this part of a window apart, and as much longer as it takes for what refills to
/// be more than what is on its way; but not longer than half of it, or nothing can be told from them.
const APART: u64 = 16;
const FAR_APART: u64 = 2;
/// A look is one only if less than one part in so many of the limit is on its way.
const CALM: i128 = 8;
/// Looks in a row that continuous refill explains, before it is believed; and what it gets wrong in
/// all of them must be one part in so many of what a log gets wrong.
const REFILLS: u8 = 8;
const BETTER: i128 = 4;
/// Looks in a row that speak against periods, before others are suspected rather than the mode.
const HINTS: u8 = 2;
/// Jumps at the same phase, before fixed periods are believed.
const JUMPS: u8 = 3;
/// How far amounts may be off, in per cent of what would come back.
const TOLERANCE: i128 = 25;
/// Instants at which it is remembered what had been spent: eight windows' worth, however long nothing
/// can be told.
const REMEMBERED: usize = 512;
/// What is added to the uncertainty of a phase on either side: clocks drift, and networks delay.
const SKEW: Duration = Duration::from_millis(250);

/// What has been seen for and against.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Evidence {
    last: Option<Look>,
    /// What was spent by when, over the last window: what a sliding log would bring back.
    spent: VecDeque<(Timestamp, i128)>,
    /// Looks in a row that may be due to continuous refill, and are not due to fixed periods; by how
    /// many units that, and a log, was off in all of them.
    refills: u8,
    off: i128,
    log_off: i128,
    jumps: u8,
    /// In which part of the period every jump so far was.
    phase: Option<Arc>,
}

/// A part of a circle, in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Arc {
    start: u64,
    length: u64,
}

/// What a look shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Finding {
    /// There is enough evidence for a way to refill.
    Adopt(Acting),
    /// Nothing came back although it was used: no bucket does that.
    NoRefill,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Look {
    sent_at: Timestamp,
    seen_at: Timestamp,
    view: View,
}

/// What the window looks like at one instant.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct View {
    /// Units left by the upstream's word.
    pub(super) shown: i128,
    /// Units this pool has spent in all.
    pub(super) spent: i128,
    /// Units of which it is not known whether they are among those, or will come back.
    pub(super) unsure: i128,
}

impl Evidence {
    /// Whether lately what came back was what continuous refill brings, and periods do not.
    pub(super) fn shows_refill(&self) -> bool {
        self.refills >= HINTS
    }

    /// Takes another look into account; returns what it shows, if anything.
    pub(super) fn weigh(
        &mut self,
        quota: &Constraint,
        view: View,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Option<Finding> {
        // No answer is seen before its request was sent, whatever a journal says of the times.
        let now = now.max(sent_at);
        let window = quota.window_nanos().get();
        let newest = self.spent.back().map_or(0, |(at, _)| at.as_nanos());
        if now.as_nanos().saturating_sub(newest) >= window / (APART * 4) {
            self.spent.push_back((now, view.spent));
            if self.spent.len() > REMEMBERED {
                self.spent.pop_front();
            }
        }
        // In the middle of a burst nothing can be told.
        if view.unsure > i128::from(quota.limit()) / CALM {
            return None;
        }
        let look = Look { sent_at, seen_at: now, view };
        let Some(last) = self.last else {
            self.last = Some(look);
            return None;
        };
        let apart = sent_at.as_nanos().saturating_sub(last.seen_at.as_nanos());
        if apart < window / APART {
            return None;
        }
        let earned = i128::from(quota.limit()) * i128::from(apart) / i128::from(window);
        if (last.view.unsure + view.unsure) * 2 > earned && apart < window / FAR_APART {
            return None;
        }
        self.last = Some(look);
        let slid = self.slid(&last, &look, quota);
        self.judge(quota, &last, &look, slid)
    }

    /// What a sliding log would have brought back between two looks, at least and at most.
    fn slid(&mut self, last: &Look, look: &Look, quota: &Constraint) -> (i128, i128) {
        let ago = |at: Timestamp| at.as_nanos().saturating_sub(quota.window_nanos().get());
        let spent_by = |at: u64, late: bool| {
            let index = self.spent.partition_point(|(when, _)| when.as_nanos() <= at);
            let index = if late { index } else { index.saturating_sub(1) };
            self.spent.get(index).or_else(|| self.spent.back()).map_or(0, |(_, spent)| *spent)
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
    ) -> Option<Finding> {
        let (window, limit) = (quota.window_nanos().get(), i128::from(quota.limit()));
        let back = look.view.shown - last.view.shown + look.view.spent - last.view.spent;
        let unsure = last.view.unsure + look.view.unsure;
        let elapsed = i128::from(look.seen_at.as_nanos() - last.seen_at.as_nanos());
        let earned = limit * elapsed / i128::from(window);
        let tolerance = earned * TOLERANCE / 100;
        let explains = |least: i128, most: i128| {
            back + unsure + tolerance >= least && back - unsure - tolerance <= most
        };
        // A full bucket takes in no more.
        let refill = earned.min(limit - last.view.shown);
        let full = look.view.shown + unsure + tolerance >= limit;
        let (refilled, slid, nothing) =
            (explains(refill, earned), explains(least_slid, most_slid), explains(0, 0));
        if refilled {
            // Over half a window or more, a jump may bring back as much.
            let short = elapsed < i128::from(window / FAR_APART);
            if !full && !nothing && short && refill == earned {
                self.jumps = 0;
                self.refills = self.refills.saturating_add(1);
                self.off += (back - earned).abs();
                self.log_off += (back - i128::midpoint(least_slid, most_slid)).abs();
                let better = self.off * BETTER < self.log_off;
                return (self.refills >= REFILLS && better)
                    .then_some(Finding::Adopt(Acting::Bucket));
            }
            return None;
        }
        (self.refills, self.off, self.log_off) = (0, 0, 0);
        if nothing {
            return Some(Finding::NoRefill);
        }
        self.jump(quota, last, look, slid)
    }

    /// More came back than by refill. Tells whether periods are believed from now on.
    fn jump(
        &mut self,
        quota: &Constraint,
        last: &Look,
        look: &Look,
        explained: bool,
    ) -> Option<Finding> {
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
            return Some(Finding::Adopt(Acting::Fixed(Periods { phase, skew })));
        }
        believed.then_some(Finding::Adopt(Acting::Sliding))
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
    use crate::limit::constraint::{Mode, Unit};

    #[test]
    fn memory_is_bounded_where_there_is_never_a_calm_moment() {
        let minute = Duration::from_secs(60);
        let quota = Constraint::new(Unit::Tokens, 1_000, minute, "minute", Mode::Auto);
        let quota = quota.expect("a constraint");
        let mut evidence = Evidence::default();
        for second in 0..100_000 {
            let now = Timestamp::from_nanos(second * 1_000_000_000);
            let view = View { shown: 0, spent: i128::from(second), unsure: 900 };
            assert_eq!(evidence.weigh(&quota, view, now, now), None);
        }
        assert_eq!(evidence.spent.len(), REMEMBERED);
    }

    #[test]
    fn an_answer_that_claims_to_have_come_before_its_request_does_no_harm() {
        let minute = Duration::from_secs(60);
        let quota = Constraint::new(Unit::Tokens, 1_000, minute, "minute", Mode::Auto);
        let quota = quota.expect("a constraint");
        let mut evidence = Evidence::default();
        let at = |second: u64| Timestamp::from_nanos(second * 1_000_000_000);
        for (sent, seen) in [(1_000, 1_001), (1_100, 5), (1_200, 1_000), (1_300, 0)] {
            let view = View { shown: 500, spent: i128::from(sent), unsure: 0 };
            let _ = evidence.weigh(&quota, view, at(sent), at(seen));
        }
        assert_eq!(
            evidence.last.map(|look| (look.sent_at, look.seen_at)),
            Some((at(1_300), at(1_300)))
        );
    }

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
