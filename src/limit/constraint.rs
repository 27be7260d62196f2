//! What is limited: a unit, a limit and a window, with the way the upstream refills it.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limit::pace::Spread;
use crate::time::nanos;

/// What a quota counts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Unit {
    /// Calls.
    Requests,
    /// Model tokens, of the prompt and the completion together.
    Tokens,
    /// Model tokens without those that the upstream had cached.
    UncachedTokens,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Tokens, Self::UncachedTokens];

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The unit's name in configuration, headers and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::UncachedTokens => "uncached_tokens",
        }
    }
}

/// What one request takes of every unit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cost {
    /// Calls; 1 for every request that reaches the upstream.
    pub requests: u64,
    /// Model tokens.
    pub tokens: u64,
    /// Model tokens without cached ones: all of them as long as nothing is known of the cache.
    pub uncached: u64,
}

impl Cost {
    /// So many requests and tokens, none of which is known to be cached.
    pub const fn new(requests: u64, tokens: u64) -> Self {
        Self { requests, tokens, uncached: tokens }
    }

    /// Whatever is more, unit by unit.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            requests: self.requests.max(other.requests),
            tokens: self.tokens.max(other.tokens),
            uncached: self.uncached.max(other.uncached),
        }
    }

    /// Whatever is less, unit by unit.
    #[must_use]
    pub(super) fn min(self, other: Self) -> Self {
        Self {
            requests: self.requests.min(other.requests),
            tokens: self.tokens.min(other.tokens),
            uncached: self.uncached.min(other.uncached),
        }
    }

    /// Both, unit by unit.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
            uncached: self.uncached.saturating_add(other.uncached),
        }
    }

    /// What is left of it without the other, unit by unit.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
            uncached: self.uncached.saturating_sub(other.uncached),
        }
    }

    /// Each unit changed alike.
    #[must_use]
    pub(super) fn map(self, change: impl Fn(u64) -> u64) -> Self {
        Self {
            requests: change(self.requests),
            tokens: change(self.tokens),
            uncached: change(self.uncached),
        }
    }

    /// No more of any unit than the largest limit: more than all cannot be spent, whoever says so, and
    /// sums of what is said stay exact.
    #[must_use]
    pub(super) fn bounded(self) -> Self {
        self.map(|units| units.min(Constraint::MAX_LIMIT))
    }

    pub(super) const fn of_mut(&mut self, unit: Unit) -> &mut u64 {
        match unit {
            Unit::Requests => &mut self.requests,
            Unit::Tokens => &mut self.tokens,
            Unit::UncachedTokens => &mut self.uncached,
        }
    }

    /// The part of the cost that counts against a quota in `unit`.
    pub const fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
            Unit::UncachedTokens => self.uncached,
        }
    }

    /// Whether it is more than `other` in any unit.
    pub const fn exceeds(&self, other: Self) -> bool {
        self.requests > other.requests
            || self.tokens > other.tokens
            || self.uncached > other.uncached
    }
}

/// How the upstream gives a spent quota back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mode {
    /// Continuously, `limit / window` at a time, up to `limit`.
    Bucket,
    /// All at once, at multiples of the window on the calendar (UTC).
    Fixed {
        /// How far the upstream's clock and ours may differ. Around a boundary a charge counts on
        /// both sides of it, and the new window is used only once it has surely begun.
        skew: Duration,
    },
    /// Each charge exactly one window after it was made.
    Sliding,
    /// Unknown: as `Sliding` until the upstream's answers show which of the others it is.
    Auto,
}

/// Whether the limit that the upstream's answers name replaces the one configured.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Learn {
    /// A smaller one at once, a larger one when it has been seen repeatedly.
    #[default]
    Both,
    /// Only a smaller one: the configured limit is a budget.
    Down,
    /// Never.
    Never,
}

impl Mode {
    /// The mode's name in configuration and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Fixed { .. } => "fixed",
            Self::Sliding => "sliding",
            Self::Auto => "auto",
        }
    }
}

/// One limit of the upstream: at most `limit` units per `window`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Written")]
pub struct Constraint {
    unit: Unit,
    limit: NonZeroU64,
    window: NonZeroU64,
    name: Arc<str>,
    mode: Mode,
    learn: Learn,
    spread: Spread,
}

/// A [`Constraint`] as it was written down, by whomsoever: what is wrong with it is found when it is
/// read, as if it had been configured.
#[derive(Deserialize)]
struct Written {
    unit: Unit,
    limit: u64,
    window: u64,
    name: Arc<str>,
    mode: Mode,
    learn: Learn,
    spread: Spread,
}

