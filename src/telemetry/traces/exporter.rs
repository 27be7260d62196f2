//! The task that makes spans of what has ended, and sends them.

use std::mem;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sender::{Failure, Sender};
use super::{Ended, Span};
use crate::metrics::TraceMetrics;
use crate::time::{Epoch, Timestamp, wall};

/// Requests whose spans go in one message: some 300 spans in 150 KiB, which take a millisecond to write
/// (8 µs and 1.2 KB a request), so that no request notices.
const BATCH: usize = 128;

/// How long fewer than that gather: nobody looks at a trace sooner.
const GATHER: Duration = Duration::from_secs(1);

/// Times that one message is sent before its spans are given up.
const TRIES: u32 = 5;

/// The pause after a failure; it doubles with each until something succeeds.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the task has.
pub(super) struct Exporter {
    pub(super) ended: mpsc::Receiver<Box<dyn Ended>>,
    pub(super) sender: Sender,
    pub(super) resource: Resource,
    pub(super) epoch: Epoch,
    pub(super) metrics: TraceMetrics,
    pub(super) closing: CancellationToken,
}

/// Tells the time as others do. The gateway's own clock is not set when the wall clock is, so what is
/// between the two is looked up for each message.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Epoch,
    now: Timestamp,
    wall: Timestamp,
}

impl Clock {
    /// A clock for one message.
    fn new(epoch: Epoch) -> Self {
        Self { epoch, now: epoch.now(), wall: wall() }
    }

    /// Nanoseconds since the Unix epoch, by the wall clock.
    pub fn nanos(&self, instant: Instant) -> u64 {
        let at = self.epoch.timestamp(instant).as_nanos();
        let (now, wall) = (self.now.as_nanos(), self.wall.as_nanos());
        if at <= now { wall.saturating_sub(now - at) } else { wall.saturating_add(at - now) }
    }
}

/// How it went with the collector.
#[derive(Debug, Default)]
struct Health {
    /// The last pause; zero after a success.
    pause: Duration,
    warned: Option<Instant>,
    /// Whether the last that was said is that something is wrong.
    told: bool,
}

impl Exporter {
    /// Sends until it is told to close and everything has been sent.
    pub(super) async fn run(mut self) {
        let mut health = Health::default();
        let mut ended = Vec::new();
        while self.gather(&mut ended).await {
            let clock = Clock::new(self.epoch);
            let mut spans = Vec::with_capacity(4 * ended.len());
            for ended in ended.drain(..) {
                ended.make(&clock, &mut spans);
            }
            let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
            let message = self.message(spans);
            self.deliver(message, count, &mut health).await;
        }
    }

    /// Waits for requests that have ended; false when there are no more.
    async fn gather(&mut self, into: &mut Vec<Box<dyn Ended>>) -> bool {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => self.ended.close(),
            count = self.ended.recv_many(into, BATCH) => {
                if count == 0 {
                    return false;
                }
            }
        }
        let until = Instant::now() + GATHER;
        while into.len() < BATCH {
            let more = BATCH - into.len();
            tokio::select! {
                biased;
                count = self.ended.recv_many(into, more) => {
                    if count == 0 {
                        break;
                    }
                }
                () = tokio::time::sleep_until(until) => break,
                () = self.closing.cancelled(), if !self.ended.is_closed() => self.ended.close(),
            }
        }
        !into.is_empty()
    }

    fn message(&self, spans: Vec<Span>) -> Bytes {
        let scope = InstrumentationScope {
            name: "tidegate".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
        let all = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec().into()
    }

    /// Sends a message until it is taken, or not worth another try.
    async fn deliver(&self, message: Bytes, count: u64, health: &mut Health) {
        let mut tries = 0;
        loop {
            let failure = match self.sender.send(message.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.metrics.exported.inc_by(count - rejected);
                    self.metrics.failed.inc_by(rejected);
                    health.recover();
                    return;
                }
                Err(failure) => failure,
            };
            tries += 1;
            let closing = self.closing.is_cancelled();
            let over = closing || tries == TRIES || !failure.passes();
            if over {
                self.metrics.failed.inc_by(count);
            }
            health.warn(&failure, &self.metrics);
            health.pause = (2 * health.pause).clamp(PAUSE, LONGEST_PAUSE);
            let pause = failure.pause().unwrap_or(health.pause).min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.closing.cancelled() => {}
            }
            if over {
                return;
            }
        }
    }
}

impl Health {
    /// The collector takes spans.
    fn recover(&mut self) {
        self.pause = Duration::ZERO;
        if mem::take(&mut self.told) {
            tracing::info!("the collector takes spans again");
        }
    }

    /// Says what is wrong, once a minute.
    fn warn(&mut self, failure: &Failure, metrics: &TraceMetrics) {
        let now = Instant::now();
        if self.warned.is_some_and(|last| now - last < WARN_EVERY) {
            return;
        }
        (self.warned, self.told) = (Some(now), true);
        let (dropped, failed) = (metrics.dropped.get(), metrics.failed.get());
        tracing::warn!(%failure, spans.dropped = dropped, spans.failed = failed, "no traces are sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn times_are_told_by_the_wall_clock_whatever_the_epochs() {
        for start in [0, 1_000_000_000_000, u64::MAX / 2] {
            let epoch = Epoch::at(Timestamp::from_nanos(start));
            let before = Instant::now();
            tokio::time::advance(Duration::from_secs(5)).await;
            let clock = Clock::new(epoch);
            let now = clock.nanos(Instant::now());
            assert_eq!(now, clock.wall.as_nanos());
            assert_eq!(now - clock.nanos(before), 5_000_000_000);
            let later = Instant::now() + Duration::from_millis(1);
            assert_eq!(clock.nanos(later) - now, 1_000_000);
        }
    }
}
