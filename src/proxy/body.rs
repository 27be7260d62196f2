//! The answer's body on its way to the caller: untouched, and metered.
//!
//! The body owns the admissions. Whatever ends it ends those too, once: the end of the answer settles
//! with the usage it reported, a break or a caller that goes away charges what was held, and either
//! way the permit is free when the last byte is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::admission::recent::Failure;
use crate::limit::{Cost, Spent};
use crate::metrics::{Outcome, observe};
use crate::proxy::record::Record;
use crate::proxy::tenant::Passage;
use crate::proxy::trace::Trace;
use crate::usage::{Meter, Seen};

/// A body of the upstream on its way to a caller, with a limit on the time between two pieces.
///
/// Where it breaks off, what came before reaches the caller: the error is held back for a moment.
pub(super) struct Passed {
    inner: Incoming,
    idle: Idle,
    broken: Option<(Broken, Pin<Box<Sleep>>)>,
}

/// How long an error is held back. The server needs a turn to write out what came before it, and
/// some clients throw away what they have not looked at when they learn of it.
pub(super) const BREAK_AFTER: Duration = Duration::from_millis(20);

/// An answer that says it used more is not believed, and charged as if it had said nothing: no model takes
/// or makes ten million tokens in one call, and a slip of the upstream's must not lock a quota for days.
const BELIEVABLE: u64 = 1 << 24;

/// Why a body of the upstream ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The connection broke, or what came over it was not HTTP.
    #[error("the upstream's answer broke off")]
    Cut(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("the upstream stopped sending")]
    Idle,
    /// It ended with the connection, and not with the answer.
    #[error("the upstream's answer ended in the middle")]
    Unfinished,
    /// The caller took nothing for too long.
    #[error("the caller stopped taking")]
    NotTaken,
}

impl Passed {
    /// `inner`, with at most `idle` between two pieces.
    pub(super) const fn new(inner: Incoming, idle: Duration) -> Self {
        Self { inner, idle: Idle::new(idle), broken: None }
    }

