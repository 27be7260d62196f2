//! What a window learns from the upstream: from the levels that its answers show, and from its
//! refusals.
//!
//! A level shown is the upstream's own at some instant between sending a request and seeing its
//! answer, with that request charged. What others of this pool may have been charged after it makes
//! it a lower bound; what came back since, and what may have refilled, an upper one. A level outside
//! of both is set right.

use std::time::Duration;

use super::{Acting, Conduct, Counted, Window};
use crate::limit::constraint::Mode;
use crate::limit::evidence::{Finding, View};
use crate::limit::log::Periods;
use crate::limit::reading::Sighting;
use crate::time::Timestamp;

/// A window that is contradicted again and again is not trusted for up to so many of its lengths: so
/// rarely is a refusal risked to find out whether the upstream has changed.
const MOST_DOUBT: u32 = 64;

/// What an answer's head says of the level at the time of its charge.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    least: i128,
    most: i128,
    /// What it most likely is: requests are charged in the order in which they are sent.
    likely: i128,
    /// Whether it is about the limit that is kept to.
    ours: bool,
    /// Whether others use the quota, so that more than what is likely is not to be counted on.
    shared: bool,
}

impl Bounds {
    /// By how much `level` is above what can have become of the most, `gained` since included; below
    /// zero, by how much it is below the least.
    fn drift(&self, level: i128, gained: i128) -> i128 {
        if level < self.least && self.ours {
            level - self.least
        } else {
            (level - self.most - gained).max(0)
        }
    }

    /// What a level with this drift is to be set to.
    fn correct(&self, level: i128, drift: i128) -> Option<i128> {
        match drift.signum() {
            -1 => Some(self.least),
            1 => Some(self.likely.min(level)),
            _ => (self.shared && level > self.likely).then_some(self.likely),
        }
    }
}

/// What surrounds the charge of the request whose answer shows a level.
#[derive(Clone, Copy, Debug)]
pub(in crate::limit) struct Around {
    /// When it was sent, at the earliest.
    pub(in crate::limit) sent_at: Timestamp,
    /// Units of other requests that the upstream may have charged after it, in full.
    pub(in crate::limit) later: i128,
    /// Units of the requests that were sent after it.
    pub(in crate::limit) next: i128,
    /// Units of requests that are at the upstream and have not been settled.
    pub(in crate::limit) open: i128,
    /// The part of them whose head has not been seen.
    pub(in crate::limit) unheard: i128,
}

impl Window {
    /// Learns from what an answer's head showed of this window; tells which accounts went by it.
    pub(in crate::limit) fn observe(
        &mut self,
        seen: Sighting,
        around: Around,
        now: Timestamp,
    ) -> Counted {
        if let Some(limit) = self.headers.limit(seen.limit, &self.quota) {
            self.quota.relimit(limit);
            self.advance(now);
        }
        let Some(remaining) = seen.remaining else { return Counted::default() };
        let grain = i128::from(self.headers.grain(remaining, self.quota.limit()));
        let shown = i128::from(remaining.min(seen.limit.unwrap_or(u64::MAX)));
        // A larger quota than the one kept to says nothing of how much of this one is left.
        let ours = seen.limit.is_none_or(|limit| limit <= self.quota.limit());
        let least = (shown - grain - around.later).min(self.limit() - self.held);
        let acting = self.acting(now);
        // A charge on behalf of others stays in the log for a window: there only what is certain.
        let shared = acting == Acting::Bucket && self.foreign.is_active(now);
        let likely = (shown - grain - around.next).min(self.limit() - self.held);
        let bounds = Bounds { least, most: shown + grain, likely, ours, shared };
        let (bucket, from_bucket) = self.observe_bucket(bounds, around.sent_at, now);
        let (log, from_log) = match acting {
            Acting::Bucket => (false, 0),
            Acting::Fixed(_) | Acting::Sliding => self.observe_log(bounds, around, now),
        };
        self.drift = if acting == Acting::Bucket { from_bucket } else { from_log };
        let view = View { shown, spent: self.spent, unsure: around.later + around.unheard };
        // What was used before this ledger began is nobody's surprise.
        let gap = if std::mem::replace(&mut self.seen, true) { self.drift.max(0) } else { 0 };
        self.foreign.note(&self.quota, gap, self.loses_margin(), view, now);
        self.seen_at = now;
        if acting == Acting::Bucket && self.foreign.drain(now) > self.quota.limit() / 2 {
            // Others who take most of it look the same as no refill at all.
            self.distrust(now);
        }
        let unsure = around.later + around.open;
        self.weigh(View { unsure, ..view }, around.sent_at, now);
        Counted { bucket, log }
    }

