//! The store's thread: what it does in which order, and what when it cannot.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backlog::{Backlog, MOST_BYTES};
use super::waker::Order;
use super::write::{Mark, commit};
use super::{Batch, Local, Source, Stamp};
use crate::metrics::{StoreMetrics, observe};
use crate::store::history::table::{self, Swept};

/// The time between two commits while something happens: what a crash can lose.
const TURN: Duration = Duration::from_millis(100);

/// Turns until a failed commit is tried again: 0.2 seconds, twice that each time, and at most
/// 25 seconds.
const FIRST_RETRY: u32 = 2;
const LAST_RETRY: u32 = 256;

/// Turns between two lines in the log about the same trouble: 30 seconds.
const TELL_EVERY: u32 = 300;

/// A journal of so many bytes is worth replacing by snapshots, whoever of the pools wrote it: reading
/// it at a start takes a second.
const LONG_JOURNAL: u64 = 64 << 20;

/// The thread and what is its alone.
pub(super) struct Keeper {
    local: Local,
    source: Box<dyn Source>,
    metrics: Arc<StoreMetrics>,
    backlog: Backlog,
    /// Whether the source has to tell everything.
    wants_full: bool,
    /// What is on disk says that nothing is happening.
    quiet: bool,
    trouble: Option<Trouble>,
    /// The hour in which old usage was last thrown away.
    swept: Option<u64>,
}

/// Commits fail.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Turns until the next try.
    wait: u32,
    /// Turns that were waited for the last one.
    waited: u32,
    /// Turns since it was last told.
    untold: u32,
}

impl Keeper {
    pub(super) fn new(local: Local, source: Box<dyn Source>, metrics: Arc<StoreMetrics>) -> Self {
        metrics.journal_bytes.set(signed(local.journal.values().sum()));
        Self {
            local,
            source,
            metrics,
            backlog: Backlog::default(),
            wants_full: true,
            quiet: false,
            trouble: None,
            swept: None,
        }
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self) {
        let bell = self.local.waker.clone();
        bell.answered_here();
        let _defect = Defect(Arc::clone(&self.metrics));
        loop {
            // Before the bell is reset: an order rings it.
            let orders = bell.orders();
            let rung = bell.answer();
            if rung || !self.quiet || !self.is_at_rest() {
                // Somebody waits for an answer: no time for patience with a disk.
                self.turn(rung, !orders.is_empty());
            }
            if orders.iter().any(|order| matches!(order, Order::Stop(_) | Order::Abandon)) {
                return self.end(orders);
            }
            for order in orders {
                if let Order::Flush(answer) = order {
                    // Whoever asked may have given up.
                    let _ = answer.try_send(self.trouble.is_none());
                }
            }
            if self.quiet && self.is_at_rest() {
                bell.sleep();
            } else {
                bell.pause(TURN);
            }
        }
    }

    /// Whether there is nothing that has to be done again, or on.
    fn is_at_rest(&self) -> bool {
        self.trouble.is_none() && !self.wants_full && self.backlog.is_empty()
    }

    /// Collects, and commits what there is, unless the last try has failed a moment ago.
    fn turn(&mut self, rung: bool, hurried: bool) {
        let due = match &mut self.trouble {
            None => true,
            Some(trouble) => {
                trouble.untold = trouble.untold.saturating_add(1);
                trouble.wait = trouble.wait.saturating_sub(1);
                trouble.wait == 0 || hurried
            }
        };
        let stamp = self.collect(self.wants_full && due);
        if self.wants_full {
            // It will be told whole.
            self.backlog.forget_pools();
        } else if self.backlog.bytes() > MOST_BYTES && self.trouble.is_some() {
            self.backlog.forget_pools();
            self.wants_full = true;
            self.metrics.dropped.inc();
        }
        self.metrics.backlog_bytes.set(signed(self.backlog.bytes() as u64));
        let quiet = !rung && self.backlog.is_empty();
        if due && (quiet || !self.backlog.is_empty()) {
            self.write(Mark { stamp, clean: false, quiet });
        }
    }

