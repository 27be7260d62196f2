//! The order in which waiting requests go: pure, and the same for every pool.
//!
//! Today the order is that of arrival. Whoever needs another order finds here all it depends on:
//! the entry says who asks, what it may cost and until when it can wait, and the owner tells of
//! every arrival, departure and cost.
//!
//! # Invariants
//!
//! - Every operation is O(log n) in the number of waiting requests.
//! - A [`Place`] is never reused; an operation on a place that is gone does nothing.
//! - A request put back keeps its place: it goes before everyone who came after it.

use std::collections::{BTreeMap, BTreeSet};

use crate::limit::Cost;
use crate::time::Timestamp;

/// A request's place in the order of arrival, and the handle that ends its wait.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place(u64);

/// What the order may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The most the request can cost.
    pub cost: Cost,
    /// Bytes of memory the waiting request keeps.
    pub bytes: u64,
    /// When it arrived.
    pub arrived: Timestamp,
    /// When it leaves unserved.
    pub deadline: Timestamp,
}

/// The waiting requests of one pool; `T` is what the owner keeps with each.
#[derive(Debug)]
pub struct Scheduler<T> {
    waiting: BTreeMap<Place, (Entry, T)>,
    deadlines: BTreeSet<(Timestamp, Place)>,
    bytes: u64,
    next: u64,
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), deadlines: BTreeSet::new(), bytes: 0, next: 0 }
    }
}

impl<T> Scheduler<T> {
    /// A place behind everyone who has one.
    pub const fn place(&mut self) -> Place {
        self.next += 1;
        Place(self.next)
    }

    /// Lets a request wait at its place.
    pub fn insert(&mut self, place: Place, entry: Entry, item: T) {
        if self.waiting.insert(place, (entry, item)).is_none() {
            self.deadlines.insert((entry.deadline, place));
            self.bytes += entry.bytes;
        }
    }

    /// Whose turn it is.
    pub fn head(&self) -> Option<(Place, &Entry)> {
        self.waiting.first_key_value().map(|(place, (entry, _))| (*place, entry))
    }

    /// Ends a wait: the request goes, gives up or is refused.
    pub fn remove(&mut self, place: Place) -> Option<(Entry, T)> {
        let (entry, item) = self.waiting.remove(&place)?;
        self.deadlines.remove(&(entry.deadline, place));
        self.bytes -= entry.bytes;
        Some((entry, item))
    }

    /// The place whose deadline passed first, if it has by `now`.
    pub fn expired(&self, now: Timestamp) -> Option<Place> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, place)| *place)
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Requests waiting.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes the waiting requests keep.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(deadline: u64) -> Entry {
        let [arrived, deadline] = [0, deadline].map(Timestamp::from_nanos);
        Entry { cost: Cost::default(), bytes: 3, arrived, deadline }
    }

    proptest! {
        /// Against a plain list: arrivals, departures from anywhere, returns and deadlines leave the
        /// same order, count and bytes.
        #[test]
        fn the_order_is_that_of_arrival_whatever_comes_and_goes(
            steps in prop::collection::vec((0..5_u8, any::<prop::sample::Index>(), 1..9_u64), 1..200),
        ) {
            let mut scheduler = Scheduler::default();
            let mut model: Vec<(Place, u64)> = Vec::new();
            let mut gone = Vec::new();
            for (step, pick, number) in steps {
                match step {
                    0 | 1 => {
                        let place = scheduler.place();
                        scheduler.insert(place, entry(number), number);
                        model.push((place, number));
                    }
                    2 if !model.is_empty() => {
                        let (place, item) = model.remove(pick.index(model.len()));
                        prop_assert_eq!(scheduler.remove(place).map(|(_, item)| item), Some(item));
                        gone.push((place, item));
                    }
                    3 if !gone.is_empty() => {
                        let (place, item) = gone.swap_remove(pick.index(gone.len()));
                        prop_assert!(scheduler.remove(place).is_none(), "a place is used once");
                        scheduler.insert(place, entry(item), item);
                        model.push((place, item));
                        model.sort_unstable_by_key(|(place, _)| *place);
                    }
                    _ => while let Some(place) = scheduler.expired(Timestamp::from_nanos(number)) {
                        let (entry, item) = scheduler.remove(place).unwrap();
                        prop_assert!(entry.deadline.as_nanos() <= number);
                        model.retain(|other| *other != (place, item));
                    },
                }
                if step == 4 {
                    prop_assert!(model.iter().all(|(_, deadline)| *deadline > number));
                }
                prop_assert_eq!(scheduler.head().map(|(place, _)| place), model.first().map(|(place, _)| *place));
                prop_assert_eq!(scheduler.next_deadline().map(Timestamp::as_nanos), model.iter().map(|(_, deadline)| *deadline).min());
                prop_assert_eq!((scheduler.len(), scheduler.bytes()), (model.len(), 3 * model.len() as u64));
            }
        }
    }
}
