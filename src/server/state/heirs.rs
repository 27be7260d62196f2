//! What the pools of the process before left, until pools of the same keys take it. That process may
//! still have requests at the upstream, and say what becomes of them.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::admission::{Keeper, PoolKey};
use crate::limit::{BadJournal, ColdStart, Constraint, Cost, Heritage, Told, Twin, UNWRITTEN};
use crate::proxy::Gateway;
use crate::store::local::{PoolBatch, Saved, SavedPool, Waker};
use crate::time::Timestamp;
use crate::usage::OutputLearner;

/// What those cost that still wait at the process before, and how many they are, by pool.
pub(in crate::server) type SetAside = HashMap<PoolKey, (Cost, u32)>;

/// What was kept of the pools.
#[derive(Debug)]
pub(in crate::server) struct Heirs {
    waker: Waker,
    estate: Mutex<Estate>,
    reserved: Mutex<HashMap<PoolKey, OutputLearner>>,
}

#[derive(Debug)]
struct Estate {
    left: HashMap<PoolKey, Heir>,
    /// Whether the process before still has requests at the upstream.
    shared: bool,
}

#[derive(Debug)]
struct Heir {
    model: Box<str>,
    twin: Twin,
    /// For those that have not gone yet.
    set_aside: Option<(Cost, u32)>,
}

/// What is kept of a pool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "pool {pool} of model {model:?}: {problem}; a version of tidegate that can read it may go on \
     with it, or delete the state to begin anew"
)]
pub(in crate::server) struct BadPool {
    pool: PoolKey,
    model: Box<str>,
    problem: BadJournal,
}

impl Heirs {
    pub(super) fn of(
        saved: &Saved,
        set_aside: Option<&SetAside>,
        waker: Waker,
        now: Timestamp,
    ) -> Result<Self, BadPool> {
        let complete = saved.clean || saved.quiet;
        let last = saved.last.map_or(now, |last| last.timeline);
        // Who was quiet may have ended at any time since.
        let end = if complete { now } else { last.after(UNWRITTEN) };
        let mut left = HashMap::new();
        for SavedPool { key, model, snapshot, events } in &saved.pools {
            let read = || {
                let mut twin = Twin::load(snapshot)?;
                twin.replay(events)?;
                Ok(twin)
            };
            let model = model.clone();
            let twin =
                read().map_err(|problem| BadPool { pool: *key, model: model.clone(), problem })?;
            let (mut twin, set_aside) = match set_aside {
                Some(all) => (twin, all.get(key).copied().filter(|(_, count)| *count > 0)),
                None => (twin.close((end, complete), now.max(end)), None),
            };
            // One that has refilled is like one that never was.
            if set_aside.is_some() || !twin.is_untouched(now) {
                left.insert(*key, Heir { model, twin, set_aside });
            }
        }
        let of_pools = saved.learned.iter().filter(|it| it.tenant.is_empty());
        let reserved = of_pools.filter_map(|it| Some((it.pool, OutputLearner::load(&it.blob)?)));
        let reserved = Mutex::new(reserved.collect());
        let estate = Mutex::new(Estate { left, shared: set_aside.is_some() });
        Ok(Self { waker, estate, reserved })
    }

    /// What nobody has taken yet, to be written.
    pub(super) fn saved(&self) -> Vec<PoolBatch> {
        let estate = self.estate.lock();
        let saved = estate.left.iter().map(|(key, Heir { model, twin, .. })| {
            let (snapshot, events) = (Some(twin.save()), Vec::new());
            PoolBatch { key: *key, model: model.clone(), snapshot, events }
        });
        saved.collect()
    }

    /// Does what the process before says in the journal of a pool.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub(in crate::server) fn hear(
        &self,
        gateway: &Gateway,
        key: PoolKey,
        journal: &[u8],
    ) -> Result<(), BadJournal> {
        let mut estate = self.estate.lock();
        if let Some(heir) = estate.left.get_mut(&key) {
            for told in Told::read(journal)? {
                if let (Told::Went(_, cost), Some((rest, count))) = (told, &mut heir.set_aside) {
                    (*rest, *count) = (rest.minus(cost), count.saturating_sub(1));
                }
            }
            heir.twin.replay(journal)?;
            drop(estate);
            self.waker.wake();
            return Ok(());
        }
        drop(estate);
        // Whoever takes it has it under the lock of its place among the pools until it is there.
        gateway.find_pool(key).map_or(Ok(()), |named| named.pool.hear(journal))
    }

    /// The process before has ended.
    pub(in crate::server) fn end_of_before(&self, gateway: &Gateway, in_order: bool) {
        let mut estate = self.estate.lock();
        estate.shared = false;
        let now = gateway.pools().epoch().now();
        let left = std::mem::take(&mut estate.left);
        let closed = left.into_iter().map(|(key, Heir { model, twin, .. })| {
            let twin = twin.close((now, in_order), now);
            (key, Heir { model, twin, set_aside: None })
        });
        estate.left = closed.collect();
        drop(estate);
        for (_, named) in gateway.every_pool() {
            named.pool.end_of_before(in_order);
        }
    }
}

impl Keeper for Heirs {
    fn wake(&self) {
        self.waker.wake();
    }

    fn hurry(&self) {
        self.waker.hurry();
    }

    fn inherit(
        &self,
        key: PoolKey,
        configured: &[Constraint],
        start: ColdStart,
        now: Timestamp,
    ) -> Option<(Heritage, u32)> {
        let mut estate = self.estate.lock();
        let (Heir { twin, set_aside, .. }, shared) = (estate.left.remove(&key)?, estate.shared);
        drop(estate);
        // A new pool's twin has to be written, whether a request is let go or not.
        self.waker.wake();
        if !shared {
            return Some((twin.into_ledger(configured, start, now).into(), 0));
        }
        let (cost, count) = set_aside.unzip();
        Some((twin.hand_on(cost, configured, start, now), count.unwrap_or(0)))
    }

    fn reserved(&self, key: PoolKey) -> Option<OutputLearner> {
        self.reserved.lock().remove(&key)
    }
}
