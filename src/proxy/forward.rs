//! Sends an admitted request, again where that can help, and hands the answer over.
//!
//! As long as the caller has seen nothing, a failure is the gateway's to deal with: the request goes
//! back to the head of its line, with a random and growing delay, within a budget shared by all
//! requests and never past the caller's deadline. What cannot be helped passes through unchanged.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::retry::budget::Budget as _;

use crate::admission::{Admitted, Bound, Refused, Request};
use crate::config;
use crate::limit::Spent;
use crate::metrics::{Outcome, RetryReason, observe};
use crate::proxy::Gateway;
use crate::proxy::admit::Ask;
use crate::proxy::body::{Metered, Passed};
use crate::proxy::error::ProxyError;
use crate::proxy::headers;
use crate::proxy::record::Record;
use crate::proxy::upstream::{Failure, Outgoing};
use crate::proxy::verdict::{LONGEST_ERROR, Verdict, judge, needs_body};

/// One request on its way through the pool to the upstream.
pub(super) struct Forward<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) record: &'a Arc<Record>,
    pub(super) ask: &'a Ask,
    pub(super) outgoing: Outgoing,
}

/// An attempt that gave no answer to hand over.
enum Miss {
    /// The upstream's error, in case it is the last word.
    Answer(Response, Verdict),
    /// No answer at all, and why sending it again may help, if it may.
    Failure(ProxyError, Option<RetryReason>),
}

impl Forward<'_> {
    /// Waits for admission and sends the request until there is an answer to hand over.
    ///
    /// # Errors
    ///
    /// If it was not admitted, or there was no answer at all.
    pub(super) async fn run(self) -> Result<Response, ProxyError> {
        let pool = &self.ask.pool.pool;
        let request = self.ask.request;
        let mut admitted =
            pool.admit(request).await.map_err(|refused| self.note_refusal(refused))?;
        let mut attempt = 1;
        self.gateway.retry_budget.deposit();
        loop {
            self.note_admission(&admitted, attempt);
            let place = admitted.place();
            let miss = match self.attempt(admitted).await {
                Ok(response) => return Ok(response),
                Err(miss) => miss,
            };
            let Some((reason, delay)) = self.plan_retry(&miss, attempt, &request) else {
                return match miss {
                    Miss::Answer(response, verdict) => Ok(self.give_up(response, &verdict)),
                    Miss::Failure(error, _) => Err(error),
                };
            };
            self.gateway.metrics.count_retry(reason);
            match reason {
                // The next request would fare no better: everyone waits.
                RetryReason::Quota | RetryReason::Overload => {
                    pool.back_off(pool.now().after(delay));
                }
                _ => tokio::time::sleep(delay).await,
            }
            attempt += 1;
            admitted = match pool.readmit(request, place).await {
                Ok(admitted) => admitted,
                Err(refused) => {
                    return match miss {
                        Miss::Answer(response, verdict) => Ok(self.give_up(response, &verdict)),
                        Miss::Failure(..) => Err(self.note_refusal(refused)),
                    };
                }
            };
        }
    }

    fn note_admission(&self, admitted: &Admitted, attempt: u32) {
        let bound = admitted.bound().map(|bound| admitted.pool().name_of(bound));
        let waited = if attempt == 1 { admitted.waited() } else { self.record.arrived().elapsed() };
        if attempt == 1 {
            observe(&self.gateway.metrics.queue_wait, waited);
        }
        self.record.note(|facts| {
            facts.waited = waited;
            facts.attempts = attempt;
            if let Some(bound) = bound {
                facts.limited_by = Some(bound.into());
            }
        });
    }

    fn note_refusal(&self, refused: Refused) -> ProxyError {
        let bound = match refused {
            Refused::Wall { constraint } => Some(Bound::Constraint(constraint)),
            Refused::TooLong { bound, .. } => Some(bound),
            Refused::Full { .. } | Refused::Closed => None,
        };
        self.record.note(|facts| {
            facts.waited = self.record.arrived().elapsed();
            facts.limited_by = bound.map(|bound| self.ask.pool.pool.name_of(bound).into());
        });
        self.ask.refused(refused)
    }

    /// Sends the request once, and a second time if the connection turns out to have been closed.
    async fn attempt(&self, mut admitted: Admitted) -> Result<Response, Miss> {
        let upstream = &self.gateway.upstream;
        admitted.sent();
        let sent_at = Instant::now();
        let mut answer = upstream.send(&self.outgoing, false).await;
        if let Err(Failure::Stale(_)) = answer {
            self.gateway.metrics.count_retry(RetryReason::StaleConnection);
            answer = upstream.send(&self.outgoing, true).await;
        }
        match answer {
            Ok(answer) => {
                observe(&self.gateway.metrics.upstream_head, sent_at.elapsed());
                self.judge(answer, admitted, sent_at).await
            }
            Err(failure) => {
                tracing::debug!(request.id = self.record.id().as_str(), ?failure, "no answer");
                let reason = match &failure {
                    Failure::Connect(_) => Some(RetryReason::Connect),
                    Failure::Stale(_) | Failure::Broken(_) => Some(RetryReason::Broken),
                    Failure::Timeout => None,
                };
                if matches!(failure, Failure::Connect(_)) {
                    admitted.reject();
                } else {
                    admitted.settle(Spent::Unknown);
                }
                Err(Miss::Failure(failure.into(), reason))
            }
        }
    }

    async fn judge(
        &self,
        answer: http::Response<Incoming>,
        mut admitted: Admitted,
        sent_at: Instant,
    ) -> Result<Response, Miss> {
        let (mut head, body) = answer.into_parts();
        headers::for_caller(&mut head.headers);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            admitted.settle(Spent::Unknown);
            return Err(Miss::Failure(ProxyError::Upgrade, None));
        }
        if head.status.is_success() {
            admitted.charged();
            let idle = self.gateway.config.upstream.idle_timeout;
            let record = Arc::clone(self.record);
            let body = Metered::new(body, &head.headers, idle, sent_at, admitted, record);
            return Ok(Response::from_parts(head, Body::new(body)));
        }
        let (seen, body) = if needs_body(head.status) {
            let idle = self.gateway.config.upstream.idle_timeout;
            read_error(Passed::new(body), idle).await
        } else {
            (Bytes::new(), Body::new(Passed::new(body)))
        };
        let verdict = judge(head.status, &head.headers, &seen);
        if let Some(kind) = verdict.rejection {
            self.gateway.metrics.count_rejection(kind);
        }
        if let Some((unit, window)) = verdict.exhausted {
            admitted.pool().drained(unit, window);
        }
        if verdict.charged {
            admitted.settle(Spent::Unknown);
        } else {
            admitted.reject();
        }
        Err(Miss::Answer(Response::from_parts(head, body), verdict))
    }

    /// Whether, why and when to send the request again.
    fn plan_retry(
        &self,
        miss: &Miss,
        attempt: u32,
        request: &Request,
    ) -> Option<(RetryReason, Duration)> {
        let config = &self.gateway.config.retry;
        let (reason, cap) = match miss {
            Miss::Answer(_, verdict) => (verdict.retry?, verdict.retry_after),
            Miss::Failure(_, reason) => ((*reason)?, None),
        };
        if attempt >= config.max_attempts.get() {
            return None;
        }
        let delay = backoff(config, attempt);
        let delay = cap.map_or(delay, |cap| delay.min(cap));
        let now = self.ask.pool.pool.now();
        if now.after(delay) >= request.deadline || !self.gateway.retry_budget.withdraw() {
            return None;
        }
        Some((reason, delay))
    }

    /// Hands the upstream's own error over.
    fn give_up(&self, response: Response, verdict: &Verdict) -> Response {
        self.record.note(|facts| facts.code.clone_from(&verdict.code));
        self.record.end(Outcome::UpstreamError);
        response
    }
}

