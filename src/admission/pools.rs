//! Every pool of this process, found by upstream account and model.
//!
//! # Invariants
//!
//! - Bounded: callers choose the model, and in pass-through the account, so names that nobody
//!   vouches for could grow the map for ever. At the bound, pools that hold no state are dropped;
//!   if all of them do, a new name is refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::{Mutex, RwLock};
use tokio_util::task::TaskTracker;

use crate::admission::kept::Kept;
use crate::admission::scheduler::Place;
use crate::admission::{Keeper, Pool, PoolConfig, Sharer};
use crate::limit::Ledger;
use crate::time::{Epoch, Timestamp};
use crate::usage::OutputLearner;

/// Identifies a pool: a digest of the upstream account and the model's name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PoolKey(pub [u8; 16]);

impl fmt::Display for PoolKey {
    /// Eight digits: enough to tell pools apart in labels and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A pool and the name it goes by.
#[derive(Debug)]
pub struct Named {
    /// The model's name, as asked for by the first caller.
    pub model: Arc<str>,
    /// The configured profile it follows.
    profile: RwLock<Arc<str>>,
    /// The pool.
    pub pool: Arc<Pool>,
    /// Places of requests that may come back.
    pub kept: Mutex<Kept<Place>>,
    /// What the upstream reserves for answers.
    pub reserved: Mutex<OutputLearner>,
}

impl Named {
    /// The configured profile it follows.
    pub fn profile(&self) -> Arc<str> {
        Arc::clone(&self.profile.read())
    }

    /// Follows another profile from now on.
    pub fn follow(&self, profile: &Arc<str>) {
        *self.profile.write() = Arc::clone(profile);
    }
}

/// Places kept in each pool: a courtesy to clients that try again, and 200 KiB at the most.
const KEPT_PLACES: usize = 1_024;

/// The bound on pools is reached, and all of them are in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooManyPools;

/// All pools. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Pools {
    map: Arc<DashMap<PoolKey, Arc<Named>>>,
    most: Arc<AtomicUsize>,
    /// When everything is to be over, and how much of that time is spare.
    end: Arc<Mutex<Option<(Timestamp, Duration)>>>,
    epoch: Epoch,
    tasks: TaskTracker,
    keeper: Option<Arc<dyn Keeper>>,
    sharer: Option<Arc<dyn Sharer>>,
}

impl Pools {
    /// No pools yet; at most `most` at once, their timers running on `tasks`.
    pub fn new(most: usize, epoch: Epoch, tasks: TaskTracker) -> Self {
        let (map, end, most) = (Arc::default(), Arc::default(), Arc::new(most.into()));
        Self { map, most, end, epoch, tasks, keeper: None, sharer: None }
    }

    /// The same, with what is done to the pools kept.
    #[must_use]
    pub fn kept_by(mut self, keeper: Arc<dyn Keeper>) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// The same, with the quota of every pool shared with other replicas. What is done to the pools is
    /// kept by them all, and not by the keeper.
    #[must_use]
    pub fn shared_by(mut self, sharer: Arc<dyn Sharer>) -> Self {
        self.sharer = Some(sharer);
        self
    }

