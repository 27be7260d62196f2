//! A linear rule learned from examples, that knows how sure it is.
//!
//! Bayesian linear regression: what is believed before the first example (a weight for each feature
//! and how far off it may be) is one more example among the others. Where examples of a kind have
//! been seen the rule is sharp; for a feature never seen it is as vague as the prior, so that a
//! bound drawn from it stays wide where nothing is known. Old examples fade, and what fades goes
//! back to the prior.
//!
//! # Invariants
//!
//! - Memory is fixed: an example is folded in and forgotten.
//! - The precision matrix stays positive definite: it never falls below the prior's share of it, so
//!   that the factorisation cannot fail for finite examples; an example that is not finite is
//!   ignored.

/// How much an example weighs after the next one: a thousand answers back still count a third.
const KEEP: f64 = 0.999;

/// What is believed of one feature's weight before any example: a mean and how far off it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    /// The weight.
    pub(super) mean: f64,
    /// One standard deviation of it.
    pub(super) spread: f64,
}

/// A linear rule over `N` features.
#[derive(Clone, Debug)]
pub(super) struct Regression<const N: usize> {
    prior: &'static [Belief; N],
    /// Inverse covariance of the weights.
    precision: [[f64; N]; N],
    /// Precision times how far the weights are from the prior's.
    shift: [f64; N],
    /// Lower Cholesky factor of `precision`.
    factor: [[f64; N]; N],
    weights: [f64; N],
}

/// What a rule says of one case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prediction {
    /// The most likely value.
    pub(super) mean: f64,
    /// How unsure the rule itself is, as a variance.
    pub(super) variance: f64,
}

impl<const N: usize> Regression<N> {
    /// A rule that knows only the prior.
    pub(super) fn new(prior: &'static [Belief; N]) -> Self {
        let mut rule = Self {
            prior,
            precision: [[0.0; N]; N],
            shift: [0.0; N],
            factor: [[0.0; N]; N],
            weights: prior.map(|belief| belief.mean),
        };
        for (at, belief) in prior.iter().enumerate() {
            rule.precision[at][at] = belief.spread.powi(-2);
        }
        rule.factorise();
        rule
    }

    /// All that was learned: precision and shift.
    pub(super) const fn parts(&self) -> (&[[f64; N]; N], &[f64; N]) {
        (&self.precision, &self.shift)
    }

    /// A rule with these parts; `None` if none can have them.
    pub(super) fn from_parts(
        prior: &'static [Belief; N],
        precision: [[f64; N]; N],
        shift: [f64; N],
    ) -> Option<Self> {
        let mut rule = Self { precision, shift, ..Self::new(prior) };
        rule.solve();
        let all = [&rule.precision, &rule.factor].into_iter().flatten().flatten();
        let finite = all.chain(&rule.shift).chain(&rule.weights).all(|it| it.is_finite());
        finite.then_some(rule)
    }

    /// The most likely value for `features`.
    pub(super) fn mean(&self, features: &[f64; N]) -> f64 {
        dot(features, &self.weights)
    }

    /// What the rule says of `features`.
    pub(super) fn predict(&self, features: &[f64; N]) -> Prediction {
        let mean = dot(features, &self.weights);
        let solved = self.forward(features);
        Prediction { mean, variance: dot(&solved, &solved) }
    }

    /// Learns that `features` had this value, give or take `variance`; what the rule says changes with
    /// [`Self::solve`], which takes several times as long.
    pub(super) fn fold(&mut self, features: &[f64; N], value: f64, variance: f64) {
        if !(value.is_finite() && variance.is_finite() && variance > 0.0)
            || features.iter().any(|feature| !feature.is_finite())
        {
            return;
        }
        let expected: f64 =
            features.iter().zip(self.prior).map(|(feature, belief)| feature * belief.mean).sum();
        self.fade(KEEP);
        for row in 0..N {
            let share = features[row] / variance;
            if share == 0.0 {
                continue;
            }
            for (sum, other) in self.precision[row].iter_mut().zip(features).take(row + 1) {
                *sum += share * other;
            }
            self.shift[row] += share * (value - expected);
        }
    }

    /// Takes all that was learned for worth so much of what it was, from 0 to 1.
    pub(super) fn forget(&mut self, keep: f64) {
        self.fade(keep);
        self.solve();
    }

    fn fade(&mut self, keep: f64) {
        for row in 0..N {
            self.precision[row].iter_mut().take(row + 1).for_each(|it| *it *= keep);
            self.precision[row][row] += (1.0 - keep) * self.prior[row].spread.powi(-2);
            self.shift[row] *= keep;
        }
    }