    /// Asks the source, and reads the clocks right after: what they are late by is time in which, to
    /// whoever reads this, nothing was earned.
    fn collect(&mut self, full: bool) -> Stamp {
        let mut batch = Batch::default();
        self.source.collect(&mut batch, full);
        let stamp = Stamp::new(self.local.machine.clocks(), batch.now);
        self.backlog.absorb(batch, full);
        self.wants_full &= !full;
        stamp
    }

    /// Commits what waits; whether that went well.
    fn write(&mut self, mark: Mark) -> bool {
        let began = Instant::now();
        let Local { connection, journal, .. } = &mut self.local;
        let known = |key| journal.contains_key(&key);
        if let Err(problem) = commit(connection, known, &self.backlog, &mark) {
            self.failed(&problem);
            return false;
        }
        observe(&self.metrics.commit_seconds, began.elapsed());
        self.metrics.commits.inc();
        self.metrics.last_commit.set(signed(mark.stamp.wall_nanos / 1_000_000_000));
        self.committed(mark.quiet);
        let hour = mark.stamp.timeline.as_nanos() / 3_600_000_000_000;
        if self.swept != Some(hour) {
            let keep = self.local.options.keep;
            match table::sweep(&mut self.local.connection, mark.stamp.timeline, keep) {
                Ok(Swept::All) => self.swept = Some(hour),
                Ok(Swept::Some) => {}
                Err(problem) => self.failed(&problem),
            }
        }
        true
    }

    fn committed(&mut self, quiet: bool) {
        let journal = &mut self.local.journal;
        if self.backlog.replaces {
            journal.clear();
        }
        for key in &self.backlog.dropped {
            journal.remove(key);
        }
        for (key, pool) in &self.backlog.pools {
            let bytes = journal.entry(*key).or_default();
            let before = if pool.snapshot.is_some() { 0 } else { *bytes };
            *bytes = before + pool.events.len() as u64;
        }
        let bytes = journal.values().sum();
        self.metrics.journal_bytes.set(signed(bytes));
        self.wants_full |= bytes > LONG_JOURNAL;
        self.backlog.written();
        self.metrics.backlog_bytes.set(0);
        self.quiet = quiet;
        if self.trouble.take().is_some() {
            self.metrics.degraded.set(0);
            tracing::info!("state is written again");
        }
    }

    fn failed(&mut self, problem: &rusqlite::Error) {
        self.metrics.errors.inc();
        self.metrics.degraded.set(1);
        let file = self.local.file.display();
        let tell = self.trouble.is_none_or(|trouble| trouble.untold >= TELL_EVERY);
        if tell {
            tracing::error!(%file, %problem, "state is not written; a crash now would forget it");
        }
        let waited = self.trouble.map_or(FIRST_RETRY / 2, |trouble| trouble.waited);
        let wait = (waited * 2).clamp(FIRST_RETRY, LAST_RETRY);
        let untold = if tell { 0 } else { self.trouble.map_or(0, |trouble| trouble.untold) };
        self.trouble = Some(Trouble { wait, waited: wait, untold });
    }

    /// The last commit, and the answer to whoever waits for it.
    fn end(mut self, orders: Vec<Order>) {
        let stop = orders.iter().any(|order| matches!(order, Order::Stop(_)));
        let clean = stop && {
            // Whole, so that the next start has little to replay.
            let stamp = self.collect(true);
            self.write(Mark { stamp, clean: true, quiet: true })
        };
        if clean {
            // One file is easier to move than three. The state is whole without it.
            let _ =
                self.local.connection.pragma_query(None, "wal_checkpoint(TRUNCATE)", |_| Ok(()));
        }
        // Before anybody is told: the directory is free then.
        drop(self.local);
        for order in orders {
            if let Order::Stop(answer) | Order::Flush(answer) = order {
                let _ = answer.try_send(clean);
            }
        }
    }
}

/// Says so if the thread ends by a defect.
struct Defect(Arc<StoreMetrics>);

impl Drop for Defect {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.degraded.set(1);
            tracing::error!("the store has failed; state is not written any more");
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
