//! One limit as plain data, and how much it can let through in a stretch of time.

use serde::Serialize;

/// What a limit counts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Calls, one each.
    Requests,
    /// The model's tokens, prompt and output.
    Tokens,
}

/// The window's name, as refusals and headers spell it; its length may be anything.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Per second.
    Second,
    /// Per minute.
    Minute,
    /// Per hour.
    Hour,
    /// Per day.
    Day,
}

/// How a window gives units back.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Semantics {
    /// A bucket that starts full and refills continuously, `limit` units per window.
    #[default]
    TokenBucket,
    /// `limit` units in each window that begins at `phase_ns` plus a multiple of its length since
    /// the Unix epoch; phase 0 is aligned to the clock (UTC minutes, hours, days).
    FixedWindow {
        /// Offset of a window's beginning, in nanoseconds.
        phase_ns: u64,
    },
    /// `limit` units in any stretch of one window's length, open at its beginning.
    SlidingLog,
}

/// At most `limit` units per window.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Limit {
    /// What is counted.
    pub unit: Unit,
    /// The window's name.
    pub name: Name,
    /// Units per window.
    pub limit: u64,
    /// The window's length in nanoseconds; zero counts as one.
    pub window_ns: u64,
}

impl Unit {
    /// The word used in headers: `requests` or `tokens`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

impl Name {
    /// The word used in headers and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// How long a window of this name lasts when nobody says otherwise, in nanoseconds.
    pub fn nominal_ns(self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        match self {
            Self::Second => SECOND,
            Self::Minute => 60 * SECOND,
            Self::Hour => 3_600 * SECOND,
            Self::Day => 86_400 * SECOND,
        }
    }
}

impl Limit {
    /// A limit on a window of its name's own length.
    pub fn per(unit: Unit, name: Name, limit: u64) -> Self {
        Self { unit, name, limit, window_ns: name.nominal_ns() }
    }

    /// The most that can be admitted at instants in `[from_ns, to_ns]`, beginning with everything
    /// free: bucket `L + r*t`; fixed `L` for each window touched; sliding `L` for each full window
    /// that fits, and one more.
    pub fn capacity(&self, semantics: Semantics, from_ns: u64, to_ns: u64) -> u64 {
        let lasted = to_ns.saturating_sub(from_ns);
        let window = self.window_ns.max(1);
        match semantics {
            Semantics::TokenBucket => self.limit.saturating_add(self.pro_rata(from_ns, to_ns)),
            Semantics::FixedWindow { phase_ns } => {
                let touched = period(to_ns.max(from_ns), window, phase_ns)
                    - period(from_ns, window, phase_ns)
                    + 1;
                self.limit.saturating_mul(touched)
            }
            Semantics::SlidingLog => self.limit.saturating_mul(lasted / window + 1),
        }
    }

    /// The limit's share of `[from_ns, to_ns]`, rounded down: what it sustains in the long run.
    pub fn pro_rata(&self, from_ns: u64, to_ns: u64) -> u64 {
        let lasted = u128::from(to_ns.saturating_sub(from_ns));
        let units = u128::from(self.limit) * lasted / u128::from(self.window_ns.max(1));
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// Nanoseconds from `now_ns` to the end of the window on the clock.
    ///
    /// The vendor's `reset` headers count to the clock's next minute or day even where the quota
    /// itself refills continuously, so this is so for every kind of window.
    pub fn reset_ns(&self, semantics: Semantics, now_ns: u64) -> u64 {
        let window = self.window_ns.max(1);
        let phase_ns = match semantics {
            Semantics::FixedWindow { phase_ns } => phase_ns,
            Semantics::TokenBucket | Semantics::SlidingLog => 0,
        };
        window - (now_ns % window + window - phase_ns % window) % window
    }
}

/// The number of the fixed window that holds `at_ns`.
pub(super) fn period(at_ns: u64, window_ns: u64, phase_ns: u64) -> u64 {
    // One window is added so that an instant before the first phase still has a number.
    at_ns.saturating_add(window_ns - phase_ns % window_ns) / window_ns
}
