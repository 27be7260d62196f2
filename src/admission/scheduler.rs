//! The order in which waiting requests go: pure, and the same for every pool.
//!
//! Three steps choose who is first: the class (`classes`: guaranteed shares, then rank), the tenant
//! within it (`lanes`: start-time fair queueing by tokens over weights), the request within that
//! (the earliest deadline, then arrival). The owner tells of every arrival and departure, and of
//! what a request that went turned out to cost.
//!
//! # Invariants
//!
//! - Every operation is O(log n) in the number of waiting requests; none searches.
//! - A [`Ticket`] is good for one wait; an operation on one that has ended does nothing.
//! - A request put back at its [`Place`] goes before everyone of its tenant who came after it, and
//!   its tenant has the turn that it had.
//! - Everyone waits at most for what their class, their tenant's share and their deadline say: no
//!   class with a share, and no tenant, starves.

mod ahead;
mod classes;
mod deadlines;
mod elsewhere;
mod lanes;
mod load;
mod slots;
mod view;

use std::num::NonZeroU32;

pub use self::ahead::{Ahead, Part};
pub use self::classes::ClassRule;
use self::classes::{Classes, Paid};
use self::deadlines::Deadlines;
use self::elsewhere::Elsewhere;
use self::lanes::{Bill, Key, Lanes, Tag};
pub use self::load::Load;
use self::slots::{Slots, Waiting};
use crate::limit::Cost;
use crate::time::Timestamp;

/// How many of those behind a blocked request are looked at: enough to find a small one, few enough
/// to be looked at whenever something changes.
pub const MOST_LOOKED_AT: usize = 16;

/// A request's place in the order, which it can take again when it comes back; less for those who
/// came before.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The order of arrival.
    seq: u64,
    /// What it is ordered by within its lane, if not by its deadline.
    order: Option<Timestamp>,
    /// Where its tenant stood when it was given back what it was charged.
    tag: Option<Tag>,
}

/// The handle of one wait.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ticket {
    slot: usize,
    generation: u32,
}

/// What the order depends on.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The most the request can cost.
    pub cost: Cost,
    /// Tokens it is likely to use: what its tenant and class are charged until more is known.
    pub fair: u64,
    /// Bytes of memory the waiting request keeps.
    pub bytes: u64,
    /// When it arrived.
    pub arrived: Timestamp,
    /// When it leaves unserved.
    pub deadline: Timestamp,
    /// Index of its class.
    pub class: usize,
    /// Who asks.
    pub tenant: u64,
    /// The tenant's share relative to others of the class.
    pub weight: NonZeroU32,
}

/// What a request that went is charged; to be ended by [`Scheduler::settle`] or
/// [`Scheduler::release`], or its tenant is taken as having it in flight for ever.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a charge that is not ended is kept for ever"]
pub struct Charge {
    class: usize,
    bill: Bill,
    paid: Paid,
}

/// A request whose turn has come.
#[derive(Debug)]
pub struct Departure<T> {
    /// What it was ordered by.
    pub entry: Entry,
    /// What the owner kept with it.
    pub item: T,
    /// Its place, should it come back.
    pub place: Place,
    /// The place it had.
    pub left: Place,
    /// What it is charged.
    pub charge: Charge,
}

/// The waiting requests of one pool; `T` is what the owner keeps with each.
#[derive(Debug)]
pub struct Scheduler<T> {
    rules: Vec<ClassRule>,
    classes: Classes,
    lanes: Vec<Lanes>,
    loads: Vec<Load>,
    slots: Slots<T>,
    deadlines: Deadlines,
    /// Who goes first at other replicas.
    elsewhere: Elsewhere,
    next: u64,
}

impl Place {
    /// The place of a request that left while it waited until `deadline`, for when it comes back
    /// with a later one.
    #[must_use]
    pub(super) fn kept(self, deadline: Timestamp) -> Self {
        Self { order: Some(self.order.map_or(deadline, |order| order.min(deadline))), ..self }
    }
}

impl Entry {
    /// A request of the first class from the one tenant there is.
    pub const fn new(cost: Cost, arrived: Timestamp, deadline: Timestamp) -> Self {
        let (fair, weight) = (cost.tokens, NonZeroU32::MIN);
        Self { cost, fair, bytes: 0, arrived, deadline, class: 0, tenant: 0, weight }
    }
}

impl Charge {
    /// Index of the class.
    pub const fn class(&self) -> usize {
        self.class
    }

    /// Tokens charged.
    pub const fn fair(&self) -> u64 {
        self.bill.fair
    }
}

