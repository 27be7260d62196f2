//! Decimal numbers as people write them.

use std::fmt;

/// A decimal number with a fixed number of digits behind the point.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Decimal {
    scaled: u128,
    digits: u32,
}

impl Decimal {
    /// `scaled` units of the last digit.
    pub const fn new(scaled: u128, digits: u32) -> Self {
        Self { scaled, digits }
    }

    /// From twice the number of units of the last digit, which was rounded down: rounds half up.
    pub(super) fn half(doubled: Option<u128>, digits: u32) -> Self {
        Self { scaled: doubled.map_or(u128::MAX, |doubled| doubled.div_ceil(2)), digits }
    }

    /// Reads digits with a point and at most so many digits behind it.
    pub fn parse(text: &str, digits: u32) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let most = usize::try_from(digits).ok()?;
        if !is_number(whole) || !is_number(part) || part.len() > most {
            return None;
        }
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let text = format!("{whole}{part:0<most$}");
        Some(Self { scaled: text.parse().ok()?, digits })
    }

    /// Units of the last digit.
    pub const fn scaled(self) -> u128 {
        self.scaled
    }

    /// For output that knows no other numbers.
    pub fn as_f64(self) -> f64 {
        self.to_string().parse().unwrap_or(f64::MAX)
    }
}

impl fmt::Display for Decimal {
    /// Without zeros at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10_u128.pow(self.digits);
        let (whole, part) = (self.scaled / unit, self.scaled % unit);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let width = usize::try_from(self.digits).unwrap_or(0);
        let part = format!("{part:0width$}");
        write!(f, "{whole}.{}", part.trim_end_matches('0'))
    }
}
