//! Between two attempts: where a request stands, whether it is sent again, and when.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::Response;
use tower::retry::budget::Budget as _;

use crate::admission::{Admitted, Asked, Refused, Rejection, Waiting};
use crate::config;
use crate::metrics::RetryReason;
use crate::proxy::forward::{Forward, Miss};
use crate::proxy::inside::Inside;

/// A wait for admission that can be moved, and gone on with elsewhere.
#[expect(clippy::large_enum_variant, reason = "a box would cost every request an allocation")]
pub(super) enum Wait {
    /// It is over: admitted at once.
    Over(Option<Admitted>),
    /// In line.
    Line(Waiting),
    /// On the way back into the line.
    Again(Pin<Box<dyn Future<Output = Result<Admitted, Refused>> + Send>>),
}

/// Where a request stands that waits for its first or next attempt.
pub(super) struct Turn {
    pub(super) wait: Wait,
    /// The attempt that it waits for, from 1.
    pub(super) attempt: u32,
    /// Attempts that reached nobody and were not the last, because others wait for the upstream too.
    pub(super) unsent: u32,
    /// The upstream's last answer and its error code, if it gave one.
    pub(super) said: Option<(Response, Option<String>)>,
    /// What is known of it if it is the gateway's own.
    pub(super) inside: Option<Inside>,
    /// Whether it takes a connection of its own: a kept one has just broken under it.
    pub(super) fresh: bool,
}

impl Turn {
    /// That of a request which has just asked.
    pub(super) fn first(asked: Asked) -> Self {
        let wait = match asked {
            Asked::Go(admitted) => Wait::Over(Some(admitted)),
            Asked::Wait(waiting) => Wait::Line(waiting),
        };
        Self { wait, attempt: 1, unsent: 0, said: None, inside: None, fresh: false }
    }
}

impl Wait {
    /// Whether there is nothing to wait for.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Over(_))
    }
}

impl Future for Wait {
    type Output = Result<Admitted, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Over(admitted) => Poll::Ready(admitted.take().ok_or(Refused::Closed)),
            Self::Line(waiting) => Pin::new(waiting).poll(cx),
            Self::Again(waiting) => waiting.as_mut().poll(cx),
        }
    }
}

impl Forward {
    /// Whether, why and when to send the request again.
    pub(super) fn plan_retry(
        &self,
        miss: &Miss,
        turn: &mut Turn,
    ) -> Option<(RetryReason, Duration)> {
        let config = &self.gateway.config.retry;
        let (reason, attempt) = (miss.retry?, turn.attempt - turn.unsent);
        // What may have been worked on costs twice.
        let lost = matches!(reason, RetryReason::StaleConnection | RetryReason::Broken);
        if lost && !config.lost_answers {
            return None;
        }
        let waits = miss.admitted.pool().is_broken();
        if waits && reason == RetryReason::Connect {
            // It was not sent, and it will not be until it is its turn to find out: that makes no storm,
            // and says nothing of the request.
            turn.unsent += 1;
            return Some((reason, Duration::ZERO));
        }
        if attempt >= config.max_attempts.get() {
            return None;
        }
        if waits {
            return Some((reason, Duration::ZERO));
        }
        // That a kept connection was closed says nothing of how the upstream is.
        let at_once = reason == RetryReason::StaleConnection;
        let delay = if at_once { Duration::ZERO } else { backoff(config, attempt) };
        let delay = miss.retry_after.map_or(delay, |cap| delay.min(cap));
        let (now, deadline) = (self.ask.pool.pool.now(), self.ask.request.deadline);
        if now.after(delay) >= deadline || !self.gateway.retry_budget.withdraw() {
            return None;
        }
        Some((reason, delay))
    }

    /// Gets a request that has to be sent again admitted again.
    pub(super) fn again(
        &self,
        admitted: Admitted,
        rejection: Rejection,
        reason: RetryReason,
        delay: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, Refused>> + Send>> {
        let (pool, request) = (Arc::clone(&self.ask.pool.pool), self.ask.request);
        match reason {
            // The next in line would fare no better: everyone waits.
            RetryReason::Quota | RetryReason::Overload => {
                let until = pool.now().after(delay);
                Box::pin(async move { pool.retry(admitted, rejection, request, until).await })
            }
            // So they do while the upstream is away, and it keeps its place.
            _ if pool.is_broken() => {
                let until = pool.now();
                Box::pin(async move { pool.retry(admitted, rejection, request, until).await })
            }
            _ => {
                let draining = self.gateway.draining.clone();
                let place = admitted.reject(rejection);
                Box::pin(async move {
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        // Nobody is admitted any more: there is nothing to wait for.
                        () = draining.cancelled() => {}
                    }
                    pool.readmit(request, place).await
                })
            }
        }
    }
}

/// Full jitter: anything up to a bound that doubles with each attempt.
fn backoff(config: &config::Retry, attempt: u32) -> Duration {
    let doubled = config.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(config.max_backoff).mul_f64(fastrand::f64())
}