impl<T> Default for Scheduler<T> {
    /// One class.
    fn default() -> Self {
        Self::new(&[ClassRule::default()])
    }
}

impl<T> Scheduler<T> {
    /// Nobody waits. Entries name their class by its index in `rules`; one beyond them counts as the
    /// last. Without rules there is one class.
    pub fn new(rules: &[ClassRule]) -> Self {
        let one = [ClassRule::default()];
        let rules = if rules.is_empty() { &one } else { rules };
        Self {
            rules: rules.to_vec(),
            classes: Classes::new(rules),
            lanes: rules.iter().map(|_| Lanes::default()).collect(),
            loads: vec![Load::default(); rules.len()],
            slots: Slots::new(rules.len()),
            deadlines: Deadlines::default(),
            elsewhere: Elsewhere::default(),
            next: 0,
        }
    }

    /// Orders by other ranks and shares from now on; who waits keeps its place within its class. The
    /// classes themselves stay the same: other rules for another number of them are none.
    pub fn reconfigure(&mut self, rules: &[ClassRule]) {
        if rules.len() == self.rules.len() && rules != self.rules {
            self.rules = rules.to_vec();
            self.classes.reconfigure(rules);
        }
    }

    /// A place behind everyone who has one.
    pub const fn place(&mut self) -> Place {
        self.next += 1;
        Place { seq: self.next, order: None, tag: None }
    }

    /// Lets a request wait at its place.
    pub fn insert(&mut self, place: Place, mut entry: Entry, item: T) -> Ticket {
        entry.class = entry.class.min(self.lanes.len() - 1);
        let class = entry.class;
        let key = key(place, &entry, self.slots.next());
        let lane = self.lanes[class].wait(&entry, key, place.tag);
        self.classes.joined(class);
        self.loads[class].add(&entry);
        self.deadlines.insert(entry.deadline, key.2);
        self.slots.fill(class, place, entry, lane, item)
    }

    /// Whether the requests of a class keep to the spread of long windows.
    pub fn is_paced(&self, class: usize) -> bool {
        self.classes.is_paced(class.min(self.lanes.len() - 1))
    }

    /// Passes a class over: whatever waits in it has to wait for longer than others need to.
    pub fn hold_back(&mut self, class: usize) {
        self.classes.hold_back(class);
    }

    /// Passes no class over any more.
    pub fn let_all_go(&mut self) {
        self.classes.let_all_go();
    }

    /// Whose turn it is.
    pub fn head(&self) -> Option<(Ticket, &Entry)> {
        let class = self.classes.next()?;
        let ((.., slot), _) = self.lanes[class].in_order().next()?.requests.first_key_value()?;
        let ticket = self.slots.ticket(*slot);
        Some((ticket, &self.slots.get(ticket)?.entry))
    }

    /// Those that could go if the head did not have to be waited for, in the order in which they
    /// would: of its class the first of each lane, then the second, and so on; then of the others.
    pub fn behind_head(&self) -> Vec<Ticket> {
        let mut found = Vec::with_capacity(MOST_LOOKED_AT);
        let Some(first) = self.classes.next() else { return found };
        let others = self.classes.waiting_by_rank().filter(|class| *class != first);
        for class in std::iter::once(first).chain(others) {
            for depth in 0..=MOST_LOOKED_AT {
                let before = found.len();
                for lane in self.lanes[class].in_order().take(MOST_LOOKED_AT + 1) {
                    let slot = lane.requests.keys().nth(depth).map(|(.., slot)| *slot);
                    found.extend(slot.map(|slot| self.slots.ticket(slot)));
                    if found.len() > MOST_LOOKED_AT {
                        found.remove(0);
                        return found;
                    }
                }
                if found.len() == before {
                    break;
                }
            }
        }
        // The first of all is the head itself.
        found.remove(0);
        found
    }

    /// A waiting request.
    pub fn get(&self, ticket: Ticket) -> Option<&Entry> {
        self.slots.get(ticket).map(|waiting| &waiting.entry)
    }

