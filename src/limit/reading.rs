//! What rate-limit headers say, and how far they are to be believed.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::limit::constraint::{Constraint, Learn, Unit};

/// One quota as the head of an answer shows it. Every part may be missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reading<'a> {
    /// What is counted.
    pub unit: Unit,
    /// The window's name: "minute".
    pub window: &'a str,
    /// Units per window.
    pub limit: Option<u64>,
    /// Units left once this request was charged, with everything that is reserved.
    pub remaining: Option<u64>,
}

/// The part of a [`Reading`] that one window needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub(super) limit: Option<u64>,
    pub(super) remaining: Option<u64>,
}

/// How often a larger limit has to be seen in a row: a smaller one costs nothing to believe.
const SIGHTINGS: u8 = 3;

/// Numbers are taken to be rounded by no more than one part in so many of the limit.
const COARSEST: u64 = 100;

/// What is known of the headers themselves.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Headers {
    /// A larger limit, and how often it has been seen in a row.
    larger: Option<(u64, u8)>,
    /// The power of ten to which every number seen so far was rounded.
    grain: Option<NonZeroU64>,
}

impl Headers {
    /// The limit to keep to from now on, if it is another one.
    pub(super) fn limit(&mut self, seen: Option<u64>, quota: &Constraint) -> Option<u64> {
        let seen = seen.filter(|limit| (1..=Constraint::MAX_LIMIT).contains(limit))?;
        if seen <= quota.limit() || quota.learn() != Learn::Both {
            self.larger = None;
            return (seen < quota.limit() && quota.learn() != Learn::Never).then_some(seen);
        }
        let times = self.larger.filter(|(limit, _)| *limit == seen).map_or(1, |(_, it)| it + 1);
        self.larger = (times < SIGHTINGS).then_some((seen, times));
        (times >= SIGHTINGS).then_some(seen)
    }

    /// By how much `remaining` may be off, either way: the largest power of ten that divides all that
    /// was seen so far, unless that is one.
    pub(super) fn grain(&mut self, remaining: u64, limit: u64) -> u64 {
        if remaining > 0 && remaining < limit {
            let mut grain = self.grain.map_or(1_000_000_000, NonZeroU64::get);
            while !remaining.is_multiple_of(grain) {
                grain /= 10;
            }
            self.grain = NonZeroU64::new(grain);
        }
        let known = self.grain.map_or(1, NonZeroU64::get);
        if known > 1 { known.min((limit / COARSEST).max(1)) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::constraint::Mode;

    fn quota(limit: u64, learn: Learn) -> Constraint {
        let minute = Duration::from_secs(60);
        let quota = Constraint::new(Unit::Tokens, limit, minute, "minute", Mode::Bucket);
        quota.unwrap().learning(learn)
    }

    #[test]
    fn a_smaller_limit_is_believed_at_once_and_a_larger_one_the_third_time() {
        let mut headers = Headers::default();
        let both = quota(100, Learn::Both);
        assert_eq!(headers.limit(Some(99), &both), Some(99));
        assert_eq!(headers.limit(Some(100), &both), None);
        assert_eq!(headers.limit(Some(0), &both), None);
        let seen = [200, 200, 300, 300, 100, 300, 300, 300];
        let learned = seen.map(|limit| headers.limit(Some(limit), &both));
        assert_eq!(learned, [None, None, None, None, None, None, None, Some(300)]);
        let down = quota(100, Learn::Down);
        assert!((0..9).all(|_| headers.limit(Some(200), &down).is_none()));
        assert_eq!(headers.limit(Some(50), &down), Some(50));
        assert_eq!(headers.limit(Some(50), &quota(100, Learn::Never)), None);
    }

    #[test]
    fn rounding_is_recognised_by_what_all_numbers_have_in_common() {
        let mut headers = Headers::default();
        for (remaining, grain) in
            [(0, 0), (1_500_000, 0), (1_430_000, 10_000), (999_000, 1_000), (0, 1_000), (5, 0)]
        {
            assert_eq!(headers.grain(remaining, 1_500_000), grain, "{remaining}");
        }
        assert_eq!(Headers::default().grain(110, 120), 1, "never more than a hundredth");
    }
}