impl TryFrom<Written> for Constraint {
    type Error = BadConstraint;

    fn try_from(written: Written) -> Result<Self, BadConstraint> {
        let Written { unit, limit, window, name, mode, learn, spread } = written;
        let read = Self::new(unit, limit, Duration::from_nanos(window), &name, mode)?;
        Ok(Self { name, ..read.learning(learn).spread_by(spread) })
    }
}

/// Why a [`Constraint`] cannot exist.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadConstraint {
    /// Nothing could ever be admitted, or the number is not exact in the shared store.
    #[error("a limit must be between 1 and 2^53")]
    Limit,
    /// Too short to be told from no window, or too long for exact arithmetic.
    #[error("a window must be between 1 millisecond and 400 days")]
    Window,
    /// Every charge would count in two windows.
    #[error("the clock skew must be less than half of the window")]
    Skew,
}

impl Constraint {
    /// The largest limit: integers up to here are exact in JSON, Lua and `f64` alike.
    pub const MAX_LIMIT: u64 = 1 << 53;
    /// The longest window. Times [`Self::MAX_LIMIT`] it leaves 2^18 to spare in an `i128`.
    pub const MAX_WINDOW: Duration = Duration::from_secs(400 * 24 * 3600);
    const MIN_WINDOW: Duration = Duration::from_millis(1);

    /// At most `limit` units per `window`; `name` is the window's name in headers and metrics
    /// ("minute", "day").
    ///
    /// # Errors
    ///
    /// [`BadConstraint`] if a number is out of bounds.
    pub fn new(
        unit: Unit,
        limit: u64,
        window: Duration,
        name: &str,
        mode: Mode,
    ) -> Result<Self, BadConstraint> {
        if !(Self::MIN_WINDOW..=Self::MAX_WINDOW).contains(&window) {
            return Err(BadConstraint::Window);
        }
        if limit > Self::MAX_LIMIT {
            return Err(BadConstraint::Limit);
        }
        if matches!(mode, Mode::Fixed { skew } if skew >= window / 2) {
            return Err(BadConstraint::Skew);
        }
        Ok(Self {
            unit,
            limit: NonZeroU64::new(limit).ok_or(BadConstraint::Limit)?,
            window: NonZeroU64::new(nanos(window)).ok_or(BadConstraint::Window)?,
            name: name.into(),
            mode,
            learn: Learn::default(),
            spread: Spread::default(),
        })
    }

    /// The same, with limits learned in another way.
    #[must_use]
    pub const fn learning(mut self, learn: Learn) -> Self {
        self.learn = learn;
        self
    }

    /// Whether the upstream's own limit replaces this one.
    pub const fn learn(&self) -> Learn {
        self.learn
    }

    /// The same, spread over its window.
    #[must_use]
    pub const fn spread_by(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// How requests that can wait are spread over the window.
    pub const fn spread(&self) -> Spread {
        self.spread
    }

    /// Keeps to another limit from now on; one that cannot be is ignored.
    pub(super) fn relimit(&mut self, limit: u64) {
        if let Some(limit) = NonZeroU64::new(limit.min(Self::MAX_LIMIT)) {
            self.limit = limit;
        }
    }

    /// What is counted.
    pub const fn unit(&self) -> Unit {
        self.unit
    }

    /// Units per window.
    pub const fn limit(&self) -> u64 {
        self.limit.get()
    }

    /// The window.
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.window.get())
    }

    pub(super) const fn window_nanos(&self) -> NonZeroU64 {
        self.window
    }

    /// The window's name: "minute", "hour", "day", "second" or what the configuration gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the quota refills.
    pub const fn mode(&self) -> Mode {
        self.mode
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.unit.as_str(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_limit_cannot_be_built() {
        let minute = Duration::from_secs(60);
        let wide = Mode::Fixed { skew: Duration::from_secs(30) };
        for (limit, window, mode, expected) in [
            (0, minute, Mode::Bucket, BadConstraint::Limit),
            (Constraint::MAX_LIMIT + 1, minute, Mode::Bucket, BadConstraint::Limit),
            (1, Duration::ZERO, Mode::Bucket, BadConstraint::Window),
            (1, Constraint::MAX_WINDOW * 2, Mode::Sliding, BadConstraint::Window),
            (1, minute, wide, BadConstraint::Skew),
        ] {
            let built = Constraint::new(Unit::Tokens, limit, window, "minute", mode);
            assert_eq!(built, Err(expected));
        }
    }
}
