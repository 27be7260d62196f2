//! Places of requests that were refused for waiting too long, kept for when they come back.
//!
//! Clients that are refused send the same request again. Without a memory of it such a request
//! starts at the end of the line each time, and in a long queue it never gets through, while those
//! with more patience do. Here the place is kept for a while, for the same tenant and the same body.
//!
//! # Invariants
//!
//! - Pure: `now` is an argument.
//! - Bounded: at the bound, whoever keeps most places gives its oldest one up.
//! - A place is given back once, to the tenant it was kept for, and not after its time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::time::Timestamp;

/// What makes a request the same one again.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Twin {
    /// Who asks.
    pub tenant: Arc<str>,
    /// Bytes of the body: tells most apart without a digest.
    pub length: u64,
    /// A digest of the body's bytes that callers cannot steer into another's.
    pub body: [u8; 16],
}

/// The kept places of one pool; `P` is the place, less for those nearer the head.
#[derive(Debug)]
pub struct Kept<P> {
    most: usize,
    places: HashMap<Twin, (P, Order)>,
    /// Oldest first.
    order: BTreeMap<Order, Twin>,
    /// How many each tenant has; no zeros.
    counts: HashMap<Arc<str>, usize>,
    /// How many there are for bodies of each length; no zeros.
    lengths: HashMap<u64, usize>,
    next: u64,
}

/// When a place expires, and a number of its own.
type Order = (Timestamp, u64);

impl<P: Copy + Ord> Kept<P> {
    /// No places yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            places: HashMap::new(),
            order: BTreeMap::new(),
            counts: HashMap::new(),
            lengths: HashMap::new(),
            next: 0,
        }
    }

    /// Keeps a place until `until`. Of two requests that cannot be told apart the better one stays.
    pub fn keep(&mut self, twin: Twin, place: P, until: Timestamp, now: Timestamp) {
        self.expire(now);
        if until <= now {
            return;
        }
        let better = self.remove(&twin).map_or(place, |before| before.min(place));
        if self.places.len() >= self.most {
            self.make_room();
        }
        self.next += 1;
        let order = (until, self.next);
        *self.counts.entry(Arc::clone(&twin.tenant)).or_default() += 1;
        *self.lengths.entry(twin.length).or_default() += 1;
        self.order.insert(order, twin.clone());
        self.places.insert(twin, (better, order));
    }

    /// The place kept for this request, which is kept no longer.
    pub fn take(&mut self, twin: &Twin, now: Timestamp) -> Option<P> {
        self.expire(now);
        self.remove(twin)
    }

    /// Whether a request with a body of this length may have one, so that a digest is worth its time.
    pub fn may_have(&self, length: u64) -> bool {
        self.lengths.contains_key(&length)
    }

    /// Whether none is kept; some of those that are may have expired.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Places kept; some may have expired.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((_, twin)) = self.order.first_key_value().filter(|((at, _), _)| *at <= now) {
            let twin = twin.clone();
            self.remove(&twin);
        }
    }

    fn remove(&mut self, twin: &Twin) -> Option<P> {
        let (place, order) = self.places.remove(twin)?;
        self.order.remove(&order);
        take_one(&mut self.counts, &twin.tenant);
        take_one(&mut self.lengths, &twin.length);
        Some(place)
    }

    /// Drops the oldest place of whoever keeps most. Looks at each place at most once, and only when
    /// a request is refused while all are taken.
    fn make_room(&mut self) {
        let most = self.counts.values().max().copied().unwrap_or(0);
        let counts = &self.counts;
        let greedy = |twin: &&Twin| counts.get(&twin.tenant).is_some_and(|it| *it == most);
        if let Some(twin) = self.order.values().find(greedy).cloned() {
            self.remove(&twin);
        }
    }
}

