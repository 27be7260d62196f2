//! The state that outlives the process: taken up before the first request, and handed over after the
//! last.
//!
//! What is done to the pools' ledgers is written down and replayed here, on the store's thread, to
//! twins: they are what snapshots are made of, so that no request ever waits for one.

mod heirs;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::heirs::{Heirs, SetAside};
use crate::admission::PoolKey;
use crate::config::{Config, State};
use crate::limit::Twin;
use crate::proxy::{Current, Gateway};
use crate::store::archive::Archive;
use crate::store::history::Keep;
use crate::store::local::{Batch, Local, Options, PoolBatch, Running, Saved, Source, Stamp};
use crate::time::{Clocks, Epoch, Machine, Timestamp};

/// How long the end waits for the last commit: a disk that takes longer has failed.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// Bytes of a pool's journal after which there is a new snapshot of it: some ten thousand requests,
/// replayed within a few hundredths of a second. And so many times as many as the last snapshot had: at full
/// load that has as much, since it lists what has not ended, and would be written several times a second.
const SNAPSHOT_AFTER: usize = 1 << 20;
const SNAPSHOTS_APART: usize = 4;

/// How often what was learned is written, while requests come: it is learned again within minutes.
const LEARNED_EVERY: Duration = Duration::from_secs(10);

/// State that was opened, and what was in it.
pub(super) struct Kept {
    local: Local,
    saved: Saved,
    clocks: Clocks,
}

/// Where files and batches are, below the state's directory.
const BATCHES: &str = "batches";

/// Opens the files and batches, if there is a place for them.
pub(super) fn archive(config: &Config) -> io::Result<Option<Archive>> {
    let below = || config.state.place().map(|dir| dir.join(BATCHES));
    let Some(dir) = config.batch.dir.clone().or_else(below) else { return Ok(None) };
    Archive::open(&dir, config.state.sync).map(Some).map_err(io::Error::other)
}

/// Opens the state, if it is to be kept.
pub(super) fn open(state: &State) -> io::Result<Option<Kept>> {
    let Some(dir) = state.place() else { return Ok(None) };
    let options = Options { sync: state.sync, keep: Keep::from(state) };
    let (local, saved) = Local::open(dir, options).map_err(io::Error::other)?;
    Ok(Some(Kept { local, saved, clocks: Machine::identify().clocks() }))
}

/// The instant on the timeline of the process before at which the clocks say this.
///
/// On the same start of the machine that is certain, whatever was done to the wall clock. After
/// another one there is only that; where it shows an instant that lies before, no time counts as
/// passed.
fn resume(last: Option<Stamp>, clocks: Clocks) -> Timestamp {
    let Some(last) = last else { return Timestamp::from_nanos(clocks.wall_nanos) };
    let here = Stamp::new(clocks, last.timeline);
    let passed = if here.same_boot(&last) {
        clocks.boot_nanos.saturating_sub(last.boot_nanos)
    } else {
        clocks.wall_nanos.saturating_sub(last.wall_nanos)
    };
    last.timeline.after(Duration::from_nanos(passed))
}

impl Kept {
    /// The timeline to go on with.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch::at(resume(self.saved.last, self.clocks))
    }

    /// Hands the state to the gateway, and has it kept from now on. `set_aside` is for the requests
    /// that the process before has still, if it has handed over.
    pub(super) fn start(
        self,
        gateway: Gateway,
        set_aside: Option<&SetAside>,
    ) -> io::Result<(Current, Running, Arc<Heirs>)> {
        let Self { local, saved, .. } = self;
        let now = gateway.pools().epoch().now();
        let heirs = Heirs::of(&saved, set_aside, local.waker(), now).map_err(io::Error::other)?;
        let heirs = Arc::new(heirs);
        let current = Current::new(gateway.kept_by(Arc::<Heirs>::clone(&heirs), &saved.learned));
        let everything = Everything {
            current: current.clone(),
            heirs: Arc::clone(&heirs),
            twins: HashMap::new(),
            learned_at: now,
        };
        let (waker, gateway) = (local.waker(), current.get());
        let metrics = Arc::clone(&gateway.metrics().store);
        let running = local.start(Box::new(everything), metrics)?;
        gateway.history().attach(waker, running.desk().clone());
        Ok((current, running, heirs))
    }
}

