//! What stands before a request that comes now: what a forecast needs to know of the order.

use super::lanes::{Lane, Lanes};
use super::{Entry, Load, Scheduler};
use crate::limit::Line;

/// Requests of its own tenant that are looked at one by one, where some have later deadlines. Beyond
/// that the forecast is too early, and nobody is turned away for that.
const LOOKED_AT: usize = 256;

/// Lanes of other tenants that are looked at one by one; what the rest do is taken from these.
const LANES: usize = 64;

/// Some of the requests before one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Part {
    /// How many.
    pub requests: u64,
    /// Tokens that they are likely to use.
    pub fair: u64,
    /// Tokens that are held for them.
    pub safe: u64,
}

/// What stands before a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ahead {
    /// Index of its class.
    pub class: usize,
    /// Of its class: its tenant's, and others' that have their turn before it.
    pub own: Part,
    /// Waiting in classes of better rank.
    pub better: Part,
    /// Waiting in classes of lower rank.
    pub lower: Part,
    /// The guaranteed share of its own class, in thousandths.
    pub share: u16,
    /// The guaranteed shares of the classes of lower rank in which somebody waits.
    pub lower_share: u16,
}

impl Part {
    fn of(load: &Load) -> Self {
        Self { requests: load.queued as u64, fair: load.fair, safe: load.safe }
    }

    fn add(&mut self, load: &Load, taken: u64) {
        let part = |value: u64| {
            let part = u128::from(value) * u128::from(taken) / u128::from(load.fair.max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        self.requests += part(load.queued as u64);
        self.fair += taken;
        self.safe += part(load.safe);
    }
}

impl<T> Scheduler<T> {
    /// What stands before a request that would begin to wait now.
    pub fn ahead(&self, entry: &Entry) -> Ahead {
        let class = entry.class.min(self.lanes.len() - 1);
        let lanes = &self.lanes[class];
        let mine = lanes.of(entry.tenant);
        let mut own = mine.map_or_else(Part::default, |lane| Self::before(lane, entry));
        // Others have their turn before it as long as their tag is below the one it will have.
        let turn = lanes.turn_after(entry.tenant, own.fair, entry.weight);
        let (mut seen, mut taken, mut all) = (Load::default(), Part::default(), true);
        let others = lanes.in_order().filter(|lane| lane.tenant != entry.tenant);
        for (count, lane) in others.enumerate() {
            all = !lane.comes_by(turn);
            if all || count == LANES {
                break;
            }
            taken.add(&lane.load, lane.until(turn));
            seen.merge(&lane.load);
            all = true;
        }
        if !all && seen.fair > 0 {
            // Too many to look at: the rest is taken to be like those.
            let mine = mine.map_or(0, |lane| lane.load.fair);
            let rest = self.loads[class].fair.saturating_sub(mine).saturating_sub(seen.fair);
            let share = u128::from(taken.fair) * u128::from(rest) / u128::from(seen.fair);
            taken.add(&seen, u64::try_from(share).unwrap_or(u64::MAX));
        }
        for head in self.elsewhere.of_class(class).filter(|head| head.turn.tag <= turn) {
            let Line { queued, fair, safe, .. } = head.line;
            let queued = usize::try_from(queued).unwrap_or(usize::MAX);
            let load = Load { queued, bytes: 0, fair, safe };
            taken.add(&load, Lanes::until_elsewhere(head, turn));
        }
        own.requests += taken.requests;
        own.fair += taken.fair;
        own.safe += taken.safe;
        let mut ahead = Ahead { class, own, share: self.rules[class].share, ..Ahead::default() };
        for (other, load) in self.loads.iter().enumerate() {
            let (rank, own_rank) = (self.rules[other].rank, self.rules[class].rank);
            if other == class || load.queued == 0 {
                continue;
            }
            if rank < own_rank {
                ahead.better.add(load, load.fair);
            } else {
                ahead.lower.add(load, load.fair);
                ahead.lower_share += self.rules[other].share;
            }
        }
        ahead
    }

    /// What goes before a request in its own lane: those whose deadline is not later.
    fn before(lane: &Lane, entry: &Entry) -> Part {
        let key = (entry.deadline, u64::MAX, usize::MAX);
        if lane.requests.last_key_value().is_none_or(|(last, _)| *last < key) {
            return Part::of(&lane.load);
        }
        let mut part = Part::default();
        for (_, tokens) in lane.requests.range(..key).take(LOOKED_AT) {
            part.requests += 1;
            part.fair += tokens.fair;
            part.safe += tokens.safe;
        }
        part
    }
}
