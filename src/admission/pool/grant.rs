//! What a pool has granted, and how that ends.

use std::time::Duration;

use super::book::Held;
use super::state::State;
use super::{Bound, Rejection};
use crate::admission::circuit::Round;
use crate::admission::scheduler::{Charge, Place};
use crate::limit::{Blame, Cost, Reading, Spent, Unit};
use crate::time::Timestamp;

/// A granted request, before it is wrapped in its guard.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) place: Place,
    pub(super) waited: Duration,
    pub(super) bound: Option<Bound>,
    /// How long it was to wait.
    pub(super) forecast: Duration,
    pub(super) held: Held,
    pub(super) charge: Charge,
    /// The state that the circuit was in when it was granted.
    pub(super) round: Round,
    pub(super) sent_at: Option<Timestamp>,
}

/// How a grant ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spend {
    /// With an answer.
    Spent(Spent),
    /// Dropped: nothing was sent, or nobody knows.
    Unsaid,
}

impl Grant {
    pub(super) const fn new(
        place: Place,
        charge: Charge,
        (held, round): (Held, Round),
        (waited, forecast): (Duration, Duration),
        bound: Option<Bound>,
    ) -> Self {
        Self { place, waited, bound, forecast, held, charge, round, sent_at: None }
    }

    pub(super) fn cost(&self) -> Cost {
        self.held.cost()
    }

    pub(super) fn mark_sent(&mut self, now: Timestamp) {
        self.sent_at.get_or_insert(now);
        self.held.mark_sent();
    }
}

impl State {
    pub(super) fn charged(&mut self, grant: &mut Grant, now: Timestamp) {
        self.catch_up(now);
        if self.ledger.charged(&mut grant.held, now) {
            let sent_at = grant.sent_at.unwrap_or(now);
            self.forecast.head(now.since(sent_at));
        }
    }

    /// Takes what the head of an answer shows for what it is.
    pub(super) fn observe<'a>(
        &mut self,
        grant: &mut Grant,
        readings: impl Iterator<Item = Reading<'a>>,
        now: Timestamp,
    ) -> Option<(u64, u64)> {
        self.catch_up(now);
        self.ledger.observe(&mut grant.held, readings, now)
    }

    /// Whose use it is that the upstream had no room for the request.
    pub(super) fn blame(&mut self, grant: &Grant, of: (Unit, &str), now: Timestamp) -> Blame {
        self.catch_up(now);
        self.ledger.refused(&grant.held, of, now)
    }

    /// Ends a grant and frees its permit.
    pub(super) fn end(&mut self, grant: Grant, spend: Spend, now: Timestamp) {
        self.circuit.left(grant.round, now);
        // Who gets how much is decided by what was used, which is known now; what is left of the
        // upstream's quota by what the upstream has refunded, which takes it a while.
        match (&grant.held, spend) {
            (Held::Here(_) | Held::Common { sent: false, .. }, _) => {
                self.scheduler.release(grant.charge, grant.place);
            }
            (_, Spend::Spent(Spent::Exact(used))) => {
                let span = now.since(grant.sent_at.unwrap_or(now));
                let (held, likely) = (grant.cost().tokens, grant.charge.fair());
                self.forecast.ended(span, held, likely, used.tokens);
                self.scheduler.settle(grant.charge, used.tokens);
            }
            (_, Spend::Spent(Spent::Unknown) | Spend::Unsaid) => {
                let fair = grant.charge.fair();
                self.scheduler.settle(grant.charge, fair);
            }
        }
        self.end_hold(grant.held, spend, now);
    }

    pub(super) fn end_hold(&mut self, held: Held, spend: Spend, now: Timestamp) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (held, spend) {
            (held @ (Held::Here(_) | Held::Common { sent: false, .. }), _) => {
                self.ledger.give_back(held, now);
            }
            // A debt is the upstream's at once; only a refund has to be waited for. A refund in one
            // unit beside a debt in another is forgone: the hold ends once.
            (held, Spend::Spent(Spent::Exact(used))) if used.exceeds(held.cost()) => {
                let used = used.max(held.cost());
                self.ledger.settle(held, Spent::Exact(used), now);
            }
            (held, Spend::Spent(spent)) => self.settle_later(held, spent, now),
            // Cut before its head, it may still be on its way to the upstream.
            (held, Spend::Unsaid) => self.settle_later(held, Spent::Unknown, now),
        }
    }

    /// Ends a grant that the upstream refused: its tenant has had nothing, whatever was charged.
    /// What it says of a quota comes after what it says of the request: a hold that is given back is
    /// no quota to spend. Returns the place for it to come back to.
    pub(super) fn reject(&mut self, grant: Grant, rejection: Rejection, now: Timestamp) -> Place {
        self.circuit.left(grant.round, now);
        let place = self.scheduler.release(grant.charge, grant.place);
        match grant.held {
            held @ (Held::There(_) | Held::Common { sent: true, .. }) if !rejection.charged => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.ledger.give_back(held, now);
            }
            held => self.end_hold(held, Spend::Unsaid, now),
        }
        if let Some((unit, window)) = rejection.exhausted {
            self.ledger.drained((unit, window), rejection.retry_after, now);
        }
        place
    }

    /// Takes back what nobody waits for any more.
    pub(super) fn take_back(&mut self, grant: Grant, now: Timestamp) {
        self.end(grant, Spend::Unsaid, now);
    }

    fn settle_later(&mut self, held: Held, spent: Spent, now: Timestamp) {
        let after = self.config.settle_delay;
        match held {
            Held::There(mut sent) => {
                // Not before those that wait already, should they have to wait for longer.
                let last = self.settling.back().map_or(now, |(due, ..)| *due);
                let due = now.after(after).max(last);
                self.ledger.announce(&mut sent, spent, due);
                self.settling.push_back((due, Held::There(sent), spent));
            }
            held => self.ledger.settle_common(held, spent, after, now),
        }
    }

    /// Settles what has become due, each at its own time.
    pub(super) fn catch_up(&mut self, now: Timestamp) {
        while self.settling.front().is_some_and(|(due, ..)| *due <= now) {
            if let Some((due, held, spent)) = self.settling.pop_front() {
                self.ledger.settle(held, spent, due);
            }
        }
    }
}
