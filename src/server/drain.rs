//! The end in order: who is told what, and when.
//!
//! ```text
//! SIGTERM              + drain_delay                                     + drain_timeout
//! | not ready any more | no connection is accepted                       | what is left is cut
//! | answers close      | who waits goes on, if there is time enough      |
//! |  their connections |                            spare: refusals, and |
//! |                    |                            who has no answer    |
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ended;
use crate::batch::Batches;
use crate::proxy::Gateway;

/// What is kept at most of the time for a drain, to tell those that cannot be served in it.
const MOST_SPARE: Duration = Duration::from_secs(1);

/// How often it is looked whether those that have connected have come.
const LOOK: Duration = Duration::from_millis(2);

/// From the head of a request to its place in line: its body is on its way.
const ENTER: Duration = Duration::from_millis(50);

/// What is kept of the time for a drain.
pub(super) fn spare(limit: Duration) -> Duration {
    (limit / 4).min(MOST_SPARE)
}

/// Goes on as before for a while, so that whoever sends requests here can learn that this ends.
pub(super) async fn delay(gateway: &Gateway, span: Duration, abort: &CancellationToken) {
    gateway.leave();
    if !span.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = abort.cancelled() => {}
        }
    }
}

/// Ends the work on batches: what waits is left for another process, what is at the upstream is waited
/// for, but no longer than `limit`.
pub(super) async fn end_batches(
    batches: Option<&Batches>,
    abort: &CancellationToken,
    limit: Duration,
) {
    let Some(batches) = batches else { return };
    let over = abort.child_token();
    tokio::select! {
        () = batches.close(&over) => return,
        () = tokio::time::sleep(limit) => {}
    }
    over.cancel();
    batches.close(&over).await;
}

/// Waits until those that have connected have come with their requests, but no longer than `limit`.
pub(super) async fn let_in(fresh: &AtomicUsize, limit: Duration) {
    let all = async {
        while fresh.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Whoever says nothing for so long has nothing to say.
    let _ = tokio::time::timeout(limit, all).await;
    tokio::time::sleep(ENTER).await;
}

/// Waits for the connections to finish; past the deadline, or when told to, cuts them.
pub(super) async fn finish(
    connections: &TaskTracker,
    batches: Option<&Batches>,
    gateway: &Gateway,
    abort: &CancellationToken,
    limit: Duration,
) -> Ended {
    let spare = spare(limit);
    gateway.drain(limit, spare);
    connections.close();
    let working = async {
        // Together: what is at the upstream for either is at its end by the same deadline.
        let batches = async {
            if let Some(batches) = batches {
                batches.close(abort).await;
            }
        };
        tokio::join!(connections.wait(), batches);
    };
    let mut working = std::pin::pin!(working);
    let ended = tokio::select! {
        // In this order: connections that were cut have ended as well.
        biased;
        () = abort.cancelled() => Ended::Aborted,
        () = working.as_mut() => Ended::Drained,
        () = tokio::time::sleep(limit.saturating_sub(spare / 2)) => {
            // Whoever has no answer yet gets one now; the rest has what is left of the time.
            gateway.give_up();
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = working.as_mut() => return Ended::Aborted,
                () = tokio::time::sleep(spare / 2) => {}
            }
            Ended::Aborted
        }
    };
    abort.cancel();
    if ended == Ended::Aborted {
        working.await;
    }
    ended
}
