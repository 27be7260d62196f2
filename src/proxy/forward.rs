//! Sends an admitted request, again where that can help, and hands the answer over.
//!
//! As long as the caller has seen nothing, a failure is the gateway's to deal with: the request goes
//! back to the head of its line, with a random and growing delay, within a budget shared by all
//! requests and never past the caller's deadline. What cannot be helped passes through unchanged.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::retry::budget::Budget as _;

use crate::admission::{Admitted, Bound, Refused, Rejection, Request};
use crate::config;
use crate::metrics::{Outcome, RetryReason, observe};
use crate::proxy::Gateway;
use crate::proxy::admit::Ask;
use crate::proxy::body::{Metered, Passed};
use crate::proxy::error::ProxyError;
use crate::proxy::headers;
use crate::proxy::peek::peek;
use crate::proxy::pump::pump;
use crate::proxy::record::Record;
use crate::proxy::upstream::{Failure, Outgoing};
use crate::proxy::verdict::{LONGEST_ERROR, Verdict, judge, needs_body};

/// One request on its way through the pool to the upstream.
pub(super) struct Forward<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) record: &'a Arc<Record>,
    pub(super) ask: &'a Ask,
    pub(super) outgoing: Outgoing,
    /// Whether the caller shares its connection with others.
    pub(super) multiplexed: bool,
}

/// An attempt that gave no answer to hand over. It still holds its admission: what becomes of that
/// depends on whether the request is sent again.
struct Miss {
    admitted: Admitted,
    /// What the caller gets if this was the last word.
    answer: Result<Response, ProxyError>,
    /// What became of the request at the upstream.
    rejection: Rejection,
    /// Why sending it again may help, if it may.
    retry: Option<RetryReason>,
    /// When the upstream says to come back.
    retry_after: Option<Duration>,
    /// The upstream's error code.
    code: Option<String>,
}

impl Forward<'_> {
    /// Waits for admission and sends the request until there is an answer to hand over.
    ///
    /// # Errors
    ///
    /// If it was not admitted, or there was no answer at all.
    pub(super) async fn run(self) -> Result<Response, ProxyError> {
        let request = self.ask.request;
        let admitted = self.ask.pool.pool.admit(request).await;
        let mut admitted = admitted.map_err(|refused| self.note_refusal(refused))?;
        let mut attempt = 1;
        self.gateway.retry_budget.deposit();
        loop {
            self.note_admission(&admitted, attempt);
            let miss = match self.attempt(admitted).await {
                Ok(response) => return Ok(response),
                Err(miss) => miss,
            };
            let Some((reason, delay)) = self.plan_retry(&miss, attempt, &request) else {
                miss.admitted.reject(miss.rejection);
                return self.give_up(miss.answer, miss.code);
            };
            self.gateway.metrics.count_retry(reason);
            attempt += 1;
            let Miss { admitted: before, answer, rejection, code, .. } = miss;
            admitted = match self.again(before, rejection, reason, delay).await {
                Ok(admitted) => admitted,
                // What the upstream said is of more use than that it cannot be asked again.
                Err(_) if answer.is_ok() => return self.give_up(answer, code),
                Err(refused) => return Err(self.note_refusal(refused)),
            };
        }
    }

    /// Gets a request that has to be sent again admitted again.
    async fn again(
        &self,
        admitted: Admitted,
        rejection: Rejection,
        reason: RetryReason,
        delay: Duration,
    ) -> Result<Admitted, Refused> {
        let (pool, request) = (&self.ask.pool.pool, self.ask.request);
        match reason {
            // The next in line would fare no better: everyone waits.
            RetryReason::Quota | RetryReason::Overload => {
                let until = pool.now().after(delay);
                pool.retry(admitted, rejection, request, until).await
            }
            _ => {
                let place = admitted.place();
                admitted.reject(rejection);
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    // Nobody is admitted any more: there is nothing to wait for.
                    () = self.gateway.draining.cancelled() => {}
                }
                pool.readmit(request, place).await
            }
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
                let retry = match &failure {
                    Failure::Connect(_) => Some(RetryReason::Connect),
                    Failure::Stale(_) | Failure::Broken(_) => Some(RetryReason::Broken),
                    Failure::Timeout => None,
                };
                let charged = !matches!(failure, Failure::Connect(_));
                Err(Miss::without_answer(admitted, failure.into(), charged, retry))
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
            return Err(Miss::without_answer(admitted, ProxyError::Upgrade, true, None));
        }
        if head.status.is_success() {
            admitted.charged();
            let idle = self.gateway.config.upstream.idle_timeout;
            let record = Arc::clone(self.record);
            let body = Metered::new(body, &head.headers, idle, sent_at, admitted, record);
            let body = if self.multiplexed {
                let limit = self.gateway.config.server.write_timeout;
                Body::new(pump(body, limit, &self.gateway.tasks))
            } else {
                Body::new(body)
            };
            return Ok(Response::from_parts(head, body));
        }
        let body = Passed::new(body, self.gateway.config.upstream.idle_timeout);
        let (seen, body) = if needs_body(head.status) {
            peek(body, LONGEST_ERROR).await
        } else {
            (Bytes::new(), Body::new(body))
        };
        let Verdict { charged, retry, kind, exhausted, retry_after, code } =
            judge(head.status, &head.headers, &seen);
        if let Some(kind) = kind {
            self.gateway.metrics.count_rejection(kind);
        }
        let answer = Ok(Response::from_parts(head, body));
        let rejection = Rejection { charged, exhausted };
        Err(Miss { admitted, answer, rejection, retry, retry_after, code })
    }

    /// Whether, why and when to send the request again.
    fn plan_retry(
        &self,
        miss: &Miss,
        attempt: u32,
        request: &Request,
    ) -> Option<(RetryReason, Duration)> {
        let config = &self.gateway.config.retry;
        let reason = miss.retry?;
        if attempt >= config.max_attempts.get() {
            return None;
        }
        let delay = backoff(config, attempt);
        let delay = miss.retry_after.map_or(delay, |cap| delay.min(cap));
        let now = self.ask.pool.pool.now();
        if now.after(delay) >= request.deadline || !self.gateway.retry_budget.withdraw() {
            return None;
        }
        Some((reason, delay))
    }

    /// Hands over what there is: the upstream's own error, or ours.
    fn give_up(
        &self,
        answer: Result<Response, ProxyError>,
        code: Option<String>,
    ) -> Result<Response, ProxyError> {
        if answer.is_ok() {
            self.record.note(|facts| facts.code = code);
            self.record.end(Outcome::UpstreamError);
        }
        answer
    }
}

impl Miss {
    const fn without_answer(
        admitted: Admitted,
        error: ProxyError,
        charged: bool,
        retry: Option<RetryReason>,
    ) -> Self {
        let rejection = Rejection { charged, exhausted: None };
        Self { admitted, answer: Err(error), rejection, retry, retry_after: None, code: None }
    }
}

/// Full jitter: anything up to a bound that doubles with each attempt.
fn backoff(config: &config::Retry, attempt: u32) -> Duration {
    let doubled = config.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(config.max_backoff).mul_f64(fastrand::f64())
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
