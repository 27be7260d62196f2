//! Arithmetic without rounding: products wider than one integer, and fractions.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::decimal::Decimal;
use crate::time::nanos;

/// `a * b / c`, rounded down, although the product may be wider than an integer; `None` where the
/// quotient is, or where `c` is zero or above 2^127.
pub(super) fn mul_div(a: u128, b: u128, c: u128) -> Option<u128> {
    divide(a, b, c).map(|(quotient, _)| quotient)
}

/// [`mul_div`], rounded up.
pub(super) fn mul_div_up(a: u128, b: u128, c: u128) -> Option<u128> {
    let (quotient, rest) = divide(a, b, c)?;
    quotient.checked_add(u128::from(rest > 0))
}

/// Quotient and remainder of `a * b / c`.
fn divide(a: u128, b: u128, c: u128) -> Option<(u128, u128)> {
    if c == 0 || c > 1 << 127 {
        return None;
    }
    if let Some(product) = a.checked_mul(b) {
        return Some((product / c, product % c));
    }
    // Long multiplication by the bits of `b`, divided at every step. `rest` stays below `c`, so
    // that twice as much, or `part` more, is still an integer.
    let (whole, part) = (a / c, a % c);
    let (mut quotient, mut rest) = (0_u128, 0_u128);
    for bit in (0..128).rev() {
        quotient = quotient.checked_mul(2)?;
        carry(&mut quotient, &mut rest, |rest| rest * 2, c)?;
        if b >> bit & 1 == 1 {
            quotient = quotient.checked_add(whole)?;
            carry(&mut quotient, &mut rest, |rest| rest + part, c)?;
        }
    }
    Some((quotient, rest))
}

/// Changes what is left, and moves what is a whole `c` of it to the quotient.
fn carry(
    quotient: &mut u128,
    rest: &mut u128,
    change: impl Fn(u128) -> u128,
    c: u128,
) -> Option<()> {
    *rest = change(*rest);
    if *rest >= c {
        *rest -= c;
        *quotient = quotient.checked_add(1)?;
    }
    Some(())
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Jobs per time, exactly.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    jobs: u128,
    nanos: u128,
}

impl Rate {
    /// None at all.
    pub const ZERO: Self = Self { jobs: 0, nanos: 1 };

    /// So many `jobs` in so many `nanos`econds, of which there is at least one.
    pub fn new(jobs: u128, nanos: u128) -> Self {
        let nanos = nanos.max(1);
        let common = gcd(jobs, nanos).max(1);
        Self { jobs: jobs / common, nanos: nanos / common }
    }

    /// Whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.jobs == 0
    }

    /// Whole jobs within `span`.
    pub fn within(self, span: Duration) -> u64 {
        let jobs = mul_div(self.jobs, u128::from(nanos(span)), self.nanos);
        jobs.and_then(|jobs| u64::try_from(jobs).ok()).unwrap_or(u64::MAX)
    }

    /// Jobs per `span` as a decimal number, rounded to so many digits behind the point.
    pub fn per(self, span: Duration, digits: u32) -> Decimal {
        let scale = u128::from(nanos(span)) * 10_u128.pow(digits);
        Decimal::half(mul_div(self.jobs, scale * 2, self.nanos), digits)
    }

    /// The time from one job to the next, rounded up to a nanosecond; `None` if none comes.
    pub fn gap(self) -> Option<Duration> {
        if self.is_zero() {
            return None;
        }
        Some(Duration::from_nanos(u64::try_from(self.nanos.div_ceil(self.jobs)).ok()?))
    }

    /// The time for so many `jobs`, rounded up to a nanosecond; `None` if that is never.
    pub fn time_for(self, jobs: u64) -> Option<Duration> {
        if self.is_zero() {
            return (jobs == 0).then_some(Duration::ZERO);
        }
        let nanos = mul_div_up(u128::from(jobs), self.nanos, self.jobs)?;
        Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
    }

    /// Jobs under way at once if each takes `latency` (Little's law), as a decimal number.
    pub fn under_way(self, latency: Duration, digits: u32) -> Decimal {
        self.per(latency, digits)
    }

    /// Workers that keep up with it, each of which has one job at a time that takes `latency`.
    pub fn workers(self, latency: Duration) -> u64 {
        let workers = mul_div_up(self.jobs, u128::from(nanos(latency)), self.nanos);
        workers.and_then(|it| u64::try_from(it).ok()).unwrap_or(u64::MAX)
    }

    /// Units of a quota for each job, if `limit` of them per `window` are to last; rounded down.
    pub fn share_of(self, limit: u64, window: Duration) -> Option<u64> {
        let jobs = self.jobs.checked_mul(u128::from(nanos(window)))?;
        u64::try_from(mul_div(u128::from(limit), self.nanos, jobs)?).ok()
    }
}

