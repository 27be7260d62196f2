//! The ledger that a pool decides by: its own, or one that it shares with other replicas.

use std::time::Duration;

use crate::limit::{
    Blame, Call, Clock, ColdStart, Constraint, Cost, Denied, Hold, Ledger, Level, Reading, Replica,
    Sent, Spent, Taken, Turn, Unit,
};
use crate::time::Timestamp;

/// A ledger, whosever it is.
#[expect(clippy::large_enum_variant, reason = "a pool has one; every request looks into it")]
#[derive(Debug)]
pub(super) enum Book {
    Own(Ledger),
    Shared(Box<Replica>),
}

/// Something held, wherever the ledger keeps that.
#[derive(Debug)]
pub(super) enum Held {
    /// Here; nothing was sent.
    Here(Hold),
    /// Here; it may be at the upstream.
    There(Sent),
    /// In the common ledger, under this number.
    Common {
        id: u64,
        cost: Cost,
        sent: bool,
    },
    Moving,
}

/// What came of starting a request.
#[derive(Debug)]
pub(super) enum Started {
    /// It may go.
    Now(Held),
    /// It may go when the other replicas let it.
    Asked(Held),
    /// The other replicas have to be asked, which is not done now.
    HasToAsk,
}

impl Held {
    pub(super) fn cost(&self) -> Cost {
        match self {
            Self::Here(hold) => hold.cost(),
            Self::There(sent) => sent.cost(),
            Self::Common { cost, .. } => *cost,
            Self::Moving => Cost::default(),
        }
    }

    pub(super) fn mark_sent(&mut self) {
        *self = match std::mem::replace(self, Self::Moving) {
            Self::Here(hold) => Self::There(hold.sent()),
            Self::Common { id, cost, .. } => Self::Common { id, cost, sent: true },
            other => other,
        };
    }
}

impl Book {
    /// The ledger to decide by, its time, and what makes local time of that.
    fn at(&mut self, now: Timestamp) -> (&mut Ledger, Timestamp, Clock) {
        match self {
            Self::Own(ledger) => (ledger, now, Clock::default()),
            Self::Shared(replica) => replica.ledger(now),
        }
    }

    fn ledger(&self) -> &Ledger {
        match self {
            Self::Own(ledger) => ledger,
            Self::Shared(replica) => replica.view(),
        }
    }

    /// Starts a request; only if they are asked anyway are other replicas asked, where they have to be.
    pub(super) fn start(
        &mut self,
        cost: Cost,
        (paced, asks): (bool, bool),
        turn: impl FnOnce() -> Turn,
        now: Timestamp,
    ) -> Result<Started, Denied> {
        let replica = match self {
            Self::Own(ledger) => {
                return ledger.hold_as(cost, paced, now).map(|it| Started::Now(Held::Here(it)));
            }
            Self::Shared(replica) => replica,
        };
        replica.check(cost, paced, now)?;
        if !asks && replica.has_to_ask(cost, now) {
            return Ok(Started::HasToAsk);
        }
        let held = |id| Held::Common { id, cost, sent: false };
        Ok(match replica.take(cost, paced, turn(), now)? {
            Taken::Free(id) => Started::Now(held(id)),
            Taken::Asked(id) => Started::Asked(held(id)),
        })
    }

    pub(super) fn check_as(
        &mut self,
        cost: Cost,
        paced: bool,
        now: Timestamp,
    ) -> Result<(), Denied> {
        match self {
            Self::Own(ledger) => ledger.check_as(cost, paced, now),
            Self::Shared(replica) => replica.check(cost, paced, now),
        }
    }

    /// The ledger, if it is the pool's own.
    pub(super) const fn own(&mut self) -> Option<&mut Ledger> {
        match self {
            Self::Own(ledger) => Some(ledger),
            Self::Shared(_) => None,
        }
    }

    pub(super) fn wall(&self, cost: Cost) -> Option<usize> {
        self.ledger().wall(cost)
    }

    pub(super) fn constraint(&self, index: usize) -> Option<Constraint> {
        self.ledger().constraint(index).cloned()
    }

    pub(super) fn open(&self, unit: Unit) -> u64 {
        self.ledger().open(unit)
    }

