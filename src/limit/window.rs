//! One constraint and its state: a level, and what is held beside it.
//!
//! A hold counts in full from the moment it is placed. Under `bucket` it also keeps its room free
//! until it is settled, because the upstream may charge and refund it at any instant in between (a
//! count of requests is never refunded: there the charge ends the hold).
//! Under `fixed` and `sliding` the charge gets its time when the head of the answer is seen; until
//! then it counts in every window, however long that takes.

use crate::limit::bucket::Bucket;
use crate::limit::log::{Log, next_boundary};
use crate::limit::{Constraint, Mode, Unit};
use crate::time::Timestamp;

/// A constraint with its state.
#[derive(Clone, Debug)]
pub(super) struct Window {
    quota: Constraint,
    /// Units held by requests that are not settled.
    held: i128,
    /// The part of `held` whose charge has a time: it stands in the log already.
    timed: i128,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Bucket(Bucket),
    Log(Log),
}

/// When a window has room for a number of units.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Room {
    /// It has it.
    Now,
    /// At this instant, if nothing else is spent until then.
    At(Timestamp),
    /// Only after something that is held has been settled.
    AfterSettle,
    /// Never: it asks for more than the limit.
    Never,
}

impl Window {
    pub(super) fn full(quota: Constraint, now: Timestamp) -> Self {
        let state = match quota.mode() {
            Mode::Bucket => State::Bucket(Bucket::full(&quota, now)),
            Mode::Fixed { .. } | Mode::Sliding => State::Log(Log::empty(&quota)),
        };
        Self { quota, held: 0, timed: 0, state }
    }

    pub(super) fn quota(&self) -> &Constraint {
        &self.quota
    }

    pub(super) fn held(&self) -> i128 {
        self.held
    }

    /// Counts what came back up to `now`.
    pub(super) fn advance(&mut self, now: Timestamp) {
        match &mut self.state {
            State::Bucket(bucket) => bucket.refill(&self.quota, self.held, now),
            State::Log(log) => log.expire(&self.quota, now),
        }
    }

    /// Whole units that may be spent, as of the last [`Self::advance`]; below zero in debt.
    pub(super) fn available(&self) -> i128 {
        match &self.state {
            State::Bucket(bucket) => bucket.available(&self.quota),
            State::Log(log) => {
                i128::from(self.quota.limit()) - (self.held - self.timed) - log.used()
            }
        }
    }

    pub(super) fn room(&self, units: u64, now: Timestamp) -> Room {
        let (units, limit) = (i128::from(units), i128::from(self.quota.limit()));
        if units > limit {
            return Room::Never;
        }
        if self.available() >= units {
            return Room::Now;
        }
        let at = match &self.state {
            State::Bucket(_) if units > limit - self.held => None,
            State::Bucket(bucket) => Some(bucket.reaches(&self.quota, units)),
            State::Log(log) => log.frees(&self.quota, units - self.available(), now),
        };
        at.map_or(Room::AfterSettle, Room::At)
    }

    /// Holds `units`, which must have been found to have room.
    pub(super) fn hold(&mut self, units: u64) {
        let units = i128::from(units);
        self.held += units;
        if let State::Bucket(bucket) = &mut self.state {
            bucket.add(&self.quota, -units, self.held);
        }
    }

    /// The upstream has charged the held `units`, at `now` at the latest.
    pub(super) fn charged(&mut self, units: u64, now: Timestamp) {
        let (units, is_final) = (i128::from(units), self.is_final());
        match &mut self.state {
            State::Log(log) => {
                self.timed += units;
                log.charge(units, now);
            }
            // Nothing of a request count is ever refunded: its room need not be kept free.
            State::Bucket(_) if is_final => self.held -= units,
            State::Bucket(_) => {}
        }
    }

    /// Replaces a hold of `units` by the `used` ones.
    pub(super) fn settle(
        &mut self,
        units: u64,
        used: u64,
        charged_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        let (units, used) = (i128::from(units), i128::from(used));
        if !(charged_at.is_some() && self.is_final()) {
            self.held -= units;
        }
        match (&mut self.state, charged_at) {
            (State::Bucket(bucket), _) => {
                bucket.add(&self.quota, units - used, self.held);
            }
            (State::Log(log), Some(at)) => {
                self.timed -= units;
                // A refund of a charge that has run out is worth nothing, a debt still is.
                if !log.amend(used - units, at) && used > units {
                    log.charge(used - units, now);
                }
            }
            (State::Log(log), None) if used > 0 => log.charge(used, now),
            (State::Log(_), None) => {}
        }
    }

    /// Whether a charge is final when it is made, so that a hold ends there.
    fn is_final(&self) -> bool {
        self.quota.unit() == Unit::Requests && matches!(self.state, State::Bucket(_))
    }

    /// Takes the upstream's word that nothing is left now.
    pub(super) fn drain(&mut self) {
        if let State::Bucket(bucket) = &mut self.state {
            bucket.drain();
        }
    }

    /// When the whole limit may be spent again, or the calendar window ends; what is held now is
    /// taken as settled.
    pub(super) fn resets_at(&self, now: Timestamp) -> Timestamp {
        match (&self.state, self.quota.mode()) {
            (State::Log(_), Mode::Fixed { skew }) => {
                next_boundary(self.quota.window_nanos().get(), skew, now)
            }
            (State::Log(log), _) => log.clear_at(&self.quota, now),
            (State::Bucket(bucket), _) => {
                bucket.reaches(&self.quota, i128::from(self.quota.limit()))
            }
        }
    }

    /// Whether a new window in its place would behave the same.
    pub(super) fn is_untouched(&self) -> bool {
        self.held == 0 && self.available() == i128::from(self.quota.limit())
    }
}
