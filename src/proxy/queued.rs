//! Waiting politely: a streamed request that has waited for a while gets its head and then a comment
//! from time to time, so that its client's read timeout does not end its wait.
//!
//! What the request does is the same as before, only it does it inside the answer's body: the body
//! asks it on, says that it waits when there is nothing better to say, and becomes the upstream's own
//! body when there is one. The head has said 200 by then. What fails later can only be told in an
//! event, in the shape that the upstream uses for errors within a stream.
//!
//! # Invariants
//!
//! - A request that does not wait costs nothing: neither a timer nor a box is made for it.
//! - The upstream's events pass untouched, and nothing stands between or behind them.
//! - Dropping the body is a hang-up: the place in line, the hold or the call are given up with it.

mod event;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};

use crate::admission::pools::Named;
use crate::config::Admission;
use crate::identity::Caller;
use crate::metrics::Outcome;
use crate::proxy::error::ProxyError;
use crate::proxy::forward::Forward;
use crate::proxy::pump::pump;
use crate::proxy::record::Record;
use crate::proxy::tenant::Gate;
use crate::proxy::turn::Turn;
use crate::usage::Demand;

/// Proxies of the nginx family hold an answer back until their buffer is full, unless it says not to.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const EVENT_STREAM: &str = "text/event-stream";

/// When the caller of a stream that waits is sent signs of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Beats {
    /// The first, after its arrival.
    pub(super) after: Duration,
    /// Time between two.
    pub(super) every: Duration,
}

impl Beats {
    /// The plan for a request, if there is to be one. The request's own word counts before that of
    /// its key; `sdk` is the client's own timeout, which a sign of life has to come well before.
    pub(super) fn plan(
        headers: &HeaderMap,
        caller: &Caller,
        demand: &Demand,
        config: &Admission,
        sdk: Option<Duration>,
    ) -> Result<Option<Self>, ProxyError> {
        static NAME: HeaderName = HeaderName::from_static("x-tidegate-heartbeat");
        let wanted = match headers.get(&NAME).map(HeaderValue::as_bytes) {
            None => caller.heartbeats,
            Some(b"on") => true,
            Some(b"off") => false,
            Some(_) => {
                let expected = "\"on\" or \"off\"";
                return Err(ProxyError::Header { name: NAME.as_str(), expected });
            }
        };
        if !wanted || !demand.stream || config.heartbeat_after.is_zero() {
            return Ok(None);
        }
        let half = sdk.map_or(Duration::MAX, |sdk| sdk / 2);
        // Whoever has no time at all is not to be flooded.
        let every = config.heartbeat_every.min(half).max(Duration::from_millis(50));
        Ok(Some(Self { after: config.heartbeat_after.min(half), every }))
    }
}

