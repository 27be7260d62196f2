//! Drives a target: sends requests one after the other at a fixed concurrency, or at a fixed rate.
//!
//! # Invariants
//!
//! - **No coordinated omission.** At a fixed rate a request's time counts from when it was due. A target
//!   that stalls keeps requests from being sent (no more than `max_in_flight` are under way), and those
//!   that wait behind it are late by as much as they waited.
//! - **Nothing is dropped silently.** What was due and could not be sent before the end is counted.
//! - **Exactly as many.** A limit of requests is a limit of those sent, whoever sends them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::observation::{Failure, Observation};
use super::rate::Rate;
use super::tally::{Sent, Tally};
use super::workload::{Job, Workload};

/// A worker whose connection was refused does not try again at once: it would only burn the CPU.
const AFTER_REFUSED_CONNECTION: Duration = Duration::from_millis(100);

/// So many requests without a connection, and none that was answered: nobody is there.
const HOPELESS: u64 = 20;

/// Who answers requests.
pub(crate) trait Backend: Send + Sync + 'static {
    /// Sends a request and waits for its end, whatever that is.
    fn call(&self, job: Job) -> impl Future<Output = Observation> + Send;
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many under way at all times: the next is sent when one has ended.
    Closed { concurrency: usize },
    /// One at each turn of a rate, whatever became of those before.
    Open { rate: Rate, max_in_flight: usize },
}

/// How long load lasts. With neither length nor requests it lasts until it is stopped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stretch {
    /// At first, and not measured.
    pub(crate) warm_up: Duration,
    /// After the warm-up.
    pub(crate) length: Option<Duration>,
    /// At most so many requests after the warm-up.
    pub(crate) requests: Option<u64>,
}

/// A target under load, with what it has shown so far.
#[derive(Debug)]
pub(crate) struct Lane<B> {
    backend: B,
    workload: Workload,
    pace: Pace,
    tally: Mutex<Tally>,
    /// The number of the next request.
    next: AtomicU64,
    /// Whether any request was answered.
    reached: AtomicBool,
    /// Requests that found no connection.
    refused: AtomicU64,
}

/// One stretch of load.
struct Course<B> {
    lane: Arc<Lane<B>>,
    from: Instant,
    measured_from: Instant,
    to: Option<Instant>,
    /// Requests that may still be sent.
    left: AtomicU64,
    /// No request is sent any more.
    halt: CancellationToken,
}

impl<B: Backend> Lane<B> {
    /// A target that has seen no load.
    pub(crate) fn new(backend: B, workload: Workload, pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            backend,
            workload,
            pace,
            tally: Mutex::default(),
            next: AtomicU64::new(0),
            reached: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        })
    }

    /// Its counts so far.
    pub(crate) fn tally(&self) -> &Mutex<Tally> {
        &self.tally
    }

    /// Whether any request was answered.
    pub(crate) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Loads the target, and returns when every request has ended. After `stop` none is sent any
    /// more; after `abort` none is waited for.
    pub(crate) async fn run(
        self: &Arc<Self>,
        stretch: Stretch,
        stop: &CancellationToken,
        abort: &CancellationToken,
    ) {
        let from = Instant::now();
        let measured_from = from + stretch.warm_up;
        let to = stretch.length.map(|length| measured_from + length);
        self.tally.lock().begin(from, measured_from, to);
        let course = Arc::new(Course {
            lane: Arc::clone(self),
            from,
            measured_from,
            to,
            left: AtomicU64::new(stretch.requests.unwrap_or(u64::MAX)),
            halt: stop.child_token(),
        });
        let halted = async {
            course.halt.cancelled().await;
            self.tally.lock().cut_short(Instant::now());
            std::future::pending::<()>().await;
        };
        let driven = async {
            match self.pace {
                Pace::Closed { concurrency } => course.closed(concurrency).await,
                Pace::Open { rate, max_in_flight } => course.open(rate, max_in_flight, abort).await,
            }
        };
        tokio::select! {
            biased;
            () = halted => {}
            () = driven => {}
            () = abort.cancelled() => {}
        }
        let exhausted = course.left.load(Ordering::Relaxed) == 0;
        self.tally.lock().finish(Instant::now(), exhausted);
    }
}

