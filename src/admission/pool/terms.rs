//! What is said between a pool and those who ask: how it admits, what they want, what it answers.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::admission::circuit::{self, Phase};
use crate::admission::scheduler::{ClassRule, Place};
use crate::limit::{ColdStart, Constraint, Cost, Unit};
use crate::time::Timestamp;

/// How a pool admits.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The upstream's limits.
    pub constraints: Vec<Constraint>,
    /// What is assumed of the limits at the beginning.
    pub cold_start: ColdStart,
    /// The classes that requests name by their index; empty for one.
    pub classes: Vec<ClassRule>,
    /// Requests that may wait at once.
    pub max_queued: usize,
    /// What one tenant may have waiting at once.
    pub per_tenant: TenantLimits,
    /// How long after the end of an answer the upstream's own refund is taken as made.
    pub settle_delay: Duration,
    /// Requests that may be at the upstream at once; `None` for any number.
    pub max_concurrent: Option<NonZeroU32>,
    /// The least time between two requests sent; zero for none.
    pub min_gap: Duration,
    /// When the upstream counts as away, and for how long.
    pub circuit: circuit::Rule,
}

/// What one tenant may have waiting in a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TenantLimits {
    /// Requests.
    pub queued: usize,
    /// Bytes of memory they keep.
    pub bytes: u64,
}

impl TenantLimits {
    /// As many as the pool lets in.
    pub const NONE: Self = Self { queued: usize::MAX, bytes: u64::MAX };
}

/// A request for admission.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The most it can cost.
    pub cost: Cost,
    /// Tokens it is likely to use: what decides whose turn comes next.
    pub fair: u64,
    /// Bytes of memory it keeps while it waits.
    pub bytes: u64,
    /// When it has waited long enough.
    pub deadline: Timestamp,
    /// Index of its class.
    pub class: usize,
    /// Who asks.
    pub tenant: u64,
    /// The tenant's share relative to others of the class.
    pub weight: NonZeroU32,
}

impl Request {
    /// A request of the first class, from the one tenant there is.
    pub const fn new(cost: Cost, bytes: u64, deadline: Timestamp) -> Self {
        let (fair, weight) = (cost.tokens, NonZeroU32::MIN);
        Self { cost, fair, bytes, deadline, class: 0, tenant: 0, weight }
    }
}

/// What a request waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    /// The constraint with this index.
    Constraint(usize),
    /// A concurrency permit.
    Concurrency,
    /// The least time between two requests.
    Gap,
    /// The upstream, after it said that it cannot take more for now.
    Backoff,
    /// The other replicas that share the quota.
    Replicas,
    /// The upstream, which fails whatever it is sent.
    Circuit,
}

/// What the upstream said instead of an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rejection {
    /// Whether it may have charged the request; then it counts as charged.
    pub charged: bool,
    /// The quota that is used up, by its word: unit and window.
    pub exhausted: Option<(Unit, &'static str)>,
    /// When it says to come back.
    pub retry_after: Option<Duration>,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// It costs more than a limit allows at all.
    Wall {
        /// Index of the constraint.
        constraint: usize,
    },
    /// Too many wait already.
    Full {
        /// When the next of those waiting can go, as far as is known.
        retry_at: Option<Timestamp>,
    },
    /// Too many of its tenant's, or too large ones, wait already.
    TenantFull {
        /// When the next of those waiting can go, as far as is known.
        retry_at: Option<Timestamp>,
    },
    /// It would not be admitted before its deadline.
    TooLong {
        /// What it would have waited for.
        bound: Bound,
        /// When its cost will fit, as far as is known.
        retry_at: Option<Timestamp>,
        /// The place it had, or would have had: good to come back to.
        place: Place,
    },
    /// The upstream has been failing for longer than anybody is to wait for it.
    Circuit {
        /// When it will be tried again, as far as is known.
        retry_at: Option<Timestamp>,
    },
    /// The pool is closing.
    Closed,
}

/// What a pool looks like from outside.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests waiting.
    pub queued: usize,
    /// Bytes they keep.
    pub queued_bytes: u64,
    /// How long the first of them has waited.
    pub oldest_wait: Duration,
    /// Requests at the upstream.
    pub in_flight: u32,
    /// Requests that may be at the upstream, if there is a limit; the least of what is configured and
    /// what the upstream was seen to bear.
    pub concurrency: Option<NonZeroU32>,
    /// Whether the upstream is there.
    pub circuit: Phase,
    /// What the first in line waits for.
    pub bound: Option<Bound>,
    /// Whether someone should have been woken and was not.
    pub stalled: bool,
    /// By class: what waits.
    pub classes: Vec<Queue>,
    /// By class: how long a request such as there were lately would wait, from a tenant that has
    /// nothing waiting. Empty in a glance.
    pub forecasts: Vec<Duration>,
}

/// What waits in a class, or of one tenant in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Queue {
    /// Requests.
    pub queued: usize,
    /// Bytes they keep.
    pub bytes: u64,
    /// How long the one that came first has waited.
    pub oldest_wait: Duration,
}

/// A tenant that waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TenantQueue {
    /// Index of the class.
    pub class: usize,
    /// The tenant.
    pub tenant: u64,
    /// What it has waiting.
    pub queue: Queue,
}