/// Tells the caller that its request waits: the head of a stream, whose body goes on with `turn`.
pub(super) fn begin(mut forward: Forward, turn: Turn) -> Response {
    let (gateway, record) = (Arc::clone(&forward.gateway), Arc::clone(&forward.record));
    gateway.metrics.heartbeat_streams.inc();
    let (pool, gate) = (Arc::clone(&forward.ask.pool), forward.ask.gate.clone());
    let status = Status { pool, gate, record: Arc::clone(&record) };
    status.note();
    let every = forward.ask.beats.map_or(gateway.config.admission.heartbeat_every, |it| it.every);
    let mut response = forward.finish(Ok(Response::new(Body::empty())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    // The head says nothing of an encoding, so the upstream's body must not have one.
    forward.outgoing.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let multiplexed = std::mem::take(&mut forward.multiplexed);
    forward.begun = true;
    let tick = Box::pin(tokio::time::sleep_until(Instant::now()));
    let stage = Stage::Waiting(Box::pin(go_on(forward, turn)));
    let body = Queued { stage, comment: move || status.comment(), every, tick };
    *response.body_mut() = if multiplexed {
        Body::new(pump(body, gateway.config.server.write_timeout, &gateway.tasks))
    } else {
        Body::new(body)
    };
    response
}

/// What follows the comments.
enum Next {
    /// The upstream's events.
    Events(Body),
    /// The one event that says what went wrong.
    Error(Bytes),
}

/// Takes a request from where it stands to its answer, whatever happens.
async fn go_on(mut forward: Forward, mut turn: Turn) -> Next {
    let record = Arc::clone(&forward.record);
    let id = record.id().as_str();
    let result = AssertUnwindSafe(forward.carry(&mut turn)).catch_unwind().await;
    let own = match result {
        Ok(Some(Ok(answer))) if !answer.status().is_success() => {
            return Next::Error(event::upstream(answer, id).await);
        }
        Ok(Some(Ok(answer))) if can_follow(answer.headers()) => {
            return Next::Events(answer.into_body());
        }
        Ok(Some(Ok(_))) => {
            record.end(Outcome::UpstreamError);
            ProxyError::NoStream
        }
        Ok(Some(Err(error))) => error,
        // The caller has been told already.
        Ok(None) => ProxyError::Internal,
        Err(_) => {
            tracing::error!("a request handler panicked");
            ProxyError::Internal
        }
    };
    record.end(own.kind().outcome);
    Next::Error(event::own(&own, id))
}

/// Whether an answer's body can follow in a stream of plain events.
fn can_follow(headers: &HeaderMap) -> bool {
    let is = |name, wanted: fn(&str) -> bool| {
        headers.get(name).is_none_or(|it: &HeaderValue| it.to_str().is_ok_and(wanted))
    };
    is(CONTENT_TYPE, |it| it.starts_with(EVENT_STREAM))
        && is(CONTENT_ENCODING, |it| it.is_empty() || it.eq_ignore_ascii_case("identity"))
}

/// The body of an answer that began before there was one.
struct Queued<C> {
    stage: Stage,
    comment: C,
    every: Duration,
    tick: Pin<Box<Sleep>>,
}

enum Stage {
    Waiting(Pin<Box<dyn Future<Output = Next> + Send>>),
    Passing(Body),
    Over,
}

impl<C: Fn() -> String + Unpin> HttpBody for Queued<C> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Waiting(next) => match next.as_mut().poll(cx) {
                    Poll::Ready(Next::Events(body)) => this.stage = Stage::Passing(body),
                    Poll::Ready(Next::Error(event)) => {
                        this.stage = Stage::Over;
                        return Poll::Ready(Some(Ok(Frame::data(event))));
                    }
                    Poll::Pending => {
                        ready!(this.tick.as_mut().poll(cx));
                        this.tick.as_mut().reset(Instant::now() + this.every);
                        let comment = Bytes::from((this.comment)());
                        return Poll::Ready(Some(Ok(Frame::data(comment))));
                    }
                },
                Stage::Passing(body) => return Pin::new(body).poll_frame(cx),
                Stage::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Waiting(_) => false,
            Stage::Passing(body) => body.is_end_stream(),
            Stage::Over => true,
        }
    }
}

/// What a caller is told while it waits.
struct Status {
    pool: Arc<Named>,
    gate: Option<Gate>,
    record: Arc<Record>,
}

impl Status {
    /// What holds the line up now.
    fn bound(&self) -> Option<String> {
        let mut at_gate = false;
        self.record.note(|facts| at_gate = facts.at_gate);
        if let Some(gate) = self.gate.as_ref().filter(|_| at_gate) {
            return gate.pool.pool.snapshot().bound.map(|bound| gate.name_of(bound));
        }
        let pool = &self.pool.pool;
        pool.snapshot().bound.map(|bound| pool.name_of(bound))
    }

    /// Notes how the wait stands for the head and the log.
    fn note(&self) {
        let bound = self.bound();
        self.record.note(|facts| {
            facts.waited = self.record.arrived().elapsed();
            facts.limited_by = bound.map(Into::into).or_else(|| facts.limited_by.take());
        });
    }

    /// One comment line, and the blank line that makes clients look at it at once.
    fn comment(&self) -> String {
        let seconds = self.record.arrived().elapsed().as_secs();
        let mut at_upstream = false;
        self.record.note(|facts| at_upstream = facts.at_upstream);
        match self.bound().filter(|_| !at_upstream) {
            _ if at_upstream => format!(": sent, {seconds}s\n\n"),
            Some(bound) => format!(": queued, {seconds}s, waiting for {bound}\n\n"),
            None => format!(": queued, {seconds}s\n\n"),
        }
    }
}

#[cfg(test)]
mod tests;
