//! What a pool has granted, and how that ends.

use std::time::Duration;

use super::state::State;
use super::{Bound, Rejection};
use crate::admission::scheduler::{Charge, Place};
use crate::limit::{Blame, Cost, Hold, Reading, Sent, Spent, Unit};
use crate::time::Timestamp;

/// A granted request, before it is wrapped in its guard.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) place: Place,
    pub(super) waited: Duration,
    pub(super) bound: Option<Bound>,
    /// How long it was to wait.
    pub(super) forecast: Duration,
    held: Held,
    charge: Charge,
    sent_at: Option<Timestamp>,
}

#[derive(Debug)]
enum Held {
    Here(Hold),
    There(Sent),
    Moving,
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
        hold: Hold,
        (waited, forecast): (Duration, Duration),
        bound: Option<Bound>,
    ) -> Self {
        Self { place, waited, bound, forecast, held: Held::Here(hold), charge, sent_at: None }
    }

    pub(super) fn cost(&self) -> Cost {
        match &self.held {
            Held::Here(hold) => hold.cost(),
            Held::There(sent) => sent.cost(),
            Held::Moving => Cost::default(),
        }
    }

    pub(super) fn mark_sent(&mut self, now: Timestamp) {
        self.sent_at.get_or_insert(now);
        self.held = match std::mem::replace(&mut self.held, Held::Moving) {
            Held::Here(hold) => Held::There(hold.sent()),
            other => other,
        };
    }
}

impl State {
    pub(super) fn charged(&mut self, grant: &mut Grant, now: Timestamp) {
        self.catch_up(now);
        if let Held::There(sent) = &mut grant.held {
            self.ledger.charged(sent, now);
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
        match &mut grant.held {
            Held::There(sent) => self.ledger.observe(sent, readings, now),
            Held::Here(_) | Held::Moving => None,
        }
    }

    /// Whose use it is that the upstream had no room for the request.
    pub(super) fn blame(&mut self, grant: &Grant, of: (Unit, &str), now: Timestamp) -> Blame {
        self.catch_up(now);
        match &grant.held {
            Held::There(sent) => self.ledger.refused(sent, of.0, of.1, now),
            Held::Here(_) | Held::Moving => Blame::Unlisted,
        }
    }

    /// Ends a grant and frees its permit.
    pub(super) fn end(&mut self, grant: Grant, spend: Spend, now: Timestamp) {
        // Who gets how much is decided by what was used, which is known now; what is left of the
        // upstream's quota by what the upstream has refunded, which takes it a while.
        match (&grant.held, spend) {
            (Held::Here(_), _) => {
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

    fn end_hold(&mut self, held: Held, spend: Spend, now: Timestamp) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (held, spend) {
            (Held::Here(hold), _) => self.ledger.release(hold, now),
            // A debt is the upstream's at once; only a refund has to be waited for. A refund in one
            // unit beside a debt in another is forgone: the hold ends once.
            (Held::There(sent), Spend::Spent(Spent::Exact(used))) if used.exceeds(sent.cost()) => {
                let used = used.max(sent.cost());
                self.ledger.settle(sent, Spent::Exact(used), now);
            }
            (Held::There(sent), Spend::Spent(spent)) => self.settle_later(sent, spent, now),
            // Cut before its head, it may still be on its way to the upstream.
            (Held::There(sent), Spend::Unsaid) => self.settle_later(sent, Spent::Unknown, now),
            (Held::Moving, _) => {}
        }
    }

    /// Ends a grant that the upstream refused: its tenant has had nothing, whatever was charged.
    /// What it says of a quota comes after what it says of the request: a hold that is given back is
    /// no quota to spend. Returns the place for it to come back to.
    pub(super) fn reject(&mut self, grant: Grant, rejection: Rejection, now: Timestamp) -> Place {
        let place = self.scheduler.release(grant.charge, grant.place);
        match grant.held {
            Held::There(sent) if !rejection.charged => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.ledger.reject(sent, now);
            }
            held => self.end_hold(held, Spend::Unsaid, now),
        }
        if let Some((unit, window)) = rejection.exhausted {
            self.ledger.drained(unit, window, rejection.retry_after, now);
        }
        place
    }

    /// Takes back what nobody waits for any more.
    pub(super) fn take_back(&mut self, grant: Grant, now: Timestamp) {
        self.end(grant, Spend::Unsaid, now);
    }

    fn settle_later(&mut self, mut sent: Sent, spent: Spent, now: Timestamp) {
        let due = now.after(self.config.settle_delay);
        self.ledger.announce(&mut sent, spent, due);
        self.settling.push_back((due, sent, spent));
    }

    /// Settles what has become due, each at its own time.
    pub(super) fn catch_up(&mut self, now: Timestamp) {
        while self.settling.front().is_some_and(|(due, ..)| *due <= now) {
            if let Some((due, sent, spent)) = self.settling.pop_front() {
                self.ledger.settle(sent, spent, due);
            }
        }
    }
}
