//! How two targets share a comparison: in turns, each alone. Pure.
//!
//! Request by request, both at once, would have each of them slowed by the other's load: on one machine
//! they share its CPU, and a gateway and its upstream share even the upstream. So each target has the
//! machine to itself for a slice of time, is left to finish what is under way, and then it is the other's
//! turn. Who goes first alternates (A B, B A, A B, …), so that whatever changes steadily meanwhile, such as
//! other programs or a quota that runs low, weighs on both alike. Both are asked the same requests in
//! the same order.

use std::time::Duration;

use super::drive::Stretch;

/// Slices of a comparison that is limited by requests only.
const SLICES_OF_REQUESTS: u64 = 10;

/// The turns of a comparison: whose, and how long. Only the first turn of each has the warm-up.
pub(crate) fn turns(whole: Stretch, slice: Duration) -> Vec<(usize, Stretch)> {
    let by_time = whole.length.map(|length| {
        let slice = slice.max(Duration::from_millis(1));
        u64::try_from(length.as_nanos().div_ceil(slice.as_nanos())).unwrap_or(u64::MAX)
    });
    let count =
        by_time.unwrap_or(SLICES_OF_REQUESTS).clamp(1, whole.requests.unwrap_or(u64::MAX).max(1));
    let length = whole.length.map(|length| length / u32::try_from(count).unwrap_or(u32::MAX));
    let mut turns = Vec::new();
    for number in 0..count {
        let part = Stretch {
            warm_up: if number == 0 { whole.warm_up } else { Duration::ZERO },
            length,
            requests: whole.requests.map(|all| all / count + u64::from(number < all % count)),
        };
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        turns.extend(order.map(|target| (target, part)));
    }
    turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each target has what was asked for, in parts of which neither is always first.
        #[test]
        fn both_have_the_same_and_in_fair_order(
            seconds in proptest::option::of(1..200_u64), requests in proptest::option::of(1..5_000_u64),
            slice in 1..20_u64, warm_up in 0..5_u64
        ) {
            prop_assume!(seconds.is_some() || requests.is_some());
            let seconds_of = Duration::from_secs;
            let whole = Stretch { warm_up: seconds_of(warm_up), length: seconds.map(seconds_of), requests };
            let turns = turns(whole, seconds_of(slice));
            for target in [0, 1] {
                let own: Vec<&Stretch> =
                    turns.iter().filter(|(whose, _)| *whose == target).map(|(_, part)| part).collect();
                prop_assert_eq!(own.iter().map(|it| it.warm_up).sum::<Duration>(), whole.warm_up);
                if let Some(requests) = requests {
                    let sum: u64 = own.iter().filter_map(|it| it.requests).sum();
                    prop_assert_eq!(sum, requests);
                }
                if let Some(length) = whole.length {
                    let sum: Duration = own.iter().filter_map(|it| it.length).sum();
                    prop_assert!(length.abs_diff(sum) < Duration::from_micros(1));
                    // A turn without a request would be none.
                    if requests.is_none_or(|it| it > own.len() as u64) {
                        prop_assert!(own.iter().all(|it| it.length <= Some(seconds_of(slice))));
                    }
                }
            }
            let first = turns.chunks(2).filter(|pair| pair[0].0 == 0).count();
            prop_assert!(turns.chunks(2).all(|pair| pair[0].0 != pair[1].0));
            prop_assert_eq!(first, turns.len().div_ceil(2).div_ceil(2));
        }
    }
}
