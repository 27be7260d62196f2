//! What waiting requests come to, kept up as they come, cost less and go.

use super::slots::Waiting;
use super::{Entry, Scheduler, Ticket, key};
use crate::limit::Cost;

/// What waiting requests come to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// How many they are.
    pub queued: usize,
    /// Bytes of memory they keep.
    pub bytes: u64,
    /// Tokens that they are likely to use.
    pub fair: u64,
    /// Tokens that will be held for them.
    pub safe: u64,
}

/// Tokens of one waiting request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tokens {
    /// What it is likely to use.
    pub(super) fair: u64,
    /// What will be held for it.
    pub(super) safe: u64,
}

impl Tokens {
    pub(super) const fn of(entry: &Entry) -> Self {
        Self { fair: entry.fair, safe: entry.cost.tokens }
    }
}

impl Load {
    pub(super) fn add(&mut self, entry: &Entry) {
        self.queued += 1;
        self.bytes += entry.bytes;
        self.fair += entry.fair;
        self.safe += entry.cost.tokens;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.queued += other.queued;
        self.bytes += other.bytes;
        self.fair += other.fair;
        self.safe += other.safe;
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        self.queued -= 1;
        self.bytes -= entry.bytes;
        self.fair -= entry.fair;
        self.safe -= entry.cost.tokens;
    }

    /// What was to cost what `before` says is to cost what `entry` says.
    pub(super) const fn lower(&mut self, before: &Entry, entry: &Entry) {
        self.safe -= before.cost.tokens - entry.cost.tokens;
    }
}

impl<T> Scheduler<T> {
    /// Lowers what a waiting request can cost at most; tells whether it did. Its place, and what its
    /// tenant and class are charged, do not depend on that.
    pub fn lower(&mut self, ticket: Ticket, cost: Cost) -> bool {
        let waiting = self.slots.get_mut(ticket);
        let Some(Waiting { entry, place, lane, .. }) =
            waiting.filter(|it| !cost.exceeds(it.entry.cost) && cost != it.entry.cost)
        else {
            return false;
        };
        let before = *entry;
        entry.cost = cost;
        let key = key(*place, entry, ticket.slot);
        self.lanes[entry.class].lower(*lane, key, (&before, entry));
        self.loads[entry.class].lower(&before, entry);
        true
    }
}
