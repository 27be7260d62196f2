//! The rate-limit headers of metered answers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::options::HeaderStyle;
use super::quota::{Level, Name, Unit};

/// Writes what the style shows of these levels.
pub(super) fn write(style: HeaderStyle, levels: &[Level], headers: &mut HeaderMap) {
    for level in levels {
        let shown = match style {
            HeaderStyle::Six => matches!(
                (level.limit.unit, level.limit.name),
                (Unit::Requests, Name::Day) | (Unit::Tokens, Name::Minute)
            ),
            HeaderStyle::Matrix => true,
            HeaderStyle::Omit => false,
        };
        if !shown {
            continue;
        }
        put(headers, "limit", level, HeaderValue::from(level.limit.limit));
        put(headers, "remaining", level, HeaderValue::from(level.remaining.max(0)));
        if style == HeaderStyle::Six {
            let seconds = (level.reset_ns as f64 / 1e9).to_string();
            if let Ok(seconds) = HeaderValue::from_str(&seconds) {
                put(headers, "reset", level, seconds);
            }
        }
    }
}

fn put(headers: &mut HeaderMap, what: &str, level: &Level, value: HeaderValue) {
    let (unit, name) = (level.limit.unit.as_str(), level.limit.name.as_str());
    if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{what}-{unit}-{name}")) {
        headers.insert(name, value);
    }
}
