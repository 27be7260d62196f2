//! When a window has room, when it is whole again, and when it will be used up.

use std::time::Duration;

use super::{Acting, Window};
use crate::time::Timestamp;

/// When a window has room for a number of units.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::limit) enum Room {
    /// It has it.
    Now,
    /// At this instant, if nothing else is spent until then.
    At(Timestamp),
    /// Only after something that is held has been settled.
    AfterSettle,
    /// Never: it asks for more than the limit.
    Never,
}

/// Where others use a window, what an answer showed is good for one part in so many of it: by then they
/// may have used more than the margin that is kept against them.
const BLIND: u32 = 16;

/// In a sliding window an answer that is more than one part in so many of a window old is no longer fresh.
const FRESH: u64 = 64;

impl Window {
    /// When there is room for `units`; for a request that can wait, also when it is in pace.
    pub(in crate::limit) fn room(&self, units: u64, paced: bool, now: Timestamp) -> Room {
        let units = i128::from(units);
        if units > self.limit() {
            return Room::Never;
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            return Room::Now;
        }
        let Some(pace) = self.pace.as_ref().filter(|_| paced) else {
            return self.level_room(units, now);
        };
        // Nothing could ever leave more than the limit.
        let room = self.level_room(units + pace.reserve().min(self.limit() - units), now);
        match (room, pace.allows(&self.quota, units, now)) {
            (Room::Now, Some(at)) => Room::At(at),
            (Room::At(room), Some(at)) => Room::At(at.max(room)),
            (room, _) => room,
        }
    }

    fn level_room(&self, units: i128, now: Timestamp) -> Room {
        // Others may take it before it arrives; but the whole limit is enough for anything.
        let kept = self.margin(now).min(self.limit() - self.held - units).max(0);
        let units = units + kept;
        if self.is_blind(now) {
            return Room::AfterSettle;
        }
        if self.available(now) >= units {
            return Room::Now;
        }
        let bucket = || {
            let fits = units <= self.limit() - self.held;
            let drain = self.drain_at(now);
            fits.then(|| self.bucket.reaches(&self.quota, units, drain))
        };
        let log = |fixed: bool| {
            let missing = units - self.logged(fixed);
            if missing <= 0 { Some(now) } else { self.log.frees(missing, now, fixed) }
        };
        let at = match self.acting(now) {
            Acting::Bucket => bucket(),
            Acting::Fixed(_) => log(true),
            Acting::Sliding => bucket().and_then(|at| log(false).map(|other| at.max(other))),
        };
        [at, self.ask_at].into_iter().flatten().min().map_or(Room::AfterSettle, Room::At)
    }

    /// What is kept free against others. In a sliding window, where that much is never used, half of it is
    /// enough right after an answer has shown what they have left, and more the longer ago that is.
    fn margin(&self, now: Timestamp) -> i128 {
        let floor = self.foreign.floor(now);
        if !self.loses_margin() {
            return floor;
        }
        let fresh = i128::from(self.quota.window_nanos().get() / FRESH).max(1);
        let age = i128::from(now.as_nanos().saturating_sub(self.seen_at.as_nanos())).min(fresh);
        floor * (fresh + age) / (2 * fresh)
    }

    /// Whether what is kept free is lost, as far as is known. In doubt whether it is, a wider margin is
    /// the safe one.
    pub(super) fn loses_margin(&self) -> bool {
        self.mode == Acting::Sliding
    }

    /// Whether others may have taken all of it since the last answer, and a request is on its way that
    /// will tell.
    fn is_blind(&self, now: Timestamp) -> bool {
        self.acting(now) != Acting::Bucket
            && self.seen
            && self.foreign.is_active(now)
            && self.held > self.timed
            && now > self.seen_at.after(self.quota.window() / BLIND)
    }

    /// When so many `units` could have been spent from now on, one request after the other: for
    /// forecasts, so more than the limit is a matter of several windows.
    pub(in crate::limit) fn fits_at(&self, units: u64, now: Timestamp) -> Timestamp {
        let units = i128::from(units);
        let log = |fixed: bool| {
            let missing = (units - self.logged(fixed)).max(0);
            let (whole, rest) = (missing / self.limit(), missing % self.limit());
            let first = if rest == 0 { Some(now) } else { self.log.frees(rest, now, fixed) };
            let windows = whole + i128::from(first.is_none());
            let span = windows * i128::from(self.quota.window_nanos().get());
            let span = Duration::from_nanos(u64::try_from(span).unwrap_or(u64::MAX));
            first.unwrap_or(now).after(span)
        };
        match self.acting(now) {
            Acting::Bucket => self.bucket.reaches(&self.quota, units, self.drain_at(now)).max(now),
            Acting::Fixed(_) => log(true),
            Acting::Sliding => log(false),
        }
    }

    /// When the whole limit may be spent again, or the period ends; what is held now is taken as
    /// settled.
    pub(in crate::limit) fn resets_at(&self, now: Timestamp) -> Timestamp {
        let drain = self.drain_at(now);
        match self.acting(now) {
            Acting::Fixed(periods) => periods.next(self.quota.window_nanos().get(), now),
            Acting::Sliding => self.log.clear_at(now),
            Acting::Bucket => self.bucket.reaches(&self.quota, self.limit(), drain),
        }
    }

    /// When nothing will be left if it is used on as of late; `None` if that is not in sight.
    pub(in crate::limit) fn exhausted_at(&self, now: Timestamp) -> Option<Timestamp> {
        let (left, window) = (self.available(now), i128::from(self.quota.window_nanos().get()));
        if left <= 0 {
            return Some(now);
        }
        let refill = match self.acting(now) {
            Acting::Bucket => self.limit() - i128::from(self.drain_at(now)),
            Acting::Fixed(_) | Acting::Sliding => 0,
        };
        let net = self.burn.rate() - refill;
        if net <= 0 {
            return None;
        }
        let nanos = u64::try_from(left.checked_mul(window)? / net).unwrap_or(u64::MAX);
        let at = Timestamp::from_nanos(now.as_nanos().saturating_add(nanos));
        let horizon = match self.acting(now) {
            Acting::Bucket => now.after(self.quota.window()),
            Acting::Fixed(_) | Acting::Sliding => self.resets_at(now),
        };
        (at < horizon).then_some(at)
    }
}
