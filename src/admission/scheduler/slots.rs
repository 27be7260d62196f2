//! The waiting requests themselves, found by their tickets, in the order in which they came.

use super::{Entry, Place, Ticket};
use crate::limit::Cost;

/// A waiting request.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) place: Place,
    pub(super) entry: Entry,
    pub(super) lane: usize,
    /// What went before it although it was first in line.
    pub(super) bypassed: Cost,
    pub(super) item: T,
    /// Its neighbours in the order of arrival within its class.
    before: Option<usize>,
    after: Option<usize>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    waiting: Option<Waiting<T>>,
}

/// Slots that are used again; a ticket of an earlier use no longer fits.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    /// By class: the first and the last to come of those that wait.
    ends: Vec<Option<(usize, usize)>>,
}

impl<T> Slots<T> {
    pub(super) fn new(classes: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ends: vec![None; classes] }
    }

    /// The slot that [`Self::fill`] will use.
    pub(super) fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    pub(super) fn fill(
        &mut self,
        class: usize,
        place: Place,
        entry: Entry,
        lane: usize,
        item: T,
    ) -> Ticket {
        let slot = self.next();
        if self.free.pop().is_none() {
            self.slots.push(Slot { generation: 0, waiting: None });
        }
        let before = self.ends[class].map(|(_, last)| last);
        if let Some(before) = before.and_then(|it| self.slots[it].waiting.as_mut()) {
            before.after = Some(slot);
        }
        self.ends[class] = Some((self.ends[class].map_or(slot, |(first, _)| first), slot));
        let bypassed = Cost::default();
        let waiting = Waiting { place, entry, lane, bypassed, item, before, after: None };
        let target = &mut self.slots[slot];
        target.waiting = Some(waiting);
        Ticket { slot, generation: target.generation }
    }

    pub(super) fn take(&mut self, class: usize, ticket: Ticket) -> Option<Waiting<T>> {
        self.get(ticket)?;
        let slot = &mut self.slots[ticket.slot];
        slot.generation = slot.generation.wrapping_add(1);
        let waiting = slot.waiting.take()?;
        let (before, after) = (waiting.before, waiting.after);
        if let Some(before) = before.and_then(|it| self.slots[it].waiting.as_mut()) {
            before.after = after;
        }
        if let Some(after) = after.and_then(|it| self.slots[it].waiting.as_mut()) {
            after.before = before;
        }
        self.ends[class] = self.ends[class].and_then(|(first, last)| {
            let first = if first == ticket.slot { after? } else { first };
            let last = if last == ticket.slot { before? } else { last };
            Some((first, last))
        });
        self.free.push(ticket.slot);
        Some(waiting)
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiting<T>> {
        let slot = self.slots.get(ticket.slot)?;
        slot.waiting.as_ref().filter(|_| slot.generation == ticket.generation)
    }

    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiting<T>> {
        let slot = self.slots.get_mut(ticket.slot)?;
        slot.waiting.as_mut().filter(|_| slot.generation == ticket.generation)
    }

    /// Everybody who waits, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &Waiting<T>)> {
        let waiting = self.slots.iter().enumerate();
        waiting.filter_map(|(slot, it)| Some((self.ticket(slot), it.waiting.as_ref()?)))
    }

    /// The ticket of whoever waits in a slot.
    pub(super) fn ticket(&self, slot: usize) -> Ticket {
        Ticket { slot, generation: self.slots[slot].generation }
    }

    /// The first to come of those that wait in a class.
    pub(super) fn oldest(&self, class: usize) -> Option<&Waiting<T>> {
        let (first, _) = self.ends[class]?;
        self.slots[first].waiting.as_ref()
    }
}
