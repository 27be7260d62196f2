//! `/events`: the status once a second, as server-sent events.
//!
//! # Invariants
//!
//! - Worked out once for all who listen, and not at all while nobody does.
//! - Bounded: [`MOST_LISTENERS`]; one that is slow misses statuses and gets the latest.
//! - Ends when the admin port closes, and keeps nobody waiting for that.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time between two statuses.
const EVERY: Duration = Duration::from_secs(1);

/// Who may listen at once: a quarter of the admin port's connections, so that there is always room
/// for scrapes and probes.
const MOST_LISTENERS: usize = 64;

/// Proxies of the nginx family hold an answer back until their buffer is full, unless it says not to.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The status for whoever listens.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    latest: watch::Sender<Option<Bytes>>,
    begun: Arc<Notify>,
    room: Arc<Semaphore>,
    closed: CancellationToken,
}

impl Feed {
    /// Tells what `compute` returns, as JSON, whenever somebody listens; on `tasks`, until `closed`.
    pub(super) fn start<C, F>(compute: C, closed: CancellationToken, tasks: &TaskTracker) -> Self
    where
        C: Fn() -> F + Send + 'static,
        F: Future<Output = String> + Send,
    {
        let feed = Self {
            latest: watch::Sender::new(None),
            begun: Arc::default(),
            room: Arc::new(Semaphore::new(MOST_LISTENERS)),
            closed,
        };
        let told = feed.clone();
        tasks.spawn(async move {
            let closed = told.closed.clone();
            tokio::select! {
                () = told.tell(compute) => {}
                () = closed.cancelled() => {}
            }
        });
        feed
    }

    async fn tell<F: Future<Output = String>>(self, compute: impl Fn() -> F) {
        loop {
            while self.latest.receiver_count() == 0 {
                self.begun.notified().await;
            }
            let mut every = tokio::time::interval(EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                if self.latest.receiver_count() == 0 {
                    break;
                }
                self.latest.send_replace(Some(event(&compute().await)));
            }
            // Whoever comes next is not told what was.
            self.latest.send_replace(None);
        }
    }

    /// The stream for one who listens, or the answer that there are too many.
    pub(super) fn listen(&self) -> Response {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            let later = [(header::RETRY_AFTER, HeaderValue::from_static("5"))];
            let why = "too many listen to the status already\n";
            return (StatusCode::SERVICE_UNAVAILABLE, later, why).into_response();
        };
        let mut latest = self.latest.subscribe();
        // What is there already is news to this one.
        latest.mark_changed();
        self.begun.notify_one();
        let closed = self.closed.clone();
        let events = stream::unfold((latest, closed, room), |(mut latest, closed, room)| async {
            let event = tokio::select! {
                event = next(&mut latest) => event?,
                () = closed.cancelled() => return None,
            };
            Some((Ok::<_, Infallible>(event), (latest, closed, room)))
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (ACCEL_BUFFERING, HeaderValue::from_static("no")),
        ];
        (headers, Body::from_stream(events)).into_response()
    }
}

/// The next event that there is; `None` when there will be no more.
async fn next(latest: &mut watch::Receiver<Option<Bytes>>) -> Option<Bytes> {
    loop {
        latest.changed().await.ok()?;
        if let Some(event) = latest.borrow_and_update().clone() {
            return Some(event);
        }
    }
}

/// JSON as an event: one line, so that no name in it can end the event.
fn event(json: &str) -> Bytes {
    format!("event: status\ndata: {json}\n\n").into()
}