/// Has the last of it written.
pub(super) async fn stop(running: Running) {
    if !running.stop(LAST_COMMIT).await {
        tracing::error!("the last state was not written: the next start takes this for a crash");
    }
}

/// All that the gateway wants kept.
struct Everything {
    current: Current,
    heirs: Arc<Heirs>,
    twins: HashMap<PoolKey, Written>,
    learned_at: Timestamp,
}

/// A pool's twin, the bytes of its last snapshot, and how many were written since.
struct Written {
    twin: Twin,
    snapshot: usize,
    since: usize,
}

impl Written {
    /// Whether it is time for another snapshot.
    fn is_long(&self) -> bool {
        self.since > SNAPSHOT_AFTER.max(self.snapshot * SNAPSHOTS_APART)
    }
}

impl Source for Everything {
    fn collect(&mut self, batch: &mut Batch, full: bool) {
        let gateway = self.current.get();
        gateway.history().collect(&mut batch.usage);
        let pools = gateway.pools();
        let all = gateway.every_pool();
        self.twins.retain(|key, _| {
            let there = all.iter().any(|(other, _)| other == key);
            if !there {
                batch.dropped_pools.push(*key);
            }
            there
        });
        // What the process before left, and nobody has taken: before the pools, since one may be
        // taken meanwhile.
        if full {
            batch.pools.extend(self.heirs.saved());
        }
        for (key, named) in all {
            let mut events = Vec::new();
            let first = named.pool.take_journal(&mut events);
            let begins = first.is_some();
            if let Some(twin) = first {
                self.twins.insert(key, Written { twin, snapshot: 0, since: 0 });
            }
            let Some(written) = self.twins.get_mut(&key) else { continue };
            if events.is_empty() && !begins && !full {
                continue;
            }
            written.since += events.len();
            if let Err(problem) = written.twin.replay(&events) {
                tracing::error!(pool = %key, %problem, "the journal of a pool is broken");
            }
            let snapshot = if full || begins || written.is_long() {
                events.clear();
                let snapshot = written.twin.save();
                (written.snapshot, written.since) = (snapshot.len(), 0);
                Some(snapshot)
            } else {
                None
            };
            let model = named.model.as_ref().into();
            batch.pools.retain(|other| other.key != key);
            batch.pools.push(PoolBatch { key, model, snapshot, events });
        }
        // After the journals: what is not in them happened later.
        batch.now = pools.epoch().now();
        let due = batch.now.since(self.learned_at) >= LEARNED_EVERY;
        let idle = batch.pools.is_empty();
        if full || due || idle || gateway.is_draining() {
            self.learned_at = batch.now;
            gateway.save_learned(&mut batch.learned, full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    fn clocks(boot: u8, boot_hours: u64, wall_hours: u64) -> Clocks {
        Clocks { boot: [boot; 16], boot_nanos: boot_hours * HOUR, wall_nanos: wall_hours * HOUR }
    }

    #[test]
    fn time_goes_on_whatever_is_done_to_the_wall_clock() {
        let at = |hours: u64| Timestamp::from_nanos(hours * HOUR);
        let last = |clocks| Some(Stamp::new(clocks, at(1_000)));
        for (before, after, expected) in [
            // Nothing was kept: the wall clock is all there is.
            (None, clocks(1, 10, 2_000), at(2_000)),
            // The same start of the machine, the wall clock right, ahead by an hour, behind by one.
            (last(clocks(1, 10, 1_000)), clocks(1, 12, 1_002), at(1_002)),
            (last(clocks(1, 10, 1_000)), clocks(1, 12, 1_003), at(1_002)),
            (last(clocks(1, 10, 1_000)), clocks(1, 12, 1_001), at(1_002)),
            // Another start: by the wall clock, unless that ran backwards.
            (last(clocks(1, 10, 1_000)), clocks(2, 0, 1_005), at(1_005)),
            (last(clocks(1, 10, 1_000)), clocks(2, 0, 900), at(1_000)),
            // A timeline that had parted from the wall clock goes on as it was.
            (last(clocks(1, 10, 1_500)), clocks(2, 0, 1_501), at(1_001)),
            // A system that does not tell its starts apart.
            (last(clocks(0, 10, 1_000)), clocks(0, 12, 1_001), at(1_001)),
        ] {
            assert_eq!(resume(before, after), expected, "{before:?} {after:?}");
        }
    }
}