    /// Breaks off here.
    fn break_off(&mut self, error: Broken) {
        self.broken = Some((error, Box::pin(tokio::time::sleep(BREAK_AFTER))));
    }
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some((_, sleep)) = &mut self.broken {
            ready!(sleep.as_mut().poll(cx));
            return Poll::Ready(self.broken.take().map(|(error, _)| Err(error)));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.idle.poll(cx));
                Poll::Ready(Some(Err(Broken::Idle)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.break_off(Broken::Cut(error));
                self.poll_frame(cx)
            }
            Poll::Ready(frame) => {
                self.idle.reset();
                // The error has been dealt with above.
                Poll::Ready(frame.map(|frame| frame.map_err(Broken::Cut)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a successful answer.
pub(super) struct Metered {
    inner: Passed,
    meter: Meter,
    sent_at: Instant,
    first_token: bool,
    streamed: bool,
    /// Whether nothing but the connection's end says where it ends.
    open: bool,
    ending: Option<Ending>,
}

/// What has to be done, once, when the answer ends.
struct Ending {
    passage: Box<Passage>,
    record: Arc<Record>,
}

impl Metered {
    /// Meters `inner`, the answer to a request sent at `sent_at`.
    pub(super) fn new(
        inner: Incoming,
        headers: &HeaderMap,
        idle: Duration,
        sent_at: Instant,
        passage: Box<Passage>,
        record: Arc<Record>,
    ) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text(CONTENT_TYPE);
        let mut meter = Meter::new(content_type, text(CONTENT_ENCODING));
        let (mut capped, mut traced) = (false, false);
        record.note(|facts| {
            (capped, traced) = (facts.output_cap.is_some(), facts.trace.is_some());
        });
        if capped {
            meter = meter.watch_length();
        }
        if traced {
            meter = meter.watch_details();
        }
        Self {
            inner: Passed::new(inner, idle),
            meter,
            sent_at,
            first_token: false,
            streamed: content_type.is_some_and(|it| it.starts_with("text/event-stream")),
            open: false,
            ending: Some(Ending { passage, record }),
        }
    }

    /// The same, where the connection's end is the body's, so that only the answer itself can tell
    /// whether it came to its end.
    pub(super) const fn open(mut self, open: bool) -> Self {
        self.open = open;
        self
    }

    /// Whether it has ended with the connection before its own end.
    fn is_unfinished(&self) -> bool {
        let seen = self.meter.seen();
        let ended = seen.done || seen.usage.is_some() || seen.error.is_some();
        self.open && self.ending.is_some() && self.meter.is_reading() && !ended
    }

    /// Whether it is a stream of events.
    pub(super) const fn is_stream(&self) -> bool {
        self.streamed
    }

    fn pass(&mut self, data: &Bytes) {
        self.meter.feed(data);
        if self.streamed && !self.first_token && self.meter.seen().first_content {
            self.first_token = true;
            if let Some(ending) = &self.ending {
                observe(&ending.record.metrics().first_token, self.sent_at.elapsed());
                ending.record.trace(Trace::first_token);
            }
        }
    }

    fn end(&mut self, broken: Option<Outcome>) {
        let Some(Ending { mut passage, record }) = self.ending.take() else { return };
        self.meter.finish();
        let mut seen = self.meter.seen();
        seen.usage = seen.usage.filter(|usage| usage.total.max(usage.prompt) <= BELIEVABLE);
        let metrics = record.metrics();
        observe(&metrics.upstream_duration, self.sent_at.elapsed());
        let outcome = broken.unwrap_or(match &seen.error {
            Some(_) => Outcome::StreamError,
            None => Outcome::Completed,
        });
        let failure = match outcome {
            Outcome::StreamError => Some(Failure::Stream),
            Outcome::UpstreamCut => Some(Failure::Broken),
            Outcome::UpstreamTimeout => Some(Failure::Timeout),
            _ => None,
        };
        if let Some(failure) = failure {
            let pool = passage.account.pool();
            pool.recent().failed(failure, pool.now());
        }
        let held = passage.cost().tokens;
        let whole = outcome == Outcome::Completed;
        let (mut study, mut capped) = (None, false);
        record.note(|facts| {
            facts.usage = seen.usage;
            capped = facts.output_cap.is_some();
            facts.cut_at_cap = capped && seen.cut;
            study = facts.study.take();
            facts.code = seen.error.as_ref().map(|error| error.code.clone());
            if let Some(trace) = &mut facts.trace {
                trace.tells(seen.usage, self.meter.details());
                trace.end_call((!whole).then_some(outcome.as_str()));
            }
        });
        if capped {
            metrics.count_capped(seen.cut);
        }
        if let (Some(study), Some(usage), true) = (study, seen.usage, whole) {
            study.learn(usage, seen.cut);
        }
        // What a stream that broke off has used so far is not what it will have cost.
        let known = seen.usage.filter(|_| whole || self.meter.is_usage_final());
        match known {
            Some(usage) => {
                metrics.tokens_estimated.inc_by(held);
                metrics.tokens_prompt.inc_by(usage.prompt);
                metrics.tokens_completion.inc_by(usage.completion);
                metrics.tokens_cached.inc_by(usage.cached);
                #[expect(clippy::cast_precision_loss, reason = "a ratio for a histogram")]
                metrics.estimate_ratio.observe(held as f64 / usage.total.max(1) as f64);
                let uncached = usage.total.saturating_sub(usage.cached);
                passage.settle(Spent::Exact(Cost { uncached, ..Cost::new(1, usage.total) }));
            }
            None => {
                if broken.is_none() {
                    metrics.usage_missing.inc();
                }
                passage.settle(Spent::Unknown);
            }
        }
        record.end(outcome);
    }

    /// Whether the caller has everything, though it did not wait for the end to be said.
    fn is_complete(&self, seen: &Seen) -> bool {
        // After an error event there is nothing to wait for.
        seen.done || seen.error.is_some() || self.inner.is_end_stream()
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let mut frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if frame.is_none() && this.is_unfinished() {
            this.inner.break_off(Broken::Unfinished);
            frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        }
        match &frame {
            None => this.end(None),
            Some(Err(Broken::Cut(_) | Broken::Unfinished)) => this.end(Some(Outcome::UpstreamCut)),
            // Not of this body: it is found out where the body is taken from.
            Some(Err(Broken::NotTaken)) => this.end(Some(Outcome::ClientGone)),
            Some(Err(Broken::Idle)) => this.end(Some(Outcome::UpstreamTimeout)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.pass(data);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        let complete = self.is_complete(&self.meter.seen());
        self.end((!complete).then_some(Outcome::ClientGone));
    }
}

/// A limit on the time spent waiting for the next event. Time in which nobody asks for one, because
/// the caller is slow to take the last, does not count; and only waiting costs a timer.
struct Idle {
    limit: Duration,
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    const fn new(limit: Duration) -> Self {
        Self { limit, since: None, sleep: None }
    }

    /// An event came.
    const fn reset(&mut self) {
        self.since = None;
    }

    /// Ready when the wait for one event has taken the whole limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            // It was set for an earlier event; go on from the last one.
            sleep.as_mut().reset(due);
        }
    }
}
