//! The ledger: every window of one pool, charged all or nothing.

use crate::limit::window::{Room, Window};
use crate::limit::{Constraint, Cost, Unit};
use crate::time::Timestamp;

/// A twin of the upstream's own account of one quota: a vector of windows.
///
/// A hold must be ended by exactly one of [`Ledger::release`], [`Ledger::settle`] or
/// [`Ledger::reject`]; the types see to it that it is ended once, the owner that it is ended.
#[derive(Clone, Debug)]
pub struct Ledger {
    windows: Vec<Window>,
    sent: u64,
}

/// Units set aside in every window; nothing has been handed to the upstream yet.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a hold that is not ended keeps its units for ever"]
pub struct Hold {
    cost: Cost,
}

/// A hold whose request is at the upstream, or may be.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a hold that is not ended keeps its units for ever"]
pub struct Sent {
    cost: Cost,
    charged_at: Option<Timestamp>,
}

/// What a sent request turned out to have used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spent {
    /// The upstream reported it.
    Exact(Cost),
    /// Nobody knows: the answer was cut, or carried no usage. Charged as held.
    Unknown,
}

/// Why nothing was held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denied {
    /// The cost is above a limit: no wait helps.
    Wall {
        /// Index of the constraint.
        constraint: usize,
    },
    /// There is not enough left for now.
    Wait {
        /// Index of the constraint that will have room last.
        constraint: usize,
        /// The first instant at which the cost fits if nothing else is spent; `None` if that
        /// depends on something that is held being settled.
        until: Option<Timestamp>,
    },
}

/// The state of one constraint, for headers, metrics and people.
#[derive(Clone, Debug)]
pub struct Level<'a> {
    /// The constraint.
    pub quota: &'a Constraint,
    /// Whole units that may be spent now; below zero in debt.
    pub available: i64,
    /// Units held by requests that are not settled.
    pub held: u64,
    /// When the whole limit is there again if nothing more is spent, or the calendar window ends.
    pub resets_at: Timestamp,
}

impl Hold {
    /// What is held.
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// Marks the request as handed to the upstream; called before its first byte is.
    pub const fn sent(self) -> Sent {
        Sent { cost: self.cost, charged_at: None }
    }
}

impl Sent {
    /// What is held.
    pub const fn cost(&self) -> Cost {
        self.cost
    }
}

impl Ledger {
    /// A ledger whose quotas are all unspent at `now`.
    pub fn new(constraints: Vec<Constraint>, now: Timestamp) -> Self {
        let windows = constraints.into_iter().map(|quota| Window::full(quota, now)).collect();
        Self { windows, sent: 0 }
    }

    /// Holds `cost` in every window.
    ///
    /// # Errors
    ///
    /// [`Denied`] if any window has no room for it; then none has changed.
    pub fn hold(&mut self, cost: Cost, now: Timestamp) -> Result<Hold, Denied> {
        self.check(cost, now)?;
        for window in &mut self.windows {
            window.hold(cost.of(window.quota().unit()));
        }
        self.sent += 1;
        Ok(Hold { cost })
    }

    /// Whether `cost` could be held now, without holding it.
    ///
    /// # Errors
    ///
    /// [`Denied`] names the window that has room for it last, and when.
    pub fn check(&mut self, cost: Cost, now: Timestamp) -> Result<(), Denied> {
        let mut denied: Option<(usize, Option<Timestamp>)> = None;
        for (index, window) in self.windows.iter_mut().enumerate() {
            window.advance(now);
            let until = match window.room(cost.of(window.quota().unit()), now) {
                Room::Now => continue,
                Room::At(at) => Some(at),
                Room::AfterSettle => None,
                Room::Never => return Err(Denied::Wall { constraint: index }),
            };
            let later = |other: Option<Timestamp>| {
                until.unwrap_or(Timestamp::MAX) > other.unwrap_or(Timestamp::MAX)
            };
            if denied.is_none_or(|(_, other)| later(other)) {
                denied = Some((index, until));
            }
        }
        denied.map_or(Ok(()), |(constraint, until)| Err(Denied::Wait { constraint, until }))
    }

    /// The first constraint that `cost` is above, whatever is spent.
    pub fn wall(&self, cost: Cost) -> Option<usize> {
        self.windows.iter().position(|it| cost.of(it.quota().unit()) > it.quota().limit())
    }

    /// Ends a hold that was never sent: as if it had not been.
    pub fn release(&mut self, hold: Hold, now: Timestamp) {
        self.reject(hold.sent(), now);
    }

    /// The head of the answer was seen at `now`: the upstream has charged the request by then.
    pub fn charged(&mut self, sent: &mut Sent, now: Timestamp) {
        if sent.charged_at.is_some() {
            return;
        }
        sent.charged_at = Some(now);
        for window in &mut self.windows {
            window.advance(now);
            window.charged(sent.cost.of(window.quota().unit()), now);
        }
    }

    /// Ends a hold with what the request used: the difference comes back, or becomes debt.
    ///
    /// To be called only after the upstream's own refund, or the two accounts part.
    #[expect(clippy::needless_pass_by_value, reason = "a hold is ended once: it is used up")]
    pub fn settle(&mut self, sent: Sent, spent: Spent, now: Timestamp) {
        let used = match spent {
            Spent::Exact(cost) => cost,
            Spent::Unknown => sent.cost,
        };
        for window in &mut self.windows {
            let unit = window.quota().unit();
            window.advance(now);
            window.settle(sent.cost.of(unit), used.of(unit), sent.charged_at, now);
        }
    }

    /// Ends a hold whose request the upstream refused without charging it.
    #[expect(clippy::needless_pass_by_value, reason = "a hold is ended once: it is used up")]
    pub fn reject(&mut self, sent: Sent, now: Timestamp) {
        for window in &mut self.windows {
            let units = sent.cost.of(window.quota().unit());
            window.advance(now);
            window.settle(units, 0, sent.charged_at, now);
        }
    }

    /// Takes the upstream's word that a quota is used up, whatever the ledger believed: the windows
    /// of `unit` called `name` are emptied where emptying heals by itself (`bucket`).
    pub fn drained(&mut self, unit: Unit, name: &str, now: Timestamp) {
        for window in &mut self.windows {
            if window.quota().unit() == unit && window.quota().name() == name {
                window.advance(now);
                window.drain();
            }
        }
    }

    /// The constraint with this index, as counted by [`Denied`].
    pub fn constraint(&self, index: usize) -> Option<&Constraint> {
        self.windows.get(index).map(Window::quota)
    }

    /// The state of every constraint, in configuration order.
    pub fn levels(&mut self, now: Timestamp) -> impl Iterator<Item = Level<'_>> {
        self.windows.iter_mut().map(move |window| {
            window.advance(now);
            Level {
                available: i64::try_from(window.available()).unwrap_or(i64::MIN),
                held: u64::try_from(window.held()).unwrap_or(0),
                resets_at: window.resets_at(now),
                quota: window.quota(),
            }
        })
    }

    /// Holds placed since the ledger was made.
    pub const fn placed(&self) -> u64 {
        self.sent
    }

    /// Whether a new ledger in its place would decide alike from now on.
    pub fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.windows.iter_mut().all(|window| {
            window.advance(now);
            window.is_untouched()
        })
    }
}

#[cfg(test)]
mod tests;