    pub(super) fn levels(&mut self, now: Timestamp) -> impl Iterator<Item = Level<'_>> {
        let (ledger, at, clock) = self.at(now);
        ledger.levels(at).map(move |level| clock.level(level))
    }

    pub(super) fn fits_at(&mut self, unit: Unit, units: u64, now: Timestamp) -> Timestamp {
        let (ledger, at, clock) = self.at(now);
        clock.local(ledger.fits_at(unit, units, at))
    }

    pub(super) fn is_untouched(&mut self, now: Timestamp) -> bool {
        match self {
            Self::Own(ledger) => ledger.is_untouched(now),
            Self::Shared(replica) => replica.is_untouched(now),
        }
    }

    pub(super) fn charged(&mut self, held: &mut Held, now: Timestamp) -> bool {
        match (self, held) {
            (Self::Own(ledger), Held::There(sent)) => ledger.charged(sent, now),
            (Self::Shared(replica), Held::Common { id, sent: true, .. }) => {
                replica.charged(*id, now);
            }
            _ => return false,
        }
        true
    }

    pub(super) fn observe<'a>(
        &mut self,
        held: &mut Held,
        readings: impl Iterator<Item = Reading<'a>>,
        now: Timestamp,
    ) -> Option<(u64, u64)> {
        match (self, held) {
            (Self::Own(ledger), Held::There(sent)) => ledger.observe(sent, readings, now),
            (Self::Shared(replica), Held::Common { id, sent: true, .. }) => {
                replica.observe(*id, readings, now)
            }
            _ => None,
        }
    }

    pub(super) fn refused(&mut self, held: &Held, of: (Unit, &str), now: Timestamp) -> Blame {
        match (self, held) {
            (Self::Own(ledger), Held::There(sent)) => ledger.refused(sent, of.0, of.1, now),
            (Self::Shared(replica), Held::Common { id, sent: true, .. }) => {
                replica.refused(*id, of.0, of.1, now)
            }
            _ => Blame::Unlisted,
        }
    }

    pub(super) fn drained(
        &mut self,
        (unit, window): (Unit, &str),
        after: Option<Duration>,
        now: Timestamp,
    ) {
        match self {
            Self::Own(ledger) => ledger.drained(unit, window, after, now),
            Self::Shared(replica) => replica.drained(unit, window, after, now),
        }
    }

    /// Ends a hold as if it had not been: nothing was sent, or it was not charged.
    pub(super) fn give_back(&mut self, held: Held, now: Timestamp) {
        match (self, held) {
            (Self::Own(ledger), Held::Here(hold)) => ledger.release(hold, now),
            (Self::Own(ledger), Held::There(sent)) => ledger.reject(sent, now),
            (Self::Shared(replica), Held::Common { id, .. }) => {
                replica.end(id, Cost::default(), Duration::ZERO, Some(0), now);
            }
            _ => {}
        }
    }

    /// Ends a hold with what was spent, at once.
    pub(super) fn settle(&mut self, held: Held, spent: Spent, now: Timestamp) {
        match (self, held) {
            (Self::Own(ledger), Held::There(sent)) => ledger.settle(sent, spent, now),
            (book @ Self::Shared(_), held) => book.settle_common(held, spent, Duration::ZERO, now),
            _ => {}
        }
    }

    /// Ends a hold of the common ledger with what was spent, which counts `after` a while.
    pub(super) fn settle_common(
        &mut self,
        held: Held,
        spent: Spent,
        after: Duration,
        now: Timestamp,
    ) {
        if let (Self::Shared(replica), Held::Common { id, cost, .. }) = (self, held) {
            let (used, fair) = match spent {
                Spent::Exact(used) => (used, Some(used.tokens)),
                Spent::Unknown => (cost, None),
            };
            replica.end(id, used, after, fair, now);
        }
    }

    pub(super) fn announce(&mut self, sent: &mut Sent, spent: Spent, due: Timestamp) {
        if let Self::Own(ledger) = self {
            ledger.announce(sent, spent, due);
        }
    }

    /// Goes on with other limits.
    pub(super) fn reconfigure(
        &mut self,
        configured: &[Constraint],
        start: ColdStart,
        now: Timestamp,
    ) {
        match self {
            Self::Own(ledger) => ledger.reconfigure(configured, start, now),
            Self::Shared(replica) => replica.reconfigure(configured, start),
        }
    }

    pub(super) fn take_journal(&mut self, into: &mut Vec<u8>) {
        if let Self::Own(ledger) = self {
            ledger.take_journal(into);
        }
    }

    pub(super) fn take_call(&mut self) -> Call {
        match self {
            Self::Own(ledger) => ledger.take_call(),
            Self::Shared(_) => Call::None,
        }
    }

    pub(super) fn shared(&mut self) -> Option<&mut Replica> {
        match self {
            Self::Own(_) => None,
            Self::Shared(replica) => Some(replica),
        }
    }

    pub(super) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}