    /// Makes no new one from now on where there are `most`; those that there are stay.
    pub fn hold_at_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The clock that the pools go by.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The pool of `key`, made from what `profile` returns if there is none.
    ///
    /// # Errors
    ///
    /// [`TooManyPools`] if there is none and no room for one more.
    pub fn get(
        &self,
        key: PoolKey,
        model: &str,
        profile: impl FnOnce() -> (Arc<str>, PoolConfig),
    ) -> Result<Arc<Named>, TooManyPools> {
        if let Some(named) = self.map.get(&key) {
            return Ok(Arc::clone(&named));
        }
        let most = self.most.load(Ordering::Relaxed);
        if self.map.len() >= most {
            self.map.retain(|_, named| !is_disposable(named));
            if self.map.len() >= most {
                return Err(TooManyPools);
            }
        }
        let named = match self.map.entry(key) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let (profile, config) = profile();
                let reserved = self.keeper.as_ref().and_then(|it| it.reserved(key));
                let pool = self.begin(key, config);
                let kept = Mutex::new(Kept::new(KEPT_PLACES));
                let reserved = Mutex::new(reserved.unwrap_or_default());
                let (model, profile) = (model.into(), RwLock::new(profile));
                let named = Named { model, profile, pool, kept, reserved };
                Arc::clone(&entry.insert(Arc::new(named)))
            }
        };
        let end = *self.end.lock();
        if let Some((end, spare)) = end {
            named.pool.drain(end, spare);
        }
        Ok(named)
    }

    fn begin(&self, key: PoolKey, config: PoolConfig) -> Arc<Pool> {
        if let Some(sharer) = &self.sharer {
            let pool = Pool::together(config, sharer.sharing(), self.epoch, &self.tasks);
            sharer.serve(key, &pool);
            return pool;
        }
        let (quotas, start, now) = (&config.constraints, config.cold_start, self.epoch.now());
        let keeper = self.keeper.clone();
        let kept = keeper.as_ref().and_then(|it| it.inherit(key, quotas, start, now));
        let kept = kept.unwrap_or_else(|| (Ledger::cold(quotas.clone(), start, now).into(), 0));
        Pool::go_on(config, kept, keeper, self.epoch, &self.tasks)
    }

    /// The pool of `key`, if there is one.
    pub fn find(&self, key: PoolKey) -> Option<Arc<Named>> {
        self.map.get(&key).map(|named| Arc::clone(&named))
    }

    /// Every pool, in no order.
    pub fn all(&self) -> Vec<(PoolKey, Arc<Named>)> {
        self.map.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect()
    }

    /// Everything is to be over at `end`, in any pool, old or new: see [`Pool::drain`].
    pub fn drain(&self, end: Timestamp, spare: Duration) {
        // Before the pools are looked at: one that is made meanwhile sees it, or is seen.
        *self.end.lock() = Some((end, spare));
        for (_, named) in self.all() {
            named.pool.drain(end, spare);
        }
    }
}

/// Whether nobody would notice if the pool were made anew.
fn is_disposable(named: &Arc<Named>) -> bool {
    Arc::strong_count(named) == 1 && named.pool.is_untouched()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Request, TenantLimits, circuit};
    use crate::limit::{ColdStart, Constraint, Cost, Mode, Spent, Unit};

    #[tokio::test(start_paused = true)]
    async fn names_that_leave_no_trace_make_room_and_names_that_do_stay() {
        let epoch = Epoch::start();
        let pools = Pools::new(2, epoch, TaskTracker::new());
        let config = || {
            let minute = Duration::from_secs(60);
            let quota = Constraint::new(Unit::Requests, 60, minute, "minute", Mode::Bucket);
            let config = PoolConfig {
                constraints: vec![quota.unwrap()],
                cold_start: ColdStart::Full,
                classes: Vec::new(),
                max_queued: 1,
                per_tenant: TenantLimits::NONE,
                settle_delay: Duration::ZERO,
                max_concurrent: None,
                min_gap: Duration::ZERO,
                circuit: circuit::Rule::OFF,
            };
            ("*".into(), config)
        };
        let used = pools.get(PoolKey([1; 16]), "used", config).unwrap();
        let cost = Cost::new(1, 0);
        let request = Request::new(cost, 0, epoch.now().after(Duration::from_secs(1)));
        let mut admitted = used.pool.admit(request).await.unwrap();
        admitted.sent();
        admitted.settle(Spent::Unknown);
        drop(used);
        pools.get(PoolKey([2; 16]), "idle", config).unwrap();
        pools.get(PoolKey([3; 16]), "new", config).expect("the idle one makes room");
        let held = pools.get(PoolKey([3; 16]), "new", config).unwrap();
        assert_eq!(pools.get(PoolKey([4; 16]), "more", config).err(), Some(TooManyPools));
        let models: Vec<_> = pools.all().iter().map(|(_, named)| named.model.clone()).collect();
        assert!(models.contains(&"used".into()), "spent quota is not forgotten");
        tokio::time::advance(Duration::from_secs(2)).await;
        pools.get(PoolKey([4; 16]), "more", config).expect("the spent request has come back");
        drop(held);
    }
}
