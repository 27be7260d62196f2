//! What a replica can say about a log's time by its own clock. Pure.
//!
//! An entry that was seen at a local instant was stamped before it: since then at least so much time
//! has passed as the local clock says. A reply to a call that was sent at a local instant was stamped
//! after it: at most so much has passed. These two bounds go with every call; the script takes the
//! server's clock only between them (`log.lua` says what it does otherwise).
//!
//! Of all that was seen the tightest is kept. Clocks differ in rate, so a bound is widened as it
//! ages, and a newer one replaces it in time.

/// Clocks differ by less than one part in so many: steered ones run up to 500 ppm off.
const DRIFT: u64 = 1_000;

/// Bounds of a log's time; all times in microseconds, local ones on one monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// At the first, local, it was at least the second.
    least: Option<(u64, u64)>,
    /// At the first, local, it was at most the second.
    most: Option<(u64, u64)>,
}

impl Bounds {
    /// Something stamped `at` has arrived at `local`.
    pub(super) fn saw(&mut self, at: u64, local: u64) {
        if self.least.is_none_or(|_| at > self.least(local)) {
            self.least = Some((local, at));
        }
    }

    /// The reply to a call sent at `sent` has arrived at `received`; the script made it at `at`.
    /// `slack` is the longest that such a call is taken to be on its way.
    pub(super) fn replied(&mut self, at: u64, sent: u64, received: u64, slack: u64) {
        self.saw(at, received);
        // The log is ahead of what this clock says: it has been standing still (a suspended
        // machine), and bounds from before are void.
        let contradicted = self.most.is_some() && at > self.most(received).saturating_add(slack);
        if contradicted || self.most.is_none() || at < self.most(sent) {
            self.most = Some((sent, at));
        }
    }

    /// The log's time at `local` is not before this; 0 if nothing is known.
    pub(super) fn least(&self, local: u64) -> u64 {
        let since = |(then, at): (u64, u64)| {
            let passed = local.saturating_sub(then);
            at.saturating_add(passed - passed / DRIFT)
        };
        self.least.map_or(0, since)
    }

    /// The log's time at `local` is not after this; `u64::MAX` if nothing is known.
    pub(super) fn most(&self, local: u64) -> u64 {
        let since = |(then, at): (u64, u64)| {
            let passed = local.saturating_sub(then);
            at.saturating_add(passed).saturating_add(passed / DRIFT + 1)
        };
        self.most.map_or(u64::MAX, since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the delays of calls and replies, and however far the rates of the two clocks are
        /// apart within reason, the true time is between the bounds.
        #[test]
        fn the_truth_is_between_the_bounds(
            calls in prop::collection::vec((0..5_000_000_u64, 0..50_000_u64, 0..50_000_u64), 1..50),
            ppm in -400_i64..400,
            start in 1_u64..1 << 50,
        ) {
            let mut bounds = Bounds::default();
            let mut local = 0;
            // The log's time when the local clock shows `local`.
            let truth = |local: u64| {
                let drift = i64::try_from(local).expect("small") * ppm / 1_000_000;
                (start + local).saturating_add_signed(drift)
            };
            for (pause, going, coming) in calls {
                local += pause;
                prop_assert!(bounds.least(local) <= truth(local));
                prop_assert!(truth(local) <= bounds.most(local));
                let (sent, received) = (local, local + going + coming);
                bounds.replied(truth(local + going), sent, received, 50_000);
                local = received;
            }
            prop_assert!(bounds.most(local) - bounds.least(local) < 11_000_000);
        }
    }

    #[test]
    fn a_clock_that_stood_still_is_corrected() {
        let mut bounds = Bounds::default();
        bounds.replied(1_000_000, 0, 100, 50_000);
        let hour = 3_600_000_000;
        bounds.replied(1_000_000 + hour, 200, 300, 50_000);
        assert!(bounds.most(300) >= 1_000_000 + hour);
        assert!(bounds.least(300) >= 1_000_000 + hour);
    }

    #[test]
    fn nothing_seen_says_nothing() {
        let bounds = Bounds::default();
        assert_eq!((bounds.least(5), bounds.most(5)), (0, u64::MAX));
    }
}