impl<B: Backend> Course<B> {
    async fn closed(self: &Arc<Self>, concurrency: usize) {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let course = Arc::clone(self);
            workers.spawn(async move {
                while let Some(warm_up) = course.may_send(Instant::now()) {
                    if course.send(None, warm_up).await == Some(Failure::Connect) {
                        let pause = sleep(AFTER_REFUSED_CONNECTION);
                        course.halt.run_until_cancelled(pause).await;
                    }
                }
            });
        }
        workers.join_all().await;
    }

    async fn open(self: &Arc<Self>, rate: Rate, max_in_flight: usize, abort: &CancellationToken) {
        let slots = Arc::new(Semaphore::new(max_in_flight));
        let tasks = TaskTracker::new();
        let mut turn = 0;
        loop {
            let due = self.from + rate.due(turn);
            let slot = async {
                sleep_until(due).await;
                Arc::clone(&slots).acquire_owned().await.ok()
            };
            let end = async {
                match self.to {
                    Some(to) => sleep_until(to).await,
                    None => std::future::pending().await,
                }
            };
            let slot = tokio::select! {
                biased;
                () = self.halt.cancelled() => None,
                () = end => None,
                slot = slot => slot,
            };
            let Some(slot) = slot else { break };
            let Some(warm_up) = self.may_send(due) else { break };
            turn += 1;
            let (course, abort) = (Arc::clone(self), abort.clone());
            tasks.spawn(async move {
                abort.run_until_cancelled(course.send(Some(due), warm_up)).await;
                drop(slot);
            });
        }
        self.count_not_started(rate, turn);
        tasks.close();
        tasks.wait().await;
    }

    /// Counts the turns that have come, from `turn` on, and were not taken.
    fn count_not_started(&self, rate: Rate, turn: u64) {
        let now = Instant::now();
        let end = self.to.map_or(now, |to| to.min(now));
        let due_before = |time: Instant| rate.due_before(time.saturating_duration_since(self.from));
        let due = due_before(end).max(turn);
        let of_warm_up = due_before(self.measured_from).clamp(turn, due) - turn;
        let measured = (due - turn - of_warm_up).min(self.left.load(Ordering::Relaxed));
        let mut tally = self.lane.tally.lock();
        tally.of(true).not_started += of_warm_up;
        tally.of(false).not_started += measured;
    }

    /// Whether a request that is due then may be sent, and if so, whether it belongs to the warm-up.
    fn may_send(&self, due: Instant) -> Option<bool> {
        if self.halt.is_cancelled() {
            return None;
        }
        if due < self.measured_from {
            return Some(true);
        }
        if self.to.is_some_and(|to| due >= to) {
            return None;
        }
        let less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok().map(|_| false)
    }

    /// Sends the next request, counts what becomes of it, and says why it failed if it did.
    async fn send(&self, due: Option<Instant>, warm_up: bool) -> Option<Failure> {
        let lane = &self.lane;
        let job = lane.workload.job(lane.next.fetch_add(1, Ordering::Relaxed));
        let at = Instant::now();
        let sent = Sent { due: due.unwrap_or(at), at, warm_up };
        lane.tally.lock().sent(&sent);
        let observed = lane.backend.call(job).await;
        lane.tally.lock().ended(&sent, &observed, Instant::now());
        self.note_reach(&observed);
        observed.failure
    }

    /// Gives up where nobody has ever answered.
    fn note_reach(&self, observed: &Observation) {
        let lane = &self.lane;
        if observed.status.is_some() {
            lane.reached.store(true, Ordering::Relaxed);
        } else if observed.failure == Some(Failure::Connect)
            && lane.refused.fetch_add(1, Ordering::Relaxed) + 1 >= HOPELESS
            && !lane.was_reached()
        {
            self.halt.cancel();
        }
    }
}

#[cfg(test)]
mod tests;
