//! What others take from the same quota, as far as the upstream's answers show it.
//!
//! Nothing is assumed of others until an answer contradicts the ledger. From then on the refill is
//! reckoned without their share, and a margin against surprises is kept free, both until nothing of
//! the kind has been seen for two windows. The margin grows by every request that is refused because
//! of others, and fades slowly: as large as it has to be for refusals to be rare.

use serde::{Deserialize, Serialize};

use crate::limit::constraint::Constraint;
use crate::limit::evidence::View;
use crate::time::Timestamp;

/// The share of the refill that others are never taken to exceed, in per cent: a quota that is used up
/// entirely by others is found out by asking, and who never asks never finds out.
const MOST: u64 = 95;
/// Parts of a window over which one estimate of the drain is made: long enough that what is on its way
/// at either end is small beside what was used, short enough to follow a change.
const SPAN: u64 = 16;
/// The margin is never more than one part in so many of the limit: to ask in vain now and then costs
/// less than to leave that much unused.
const WIDEST: i128 = 8;
/// Windows after which half of the margin is left. It decides how often it is tried whether less
/// would do: a few refusals in so many windows.
const HALF_LIFE: u32 = 16;
/// The margin fades by one part in so many at a time, so many times until half of it is left.
const FADES: i128 = 8;
const FADES_PER_HALF: u32 = 5;
/// In a sliding window one unit in so many may be refused, well within the half of one in a hundred that
/// is rare enough: the margin fades by as much as that many refusals raise it.
const SPARED: i128 = 300;
/// There the margin grows by one part in so many of what was refused: larger steps make it wide and
/// narrow in turns, and both cost. Only at first it is as wide as that at once.
const STEP: i128 = 4;
const FIRST: i128 = 1;
/// There it fades so often in a window.
const STEPS: u32 = 8;
/// One estimate counts one part in so many.
const SMOOTHING: i128 = 8;

/// The estimate of foreign use of one window.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Foreign {
    /// Until when others are reckoned with.
    active_until: Timestamp,
    /// Units per window that others use.
    drain: i128,
    /// The margin, and until when it stays as it is.
    floor: i128,
    floor_until: Timestamp,
    /// Where the present estimate began: when, what was left, and what this pool had spent.
    mark: Option<(Timestamp, i128, i128)>,
}

impl Foreign {
    /// Whether others are reckoned with.
    pub(super) fn is_active(&self, now: Timestamp) -> bool {
        now < self.active_until
    }

    /// Until when others are reckoned with.
    pub(super) const fn active_until(&self) -> Timestamp {
        self.active_until
    }

    /// Units per window that others are taken to use.
    pub(super) fn drain(&self, now: Timestamp) -> u64 {
        if now < self.active_until { u64::try_from(self.drain).unwrap_or(0) } else { 0 }
    }

    /// Units that others may take between a decision and its arrival.
    pub(super) fn floor(&self, now: Timestamp) -> i128 {
        if now < self.active_until { self.floor } else { 0 }
    }

    /// A request of so many units was refused because of others, by a window that is `sliding` or not.
    pub(super) fn refused(
        &mut self,
        quota: &Constraint,
        units: i128,
        sliding: bool,
        now: Timestamp,
    ) {
        if !sliding {
            return self.raise(quota, units, now);
        }
        self.raise(quota, 0, now);
        let most = i128::from(quota.limit()) / WIDEST;
        self.floor = (self.floor + units / STEP).max(units / FIRST).min(most);
    }

    fn raise(&mut self, quota: &Constraint, units: i128, now: Timestamp) {
        let most = i128::from(quota.limit()) / WIDEST;
        self.active_until = now.after(quota.window() * 2);
        if units > 0 {
            self.floor = (self.floor + units).min(most);
            self.floor_until = now.after(quota.window() * HALF_LIFE / FADES_PER_HALF);
        }
    }

    /// An answer showed so much left after this pool had spent so much in all, which is `gap` less
    /// than could be.
    pub(super) fn note(
        &mut self,
        quota: &Constraint,
        gap: i128,
        sliding: bool,
        view: View,
        now: Timestamp,
    ) {
        let View { shown, spent, unsure } = view;
        let (limit, window) = (i128::from(quota.limit()), quota.window());
        if gap > 0 {
            self.raise(quota, if sliding { 0 } else { gap - self.floor }, now);
        }
        if sliding && now >= self.floor_until {
            // Answers may all come in one part of a window.
            let step = window / STEPS;
            let late = u128::from(now.as_nanos().saturating_sub(self.floor_until.as_nanos()));
            let times = i128::try_from(late / step.as_nanos().max(1)).unwrap_or(0) + 1;
            let fade = limit * times.min(limit) / (SPARED * STEP * i128::from(STEPS));
            self.floor = (self.floor - fade.max(1)).max(0);
            self.floor_until = now.after(step);
        } else if gap <= 0 && now >= self.floor_until {
            self.floor -= self.floor / FADES;
            self.floor_until = now.after(window * HALF_LIFE / FADES_PER_HALF);
        }
        // What does not fit into a full bucket is lost, and would count as taken.
        if shown > limit * 9 / 10 {
            self.mark = None;
            return;
        }
        let Some((since, left, before)) = self.mark else {
            self.mark = Some((now, shown, spent));
            return;
        };
        let elapsed = i128::from(now.as_nanos().saturating_sub(since.as_nanos()));
        let window = i128::from(quota.window_nanos().get());
        if elapsed * i128::from(SPAN) < window {
            return;
        }
        let earned = limit * elapsed / window;
        if unsure > earned {
            return;
        }
        let taken = (earned - (spent - before) - (shown - left)) * window / elapsed;
        let most = limit * i128::from(MOST) / 100;
        self.drain += (taken.clamp(-limit, most) - self.drain) / SMOOTHING;
        self.drain = self.drain.max(0);
        self.mark = Some((now, shown, spent));
    }
}
