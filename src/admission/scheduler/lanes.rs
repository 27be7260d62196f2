//! The tenants of one class: start-time fair queueing between them, earliest deadline first within.
//!
//! Every tenant has a *tag*: the service it has been charged, over its weight. The next to go is the
//! first request of the waiting tenant with the least tag, whose tag then grows by the request's
//! fair cost over the weight. The *virtual time* follows the least tag of those who wait; a tenant
//! that begins to wait starts there, so that nobody saves service up by staying away.
//!
//! # Invariants
//!
//! - While two tenants wait, their tags differ by at most one request of each, whatever the rate of
//!   service; corrections of a charge (a settle, a return) move a tag by what they correct.
//! - A tag that is corrected while its tenant waits may fall behind the virtual time: that service
//!   was charged and not received.
//! - A settle corrects no tag to below where its tenant began to wait, but for what it was charged
//!   since: what it was charged before, beginning there has forgiven.
//! - Nobody begins behind all who wait: the virtual time may rest on charges that were taken back.
//! - A lane is kept while someone waits or runs in it, or while its tag is ahead of the virtual
//!   time; of those that are only ahead, [`MOST_AHEAD`] at most.

mod elsewhere;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use super::Entry;
use super::load::{Load, Tokens};
use crate::time::Timestamp;

/// The tenant's charge in units: tokens times this, over the weight. With weights up to a million a
/// token is still a number above one.
const SCALE: i128 = 1 << 20;

/// Lanes remembered only because their tenant is ahead of the others. The oldest of them is what
/// virtual time has nearly caught up with: forgetting it forgives the least.
const MOST_AHEAD: usize = 4_096;

/// Where a request stands in its lane: what it is ordered by, its arrival, its slot.
pub(super) type Key = (Timestamp, u64, usize);

/// A tenant's charged service over its weight.
pub(super) type Tag = i128;

#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    free: Vec<usize>,
    of_tenant: HashMap<u64, usize, BuildHasherDefault<Spread>>,
    /// The lanes in which someone waits: tag, arrival that opened it, index.
    order: BTreeSet<(Tag, u64, usize)>,
    /// The lanes in which nobody waits or runs, ahead of the virtual time.
    ahead: BTreeSet<(Tag, usize)>,
    now: Tag,
}

/// A hasher for what is one already: tenants are known by digests.
#[derive(Clone, Copy, Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, value: u64) {
        // The golden ratio: the map goes by the first and the last bits.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// One tenant's requests in one class.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tenant: u64,
    weight: NonZeroU32,
    tag: Tag,
    /// Breaks ties between tags: who began to wait first.
    since: u64,
    /// What each of them asks for is kept here as well: a forecast adds many up, and each in a place of
    /// its own would be a wait for memory.
    pub(super) requests: BTreeMap<Key, Tokens>,
    pub(super) load: Load,
    in_flight: u32,
    /// How often it began: to wait, or to be sent what did not have to. Compared with what is under
    /// way only, so that it may run over.
    begun: u32,
    /// How far what it was charged before had it begin ahead of the others, the last time; below
    /// zero, what was forgiven because it began where they are.
    lead: Tag,
}

/// What a lane was charged for a request that went, for [`Lanes::settle`] to correct.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bill {
    lane: usize,
    /// The lane's count of beginnings at that time.
    begun: u32,
    weight: NonZeroU32,
    /// Tokens.
    pub(super) fair: u64,
}

impl Lane {
    /// Where it stands.
    pub(super) const fn tag(&self) -> Tag {
        self.tag
    }

    /// Whether the lane's next request goes before one of a tenant that comes now and whose tag is
    /// `turn`: of those with the same tag who came first.
    pub(super) const fn comes_by(&self, turn: Tag) -> bool {
        self.tag <= turn
    }

