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
//!   What is written down for the next process has both clocks beside it: see [`Machine`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
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

impl Timestamp {
    /// Reads an instant as RFC 3339 writes it, `2026-02-05T12:00:00Z`, with a fraction of a second
    /// or an offset (`+01:00`) if there is one; a date alone is its midnight in UTC.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let [year, month, day] = fields(date, b'-', [4, 2, 2])?;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if year < 1970 || !(1..=12).contains(&month) || !(1..=days).contains(&day) {
            return None;
        }
        let (mut seconds, mut nanos, mut offset) =
            (days_since_1970(year, month, day) * 86_400, 0, 0);
        if let Some(rest) = rest.strip_prefix(['T', 't', ' ']) {
            let (clock, rest) = rest.split_at_checked(8)?;
            let [hour, minute, second] = fields(clock, b':', [2, 2, 2])?;
            if hour > 23 || minute > 59 || second > 59 {
                return None;
            }
            seconds += hour * 3_600 + minute * 60 + second;
            let zone = match rest.strip_prefix('.') {
                None => rest,
                Some(rest) => {
                    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
                    let (fraction, zone) = rest.split_at_checked(length)?;
                    let digits: u64 = fraction.get(..length.min(9))?.parse().ok()?;
                    nanos = digits * 10_u64.pow(9 - u32::try_from(length.min(9)).ok()?);
                    zone
                }
            };
            offset = zone_offset(zone)?;
        } else if !rest.is_empty() {
            return None;
        }
        let seconds = seconds.checked_add_signed(-offset)?;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Self)
    }
}

/// Seconds by which a zone is ahead of UTC.
fn zone_offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        // A space is what a plus sign becomes in a query.
        b'+' | b' ' => 1,
        b'-' => -1,
        _ => return None,
    };
    let [hours, minutes] = fields(zone.get(1..)?, b':', [2, 2])?;
    let seconds = hours * 3_600 + minutes * 60;
    (hours < 24 && minutes < 60).then_some(sign * i64::try_from(seconds).ok()?)
}

/// Numbers of so many digits each, with a separator between them.
fn fields<const N: usize>(text: &str, separator: u8, widths: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.as_bytes().split(|byte| *byte == separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width)?;
        for byte in part {
            let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
            *number = *number * 10 + u64::from(digit);
        }
    }
    parts.next().is_none().then_some(numbers)
}

/// The inverse of [`civil`], for days that exist from 1970 on.
const fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year / 400, year % 400);
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468
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

    /// How long ago this process began with it.
    pub fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// The instant at which tokio's clock shows `instant`; the start for what came before it.
    pub fn timestamp(&self, instant: Instant) -> Timestamp {
        let passed = instant.saturating_duration_since(self.start);
        Timestamp(self.wall.saturating_add(nanos(passed)))
    }

    /// The instant on tokio's clock at which it will be `at`; a year from the start at most, so
    /// that a timer for [`Timestamp::MAX`] is a timer that does not fire.
    pub fn instant(&self, at: Timestamp) -> Instant {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.start + Duration::from_nanos(at.0.saturating_sub(self.wall)).min(YEAR)
    }
}

/// The wall clock, for what is told to other machines: they cannot know of an [`Epoch`].
#[expect(clippy::disallowed_methods, reason = "others go by the wall clock")]
pub fn wall() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos))
}

/// The machine, as two processes can agree on it one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    boot: [u8; 16],
}

/// What the clocks of the machine say at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clocks {
    /// Tells one start of the machine from another; zeros where the system does not say.
    pub boot: [u8; 16],
    /// Nanoseconds since that start, those included in which the machine slept.
    pub boot_nanos: u64,
    /// Nanoseconds since the Unix epoch by the wall clock, which somebody may set.
    pub wall_nanos: u64,
}

impl Machine {
    /// Asks the system which start of the machine this is.
    pub fn identify() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot: boot_id(&text).unwrap_or_default() }
    }

    /// Reads the clocks.
    #[expect(clippy::disallowed_methods, reason = "the wall clock, to be compared after a restart")]
    pub fn clocks(&self) -> Clocks {
        #[cfg(target_os = "linux")]
        const SINCE_BOOT: ClockId = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        const SINCE_BOOT: ClockId = ClockId::Monotonic;
        let time = clock_gettime(SINCE_BOOT);
        let (seconds, rest) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
        let boot_nanos = seconds.unwrap_or(0).saturating_mul(1_000_000_000) + rest.unwrap_or(0);
        let wall_nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos);
        Clocks { boot: self.boot, boot_nanos, wall_nanos }
    }
}

/// 16 bytes from 32 hexadecimal digits, wherever the dashes stand.
fn boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.trim_end().bytes().filter(|byte| *byte != b'-').collect();
    let mut id = [0; 16];
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for seconds in (0..200).map(|step| step * 86_400 * 97 + step * 3_661) {
            let at = Timestamp(seconds * 1_000_000_000 + 123_456_000);
            let text = at.rfc3339();
            let text = std::str::from_utf8(&text).unwrap();
            assert_eq!(Timestamp::parse_rfc3339(text), Some(at), "{text}");
        }
        let noon = Timestamp::parse_rfc3339("2026-02-05T12:00:00Z");
        assert!(noon.is_some());
        for same in [
            "2026-02-05T13:00:00+01:00",
            "2026-02-05T13:00:00 01:00",
            "2026-02-05T11:30:00.000-00:30",
            "2026-02-05t12:00:00.0000000000z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(same), noon, "{same}");
        }
        let midnight = Timestamp::parse_rfc3339("2026-02-05T00:00:00Z");
        assert_eq!(Timestamp::parse_rfc3339("2026-02-05"), midnight);
        for wrong in [
            "",
            "now",
            "2026-02-30",
            "2026-13-01",
            "2026-00-01",
            "1969-12-31",
            "2026-2-5",
            "2026-02-05T",
            "2026-02-05T24:00:00Z",
            "2026-02-05T12:00:00",
            "2026-02-05T12:00Z",
            "2026-02-05T12:00:00.Z",
            "2026-02-05T12:00:00+1:00",
            "2026-02-05T12:00:00*01:00",
            "2026-02-0\u{661}",
            "99999-01-01",
            "1970-01-01T00:00:00+01:00",
            "2026-02-05Z",
            "2300-02-05T12:00:00+24:00",
            "9999-12-31T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_machine_says_when_it_started_and_its_clocks_go_on() {
        let id = boot_id("01234567-89ab-cdef-0123-456789abcdef\n");
        assert_eq!(id.map(|id| (id[0], id[15])), Some((0x01, 0xef)));
        assert_eq!((boot_id(""), boot_id("0123"), boot_id(&"g".repeat(32))), (None, None, None));
        let machine = Machine::identify();
        let (one, two) = (machine.clocks(), machine.clocks());
        assert_eq!(one.boot, two.boot);
        assert!(one.boot_nanos > 0 && one.boot_nanos <= two.boot_nanos);
        assert!(one.wall_nanos > one.boot_nanos, "it was not started before 1970");
    }

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
        assert_eq!(epoch.timestamp(Instant::now()), epoch.now());
        assert_eq!(start.since(epoch.now()), Duration::ZERO, "the future is zero ago");
        assert!(epoch.instant(Timestamp::MAX) > Instant::now());
    }
}
