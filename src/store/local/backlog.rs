//! What waits to be committed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Batch, Learned, PoolBatch};
use crate::admission::PoolKey;
use crate::store::history::{Counts, OTHER, UsageRow};
use crate::time::Timestamp;

/// Bytes of snapshots and events that wait while nothing can be committed: minutes of a busy gateway.
/// Above it they are dropped, for a snapshot of everything says the same.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// Rows of usage that wait: a hundred tenants' for hours. Above it, usage of tenants and models that
/// are not among them is added up by the hour only.
pub(super) const MOST_USAGE: usize = 20_000;

/// Whose usage, and when: seconds, tenant, model.
type Whose = (u64, Arc<str>, Arc<str>);

/// What was collected and is not on disk.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// When the last of it was collected.
    pub(super) now: Timestamp,
    /// Whether it takes the place of every pool and everything learned that is on disk.
    pub(super) replaces: bool,
    /// Pools that are to be forgotten before the others are written.
    pub(super) dropped: HashSet<PoolKey>,
    pub(super) pools: HashMap<PoolKey, PoolBatch>,
    pub(super) learned: HashMap<(PoolKey, Box<str>), Vec<u8>>,
    pub(super) usage: HashMap<Whose, Counts>,
    /// Of snapshots, events and what was learned.
    bytes: usize,
}

impl Backlog {
    /// Adds what was collected last; `full` if it is everything.
    pub(super) fn absorb(&mut self, batch: Batch, full: bool) {
        let Batch { now, pools, dropped_pools, learned, usage } = batch;
        self.now = now;
        if full {
            self.forget_pools();
            self.replaces = true;
        }
        for key in dropped_pools {
            if let Some(gone) = self.pools.remove(&key) {
                self.bytes -= weight(&gone);
            }
            self.dropped.insert(key);
        }
        for pool in pools {
            self.pool(pool);
        }
        for Learned { pool, tenant, blob } in learned {
            self.bytes += blob.len();
            let before = self.learned.insert((pool, tenant), blob);
            self.bytes -= before.map_or(0, |before| before.len());
        }
        for row in usage {
            self.usage(row);
        }
    }

    fn pool(&mut self, new: PoolBatch) {
        match self.pools.get_mut(&new.key) {
            None => {
                self.bytes += weight(&new);
                self.pools.insert(new.key, new);
            }
            Some(old) if new.snapshot.is_some() => {
                self.bytes = self.bytes + weight(&new) - weight(old);
                *old = new;
            }
            Some(old) => {
                self.bytes += new.events.len();
                old.events.extend_from_slice(&new.events);
            }
        }
    }

    fn usage(&mut self, UsageRow { at, tenant, model, counts }: UsageRow) {
        let whose = (at, tenant, model);
        if self.usage.len() < MOST_USAGE || self.usage.contains_key(&whose) {
            self.usage.entry(whose).or_default().add(&counts);
        } else {
            let hour = at - at % 3_600;
            self.usage.entry((hour, OTHER.into(), OTHER.into())).or_default().add(&counts);
        }
    }

    /// Drops what a snapshot of everything would say as well.
    pub(super) fn forget_pools(&mut self) {
        (self.bytes, self.replaces) = (0, false);
        self.dropped.clear();
        self.pools.clear();
        self.learned.clear();
    }

    /// Bytes that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        let Self { now: _, replaces, dropped, pools, learned, usage, bytes: _ } = self;
        !replaces
            && dropped.is_empty()
            && pools.is_empty()
            && learned.is_empty()
            && usage.is_empty()
    }

    /// Everything is on disk. What the maps have grown to is given back if it was much.
    pub(super) fn written(&mut self) {
        self.forget_pools();
        self.usage.clear();
        self.usage.shrink_to(1_024);
    }
}

fn weight(pool: &PoolBatch) -> usize {
    // What an entry takes beside its bytes counts too, or a thousand empty ones would be free.
    128 + pool.snapshot.as_ref().map_or(0, Vec::len) + pool.events.len()
}
