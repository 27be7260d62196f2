//! A tenant's entry in the file.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use toml_edit::{Array, InlineTable, Table, Value, value};

use crate::config::window_name;
use crate::limit::{Constraint, Mode, Unit};
use crate::time::Timestamp;

/// What is written of a new tenant.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) hash: String,
    pub(super) class: Option<String>,
    pub(super) weight: Option<NonZeroU32>,
    pub(super) limits: Vec<LimitText>,
    pub(super) models: Vec<String>,
    pub(super) max_concurrent: Option<NonZeroU32>,
    pub(super) expires: Option<Timestamp>,
}

/// A limit as it is written on the command line: `1M tokens/1d:fixed`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LimitText {
    unit: Unit,
    limit: u64,
    per: String,
    mode: Option<&'static str>,
}

impl Entry {
    /// The entry as a table.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.insert("name", value(&self.name));
        table.insert("hash", value(&self.hash));
        if let Some(class) = &self.class {
            table.insert("class", value(class));
        }
        if let Some(weight) = self.weight {
            table.insert("weight", value(i64::from(weight.get())));
        }
        if !self.limits.is_empty() {
            let mut limits: Array = self.limits.iter().map(LimitText::table).collect();
            for limit in limits.iter_mut() {
                limit.decor_mut().set_prefix("\n  ");
            }
            limits.set_trailing("\n");
            limits.set_trailing_comma(true);
            table.insert("limits", value(limits));
        }
        if !self.models.is_empty() {
            table.insert("models", value(self.models.iter().collect::<Array>()));
        }
        if let Some(most) = self.max_concurrent {
            table.insert("max_concurrent", value(i64::from(most.get())));
        }
        if let Some(at) = self.expires {
            table.insert("expires", value(instant(at)));
        }
        table
    }
}

/// An instant as it is written in the file: to the second, and never early.
pub(super) fn instant(at: Timestamp) -> String {
    let text = at.after(Duration::from_nanos(999_999_999)).rfc3339();
    format!("{}Z", String::from_utf8_lossy(&text[..19]))
}

impl LimitText {
    fn table(&self) -> Value {
        let mut table = InlineTable::new();
        table.insert("unit", self.unit.as_str().into());
        // At most 2^53.
        table.insert("limit", i64::try_from(self.limit).unwrap_or(i64::MAX).into());
        table.insert("per", self.per.as_str().into());
        if let Some(mode) = self.mode {
            table.insert("mode", mode.into());
        }
        table.into()
    }
}

impl FromStr for LimitText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || {
            "AMOUNT UNIT/TIME[:MODE] is expected, such as \"1000 requests/1m\" or \"1M \
             tokens/1d:fixed\""
                .to_owned()
        };
        let (amount, rest) = text.trim().split_once(' ').ok_or_else(shape)?;
        let (unit, rest) = rest.trim().split_once('/').ok_or_else(shape)?;
        let (per, mode) = rest.split_once(':').unwrap_or((rest, ""));
        let unit = Unit::ALL
            .into_iter()
            .find(|it| it.as_str() == unit.trim())
            .ok_or_else(|| "the unit must be requests, tokens or uncached_tokens".to_owned())?;
        let mode = match mode {
            "" => None,
            "bucket" => Some("bucket"),
            "fixed" => Some("fixed"),
            "sliding" => Some("sliding"),
            _ => return Err("the mode must be bucket, fixed or sliding".to_owned()),
        };
        let limit = amount_of(amount).ok_or_else(shape)?;
        let window = humantime::parse_duration(per.trim()).map_err(|_| shape())?;
        // The rest is for the reader of the file; this is said better here.
        Constraint::new(unit, limit, window, &window_name(window), Mode::Bucket)
            .map_err(|error| error.to_string())?;
        Ok(Self { unit, limit, per: humantime::format_duration(window).to_string(), mode })
    }
}

/// A whole number, or a decimal one of thousands (`k`), millions (`M`) or milliards (`G`).
fn amount_of(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    let (digits, scale) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 3),
        (at, 'M') => (&text[..at], 6),
        (at, 'G') => (&text[..at], 9),
        _ => (&*text, 0),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(part) || part.len() > scale {
        return None;
    }
    format!("{whole}{part}{}", "0".repeat(scale - part.len())).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        let limit = |unit, limit, per: &str, mode| LimitText { unit, limit, per: per.into(), mode };
        for (text, expected) in [
            ("1000 requests/1m", limit(Unit::Requests, 1_000, "1m", None)),
            ("1M tokens/1d:fixed", limit(Unit::Tokens, 1_000_000, "1day", Some("fixed"))),
            ("1.5M tokens/1day", limit(Unit::Tokens, 1_500_000, "1day", None)),
            (
                "2_500k  uncached_tokens/1h 30m",
                limit(Unit::UncachedTokens, 2_500_000, "1h 30m", None),
            ),
            (
                " 1G tokens/7d:sliding ",
                limit(Unit::Tokens, 1_000_000_000, "7days", Some("sliding")),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "1000",
            "1000 requests",
            "1000requests/1m",
            "requests=5/1m",
            "5 calls/1m",
            "5 requests/",
            "5 requests/soon",
            "0 requests/1m",
            "-5 requests/1m",
            "1.5 requests/1m",
            "1.0001k requests/1m",
            ".5M tokens/1d",
            "5 requests/1m:auto",
            "5 requests/1ns",
            "99999999999999999999 tokens/1d",
            "9007199254740993 tokens/1d",
            "1e3 requests/1m",
            "k requests/1m",
            "é requests/1m",
        ] {
            assert!(wrong.parse::<LimitText>().is_err(), "{wrong}");
        }
    }
}
