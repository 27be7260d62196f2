//! How long one caller's answers are, as quantiles of the last few hundred.
//!
//! # Invariants
//!
//! - Memory is fixed: the last [`KEPT`] lengths, in the order in which they came and by size.
//! - An answer that a limit ended counts as twice as long: how long it would have been is not
//!   known, and quantiles of cut answers would never grow again.

use serde::{Deserialize, Serialize};

/// Answers remembered: enough that the 99th percentile has two above it, few enough to follow a
/// change within the day.
const KEPT: usize = 256;

/// Answers before the 99th percentile says anything: one is above it.
const FOR_P99: usize = 100;

/// Answers before the median says anything.
const FOR_MEDIAN: usize = 8;

/// The lengths of a caller's last answers, in tokens of each choice.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Lengths {
    last: Vec<u32>,
    next: usize,
    /// The same in order. Not saved: it is made again from those.
    #[serde(skip)]
    sorted: Vec<u32>,
}

impl Lengths {
    /// Whether this can have been learned.
    pub(super) fn is_sound(&self) -> bool {
        self.last.len() <= KEPT && self.next < KEPT
    }

    /// The same, ready to be asked.
    pub(super) fn loaded(mut self) -> Self {
        self.sorted.clone_from(&self.last);
        self.sorted.sort_unstable();
        self
    }

    /// Takes note of an answer; `cut` if it ended because of a limit.
    pub(super) fn learn(&mut self, tokens: u64, cut: bool) {
        let tokens = if cut { tokens.saturating_mul(2) } else { tokens };
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        if self.last.len() < KEPT {
            self.last.push(tokens);
        } else if let Some(oldest) = self.last.get_mut(self.next) {
            let at = self.sorted.partition_point(|it| it < oldest);
            self.sorted.remove(at.min(KEPT - 1));
            *oldest = tokens;
        }
        self.next = (self.next + 1) % KEPT;
        let at = self.sorted.partition_point(|it| *it < tokens);
        self.sorted.insert(at, tokens);
    }

    /// The smallest length that at least `percent` of the last answers do not exceed.
    fn quantile(&self, percent: usize) -> Option<u64> {
        let rank = (self.sorted.len() * percent).div_ceil(100);
        self.sorted.get(rank.saturating_sub(1)).copied().map(u64::from)
    }

    /// The length that half of the answers stay within, once a few have been seen.
    pub(super) fn median(&self) -> Option<u64> {
        if self.last.len() < FOR_MEDIAN { None } else { self.quantile(50) }
    }

    /// The length that 99 of a hundred answers stay within, once a hundred have been seen.
    pub(super) fn p99(&self) -> Option<u64> {
        if self.last.len() < FOR_P99 { None } else { self.quantile(99) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_said_before_enough_is_known() {
        let mut lengths = Lengths::default();
        for tokens in 1..=300 {
            lengths.learn(tokens, false);
            assert_eq!(lengths.median().is_some(), tokens >= 8);
            assert_eq!(lengths.p99().is_some(), tokens >= 100);
        }
        // The last 256: 45 to 300.
        assert_eq!((lengths.median(), lengths.p99()), (Some(172), Some(298)));
    }

    #[test]
    fn answers_that_are_cut_raise_the_length_until_few_are() {
        let (mut lengths, mut cap) = (Lengths::default(), 100);
        for _ in 0..2_000 {
            let wanted = 1_000;
            lengths.learn(wanted.min(cap), wanted > cap);
            cap = lengths.p99().map_or(cap, |p99| p99.max(cap));
        }
        assert!(cap >= 1_000, "{cap}");
    }

    proptest! {
        /// Each quantile is one of the last lengths, and as many do not exceed it as it says.
        #[test]
        fn quantiles_are_what_they_say(all in prop::collection::vec(0..5_000_u64, 100..600)) {
            let mut lengths = Lengths::default();
            all.iter().for_each(|tokens| lengths.learn(*tokens, false));
            let last = &all[all.len().saturating_sub(KEPT)..];
            for (percent, value) in [(50, lengths.median().unwrap()), (99, lengths.p99().unwrap())] {
                prop_assert!(last.contains(&value));
                let (within, below) = (
                    last.iter().filter(|it| **it <= value).count(),
                    last.iter().filter(|it| **it < value).count(),
                );
                prop_assert!(within * 100 >= last.len() * percent && below * 100 < last.len() * percent);
            }
        }
    }
}
