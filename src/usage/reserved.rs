//! What the upstream sets aside for an answer, learned from what its headers show.
//!
//! The configured rule says what a request's output limit makes the upstream reserve. Where the
//! upstream reserves less (it may cap the limit, or analyse the prompt), the drop of its
//! `remaining` header across a request shows it: an upper bound, because others may have spent in
//! the meantime. A limit is bounded by what was seen for limits at least as high: an upstream that
//! reserves less for a higher limit is not known.
//!
//! # Invariants
//!
//! - Nothing is lowered before [`ENOUGH`] observations that agree, of limits close to the one asked.
//! - An observation that is surely above the bound ends it: it begins anew from that observation.
//! - Memory is fixed: [`KEPT`] observations for each power of two.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::demand::OutputLimit;

/// Observations before a bound.
const ENOUGH: usize = 20;
/// Observations kept for each power of two: enough to still have [`ENOUGH`] when some were of
/// lower limits.
const KEPT: usize = 32;
/// Powers of two that are told apart; limits beyond the last one share it.
const POWERS: usize = 24;
/// What is added to the largest seen, in hundredths: reservations that depend on the prompt vary.
const MARGIN_PERCENT: u64 = 5;

/// Learns what one pool's upstream reserves for the output of one choice.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct OutputLearner {
    /// By power of two of the limit, and last the requests without one.
    by_size: [VecDeque<Observed>; POWERS + 1],
    /// Whether something was learned that has not been saved.
    #[serde(skip)]
    changed: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Observed {
    asked: u64,
    reserved: u64,
}

impl OutputLearner {
    /// A request of one choice asked for `asked`, and the upstream reserved at `least` and at `most`
    /// so many tokens for its output.
    pub fn observe(&mut self, asked: OutputLimit, least: u64, most: u64) {
        self.changed = true;
        let contradicted = self.bound(asked).is_some_and(|bound| least > bound);
        let (index, tokens) = place(asked);
        let seen = &mut self.by_size[index];
        if contradicted {
            seen.clear();
        }
        if seen.len() >= KEPT {
            seen.pop_front();
        }
        seen.push_back(Observed { asked: tokens, reserved: most });
    }

    /// What was learned as bytes, if it is more than what was saved before, or `all` is asked for.
    pub fn save(&mut self, all: bool) -> Option<Vec<u8>> {
        let wanted = std::mem::take(&mut self.changed) || all;
        let known = self.by_size.iter().any(|seen| !seen.is_empty());
        (wanted && known).then(|| rmp_serde::to_vec(&*self).unwrap_or_default())
    }

    /// What was learned before; `None` if these are not bytes of this version's.
    #[must_use]
    pub fn load(bytes: &[u8]) -> Option<Self> {
        let loaded: Self = rmp_serde::from_slice(bytes).ok()?;
        loaded.by_size.iter().all(|seen| seen.len() <= KEPT).then_some(loaded)
    }

    /// The most that is reserved for the output of one choice with this limit, with a margin;
    /// `None` as long as too little has been seen. May be above the limit itself.
    #[must_use]
    pub fn bound(&self, asked: OutputLimit) -> Option<u64> {
        let (index, tokens) = place(asked);
        let above = self.by_size[index].iter().filter(|seen| seen.asked >= tokens);
        let (count, most) =
            above.fold((0, 0), |(count, most), seen| (count + 1, seen.reserved.max(most)));
        let margin = u64::try_from(u128::from(most) * u128::from(MARGIN_PERCENT) / 100);
        (count >= ENOUGH).then(|| most.saturating_add(margin.unwrap_or(u64::MAX)))
    }
}

/// Where a limit is kept, and its tokens.
fn place(asked: OutputLimit) -> (usize, u64) {
    match asked {
        OutputLimit::Unlimited => (POWERS, 0),
        OutputLimit::Tokens(tokens) => {
            let power = tokens.checked_ilog2().unwrap_or(0);
            (usize::try_from(power).unwrap_or(POWERS).min(POWERS - 1), tokens)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cap_of_the_upstream_is_found_out() {
        let mut learner = OutputLearner::default();
        for step in 0..20 {
            assert_eq!(learner.bound(OutputLimit::Tokens(40_000)), None);
            learner.observe(OutputLimit::Tokens(40_000 + step), 16_000, 16_384 - step);
        }
        assert_eq!(learner.bound(OutputLimit::Tokens(40_000)), Some(16_384 + 819));
        assert_eq!(learner.bound(OutputLimit::Tokens(60_000)), None, "none so high was seen");
        assert_eq!(learner.bound(OutputLimit::Tokens(20_000)), None, "another power of two");
        assert_eq!(learner.bound(OutputLimit::Unlimited), None, "another matter");
        learner.observe(OutputLimit::Tokens(40_000), 40_000, 40_000);
        assert_eq!(learner.bound(OutputLimit::Tokens(40_000)), None, "contradicted");
    }

    proptest! {
        /// Whatever an upstream reserves, as long as it reserves no less for more: a bound that is
        /// given holds.
        #[test]
        fn a_bound_holds(
            cap in 1_000..100_000_u64,
            asked in prop::collection::vec((1..200_000_u64, 0..500_u64), 1..300),
        ) {
            let mut learner = OutputLearner::default();
            for (tokens, others) in asked {
                let reserved = tokens.min(cap);
                if let Some(bound) = learner.bound(OutputLimit::Tokens(tokens)) {
                    prop_assert!(bound >= reserved, "{bound} {reserved}");
                }
                learner.observe(OutputLimit::Tokens(tokens), reserved, reserved + others);
            }
        }

        /// Extremes neither overflow nor grow the memory.
        #[test]
        fn anything_may_be_observed(all in prop::collection::vec((any::<u64>(), any::<u64>()), 0..200)) {
            let mut learner = OutputLearner::default();
            for (asked, reserved) in all {
                learner.observe(OutputLimit::Tokens(asked), reserved / 2, reserved);
                learner.observe(OutputLimit::Unlimited, reserved, reserved);
                let _ = learner.bound(OutputLimit::Tokens(asked));
            }
            prop_assert!(learner.by_size.iter().all(|seen| seen.len() <= KEPT));
        }
    }
}
