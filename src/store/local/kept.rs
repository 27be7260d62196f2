//! What is handed to the store, and what it gives back after a restart.

use crate::admission::PoolKey;
use crate::store::history::UsageRow;
use crate::time::{Clocks, Timestamp};

/// When something was written, by every clock there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Tells one start of the machine from another; zeros where the system does not say.
    pub boot: [u8; 16],
    /// Nanoseconds since the start of the machine, its sleep included.
    pub boot_nanos: u64,
    /// Nanoseconds since the Unix epoch by the wall clock.
    pub wall_nanos: u64,
    /// The instant on the process's own timeline, which the times in snapshots and events are on.
    pub timeline: Timestamp,
}

impl Stamp {
    /// The clocks and the timeline at one moment.
    pub const fn new(clocks: Clocks, timeline: Timestamp) -> Self {
        let Clocks { boot, boot_nanos, wall_nanos } = clocks;
        Self { boot, boot_nanos, wall_nanos, timeline }
    }

    /// Whether the machine ran from one to the other, so that their times since its start compare.
    pub fn same_boot(&self, other: &Self) -> bool {
        self.boot == other.boot && self.boot != [0; 16]
    }
}

/// What was learned of a tenant's requests to a pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Learned {
    /// The pool.
    pub pool: PoolKey,
    /// The tenant; empty for what concerns the whole pool.
    pub tenant: Box<str>,
    /// What was learned; empty to forget it.
    pub blob: Vec<u8>,
}

/// A pool as it was last written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SavedPool {
    /// The pool.
    pub key: PoolKey,
    /// The model's name.
    pub model: Box<str>,
    /// Its ledger's last snapshot; empty if there was none, so that the events begin with its first.
    pub snapshot: Vec<u8>,
    /// What happened since, in order.
    pub events: Vec<u8>,
}

/// Everything that was written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Saved {
    /// When it was last written; `None` if it never was.
    pub last: Option<Stamp>,
    /// Whether the process ended in order: nothing happened that is not here.
    pub clean: bool,
    /// Whether nothing was happening when it was last written.
    pub quiet: bool,
    /// The pools, in the order of their keys.
    pub pools: Vec<SavedPool>,
    /// What was learned, latest last.
    pub learned: Vec<Learned>,
}

/// What has happened to one pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolBatch {
    /// The pool.
    pub key: PoolKey,
    /// The model's name.
    pub model: Box<str>,
    /// Its ledger before `events`; takes the place of all that was known of it.
    pub snapshot: Option<Vec<u8>>,
    /// What happened to it, to be put behind what is known.
    pub events: Vec<u8>,
}

/// What has changed since the last time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// The instant on the process's timeline at which it was collected.
    pub now: Timestamp,
    /// The pools to which something happened.
    pub pools: Vec<PoolBatch>,
    /// Pools that are to be forgotten, before anything in `pools`.
    pub dropped_pools: Vec<PoolKey>,
    /// What was learned.
    pub learned: Vec<Learned>,
    /// Usage to be added to what is known.
    pub usage: Vec<UsageRow>,
}

/// What the store's thread asks what has to be kept.
pub trait Source: Send {
    /// Adds everything that has changed since the last call, and sets the time.
    ///
    /// With `full`, the store knows nothing that it may go by (it has just started, it had to drop
    /// what it could not write, or the journal has become long): the batch then has a snapshot of
    /// *every* pool that is to be remembered, and everything that was learned. What is not in it is
    /// forgotten. Usage is what was used since the last call, in either case.
    fn collect(&mut self, batch: &mut Batch, full: bool);
}
