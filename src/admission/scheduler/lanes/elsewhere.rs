//! What the lanes of a class owe to other replicas.

use super::{Bill, Lanes, SCALE, Tag};
use crate::limit::{Head, Turn};

impl Lanes {
    /// Charges a tenant for a request that goes at another replica, by the tag that it has there: a
    /// tenant has one, wherever it waits, and what the log says of it is the same for all.
    pub(in super::super) fn pass_elsewhere(&mut self, turn: &Turn) -> Bill {
        let index = self.lane(turn.tenant, turn.weight);
        if self.lanes[index].requests.is_empty() {
            self.begin(index, None);
        }
        self.retag(index, turn.tag - self.lanes[index].tag);
        let least = self.order.first().map_or(turn.tag, |(tag, ..)| turn.tag.min(*tag));
        let bill = self.bill(index, turn.fair);
        self.advance(least);
        bill
    }

    /// Moves everybody so that the virtual time is `to`: others count from elsewhere.
    pub(in super::super) fn count_from(&mut self, to: Tag) {
        let by = to - self.now;
        self.now = to;
        self.lanes.iter_mut().for_each(|lane| lane.tag += by);
        let moved = self.order.iter().map(|(tag, since, index)| (tag + by, *since, *index));
        self.order = moved.collect();
        self.ahead = self.ahead.iter().map(|(tag, index)| (tag + by, *index)).collect();
    }

    /// The tag of a request that a tenant sends now, if it does not come back.
    pub(in super::super) fn tag_now(&self, tenant: u64) -> Tag {
        match self.of(tenant) {
            Some(lane) if !lane.requests.is_empty() => lane.tag,
            Some(lane) => lane.tag.max(self.turn()),
            None => self.turn(),
        }
    }

    /// Lanes in which somebody waits.
    pub(in super::super) fn waiting(&self) -> usize {
        self.order.len()
    }

    /// Tokens that so many tenants at another replica are sent until their tags are above `turn`.
    pub(in super::super) fn until_elsewhere(head: &Head, turn: Tag) -> u64 {
        let Head { turn: Turn { tag, weight, .. }, line, .. } = head;
        let tokens = (turn - tag).max(0) * i128::from(weight.get()) / SCALE;
        let all = tokens.saturating_mul(i128::from(line.tenants.max(1)));
        let one = line.fair / line.queued.max(1);
        u64::try_from(all).unwrap_or(u64::MAX).saturating_add(one).min(line.fair)
    }
}