    /// Tokens that the lane is sent until its tag is above `turn`, of those that it waits for.
    pub(super) fn until(&self, turn: Tag) -> u64 {
        let tokens = (turn - self.tag).max(0) * i128::from(self.weight.get()) / SCALE;
        // The request that begins at the turn goes in whole.
        let one = self.load.fair / (self.load.queued as u64).max(1);
        u64::try_from(tokens).unwrap_or(u64::MAX).saturating_add(one).min(self.load.fair)
    }
}

/// What one request costs its tenant.
fn charge(fair: u64, weight: NonZeroU32) -> Tag {
    // A request that costs nothing would never pass the turn on.
    i128::from(fair.max(1)) * SCALE / i128::from(weight.get())
}

impl Bill {
    fn charge(&self) -> Tag {
        charge(self.fair, self.weight)
    }
}

impl Lanes {
    /// Lets a request wait in its tenant's lane. One that comes back starts at its old `tag`.
    pub(super) fn wait(&mut self, entry: &Entry, key: Key, tag: Option<Tag>) -> usize {
        let index = self.lane(entry.tenant, entry.weight);
        if self.lanes[index].requests.is_empty() {
            let start = self.begin(index, tag);
            self.lanes[index].since = key.1;
            self.order.insert((start, key.1, index));
        }
        let lane = &mut self.lanes[index];
        lane.requests.insert(key, Tokens::of(entry));
        lane.load.add(entry);
        index
    }

    /// Takes a request out of its lane.
    pub(super) fn leave(&mut self, index: usize, key: Key, entry: &Entry) {
        let lane = &mut self.lanes[index];
        lane.requests.remove(&key);
        lane.load.remove(entry);
        if lane.requests.is_empty() {
            self.order.remove(&(lane.tag, lane.since, index));
            self.rest(index);
        }
    }

    /// A request that waits is to cost what `entry` says from now on.
    pub(super) fn lower(&mut self, index: usize, key: Key, (before, entry): (&Entry, &Entry)) {
        let lane = &mut self.lanes[index];
        lane.requests.insert(key, Tokens::of(entry));
        lane.load.lower(before, entry);
    }

    /// Charges a tenant for a request that goes, in order or not. The request is taken out of the lane
    /// by [`Self::leave`], after this.
    pub(super) fn depart(&mut self, index: usize, fair: u64) -> Bill {
        let least = self.order.first().map_or(self.now, |(tag, ..)| *tag);
        let bill = self.bill(index, fair);
        self.advance(least);
        bill
    }

    /// Charges a tenant for a request that did not have to wait.
    pub(super) fn pass(&mut self, entry: &Entry, tag: Option<Tag>) -> Bill {
        let index = self.lane(entry.tenant, entry.weight);
        if self.lanes[index].requests.is_empty() {
            self.begin(index, tag);
        }
        let start = self.lanes[index].tag;
        let least = self.order.first().map_or(start, |(tag, ..)| start.min(*tag));
        let bill = self.bill(index, entry.fair);
        self.advance(least);
        bill
    }

    /// Corrects a charge to what was `used`.
    pub(super) fn settle(&mut self, bill: Bill, used: u64) {
        let by = charge(used, bill.weight) - bill.charge();
        let lane = &mut self.lanes[bill.lane];
        if bill.begun == lane.begun {
            return self.close(bill, by);
        }
        // It would have begun elsewhere, had this been known: but not behind the others.
        let before = lane.lead.max(0);
        lane.lead += by;
        let by = lane.lead.max(0) - before;
        self.close(bill, by);
    }

    /// Takes a charge back, for a request that comes back itself; returns the tag.
    pub(super) fn release(&mut self, bill: Bill) -> Tag {
        let tag = self.lanes[bill.lane].tag - bill.charge();
        self.close(bill, -bill.charge());
        tag
    }