    /// Says from now on what follows from all that was learned.
    pub(super) fn solve(&mut self) {
        self.factorise();
        let moved = self.backward(&self.forward(&self.shift));
        for (at, weight) in self.weights.iter_mut().enumerate() {
            *weight = self.prior[at].mean + moved[at];
        }
    }

    fn factorise(&mut self) {
        for row in 0..N {
            for column in 0..=row {
                let (done, left) = (&self.factor[row], &self.factor[column]);
                let known: f64 =
                    done.iter().zip(left).take(column).map(|(one, other)| one * other).sum();
                let rest = self.precision[row][column] - known;
                self.factor[row][column] = if row == column {
                    // Rounding may eat what the prior leaves, never more.
                    let floor = (1.0 - KEEP) * self.prior[row].spread.powi(-2);
                    rest.max(floor).sqrt()
                } else {
                    rest / self.factor[column][column]
                };
            }
        }
    }

    /// Solves `factor * x = right`.
    fn forward(&self, right: &[f64; N]) -> [f64; N] {
        let mut solved = [0.0; N];
        for row in 0..N {
            let done = self.factor[row].iter().zip(&solved).take(row);
            let known: f64 = done.map(|(one, other)| one * other).sum();
            solved[row] = (right[row] - known) / self.factor[row][row];
        }
        solved
    }

    /// Solves `factor' * x = right`.
    fn backward(&self, right: &[f64; N]) -> [f64; N] {
        let mut solved = [0.0; N];
        for row in (0..N).rev() {
            let known: f64 =
                (row + 1..N).map(|below| self.factor[below][row] * solved[below]).sum();
            solved[row] = (right[row] - known) / self.factor[row][row];
        }
        solved
    }
}

fn dot<const N: usize>(one: &[f64; N], other: &[f64; N]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static PRIOR: [Belief; 3] = [
        Belief { mean: 1.0, spread: 2.0 },
        Belief { mean: 0.5, spread: 1.0 },
        Belief { mean: 0.0, spread: 3.0 },
    ];

    fn learn(rule: &mut Regression<3>, features: &[f64; 3], value: f64, variance: f64) {
        rule.fold(features, value, variance);
        rule.solve();
    }

    #[test]
    fn what_was_never_seen_stays_as_unsure_as_the_prior() {
        let mut rule = Regression::new(&PRIOR);
        let before = rule.predict(&[0.0, 0.0, 1.0]);
        for step in 1..2_000 {
            learn(
                &mut rule,
                &[f64::from(step % 7), 1.0, 0.0],
                f64::from(step % 7) * 3.0 + 2.0,
                0.01,
            );
        }
        let unseen = rule.predict(&[0.0, 0.0, 1.0]);
        assert!((unseen.mean - before.mean).abs() < 1e-6 && (unseen.variance - 9.0).abs() < 1e-6);
        let seen = rule.predict(&[5.0, 1.0, 0.0]);
        assert!((seen.mean - 17.0).abs() < 0.01 && seen.variance < 0.001, "{seen:?}");
    }

    #[test]
    fn what_has_faded_gives_way_to_what_is_true_now() {
        let mut rule = Regression::new(&PRIOR);
        for (slope, times) in [(3.0, 500), (2.0, 8_000)] {
            for step in 0..times {
                let feature = f64::from(1 + step % 5);
                learn(&mut rule, &[feature, 0.0, 0.0], feature * slope, 0.1);
            }
            assert!((rule.predict(&[1.0, 0.0, 0.0]).mean - slope).abs() < 0.01);
        }
    }

    proptest! {
        /// Whatever comes, the rule stays finite, and no example makes it less sure of the same
        /// case than fading alone would.
        #[test]
        fn it_stays_finite(
            examples in prop::collection::vec((prop::array::uniform3(0.0..1e7_f64), -1e9..1e9_f64, 1e-3..1e9_f64), 1..200),
        ) {
            let mut rule = Regression::new(&PRIOR);
            for (features, value, variance) in &examples {
                learn(&mut rule, features, *value, *variance);
                let after = rule.predict(features);
                prop_assert!(after.mean.is_finite() && after.variance.is_finite());
                prop_assert!(after.variance <= variance * 1.01 + 1e-9);
            }
            learn(&mut rule, &[f64::NAN, 0.0, 0.0], 1.0, 1.0);
            learn(&mut rule, &[1.0, 0.0, 0.0], f64::INFINITY, 1.0);
            prop_assert!(rule.predict(&[1.0, 1.0, 1.0]).mean.is_finite());
        }
    }
}
