//! How many requests the upstream bears at once, found out by its own word that they are too many.
//!
//! Additive increase, multiplicative decrease: a refusal for overload cuts the limit to seven tenths,
//! and every so many answers as the limit is large raise it by one. Only explicit overload counts.
//! How long an answer takes says nothing: that depends on the prompt.
//!
//! # Invariants
//!
//! - Pure: integers, and `now` is an argument.
//! - There is no limit before the first overload; it begins with what was in flight then.
//! - Cut at most once in a round trip: what was sent before a cut says nothing of its effect.
//! - At least one, and never above what is configured (`most`); grown as far as that, or to twice
//!   what was too much once where nothing is configured, the limit is gone.

use std::num::NonZeroU32;

use crate::time::Timestamp;

/// What is left of the limit when the upstream is overloaded: 7 of 10.
const LEFT: u64 = 7;
const OF: u64 = 10;

/// The limit on requests at the upstream, as its answers have it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Aimd(Option<Limited>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Limited {
    limit: NonZeroU32,
    /// What was in flight when the limit began: that was too much.
    too_many: u32,
    /// When it was cut last.
    cut_at: Timestamp,
    /// Answers since it was raised or cut.
    answers: u32,
}

impl Aimd {
    /// Requests that may be at the upstream at once, where `most` are configured; `None` for any
    /// number.
    pub fn limit(&self, most: Option<NonZeroU32>) -> Option<NonZeroU32> {
        let own = self.0.map(|it| it.limit);
        [own, most].into_iter().flatten().min()
    }

    /// Whether the limit is as low as it gets.
    pub fn is_least(&self) -> bool {
        self.0.is_some_and(|it| it.limit == NonZeroU32::MIN)
    }

    /// The upstream said that a request that was sent at `sent_at` is one too many; `in_flight` of
    /// them are there, this one included. Tells whether the limit was cut.
    pub fn overloaded(
        &mut self,
        most: Option<NonZeroU32>,
        in_flight: u32,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let before = self.0.filter(|it| sent_at < it.cut_at);
        if before.is_some() {
            return false;
        }
        // A limit that was not used up says less than what was there.
        let in_flight = NonZeroU32::new(in_flight).unwrap_or(NonZeroU32::MIN);
        let from = self.limit(most).map_or(in_flight, |limit| limit.min(in_flight));
        let left = u64::from(from.get()) * LEFT / OF;
        let limit = u32::try_from(left).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let too_many = self.0.map_or_else(|| from.get(), |it| it.too_many.max(from.get()));
        self.0 = Some(Limited { limit, too_many, cut_at: now, answers: 0 });
        true
    }