/// Full jitter: anything up to a bound that doubles with each attempt.
fn backoff(config: &config::Retry, attempt: u32) -> Duration {
    let doubled = config.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(config.max_backoff).mul_f64(fastrand::f64())
}

/// Reads an error body as far as it is worth reading; returns what was seen, and the whole of it to
/// pass on.
async fn read_error(mut body: Passed, idle: Duration) -> (Bytes, Body) {
    let mut seen = BytesMut::new();
    while seen.len() <= LONGEST_ERROR {
        match tokio::time::timeout(idle, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    seen.extend_from_slice(data);
                }
            }
            Ok(None) => {
                let seen = seen.freeze();
                return (seen.clone(), Body::from(seen));
            }
            // What is there may be enough; the caller gets the same broken end.
            Ok(Some(Err(_))) | Err(_) => {
                let seen = seen.freeze();
                let data = stream::iter([Ok(seen.clone())]);
                let cut = stream::once(async {
                    // The server writes out what it has when a body is not ready.
                    tokio::task::yield_now().await;
                    Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
                });
                return (seen, Body::from_stream(data.chain(cut)));
            }
        }
    }
    let seen = seen.freeze();
    let first = stream::iter([Ok::<_, hyper::Error>(seen.clone())]);
    let rest = stream::unfold(body, |mut body| async move {
        loop {
            match body.frame().await? {
                Ok(frame) => {
                    let Ok(data) = frame.into_data() else { continue };
                    return Some((Ok(data), body));
                }
                Err(error) => return Some((Err(error), body)),
            }
        }
    });
    (seen, Body::from_stream(first.chain(rest)))
}

/// The rate-limit and explaining headers of an answer that went through a pool.
pub(super) fn finish(response: &mut Response, ask: &Ask, record: &Record) {
    let headers: &mut HeaderMap = response.headers_mut();
    headers::fill_rate_limits(headers, &ask.pool.pool);
    record.note(|facts| {
        let wait_ms = u64::try_from(facts.waited.as_millis()).unwrap_or(u64::MAX);
        let limited_by = facts.limited_by.as_deref();
        headers::explain(headers, wait_ms, facts.estimated, limited_by);
    });
}