/// Counts one less; a count of zero is none.
fn take_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn twin(tenant: u8, body: u8) -> Twin {
        let length = u64::from(body / 2);
        Twin { tenant: format!("t{tenant}").into(), length, body: [body; 16] }
    }

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn a_place_is_given_back_once_to_its_own_tenant_and_in_time() {
        let mut kept = Kept::new(8);
        for tenant in 1..=3 {
            kept.keep(twin(tenant, 7), tenant, at(10), at(0));
        }
        assert_eq!(kept.take(&twin(4, 7), at(1)), None, "a stranger with the same body");
        assert_eq!(kept.take(&twin(1, 8), at(1)), None, "another body");
        assert!(kept.may_have(3) && !kept.may_have(4), "of another length");
        assert_eq!(kept.take(&twin(1, 7), at(9)), Some(1));
        assert_eq!(kept.take(&twin(1, 7), at(9)), None, "only once");
        assert_eq!(kept.take(&twin(2, 7), at(10)), None, "too late");
        assert!(kept.is_empty() && !kept.may_have(3), "what has expired is gone");
        kept.keep(twin(1, 7), 1, at(10), at(10));
        assert!(kept.is_empty(), "kept for no time");
    }

    #[test]
    fn the_better_of_two_twins_stays_and_a_refusal_again_renews_it() {
        let mut kept = Kept::new(8);
        kept.keep(twin(1, 7), 5, at(10), at(0));
        kept.keep(twin(1, 7), 3, at(20), at(1));
        kept.keep(twin(1, 7), 9, at(30), at(2));
        assert_eq!(kept.len(), 1);
        assert_eq!(kept.take(&twin(1, 7), at(29)), Some(3));
    }

    #[test]
    fn who_keeps_most_gives_up_its_oldest() {
        let mut kept = Kept::new(4);
        kept.keep(twin(1, 0), 0, at(100), at(0));
        for body in 0..20 {
            kept.keep(twin(2, body), body, at(100), at(0));
        }
        assert_eq!(kept.len(), 4);
        assert_eq!(kept.take(&twin(1, 0), at(1)), Some(0), "it had one, and still has");
        let left: Vec<_> = (0..20).filter(|it| kept.take(&twin(2, *it), at(1)).is_some()).collect();
        assert_eq!(left, [17, 18, 19], "the newest");
    }

    proptest! {
        /// Against a plain list, with room for all: what comes back is what was kept, and the three
        /// indexes agree at every step.
        #[test]
        fn what_is_kept_comes_back_until_its_time(
            steps in prop::collection::vec((any::<bool>(), 0..3_u8, 0..4_u8, 1..20_u64), 1..200),
        ) {
            let mut kept = Kept::new(64);
            let mut model: HashMap<Twin, (u64, u64)> = HashMap::new();
            let mut now = 0;
            for (step, (keep, tenant, body, span)) in steps.into_iter().enumerate() {
                now += span % 4;
                model.retain(|_, (_, until)| *until > now);
                let (twin, place) = (twin(tenant, body), step as u64);
                if keep {
                    let better = model.get(&twin).map_or(place, |(before, _)| *before);
                    model.insert(twin.clone(), (better, now + span));
                    kept.keep(twin, place, at(now + span), at(now));
                } else {
                    let expected = model.remove(&twin).map(|(place, _)| place);
                    prop_assert_eq!(kept.take(&twin, at(now)), expected);
                }
                prop_assert_eq!(kept.len(), model.len());
                prop_assert_eq!(kept.order.len(), model.len());
                prop_assert_eq!(kept.counts.values().sum::<usize>(), model.len());
                prop_assert_eq!(kept.lengths.values().sum::<usize>(), model.len());
                prop_assert!(model.keys().all(|twin| kept.may_have(twin.length)));
            }
        }

        /// Whatever comes, the bound holds and the newest is among those kept.
        #[test]
        fn the_bound_holds(
            most in 1..6_usize,
            steps in prop::collection::vec((0..3_u8, 0..9_u8, 1..50_u64), 1..100),
        ) {
            let mut kept = Kept::new(most);
            for (now, (tenant, body, span)) in steps.into_iter().enumerate() {
                let now = now as u64;
                kept.keep(twin(tenant, body), body, at(now + span), at(now));
                prop_assert!(kept.len() <= most);
                prop_assert!(kept.places.contains_key(&twin(tenant, body)));
            }
        }
    }
}
