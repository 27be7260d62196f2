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

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// An instant: nanoseconds since the Unix epoch, advancing monotonically.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
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

impl Timestamp {
    /// The instant as text, in UTC and to the microsecond: `2026-02-05T12:00:00.000000Z`.
    pub fn rfc3339(self) -> [u8; 27] {
        let (seconds, micros) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000);
        let (year, month, day) = civil(seconds / 86_400);
        let second = seconds % 86_400;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (place, width, number) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3_600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 6, micros),
        ] {
            let mut number = number;
            for digit in text[place..place + width].iter_mut().rev() {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
                number /= 10;
            }
        }
        text
    }
}

/// Year, month and day of the day so many days after 1970-01-01, in the Gregorian calendar. Counted
/// in eras of 400 years that begin on a first of March, so that the leap day comes last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year + if month <= 2 { 1 } else { 0 }, month, day)
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

    #[test]
    fn the_calendar_is_right() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            let text = Timestamp::from_nanos(seconds * 1_000_000_000).rfc3339();
            assert_eq!(std::str::from_utf8(&text), Ok(expected));
        }
        let text = Timestamp::from_nanos(1_234_567).rfc3339();
        assert_eq!(&text[17..], b"00.001234Z");
    }

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
