//! A fixed rate of requests, and when each is due. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// More than a machine sends; keeps the time between two requests above a nanosecond.
const MOST_PER_SECOND: f64 = 1_000_000.0;
/// One a day.
const LEAST_PER_SECOND: f64 = 1.0 / 86_400.0;

/// Requests in a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    per_second: f64,
}

impl Rate {
    /// When request number `turn`, counted from 0, is due after the start.
    pub(crate) fn due(self, turn: u64) -> Duration {
        Duration::from_secs_f64(turn as f64 / self.per_second)
    }

    /// How many requests are due before `time` has passed.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    pub(crate) fn due_before(self, time: Duration) -> u64 {
        let mut turns = (time.as_secs_f64() * self.per_second).ceil() as u64;
        // Rounding may be off by one in either direction: `due` is what counts.
        while self.due(turns) < time {
            turns += 1;
        }
        while turns > 0 && self.due(turns - 1) >= time {
            turns -= 1;
        }
        turns
    }
}

/// Why a text is no rate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?}: want requests per second as in 5, 0.5 or 5/s, per minute (120/m) or per hour (7200/h)"
)]
pub(crate) struct BadRate(String);

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let bad = || BadRate(text.to_owned());
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let count: f64 = count.trim().replace('_', "").parse().map_err(|_| bad())?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            _ => return Err(bad()),
        };
        let per_second = count / seconds;
        let sane = (LEAST_PER_SECOND..=MOST_PER_SECOND).contains(&per_second);
        if sane { Ok(Self { per_second }) } else { Err(bad()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", (self.per_second * 1e6).round() / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is due before a time is what `due` puts before it, and turns come at the rate.
        #[test]
        fn turns_are_due_in_order_and_at_the_rate(
            per_minute in 1..1_000_000_u64, seconds in 0.0..10_000.0_f64, turn in 0..1_000_000_u64
        ) {
            let rate: Rate = format!("{per_minute}/m").parse().expect("a rate");
            prop_assert!(rate.due(turn) < rate.due(turn + 1));
            let exact = turn as f64 * 60.0 / per_minute as f64;
            prop_assert!((rate.due(turn).as_secs_f64() - exact).abs() < 1e-6);
            let time = Duration::from_secs_f64(seconds);
            let before = rate.due_before(time);
            prop_assert!(rate.due(before) >= time);
            prop_assert!(before == 0 || rate.due(before - 1) < time);
        }
    }

    #[test]
    fn rates_are_read_per_second_minute_and_hour() {
        for (text, shown) in [
            ("5", "5/s"),
            ("0.5/s", "0.5/s"),
            ("120/m", "2/s"),
            ("7_200/h", "2/s"),
            ("1/m", "0.016667/s"),
        ] {
            assert_eq!(text.parse::<Rate>().expect(text).to_string(), shown);
        }
        for text in ["0", "-1", "fast", "5/d", "1e9", "NaN", "inf", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