    /// The lanes in which someone waits, in the order of their turns.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Lane> {
        self.order.iter().map(|(_, _, index)| &self.lanes[*index])
    }

    /// The tag that a tenant will have once it has been sent what it has waiting.
    pub(super) fn turn_after(&self, tenant: u64, fair: u64, weight: NonZeroU32) -> Tag {
        self.tag_now(tenant) + i128::from(fair) * SCALE / i128::from(weight.get())
    }

    /// The lane of a tenant, if it has one.
    pub(super) fn of(&self, tenant: u64) -> Option<&Lane> {
        self.of_tenant.get(&tenant).map(|index| &self.lanes[*index])
    }

    /// Lanes remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of_tenant.len()
    }

    #[cfg(test)]
    pub(super) fn tag(&self, tenant: u64) -> Option<Tag> {
        self.of(tenant).map(|lane| lane.tag)
    }

    fn lane(&mut self, tenant: u64, weight: NonZeroU32) -> usize {
        if let Some(index) = self.of_tenant.get(&tenant) {
            self.lanes[*index].weight = weight;
            return *index;
        }
        let lane = Lane {
            tenant,
            weight,
            tag: 0,
            since: 0,
            requests: BTreeMap::new(),
            load: Load::default(),
            in_flight: 0,
            begun: 0,
            lead: 0,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.lanes[index] = lane;
                index
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        self.of_tenant.insert(tenant, index);
        index
    }

    /// Where a tenant begins that has nothing to remember.
    fn turn(&self) -> Tag {
        self.order.last().map_or(self.now, |(tag, ..)| self.now.min(*tag))
    }

    /// A lane in which nobody waits begins, at its old `tag` if a request comes back; returns the new
    /// one.
    fn begin(&mut self, index: usize, tag: Option<Tag>) -> Tag {
        let turn = self.turn();
        let turn = tag.map_or(turn, |tag| tag.min(turn));
        let lane = &mut self.lanes[index];
        self.ahead.remove(&(lane.tag, index));
        lane.begun = lane.begun.wrapping_add(1);
        lane.lead = lane.tag - turn;
        lane.tag = lane.tag.max(turn);
        lane.tag
    }

    /// Charges a lane for one more request that is under way.
    fn bill(&mut self, index: usize, fair: u64) -> Bill {
        let lane = &mut self.lanes[index];
        lane.in_flight += 1;
        let bill = Bill { lane: index, begun: lane.begun, weight: lane.weight, fair };
        self.retag(index, bill.charge());
        bill
    }

    /// Corrects a lane's tag at the end of a request.
    fn close(&mut self, bill: Bill, by: Tag) {
        self.lanes[bill.lane].in_flight -= 1;
        self.retag(bill.lane, by);
        if self.lanes[bill.lane].requests.is_empty() {
            self.rest(bill.lane);
        }
    }

    /// Moves a lane's tag, and the lane in the order of turns if it stands there.
    fn retag(&mut self, index: usize, by: Tag) {
        let lane = &mut self.lanes[index];
        let old = (lane.tag, lane.since, index);
        lane.tag += by;
        if !lane.requests.is_empty() {
            let new = (lane.tag, lane.since, index);
            self.order.remove(&old);
            self.order.insert(new);
        }
    }

    fn advance(&mut self, to: Tag) {
        self.now = self.now.max(to);
        while let Some((tag, index)) = self.ahead.first().copied()
            && tag <= self.now
        {
            self.ahead.pop_first();
            self.forget(index);
        }
    }

    /// Nobody waits in the lane: it stays only if it has something to remember.
    fn rest(&mut self, index: usize) {
        let lane = &self.lanes[index];
        if lane.in_flight > 0 {
            return;
        }
        if lane.tag <= self.now {
            return self.forget(index);
        }
        self.ahead.insert((lane.tag, index));
        if self.ahead.len() > MOST_AHEAD
            && let Some((tag, _)) = self.ahead.first().copied()
        {
            self.advance(tag);
        }
    }

    fn forget(&mut self, index: usize) {
        self.of_tenant.remove(&self.lanes[index].tenant);
        self.free.push(index);
    }
}
