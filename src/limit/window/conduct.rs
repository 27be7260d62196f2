//! Whether a window that is taken for fixed periods behaves as one does.
//!
//! In a period nothing comes back but what was reserved and not used, by this pool or by others; and
//! when it begins, nothing is gone. An upstream that is not what it was taken for does otherwise, and
//! then others cannot be blamed for what it refuses.

use serde::{Deserialize, Serialize};

use crate::limit::constraint::Constraint;
use crate::limit::log::Periods;
use crate::time::Timestamp;

/// Others are not taken to use more than one part in so many of what a period has in proportion to its
/// time, and as many parts of it at once when it begins: a few requests. Whoever finds more missing is
/// more likely to be wrong about the periods.
const MOST: i128 = 2;
const AT_ONCE: i128 = 16;
/// Windows for which something odd is remembered: as many as a mode is not trusted for.
const REMEMBERED: u32 = 2;
/// Windows for which it is remembered that there are others: they do not come and go by the minute.
const SHARED: u32 = 64;
/// Windows after which a mode that nothing has spoken against is believed before this pool's own use is
/// blamed: who uses periods up leaves others so little that they may not be seen for that long.
const KEPT: u32 = 8;

/// What happened in one period other than by what this pool did.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Conduct {
    begun: Timestamp,
    /// Units that went, and that came back.
    fell: i128,
    risen: i128,
    /// Until when something is remembered that speaks against periods, and that others took a part.
    odd_until: Timestamp,
    shared_until: Timestamp,
    /// Since when answers were seen, and nothing in them that speaks against periods.
    kept_since: Option<Timestamp>,
}

impl Conduct {
    /// Whether what was seen of late speaks against periods.
    pub(super) fn is_odd(&self, now: Timestamp) -> bool {
        now < self.odd_until
    }

    /// Whether others were seen to take a part of a period, and not long ago; or the periods have been
    /// as expected for so long that others are the likelier cause of what is not.
    pub(super) fn is_shared(&self, quota: &Constraint, now: Timestamp) -> bool {
        let kept = self.kept_since.is_some_and(|at| at.after(quota.window() * KEPT) <= now);
        now < self.shared_until || kept
    }

    /// An answer showed the level at `now`.
    pub(super) fn seen(&mut self, now: Timestamp) {
        self.kept_since.get_or_insert(now);
    }

    /// When the period began that is in force at `now`.
    pub(super) fn begun(quota: &Constraint, periods: Periods, now: Timestamp) -> Timestamp {
        let window = quota.window_nanos().get();
        Timestamp::from_nanos(periods.next(window, now).as_nanos().saturating_sub(window))
    }

    /// What others can have used since a period began.
    pub(super) fn most(quota: &Constraint, begun: Timestamp, now: Timestamp) -> i128 {
        let elapsed = i128::from(now.as_nanos().saturating_sub(begun.as_nanos()));
        let limit = i128::from(quota.limit());
        limit * elapsed / i128::from(quota.window_nanos().get()) / MOST + limit / AT_ONCE
    }

    /// The level was found to be off by `drift` (more left than there is, if positive), while `open`
    /// units may still come back to this pool.
    pub(super) fn turned(
        &mut self,
        quota: &Constraint,
        periods: Periods,
        drift: i128,
        open: i128,
        now: Timestamp,
    ) {
        let begun = Self::begun(quota, periods, now);
        if begun != self.begun {
            (self.begun, self.fell, self.risen) = (begun, 0, 0);
        }
        self.fell += drift.max(0);
        self.risen += (-drift).max(0);
        if self.fell > Self::most(quota, begun, now) || self.risen > self.fell + open {
            self.odd_until = now.after(quota.window() * REMEMBERED);
            self.kept_since = Some(now);
        } else if drift > 0 {
            self.shared_until = now.after(quota.window() * SHARED);
        }
    }

    /// So many units came back to this pool that had been seen to before.
    pub(super) fn refunded(&mut self, units: i128) {
        self.risen -= units;
    }
}
