//! A level that refills continuously, in exact integers.
//!
//! The level counts in units x window nanoseconds, so a refill of `limit / window` units per
//! nanosecond is the integer `limit`, and no rounding error can build up over any length of time.

use serde::{Deserialize, Serialize};

use crate::limit::Constraint;
use crate::time::Timestamp;

/// The state of one continuously refilled quota.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Bucket {
    /// Units x window nanoseconds; below zero in debt.
    level: i128,
    /// The instant up to which the refill is counted.
    at: Timestamp,
}

impl Bucket {
    /// A bucket of which `units` may be spent at `now`.
    pub(super) fn with(quota: &Constraint, units: i128, now: Timestamp) -> Self {
        Self { level: scaled(quota, units), at: now }
    }

    /// The instant up to which the refill is counted.
    pub(super) const fn at(&self) -> Timestamp {
        self.at
    }

    /// Counts the refill up to `now`, but never above what is left beside `held`: until a request
    /// is settled, the upstream may have charged it any time since it was sent, and what the
    /// upstream's full bucket could not take in is lost. Of every window's limit, `drain` units are
    /// taken to be used by others.
    pub(super) fn refill(&mut self, quota: &Constraint, held: i128, drain: u64, now: Timestamp) {
        let elapsed = i128::from(now.as_nanos().saturating_sub(self.at.as_nanos()));
        self.at = self.at.max(now);
        self.level += elapsed * i128::from(quota.limit().saturating_sub(drain));
        self.cap(quota, held);
    }

    /// Adds `units` (or takes them, when negative), up to what is left beside `held`.
    pub(super) fn add(&mut self, quota: &Constraint, units: i128, held: i128) {
        self.level += scaled(quota, units);
        self.cap(quota, held);
    }

    /// Whole units that may be spent now; below zero in debt.
    pub(super) fn available(&self, quota: &Constraint) -> i128 {
        self.level.div_euclid(i128::from(quota.window_nanos().get()))
    }

    /// The first instant at which `units` may be spent, if nothing else is.
    pub(super) fn reaches(&self, quota: &Constraint, units: i128, drain: u64) -> Timestamp {
        let missing = scaled(quota, units) - self.level;
        let rate = i128::from(quota.limit().saturating_sub(drain).max(1));
        let nanos = if missing <= 0 { 0 } else { (missing + rate - 1) / rate };
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Timestamp::from_nanos(self.at.as_nanos().saturating_add(nanos))
    }

    /// Empties the bucket: the upstream said that nothing is left.
    pub(super) fn drain(&mut self) {
        self.level = self.level.min(0);
    }

    /// Sets the level to `units`: what the upstream's own word says is there at least.
    pub(super) fn set(&mut self, quota: &Constraint, units: i128) {
        self.level = scaled(quota, units);
    }

    fn cap(&mut self, quota: &Constraint, held: i128) {
        self.level = self.level.min(scaled(quota, i128::from(quota.limit()) - held));
    }
}

/// `units` on the bucket's scale. With a limit below 2^53 and a window below 2^55 nanoseconds this
/// and the sum of 2^17 such products stay within an `i128`.
fn scaled(quota: &Constraint, units: i128) -> i128 {
    units.saturating_mul(i128::from(quota.window_nanos().get()))
}
