//! What others take from the same quota, as far as the upstream's answers show it.
//!
//! Nothing is assumed of others until an answer contradicts the ledger. From then on the refill is
//! reckoned without their share, and a margin as large as the largest surprise is kept free, both
//! until nothing of the kind has been seen for two windows.

use crate::limit::constraint::Constraint;
use crate::time::Timestamp;

/// The share of the refill that others are never taken to exceed, in per cent: a quota that is used up
/// entirely by others is found out by asking, and who never asks never finds out.
const MOST: u64 = 95;
/// Parts of a window over which one estimate of the drain is made: long enough that what is on its way
/// at either end is small beside what was used, short enough to follow a change.
const SPAN: u64 = 16;
/// One estimate counts one part in so many.
const SMOOTHING: i128 = 8;

/// The estimate of foreign use of one window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Foreign {
    /// Until when others are reckoned with.
    active_until: Timestamp,
    /// Units per window that others use.
    drain: i128,
    /// The largest surprise, and when it was.
    floor: i128,
    floor_at: Timestamp,
    /// Where the present estimate began: when, what was left, and what this pool had spent.
    mark: Option<(Timestamp, i128, i128)>,
}

impl Foreign {
    /// Units per window that others are taken to use.
    pub(super) fn drain(&self, now: Timestamp) -> u64 {
        if now < self.active_until { u64::try_from(self.drain).unwrap_or(0) } else { 0 }
    }

    /// Units that others may take between a decision and its arrival.
    pub(super) fn floor(&self, now: Timestamp) -> i128 {
        if now < self.active_until { self.floor } else { 0 }
    }

    /// An answer showed `shown` units left after this pool had spent so many in all, which is `gap`
    /// less than could be.
    pub(super) fn note(
        &mut self,
        quota: &Constraint,
        gap: i128,
        shown: i128,
        spent: i128,
        now: Timestamp,
    ) {
        let (limit, window) = (i128::from(quota.limit()), quota.window());
        if gap > 0 {
            self.active_until = now.after(window * 2);
            if gap >= self.floor || now >= self.floor_at.after(window) {
                (self.floor, self.floor_at) = (gap.min(limit / 2), now);
            }
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
        let taken = (earned - (spent - before) - (shown - left)) * window / elapsed;
        let most = limit * i128::from(MOST) / 100;
        self.drain += (taken.clamp(-limit, most) - self.drain) / SMOOTHING;
        self.drain = self.drain.max(0);
        self.mark = Some((now, shown, spent));
    }
}