    /// The upstream has answered well.
    pub fn answered(&mut self, most: Option<NonZeroU32>) {
        let Some(limited) = &mut self.0 else { return };
        limited.answers += 1;
        if limited.answers < limited.limit.get() {
            return;
        }
        limited.answers = 0;
        limited.limit = limited.limit.saturating_add(1);
        let enough = most.map_or_else(|| limited.too_many.saturating_mul(2), NonZeroU32::get);
        if limited.limit.get() >= enough {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn some(number: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(number)
    }

    #[test]
    fn the_first_overload_begins_with_what_is_in_flight() {
        let mut aimd = Aimd::default();
        assert_eq!((aimd.limit(None), aimd.limit(some(9))), (None, some(9)));
        assert!(aimd.overloaded(None, 100, at(1), at(5)));
        assert_eq!(aimd.limit(None), some(70));
        assert_eq!(aimd.limit(some(9)), some(9), "never above what is configured");
        assert!(aimd.overloaded(None, 10, at(6), at(7)), "far fewer were too many");
        assert_eq!(aimd.limit(None), some(7));
        for (left, sent) in [(4, 8), (2, 10), (1, 12), (1, 14)] {
            assert!(aimd.overloaded(None, 1_000, at(sent), at(sent + 1)));
            assert_eq!(aimd.limit(None), some(left));
        }
        assert!(aimd.is_least());
    }

    #[test]
    fn what_was_sent_before_a_cut_does_not_cut_again() {
        let mut aimd = Aimd::default();
        assert!(aimd.overloaded(None, 100, at(0), at(10)));
        for sent in 0..10 {
            assert!(!aimd.overloaded(None, 99, at(sent), at(11)), "sent at {sent}");
        }
        assert_eq!(aimd.limit(None), some(70));
        assert!(aimd.overloaded(None, 70, at(10), at(20)), "this one knew");
        assert_eq!(aimd.limit(None), some(49));
    }

    #[test]
    fn a_limit_of_answers_raises_it_by_one_until_it_is_gone() {
        let mut aimd = Aimd::default();
        aimd.overloaded(None, 3, at(0), at(1));
        assert_eq!(aimd.limit(None), some(2), "7 of 10 of three, and no less than one");
        // 2 + 3 + 4 + 5 answers: then six, twice what was too much, is no limit.
        for (answers, limit) in [(1, 2), (1, 3), (2, 3), (1, 4), (4, 5), (4, 5)] {
            (0..answers).for_each(|_| aimd.answered(None));
            assert_eq!(aimd.limit(None), some(limit));
        }
        aimd.answered(None);
        assert_eq!(aimd, Aimd::default());

        aimd.overloaded(some(4), 100, at(2), at(3));
        assert_eq!(aimd.limit(some(4)), some(2), "from what is configured, not from more");
        (0..5).for_each(|_| aimd.answered(some(4)));
        assert_eq!(aimd, Aimd::default(), "what is configured is enough");
    }

    #[test]
    fn a_cut_forgets_the_answers_before_it() {
        let mut aimd = Aimd::default();
        aimd.overloaded(None, 10, at(0), at(1));
        (0..6).for_each(|_| aimd.answered(None));
        aimd.overloaded(None, 7, at(1), at(2));
        (0..3).for_each(|_| aimd.answered(None));
        assert_eq!(aimd.limit(None), some(4), "three of four");
        aimd.answered(None);
        assert_eq!(aimd.limit(None), some(5));
    }

    proptest! {
        /// Against a plain model: never zero, never above what is configured, no cut but by seven
        /// tenths of the lesser of limit and flight, no two in one round trip, raised by one at a time.
        #[test]
        fn the_limit_moves_as_it_is_said_to(
            most in 0_u32..50,
            steps in prop::collection::vec((any::<bool>(), 1_u32..200, 0_u64..20), 1..400),
        ) {
            let most = some(most);
            let (mut aimd, mut now, mut last_cut) = (Aimd::default(), 100_u64, None);
            for (overload, in_flight, age) in steps {
                now += 3;
                let before = aimd.limit(most);
                if overload {
                    let sent = now - age;
                    let cut = aimd.overloaded(most, in_flight, at(sent), at(now));
                    prop_assert_eq!(cut, last_cut.is_none_or(|last| sent >= last));
                    let after = aimd.limit(most);
                    if cut {
                        let from = before.map_or(in_flight, |it| it.get().min(in_flight));
                        prop_assert_eq!(after, some((from * 7 / 10).max(1)));
                        last_cut = Some(now);
                    } else {
                        prop_assert_eq!(after, before);
                    }
                } else {
                    aimd.answered(most);
                    match (before, aimd.limit(most)) {
                        (Some(before), Some(after)) => {
                            prop_assert!(after == before || after.get() == before.get() + 1);
                        }
                        (before, after) => prop_assert!(after.is_none() && (before.is_none() || most.is_none())),
                    }
                    if aimd == Aimd::default() {
                        last_cut = None;
                    }
                }
                let bounded = |limit: NonZeroU32| most.is_none_or(|most| limit <= most);
                prop_assert!(aimd.limit(most).is_none_or(bounded));
                prop_assert!(aimd.limit(most).is_some() || most.is_none());
            }
        }

        /// Whatever happened: enough answers and there is no limit any more.
        #[test]
        fn it_always_grows_back(cuts in prop::collection::vec(1_u32..60, 1..20)) {
            let mut aimd = Aimd::default();
            for (in_flight, now) in cuts.into_iter().zip(1..) {
                aimd.overloaded(None, in_flight, at(now), at(now));
            }
            // The sum of 1 to 120.
            (0..120 * 121 / 2).for_each(|_| aimd.answered(None));
            prop_assert_eq!(aimd, Aimd::default());
        }
    }
}
