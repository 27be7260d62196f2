//! A window in use gets another limit or another way to refill, or joins others that are in use.

use std::time::Duration;

use super::{Acting, Window, acting};
use crate::limit::constraint::{Constraint, Learn};
use crate::limit::pace::Pace;
use crate::time::Timestamp;

/// What a window that joins others begins with.
pub(in crate::limit) struct Joining<'a> {
    /// The one that knows best what was spent of its unit.
    pub(in crate::limit) knows: Option<&'a Window>,
    /// Units of requests that have not been settled.
    pub(in crate::limit) open: i128,
    /// The part of them whose answer's head has not been seen.
    pub(in crate::limit) unheard: i128,
    /// Whether all is taken to be spent of which nothing is known.
    pub(in crate::limit) empty: bool,
}

impl Window {
    /// Goes on as configured in another way, or not. What is spent and held stays as it is; to be called
    /// after [`Self::advance`].
    pub(in crate::limit) fn reconfigure(&mut self, quota: &Constraint, now: Timestamp) {
        let mut asked = self.quota.clone();
        asked.relimit(self.configured);
        if asked == *quota {
            return;
        }
        let (before, learned) = (self.quota.clone(), self.quota.limit());
        let keeps_learned = self.configured == quota.limit()
            && match quota.learn() {
                Learn::Both => true,
                Learn::Down => learned <= quota.limit(),
                Learn::Never => false,
            };
        (self.quota, self.configured) = (quota.clone(), quota.limit());
        if keeps_learned {
            self.quota.relimit(learned);
        }
        let more = self.limit() - i128::from(before.limit());
        self.bucket.add(&self.quota, more, self.held);
        if more != 0 {
            // What was seen was compared with another limit.
            (self.headers, self.evidence) = Default::default();
        }
        if before.mode() != quota.mode() {
            self.refill_otherwise(now);
        }
        if more != 0 || before.spread() != quota.spread() {
            let behind = self.pace.as_ref().map_or(0, |pace| pace.behind(&before));
            self.pace = Pace::of(&self.quota, false, now);
            if let Some(pace) = &mut self.pace {
                pace.spend(&self.quota, behind);
            }
        }
    }

    /// Goes by the other way to refill that is configured now. Both accounts were kept all the time.
    fn refill_otherwise(&mut self, now: Timestamp) {
        let (mode, periods) = acting(self.quota.mode());
        let bucket_before = self.acting(now) == Acting::Bucket;
        self.mode = mode;
        if let Some(periods) = periods {
            self.log.set_periods(periods);
            self.log.expire(now, false, |_, _| {});
        }
        (self.doubted_at, self.doubted_until, self.doubt) =
            (Timestamp::default(), Timestamp::default(), Duration::ZERO);
        (self.evidence, self.conduct) = Default::default();
        // As after a doubt: what is safe whatever was the case before, and not all that has come up.
        let safe = self.logged(false);
        if !bucket_before && self.bucket.available(&self.quota) > safe {
            self.bucket.set(&self.quota, safe);
        }
    }

    /// A window that others of its unit were used before: as much counts as spent as they know to have
    /// been within its length, and what is held is held in it, too.
    pub(in crate::limit) fn join(quota: Constraint, joining: &Joining<'_>, now: Timestamp) -> Self {
        let mut window = Self::new(quota, joining.empty, now);
        // A charge of requests is final when it is made.
        window.held = if window.is_final() { joining.unheard } else { joining.open };
        window.timed = window.held - joining.unheard;
        window.spend(joining.open);
        if !joining.empty {
            match joining.knows {
                Some(other) => {
                    let since = window.quota.window_nanos().get();
                    let since = Timestamp::from_nanos(now.as_nanos().saturating_sub(since));
                    for (at, units) in other.log.charges() {
                        if at > since {
                            window.log.charge(units, at.min(now));
                        }
                    }
                }
                None => window.log.charge(window.timed, now),
            }
            // As after a doubt: a bucket has no less than that.
            let safe = window.logged(false).min(window.limit() - window.held);
            window.bucket.set(&window.quota, safe);
        } else {
            window.bucket.add(&window.quota, -joining.unheard, window.held);
        }
        window
    }
}