impl PartialOrd for Rate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rate {
    /// Compares whole parts, then what is left, turned over: products would not fit.
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = ((self.jobs, self.nanos), (other.jobs, other.nanos));
        let mut turned = false;
        loop {
            let order = (a.0 / a.1).cmp(&(b.0 / b.1));
            let (rest_a, rest_b) = (a.0 % a.1, b.0 % b.1);
            let order = order.then_with(|| match (rest_a, rest_b) {
                (0, 0) => Ordering::Equal,
                (0, _) => Ordering::Less,
                (_, 0) => Ordering::Greater,
                _ => Ordering::Equal,
            });
            if order != Ordering::Equal || rest_a == 0 {
                return if turned { order.reverse() } else { order };
            }
            (a, b, turned) = ((a.1, rest_a), (b.1, rest_b), !turned);
        }
    }
}

/// The part of a limit that is to be used: above zero, at most the whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Margin {
    part: u32,
    of: u32,
}

/// Text that names no [`Margin`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a part of the whole is expected, above 0 and at most 1, such as 0.8, 80% or 5/6")]
pub struct NoMargin;

impl Margin {
    /// All of it.
    pub const WHOLE: Self = Self { part: 1, of: 1 };
    /// The largest number in a fraction: six digits behind the point.
    const MOST: u32 = 1_000_000;

    fn new(part: u128, of: u128) -> Result<Self, NoMargin> {
        let common = gcd(part, of).max(1);
        let small = |it: u128| u32::try_from(it / common).ok().filter(|it| *it <= Self::MOST);
        let (part, of) = (small(part).ok_or(NoMargin)?, small(of).ok_or(NoMargin)?);
        if part == 0 || part > of { Err(NoMargin) } else { Ok(Self { part, of }) }
    }

    /// The part of `units`, as numerator and denominator.
    pub fn of(self, units: u128) -> Option<(u128, u128)> {
        Some((units.checked_mul(u128::from(self.part))?, u128::from(self.of)))
    }

    /// Whole units of `units`.
    pub fn whole_of(self, units: u64) -> u64 {
        let part = u128::from(units) * u128::from(self.part) / u128::from(self.of);
        u64::try_from(part).unwrap_or(units)
    }

    /// For output that knows no fractions: to six digits.
    pub fn as_f64(self) -> f64 {
        let doubled = u128::from(self.part) * 2_000_000 / u128::from(self.of);
        Decimal::half(Some(doubled), 6).as_f64()
    }

    /// In hundredths, to one digit behind the point.
    pub fn percent(self) -> Decimal {
        let doubled = u128::from(self.part) * 2_000 / u128::from(self.of);
        Decimal::half(Some(doubled), 1)
    }

    /// The part of a rate.
    pub fn of_rate(self, rate: Rate) -> Rate {
        let (part, of) = (u128::from(self.part), u128::from(self.of));
        let jobs = rate.jobs.checked_mul(part);
        match (jobs, rate.nanos.checked_mul(of)) {
            (Some(jobs), Some(nanos)) => Rate::new(jobs, nanos),
            // Out of all bounds: nothing is safe.
            _ => Rate::ZERO,
        }
    }
}

impl FromStr for Margin {
    type Err = NoMargin;

    fn from_str(text: &str) -> Result<Self, NoMargin> {
        let text = text.trim();
        if let Some((part, of)) = text.split_once('/') {
            let whole = |text: &str| text.trim().parse::<u32>().map_err(|_| NoMargin);
            return Self::new(whole(part)?.into(), whole(of)?.into());
        }
        let (text, unit) = match text.strip_suffix('%') {
            Some(text) => (text.trim_end(), 100),
            None => (text, 1),
        };
        let digits = if unit == 100 { 4 } else { 6 };
        let part = Decimal::parse(text, digits).ok_or(NoMargin)?;
        Self::new(part.scaled(), unit * 10_u128.pow(digits))
    }
}

impl fmt::Display for Margin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent())
    }
}
