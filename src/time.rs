//! The only reader of a clock.
//!
//! Everything below the shells takes `now: Timestamp` as an argument. The shells get it from an
//! [`Epoch`], which rides on tokio's clock: where a test pauses time, limits, queues and timeouts
//! stand still together, and move together.
//!
//! # Invariants
//!
//! - Monotonic: a step of the wall clock never moves a [`Timestamp`] backwards or mints quota.
//! - The wall clock is read once, when the epoch starts; it only gives calendar windows their phase.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// An instant: nanoseconds since the Unix epoch, advancing monotonically.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The end of time: later than every other instant.
    pub const MAX: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant plus `span`; [`Timestamp::MAX`] where that cannot be represented.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

/// The whole nanoseconds of `span`, at most `u64::MAX` (584 years).
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Ties tokio's clock to the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    start: Instant,
    wall: u64,
}

impl Epoch {
    /// Reads both clocks, once.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos);
        Self::at(Timestamp(wall))
    }

    /// An epoch on which it is `wall` now; for tests that care about the calendar.
    pub fn at(wall: Timestamp) -> Self {
        Self { start: Instant::now(), wall: wall.0 }
    }

    /// The current instant.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.wall.saturating_add(nanos(self.start.elapsed())))
    }

    /// The instant on tokio's clock at which it will be `at`; a year from the start at most, so
    /// that a timer for [`Timestamp::MAX`] is a timer that does not fire.
    pub fn instant(&self, at: Timestamp) -> Instant {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.start + Duration::from_nanos(at.0.saturating_sub(self.wall)).min(YEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_epoch_moves_with_tokios_clock_only() {
        let epoch = Epoch::at(Timestamp::from_nanos(1_000));
        let start = epoch.now();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(epoch.now().since(start), Duration::from_secs(3));
        assert_eq!(epoch.instant(epoch.now()), Instant::now());
        assert_eq!(start.since(epoch.now()), Duration::ZERO, "the future is zero ago");
        assert!(epoch.instant(Timestamp::MAX) > Instant::now());
    }
}
