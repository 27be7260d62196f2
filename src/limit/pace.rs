//! How a long quota is spread over its window, and when it will be used up at the present pace.

use serde::{Deserialize, Serialize};

use crate::limit::bucket::Bucket;
use crate::limit::constraint::Constraint;
use crate::time::Timestamp;

/// What requests that can wait leave to those that cannot.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spread {
    /// How evenly a window is used, in thousandths: at 0 its whole limit may go at once, at 1000 no
    /// faster than it refills.
    pub even: u16,
    /// The part of the limit that is left alone, in thousandths.
    pub reserve: u16,
}

/// The least that may go at once, as a part of the limit: a quarter of an hour of a day.
const LEAST: u64 = 96;

/// A second, smaller bucket in front of a window, for those that can wait.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Pace {
    bucket: Bucket,
    /// What may go at once.
    most: i128,
    /// What is left alone.
    reserve: i128,
}

impl Pace {
    /// The pace of a window, if it is spread at all.
    pub(super) fn of(quota: &Constraint, empty: bool, now: Timestamp) -> Option<Self> {
        let Spread { even, reserve } = quota.spread();
        if (even, reserve) == (0, 0) {
            return None;
        }
        let limit = i128::from(quota.limit());
        let most = limit * (1_000 - i128::from(even.min(1_000))) / 1_000;
        let most = most.max(limit / i128::from(LEAST)).max(1);
        let reserve = limit * i128::from(reserve.min(1_000)) / 1_000;
        let bucket = Bucket::with(quota, if empty { 0 } else { most }, now);
        Some(Self { bucket, most, reserve })
    }

    pub(super) fn refill(&mut self, quota: &Constraint, now: Timestamp) {
        let beside = i128::from(quota.limit()) - self.most;
        self.bucket.refill(quota, beside, 0, now);
    }

    /// What is missing of what may go at once, as of the last refill under this quota.
    pub(super) fn behind(&self, quota: &Constraint) -> i128 {
        self.most - self.bucket.available(quota)
    }

    /// Spends `units`, or takes them back. Everybody's spending counts, also of those who need not
    /// keep to the pace.
    pub(super) fn spend(&mut self, quota: &Constraint, units: i128) {
        let beside = i128::from(quota.limit()) - self.most;
        self.bucket.add(quota, -units, beside);
    }

    /// When a request of so many units is in pace: at once, or at a later instant.
    pub(super) fn allows(
        &self,
        quota: &Constraint,
        units: i128,
        now: Timestamp,
    ) -> Option<Timestamp> {
        // A request larger than what may go at once goes when that is there, and owes the rest.
        let needed = units.min(self.most);
        let late = self.bucket.available(quota) < needed;
        late.then(|| self.bucket.reaches(quota, needed, 0).max(now))
    }

    pub(super) fn reserve(&self) -> i128 {
        self.reserve
    }
}

/// Samples per window of the rate at which it is used.
const SAMPLES: u64 = 512;
/// One sample counts one part in so many.
const SMOOTHING: i128 = 32;

/// The rate at which a window is used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Burn {
    since: Option<(Timestamp, i128)>,
    /// Units per window, smoothed.
    rate: i128,
}

impl Burn {
    /// So many units have been spent in all by now.
    pub(super) fn note(&mut self, quota: &Constraint, spent: i128, now: Timestamp) {
        let Some((since, before)) = self.since else {
            self.since = Some((now, spent));
            return;
        };
        let window = i128::from(quota.window_nanos().get());
        let elapsed = i128::from(now.as_nanos().saturating_sub(since.as_nanos()));
        if elapsed * i128::from(SAMPLES) < window {
            return;
        }
        let rate = (spent - before) * window / elapsed;
        // A long pause is worth as many samples as it has room for.
        let weight = (elapsed * i128::from(SAMPLES) / window).clamp(1, SMOOTHING);
        self.rate += (rate - self.rate) * weight / SMOOTHING;
        self.since = Some((now, spent));
    }

    /// Units per window.
    pub(super) fn rate(&self) -> i128 {
        self.rate
    }
}

#[cfg(test)]
mod tests;
