//! What is said of a ledger: how it begins, what is denied, what was spent, what is left.

use serde::{Deserialize, Serialize};

use crate::limit::{Constraint, Cost, Mode};
use crate::time::Timestamp;

/// What a ledger assumes of quotas of which it knows nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ColdStart {
    /// All unspent. A refusal sets it right.
    #[default]
    Full,
    /// All spent: they refill from now on.
    Empty,
    /// Like `Empty`, but the first request may go; the head of its answer shows what is left. What
    /// it does not show is taken to be unspent.
    Probe,
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
    /// How it is taken to refill now: not `Auto`, and `Sliding` where that has become doubtful.
    pub mode: Mode,
    /// Whole units that may be spent now; below zero in debt.
    pub available: i64,
    /// Units held by requests that are not settled.
    pub held: u64,
    /// When the whole limit is there again if nothing more is spent, or the calendar window ends.
    pub resets_at: Timestamp,
    /// Units by which the last answer showed the ledger to have been ahead of the upstream; behind
    /// it, if negative. Zero where the two agree.
    pub drift: i64,
    /// Units per window that others with the same quota are taken to use.
    pub foreign: u64,
    /// When nothing will be left if it is used on as of late; `None` if that is not in sight.
    pub exhausted_at: Option<Timestamp>,
}

impl Spent {
    /// What was used of a cost that was held.
    pub(super) const fn of(self, held: Cost) -> Cost {
        match self {
            Self::Exact(cost) => cost,
            Self::Unknown => held,
        }
    }
}
