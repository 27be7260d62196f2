//! One line: sent, judged, tried again where that can help, and its result committed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Batches;
use super::input::{Line, Request as Parts};
use super::job::Job;
use super::outcome::{Named, Outcome};
use crate::proxy::Inside;
use crate::store::archive::Done;
use crate::time::Timestamp;

/// The longest answer that is kept: fifty times what 32,000 tokens make, for those with images.
const LONGEST_ANSWER: usize = 16 << 20;

/// Backoff of a line that failed: a second, doubled with each try, up to a minute.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// When a batch is to end, requests at the upstream may finish for so long: OpenAI's ten minutes.
const LAST_ANSWERS: Duration = Duration::from_secs(600);

/// Between two tries to commit a result.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// What all lines of a batch have in common.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) here: Arc<Batches>,
    pub(super) job: Arc<Job>,
    pub(super) key: Option<HeaderValue>,
    pub(super) endpoint: Arc<str>,
    pub(super) expires: Timestamp,
    /// A few of the batch's lines may stand in line.
    pub(super) ahead: Arc<Semaphore>,
    /// No more of them are to be sent: it was cancelled, or its time is over.
    pub(super) over: CancellationToken,
}

/// What a line holds while it is in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) _memory: OwnedSemaphorePermit,
    pub(super) _in_flight: OwnedSemaphorePermit,
    pub(super) place: OwnedSemaphorePermit,
}

impl Sending {
    /// Sees a line through; if the batch or the gateway ends before it has a result, it has none.
    pub(super) async fn see_through(self, line: Line, held: Held) {
        let Held { place, _memory, _in_flight } = held;
        let active = self.job.count_active();
        if let Some(done) = self.result(&line, place).await {
            self.commit(done).await;
        }
        drop(active);
    }

    async fn result(&self, line: &Line, mut place: OwnedSemaphorePermit) -> Option<Done> {
        let job = &self.job;
        let text = line.text.as_deref().unwrap_or_default();
        // It was good when it was validated: only a file that was tampered with is not.
        let parts = Parts::parse(text).ok();
        let id = parts.as_ref().and_then(|parts| Parts::text(parts.custom_id)).unwrap_or_default();
        let named = Named { batch: job.id(), line: line.number, custom_id: &id };
        let Some(body) = parts.and_then(|parts| parts.body) else {
            return Some(named.unanswered("invalid_json_line", "the line is not what it was"));
        };
        let body = Bytes::copy_from_slice(body.get().as_bytes());
        let most = self.here.config().max_attempts.get();
        let mut tries = 0;
        loop {
            let wait = match self.send(&named, body.clone(), place).await? {
                Outcome::Done(done) => return Some(done),
                Outcome::Left => return None,
                Outcome::Later(wait, what) => {
                    job.note_trouble(what);
                    wait
                }
                Outcome::Failed(wait, what, done) => {
                    tries += 1;
                    if tries >= most {
                        return Some(done);
                    }
                    job.note_trouble(what);
                    self.here.gateway().metrics().batch.retries.inc();
                    let doubled = BACKOFF.saturating_mul(1 << (tries - 1).min(16));
                    let backoff = doubled.min(LONGEST_BACKOFF).mul_f64(0.5 + fastrand::f64() / 2.0);
                    backoff.max(wait.unwrap_or_default())
                }
            };
            let later = job.count_retry();
            tokio::select! {
                biased;
                () = self.ended() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            drop(later);
            place = tokio::select! {
                biased;
                () = self.ended() => return None,
                place = Arc::clone(&self.ahead).acquire_owned() => place.ok()?,
            };
        }
    }

    /// The batch ends, or the gateway does.
    async fn ended(&self) {
        tokio::select! {
            () = self.over.cancelled() => {}
            () = self.here.stop.cancelled() => {}
        }
    }

    /// Sends the line's request once; `None` if the batch ended while it stood in line.
    async fn send(
        &self,
        named: &Named<'_>,
        body: Bytes,
        place: OwnedSemaphorePermit,
    ) -> Option<Outcome> {
        let now = self.here.gateway().pools().epoch().now();
        let patience = self.expires.since(now);
        let class = self.here.config().class;
        let line = self.job.line(named.line);
        let inside = Inside::new(self.job.owner().clone(), class, patience, line, place);
        let mut request = Request::post(&*self.endpoint)
            .header(HOST, HeaderValue::from_static("batch"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .extension(inside.clone());
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let mut request = request.body(Body::from(body)).ok()?;
        let answering = async {
            let response = self.here.app.clone().answer(&mut request).await;
            let (head, body) = response.into_parts();
            match Limited::new(body, LONGEST_ANSWER).collect().await {
                Ok(body) => named.judge(head.status, &head.headers, &body.to_bytes()),
                Err(_) => named.broken(
                    "incomplete_answer",
                    "the upstream's answer broke off, or is longer than 16 MiB",
                ),
            }
        };
        let stopped = async {
            // What stands in line when the gateway ends waits for the next start.
            self.here.stop.cancelled().await;
            if inside.is_admitted() {
                std::future::pending::<()>().await;
            }
        };
        let last_answers = async {
            self.over.cancelled().await;
            if inside.is_admitted() {
                tokio::time::sleep(LAST_ANSWERS).await;
            }
        };
        let given_up = async {
            tokio::select! {
                () = last_answers => {}
                () = stopped => {}
                () = self.here.abort.cancelled() => {}
            }
        };
        tokio::select! {
            biased;
            outcome = answering => Some(outcome),
            () = given_up => None,
        }
    }

    /// Commits a result. As long as that fails, it is kept and tried again.
    async fn commit(&self, done: Done) {
        let metrics = Arc::clone(self.here.gateway().metrics());
        let metrics = &metrics.batch;
        loop {
            match self.here.archive.finish_line(self.job.number(), done.clone()).await {
                Ok(()) => break,
                Err(trouble) => {
                    self.job.note_trouble(trouble.to_string());
                    tokio::select! {
                        () = tokio::time::sleep(COMMIT_AGAIN) => {}
                        // It is sent again after the next start.
                        () = self.here.stop.cancelled() => return,
                    }
                }
            }
        }
        let counter = if done.good { &metrics.lines_completed } else { &metrics.lines_failed };
        counter.inc();
    }
}
