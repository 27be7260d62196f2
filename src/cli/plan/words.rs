//! Values as they are written on the command line.

use std::time::Duration;

use crate::config::window_name;
use crate::limit::{Constraint, Mode, Unit};
use crate::plan::Decimal;

/// `UNIT=N/TIME[:MODE]`.
pub(super) fn limit(text: &str) -> Result<Constraint, String> {
    let shape =
        || format!("UNIT=N/TIME[:MODE] is expected, such as tokens=1_500_000/1m, got {text:?}");
    let (unit, rest) = text.split_once('=').ok_or_else(shape)?;
    let (amount, rest) = rest.split_once('/').ok_or_else(shape)?;
    let (window, mode) = rest.split_once(':').unwrap_or((rest, "bucket"));
    let unit = Unit::ALL.into_iter().find(|it| it.as_str() == unit);
    let unit = unit.ok_or_else(|| {
        format!("the unit must be requests, tokens or uncached_tokens, got {text:?}")
    })?;
    let mode = match mode {
        "bucket" => Mode::Bucket,
        "fixed" => Mode::Fixed { skew: Duration::ZERO },
        "sliding" => Mode::Sliding,
        _ => return Err(format!("the mode must be bucket, fixed or sliding, got {text:?}")),
    };
    let amount = whole(amount).ok_or_else(shape)?;
    let window = time(window).ok_or_else(shape)?;
    let limit = Constraint::new(unit, amount, window, &window_name(window), mode);
    limit.map_err(|error| format!("{error}, got {text:?}"))
}

/// A whole number; `_` may stand between its digits.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.replace('_', "").parse().ok()
}

/// A decimal number in millionths, of at most `most` whole ones.
pub(super) fn micros(text: &str, most: u64) -> Option<u64> {
    let scaled = Decimal::parse(text, 6)?.scaled();
    u64::try_from(scaled).ok().filter(|micros| *micros <= most.saturating_mul(1_000_000))
}

/// A time above zero.
pub(super) fn time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|span| !span.is_zero())
}