    /// Everybody who waits, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = (Ticket, &Entry, &T)> {
        self.slots.iter().map(|(ticket, waiting)| (ticket, &waiting.entry, &waiting.item))
    }

    /// A waiting request's place, good to come back to when it has left.
    pub fn place_of(&self, ticket: Ticket) -> Option<Place> {
        self.slots.get(ticket).map(|waiting| waiting.place.kept(waiting.entry.deadline))
    }

    /// What has gone before a request although it was its turn.
    pub fn bypassed(&self, ticket: Ticket) -> Cost {
        self.slots.get(ticket).map_or_else(Cost::default, |waiting| waiting.bypassed)
    }

    /// Notes that `cost` goes before a request although it is its turn.
    pub fn bypass(&mut self, ticket: Ticket, cost: Cost) {
        if let Some(Waiting { bypassed, .. }) = self.slots.get_mut(ticket) {
            bypassed.requests = bypassed.requests.saturating_add(cost.requests);
            bypassed.tokens = bypassed.tokens.saturating_add(cost.tokens);
            bypassed.uncached = bypassed.uncached.saturating_add(cost.uncached);
        }
    }

    /// Ends a wait: the request gives up or is refused.
    pub fn remove(&mut self, ticket: Ticket) -> Option<(Entry, T)> {
        self.take(ticket).map(|waiting| (waiting.entry, waiting.item))
    }

    /// Ends a wait: the request goes.
    pub fn dispatch(&mut self, ticket: Ticket) -> Option<Departure<T>> {
        self.dispatch_owing(ticket, false)
    }

    /// [`Self::dispatch`]; `owes` says that the request takes what was kept free for better classes, so
    /// that all of it counts against its class's guarantee.
    pub fn dispatch_owing(&mut self, ticket: Ticket, owes: bool) -> Option<Departure<T>> {
        let waiting = self.slots.get(ticket)?;
        let (entry, lane) = (waiting.entry, waiting.lane);
        let Entry { class, fair, .. } = entry;
        let bill = self.lanes[class].depart(lane, fair);
        let paid = self.classes.dispatched(class, fair, owes);
        let Waiting { place: left, item, .. } = self.take(ticket)?;
        let place = left.gone();
        Some(Departure { entry, item, place, left, charge: Charge { class, bill, paid } })
    }

    /// A request goes without having to wait. To be called only while nobody else waits.
    pub fn pass(&mut self, place: Place, entry: &Entry) -> (Place, Charge) {
        let class = entry.class.min(self.lanes.len() - 1);
        let bill = self.lanes[class].pass(entry, place.tag);
        let paid = self.classes.dispatched(class, entry.fair, false);
        (place.gone(), Charge { class, bill, paid })
    }

    /// Replaces what a request was charged by the tokens it `used`.
    #[expect(clippy::needless_pass_by_value, reason = "a charge is ended once: it is used up")]
    pub fn settle(&mut self, charge: Charge, used: u64) {
        let Charge { class, bill, paid } = charge;
        self.lanes[class].settle(bill, used);
        self.classes.settled(class, paid, bill.fair, used);
    }

    /// Takes a charge back: the request was not served. Returns the `place` for it to come back to,
    /// with the turn that its tenant has now.
    #[expect(clippy::needless_pass_by_value, reason = "a charge is ended once: it is used up")]
    pub fn release(&mut self, charge: Charge, place: Place) -> Place {
        let Charge { class, bill, paid } = charge;
        let tag = self.lanes[class].release(bill);
        self.classes.settled(class, paid, bill.fair, 0);
        Place { tag: Some(tag), ..place }
    }

    /// The request whose deadline passed first, if it has by `now`.
    pub fn expired(&self, now: Timestamp) -> Option<Ticket> {
        let first = self.deadlines.first().filter(|(deadline, _)| *deadline <= now);
        first.map(|(_, slot)| self.slots.ticket(slot))
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Requests waiting.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.deadlines.len() == 0
    }

    /// Whether a class goes before its rank, because it is behind its guarantee.
    pub fn is_behind(&self, class: usize) -> bool {
        self.classes.is_behind(class)
    }

    fn take(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        let class = self.slots.get(ticket)?.entry.class;
        let waiting = self.slots.take(class, ticket)?;
        let key = key(waiting.place, &waiting.entry, ticket.slot);
        self.lanes[class].leave(waiting.lane, key, &waiting.entry);
        self.classes.left(class);
        self.loads[class].remove(&waiting.entry);
        self.deadlines.remove(ticket.slot);
        Some(waiting)
    }
}

impl Place {
    /// What it is ordered by, if not by its deadline.
    const fn order(self) -> Option<Timestamp> {
        self.order
    }

    /// The place of a request that goes: it comes back, if it does, as the first of its lane.
    const fn gone(self) -> Self {
        Self { seq: self.seq, order: Some(Timestamp::from_nanos(0)), tag: None }
    }
}

fn key(place: Place, entry: &Entry, slot: usize) -> Key {
    (place.order.unwrap_or(entry.deadline), place.seq, slot)
}

#[cfg(test)]
mod tests;
