//! How far answers are from what was expected of them.

use serde::{Deserialize, Serialize};

/// How much an error weighs after the next one: the last few hundred say how good a rule is.
const KEEP: f64 = 0.995;

/// Errors taken as seen before the first one is: few enough to be outvoted soon, enough for the
/// first few not to be taken for the rule.
const ASSUMED: f64 = 8.0;

/// The largest square taken for what it is: one freak answer shall widen the bound, not end its
/// use.
const LARGEST: f64 = 400.0;

/// Squares of errors in units of [`variance`], fading.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Noise {
    sum: f64,
    weight: f64,
}

impl Noise {
    /// Whether this can have been learned.
    pub(super) fn is_sound(self) -> bool {
        self.sum.is_finite() && self.weight.is_finite() && self.sum >= 0.0 && self.weight >= 0.0
    }

    /// Takes note of the square of an error.
    pub(super) fn learn(&mut self, square: f64) {
        self.sum = KEEP * self.sum + square.min(LARGEST);
        self.weight = KEEP * self.weight + 1.0;
    }

    /// The mean square, as if a few more had been seen that were `assumed`.
    pub(super) fn factor(self, assumed: f64) -> f64 {
        (self.sum + ASSUMED * assumed) / (self.weight + ASSUMED)
    }
}

/// The variance expected of a prompt of so many tokens: each token is a small chance of its own,
/// and a text is a little unlike others of its kind all the way through.
pub(super) fn variance(tokens: f64) -> f64 {
    let tokens = tokens.max(1.0);
    1.0 + 0.1 * tokens + (0.01 * tokens).powi(2)
}