    /// What can have been taken from a window that was full at an instant, at least and at most.
    pub(in crate::limit) fn taken(
        &self,
        seen: Sighting,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(u64, u64)> {
        let same = seen.limit.is_none_or(|limit| limit == self.quota.limit());
        let shown = i128::from(seen.remaining.filter(|_| same)?);
        let least = u64::try_from(self.limit() - shown).ok()?;
        let most = u64::try_from(self.limit() - shown + self.earned_since(since, now)).ok()?;
        Some((least, most))
    }

    /// Sets the bucket to the least that there is where it is below it, and to what is likely where
    /// it is above the most.
    fn observe_bucket(&mut self, bounds: Bounds, since: Timestamp, now: Timestamp) -> (bool, i128) {
        let level = self.bucket.available(&self.quota);
        let gained = self.refunds.since(since) + self.raised.since(since);
        let drift = bounds.drift(level, gained + self.earned_since(since, now));
        let correct = bounds.correct(level, drift);
        if let Some(units) = correct {
            self.bucket.set(&self.quota, units);
            self.raised.add(now, (units - level).max(0));
            self.forfeit_before.bucket = self.forfeit_before.bucket.max(since);
        }
        (correct.is_some(), drift)
    }

    /// The same for the log: what is too much comes off the oldest charges, what is missing was
    /// charged by others, now at the latest.
    fn observe_log(&mut self, bounds: Bounds, around: Around, now: Timestamp) -> (bool, i128) {
        let fixed = self.is_fixed(now);
        if fixed {
            self.conduct.seen(now);
        }
        let (level, since) = (self.logged(fixed), around.sent_at);
        let drift = bounds.drift(level, self.returned.since(since));
        match drift.signum() {
            0 => return (false, 0),
            // Where nothing refills by itself, a refund that is forfeited is only seen again in
            // another answer, and there may be none: not for less than the refunds may be.
            -1 if -drift <= around.open - around.unheard => return (false, 0),
            -1 => {
                self.log.forgive(-drift, fixed);
                self.returned.add(now, -drift);
            }
            _ => {
                self.log.charge(drift, now);
                self.others.add(now, drift);
            }
        }
        if let Acting::Fixed(periods) = self.acting(now) {
            self.conduct.turned(&self.quota, periods, drift, around.open, now);
        }
        self.forfeit_before.log = self.forfeit_before.log.max(since);
        (true, drift)
    }

    /// Whether what is missing of a fixed period is what others have used: they are known to be there,
    /// this pool has used no more than there is, and what it has left is no more than they can have
    /// taken since the period began.
    fn is_taken_by_others(&self, periods: Periods, now: Timestamp) -> bool {
        let begun = Conduct::begun(&self.quota, periods, now);
        let missing = self.logged(true) + self.others.since(begun);
        let most = Conduct::most(&self.quota, begun, now);
        self.conduct.is_shared(&self.quota, now)
            && !self.conduct.is_odd(now)
            && (0..=most).contains(&missing)
    }

    /// What continuous refill adds at most between two instants, in whole units.
    fn earned_since(&self, from: Timestamp, now: Timestamp) -> i128 {
        let elapsed = i128::from(now.as_nanos().saturating_sub(from.as_nanos()));
        (elapsed * self.limit() + i128::from(self.quota.window_nanos().get()) - 1)
            / i128::from(self.quota.window_nanos().get())
    }

    /// Lets what was seen speak for or against each way to refill.
    fn weigh(&mut self, view: View, sent_at: Timestamp, now: Timestamp) {
        let found = self.evidence.weigh(&self.quota, view, sent_at, now);
        let acting = self.acting(now);
        match found {
            Some(Finding::NoRefill) if acting == Acting::Bucket => self.distrust(now),
            Some(Finding::Adopt(mode)) if self.quota.mode() == Mode::Auto && mode != self.mode => {
                if let Acting::Fixed(periods) = mode {
                    self.log.set_periods(periods);
                    self.log.expire(now, false, |_, _| {});
                }
                self.mode = mode;
            }
            _ => {}
        }
    }

    /// The mode was contradicted: from now on what is safe, for two windows, and for twice as long
    /// each time it happens again.
    fn distrust(&mut self, now: Timestamp) {
        let (shortest, longest) = (self.quota.window() * 2, self.quota.window() * MOST_DOUBT);
        let again = now < self.doubted_until.after(self.doubt.max(shortest));
        self.doubt = if again { (self.doubt * 2).clamp(shortest, longest) } else { shortest };
        (self.doubted_at, self.doubted_until) = (now, now.after(self.doubt));
        (self.evidence, self.conduct) = Default::default();
        if self.quota.mode() == Mode::Auto {
            self.mode = Acting::Sliding;
        }
    }

    /// The upstream refused a request of `units` because of this window. Tells whether that is due to
    /// others: if what this pool itself let in cannot be too much however the upstream counts, or if
    /// its answers have shown that the way to refill is the right one.
    pub(in crate::limit) fn refused(
        &mut self,
        units: u64,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let known = match self.acting(now) {
            Acting::Bucket => self.evidence.shows_refill(),
            Acting::Fixed(periods) => self.is_taken_by_others(periods, now),
            // What is safe whatever the upstream does was not enough; unless it was sent before.
            Acting::Sliding if sent_at <= self.doubted_at && self.doubt > Duration::ZERO => {
                return false;
            }
            Acting::Sliding => true,
        };
        let window = self.quota.window_nanos().get();
        let window_ago = Timestamp::from_nanos(now.as_nanos().saturating_sub(window));
        let foreign = known || self.logged(false) + self.others.since(window_ago) >= 0;
        if foreign {
            let sliding = self.loses_margin();
            self.foreign.refused(&self.quota, i128::from(units), sliding, now);
            return true;
        }
        self.distrust(now);
        false
    }
}
