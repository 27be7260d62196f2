//! Traces: what became of requests, as spans for a collector that speaks OpenTelemetry's protocol.
//!
//! A request keeps notes while it runs and hands them over when it has ended; a task makes spans of
//! them and sends those. The crates of OpenTelemetry say what a message looks like, who is sampled and
//! what a trace is called. What sends them is the gateway's own: it has the gateway's configuration,
//! and counts what a collector does not take.
//!
//! # Invariants
//!
//! - No request waits for a collector: handing over takes a place in a bounded queue, or is dropped and
//!   counted.
//! - Nothing runs while nothing ends, and a collector that is away is asked less and less often.
//! - Spans hold names, numbers and codes; never a key, a prompt or a body.

mod context;
mod exporter;
mod sender;
mod span;

use std::io;
use std::time::Duration;

use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::context::{Context, Parent, SpanId, TraceId, state, traceparent};
pub use self::exporter::Clock;
use self::exporter::Exporter;
use self::sender::Sender;
pub use self::span::{Builder, Kind, Span, Value};
use crate::config::{self, Root};
use crate::metrics::TraceMetrics;
use crate::time::Epoch;

/// How long the last spans may take to be sent when the gateway ends: a collector that takes longer
/// is away, and whoever ends the gateway waits.
const FLUSH: Duration = Duration::from_secs(5);

/// A request that has ended.
pub trait Ended: Send {
    /// How many spans it makes.
    fn count(&self) -> u64;

    /// Adds them to `spans`, with times as `clock` tells them.
    fn make(&self, clock: &Clock, spans: &mut Vec<Span>);
}

/// Where requests that are traced are handed over.
#[derive(Debug)]
pub struct Traces {
    parent_based: bool,
    root: Sampler,
    ids: RandomIdGenerator,
    queue: mpsc::Sender<Box<dyn Ended>>,
    metrics: TraceMetrics,
    closing: CancellationToken,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

impl Traces {
    /// Starts the task that sends spans.
    ///
    /// # Errors
    ///
    /// If the collector's address cannot be used.
    pub fn start(
        config: &config::Traces,
        metrics: TraceMetrics,
        epoch: Epoch,
        tasks: &TaskTracker,
    ) -> io::Result<Self> {
        let most = usize::try_from(config.max_queued.get()).unwrap_or(usize::MAX);
        let (queue, ended) = mpsc::channel(most.min(tokio::sync::Semaphore::MAX_PERMITS));
        let ids = RandomIdGenerator::default();
        let closing = CancellationToken::new();
        let exporter = Exporter {
            ended,
            sender: Sender::new(config)?,
            resource: span::resource(config, ids.new_trace_id()),
            epoch,
            metrics: metrics.clone(),
            closing: closing.clone(),
        };
        let exporter = Mutex::new(Some(tasks.spawn(exporter.run())));
        let root = match config.sampler.root {
            Root::On => Sampler::AlwaysOn,
            Root::Off => Sampler::AlwaysOff,
            Root::Ratio => Sampler::TraceIdRatioBased(f64::from(config.sample_ratio) / 1e6),
        };
        let parent_based = config.sampler.parent_based;
        Ok(Self { parent_based, root, ids, queue, metrics, closing, exporter })
    }

    /// Where a request stands that begins now, on behalf of `parent` if there is one.
    pub fn begin(&self, parent: Option<Parent>) -> Context {
        let trace = parent.map_or_else(|| self.ids.new_trace_id(), |parent| parent.trace);
        let sampled = match parent {
            Some(parent) if self.parent_based => parent.sampled,
            _ => {
                let root = self.root.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
                root.decision == SamplingDecision::RecordAndSample
            }
        };
        Context { trace, span: self.span(), parent, sampled }
    }

    /// A name for a span.
    pub fn span(&self) -> SpanId {
        self.ids.new_span_id()
    }

    /// Hands over a request that has ended; without a place for it, it is dropped and counted.
    pub fn end(&self, ended: Box<dyn Ended>) {
        if let Err(error) = self.queue.try_send(ended) {
            self.metrics.dropped.inc_by(error.into_inner().count());
        }
    }

    /// Sends what has been handed over, as far as it can be in a few seconds. What comes later is
    /// dropped.
    pub async fn close(&self) {
        self.closing.cancel();
        let Some(mut exporter) = self.exporter.lock().take() else { return };
        if tokio::time::timeout(FLUSH, &mut exporter).await.is_err() {
            exporter.abort();
            // Its end is that it was aborted.
            let _ = exporter.await;
        }
    }
}
