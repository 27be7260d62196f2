//! What the ledger learns from the upstream's answers and refusals.

use std::time::Duration;

use super::{Ledger, Sent};
use crate::limit::journal::{Event, Seen};
use crate::limit::reading::{Reading, Sighting};
use crate::limit::window::Around;
use crate::limit::{Constraint, Unit};
use crate::time::Timestamp;

/// Levels of one answer that are looked at: three units in five windows, and one to spare.
const MOST_SEEN: usize = 16;

/// Whose use a refusal by the upstream is due to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// This ledger's: it let in too much.
    Attributable,
    /// That of others with the same quota: what this ledger let in fits whatever the rules are.
    Foreign,
    /// A quota that is not configured.
    Unlisted,
}

impl Blame {
    /// Every value, in the order of its discriminant.
    pub const ALL: [Self; 3] = [Self::Attributable, Self::Foreign, Self::Unlisted];

    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attributable => "attributable",
            Self::Foreign => "foreign",
            Self::Unlisted => "unlisted",
        }
    }
}

impl Ledger {
    /// Takes the levels that the head of an answer shows for what they are: the upstream's own, at
    /// some instant between sending the request and now, with the request charged unless the answer
    /// is a refusal. To be called after [`Self::charged`] where it was charged.
    ///
    /// Where nothing else can have been charged, what is missing is what the upstream has reserved for
    /// this request: returns how many tokens that are, at least and at most.
    pub fn observe<'a>(
        &mut self,
        sent: &mut Sent,
        readings: impl IntoIterator<Item = Reading<'a>>,
        now: Timestamp,
    ) -> Option<(u64, u64)> {
        let (list, count) = self.seen(readings);
        let list = list.get(..count).unwrap_or_default();
        if list.is_empty() {
            return None;
        }
        self.record(now, Event::Observed { id: sent.id, seen: list });
        self.observe_all(sent, list, now)
    }

    /// The readings that are about a constraint, and how many there are.
    pub(in crate::limit) fn seen<'a>(
        &self,
        readings: impl IntoIterator<Item = Reading<'a>>,
    ) -> ([Seen; MOST_SEEN], usize) {
        let (mut list, mut count) = ([Seen::default(); MOST_SEEN], 0);
        let mut known = readings.into_iter().filter_map(|reading| {
            let Reading { unit, window, limit, remaining } = reading;
            Some((self.index_of(unit, window)?, limit, remaining))
        });
        for (place, (index, limit, remaining)) in list.iter_mut().zip(&mut known) {
            *place = Seen(u8::try_from(index).unwrap_or(u8::MAX), limit, remaining);
            count += 1;
        }
        (list, count)
    }

    /// [`Self::observe`], of constraints by their index.
    pub(in crate::limit) fn observe_all(
        &mut self,
        sent: &mut Sent,
        seen: &[Seen],
        now: Timestamp,
    ) -> Option<(u64, u64)> {
        let mut reserved: Option<(u64, u64)> = None;
        for Seen(index, limit, remaining) in seen.iter().copied() {
            let index = usize::from(index);
            let Some(unit) = self.constraint(index).map(Constraint::unit) else { continue };
            let (at, held) = (unit.index(), i128::from(sent.cost.of(unit)));
            // What it says leaves open whether those are in it that were not heard of before.
            let later = self.heard[at].since(sent.sent_at) + self.unheard[at] - held;
            let (open, unheard) = (self.open[at], self.unheard[at]);
            let next = i128::from(self.placed[at].wrapping_sub(sent.placed[at]));
            let around = Around { sent_at: sent.sent_at, later, next, open, unheard };
            let own = self.bit(index);
            let window = &mut self.windows[index];
            window.advance(now);
            if unit == Unit::Tokens && sent.full & own != 0 && later == 0 && next == 0 {
                let taken = window.taken(Sighting { limit, remaining }, sent.sent_at, now);
                // The longer a window, the slower it refills, and the more exact it is.
                reserved = [reserved, taken].into_iter().flatten().min_by_key(|(_, most)| *most);
            }
            let counted = window.observe(Sighting { limit, remaining }, around, now);
            sent.counted.bucket |= if counted.bucket { own } else { 0 };
            sent.counted.log |= if counted.log { own } else { 0 };
        }
        reserved
    }

    pub(in crate::limit) fn index_of(&self, unit: Unit, name: &str) -> Option<usize> {
        self.windows.iter().position(|it| it.quota().unit() == unit && it.quota().name() == name)
    }

    /// The upstream refused the request because of the window of `unit` called `name`, although the
    /// ledger had let it go. Tells whose use that is due to, and makes the ledger more careful. To be
    /// called before the hold is ended.
    pub fn refused(&mut self, sent: &Sent, unit: Unit, name: &str, now: Timestamp) -> Blame {
        match self.index_of(unit, name) {
            None => Blame::Unlisted,
            Some(index) => {
                self.record(now, Event::Refused { id: sent.id, index });
                self.refused_by(sent, index, now)
            }
        }
    }

    /// [`Self::refused`], of a constraint by its index.
    pub(in crate::limit) fn refused_by(
        &mut self,
        sent: &Sent,
        index: usize,
        now: Timestamp,
    ) -> Blame {
        let Some(window) = self.windows.get_mut(index) else { return Blame::Unlisted };
        window.advance(now);
        let unit = window.quota().unit();
        let foreign = window.refused(sent.cost.of(unit), sent.sent_at, now);
        if foreign { Blame::Foreign } else { Blame::Attributable }
    }

    /// Takes the upstream's word that nothing is left of the window of `unit` called `name`, and that
    /// it is worth asking again after a while, if it said so: then one request may go, even if there
    /// seems to be no room. To be called after a refused request's hold is ended: what is given back
    /// is no quota to spend.
    pub fn drained(
        &mut self,
        unit: Unit,
        name: &str,
        retry_after: Option<Duration>,
        now: Timestamp,
    ) {
        if let Some(index) = self.index_of(unit, name) {
            let ask_at = retry_after.map(|span| now.after(span));
            self.record(now, Event::Drained { index, ask_at });
            self.drained_until(index, ask_at, now);
        }
    }

    /// [`Self::drained`], of a constraint by its index.
    pub(in crate::limit) fn drained_until(
        &mut self,
        index: usize,
        ask_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        if let Some(window) = self.windows.get_mut(index) {
            window.advance(now);
            window.drain(ask_at);
        }
    }
}
