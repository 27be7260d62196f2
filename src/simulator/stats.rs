//! Counts what happens to requests, so that a test can wait for it instead of sleeping.

use serde::Serialize;
use tokio::sync::watch;

/// Counts since the start. Every metered request that began ends in exactly one of `completed`,
/// `rejected`, `refused`, `faulted` and `aborted`; until then it is `in_flight`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Metered requests that reached their handler.
    pub started: u64,
    /// Answered to the end.
    pub completed: u64,
    /// Refused by a quota, or by too many in flight.
    pub rejected: u64,
    /// Refused for what they are: wrong key, model or body.
    pub refused: u64,
    /// Ended by a fault.
    pub faulted: u64,
    /// Given up by the client.
    pub aborted: u64,
    /// Begun and not ended.
    pub in_flight: u64,
    /// The most that were in flight at once.
    pub peak_in_flight: u64,
    /// Ended, their reservation not yet replaced by their usage.
    pub settling: u64,
    /// Requests that are not metered (models, warming).
    pub unmetered: u64,
}

/// The one end of a metered request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Complete,
    Reject,
    Refuse,
    Fault,
    Abort,
}

/// The counts, and who waits for them.
#[derive(Debug)]
pub(super) struct Board(watch::Sender<Stats>);

impl Board {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Stats::default()))
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Stats)) {
        self.0.send_modify(change);
    }

    pub(super) fn begin(&self) {
        self.update(|stats| {
            stats.started += 1;
            stats.in_flight += 1;
            stats.peak_in_flight = stats.peak_in_flight.max(stats.in_flight);
        });
    }

    pub(super) fn end(&self, outcome: Outcome) {
        self.update(|stats| {
            stats.in_flight = stats.in_flight.saturating_sub(1);
            *match outcome {
                Outcome::Complete => &mut stats.completed,
                Outcome::Reject => &mut stats.rejected,
                Outcome::Refuse => &mut stats.refused,
                Outcome::Fault => &mut stats.faulted,
                Outcome::Abort => &mut stats.aborted,
            } += 1;
        });
    }

    pub(super) fn snapshot(&self) -> Stats {
        *self.0.borrow()
    }

    pub(super) async fn wait_for(&self, done: impl FnMut(&Stats) -> bool) -> Stats {
        let mut changes = self.0.subscribe();
        // An error would mean that the sender is gone, and `self` holds it.
        changes.wait_for(done).await.map_or_else(|_| self.snapshot(), |stats| *stats)
    }
}
