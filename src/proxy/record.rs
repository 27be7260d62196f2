//! What is known of one request, for its log line, its metrics and its one outcome.
//!
//! The record is shared by whatever works on the request: the handler, then the answer's body. When
//! the last of them lets go of it, the request has ended, and is counted and logged. Whoever knows
//! how it ended says so before; if nobody does, the caller went away.

mod id;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

pub(super) use self::id::RequestId;
use crate::config::Config;
use crate::identity::Caller;
use crate::metrics::{Metrics, Outcome, Refusal, Share};
use crate::proxy::Gateway;
use crate::proxy::learned::Study;
use crate::proxy::trace::Trace;
use crate::proxy::upstream::{Failure, Outgoing, Upstream};
use crate::store::history::{History, Keep, Sample};
use crate::telemetry::traces::{Parent, TraceId, Traces};
use crate::time::Epoch;
use crate::usage::Usage;

/// One request, from its arrival to its end.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<Metrics>,
    history: Arc<History>,
    log: bool,
    arrived: Instant,
    id: RequestId,
    endpoint: &'static str,
    /// The trace that it belongs to, if somebody may know it.
    trace: Option<TraceId>,
    /// Where it is handed over when it has ended, if it is traced.
    traces: Option<Arc<Traces>>,
    facts: Mutex<Facts>,
}

/// What has become known so far.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Who asked.
    pub(super) tenant: Option<Arc<str>>,
    /// The same, as the queue knows them.
    pub(super) tenant_id: u64,
    /// The model asked for; the fallback's, if it went to one.
    pub(super) model: Option<Arc<str>>,
    /// The fallback that it went to.
    pub(super) fallback: Option<Arc<str>>,
    /// Status of the answer.
    pub(super) status: Option<StatusCode>,
    /// Time from arrival to admission, the last one if there were more.
    pub(super) waited: Duration,
    /// What it waited for.
    pub(super) limited_by: Option<Arc<str>>,
    /// Tokens held.
    pub(super) estimated: u64,
    /// The output limit that the gateway put on it, for each choice.
    pub(super) output_cap: Option<u64>,
    /// Whether its answer ended at that limit.
    pub(super) cut_at_cap: bool,
    /// What its end will teach.
    pub(super) study: Option<Study>,
    /// Tokens used.
    pub(super) usage: Option<Usage>,
    /// Whether it waits for limits of its tenant's own.
    pub(super) at_gate: bool,
    /// Whether it is at the upstream, or waits to be.
    pub(super) at_upstream: bool,
    /// Times it was sent.
    pub(super) attempts: u32,
    /// The upstream's error code, if it refused.
    pub(super) code: Option<String>,
    /// When its caller was told to come back.
    pub(super) retry_after: Option<Duration>,
    /// How it ended.
    pub(super) outcome: Option<Outcome>,
    /// How it will have ended if its answer does not break off.
    pub(super) unbroken: Option<Outcome>,
    /// What is noted of it if it is traced.
    pub(super) trace: Option<Box<Trace>>,
}

/// What is known of an answer that may be replaced by another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    estimated: u64,
    output_cap: Option<u64>,
    usage: Option<Usage>,
    outcome: Option<Outcome>,
}

impl Facts {
    /// Its wait for admission is over, if it did wait.
    pub(super) fn end_wait(&mut self, admitted: bool) {
        if let Some(trace) = &mut self.trace {
            trace.end_wait(self.limited_by.clone(), admitted);
        }
    }

    /// What is known of the answer so far.
    pub(super) const fn answered(&self) -> Answered {
        let Self { estimated, output_cap, usage, outcome, .. } = *self;
        Answered { estimated, output_cap, usage, outcome }
    }

    /// It is this caller who asks.
    pub(super) fn asked_by(&mut self, caller: &Caller) {
        (self.tenant, self.tenant_id) = (Some(Arc::clone(&caller.tenant)), caller.id);
    }

    /// Goes back to an answer before the last.
    pub(super) fn back_to(&mut self, answered: Answered) {
        let Answered { estimated, output_cap, usage, outcome } = answered;
        (self.estimated, self.output_cap) = (estimated, output_cap);
        (self.usage, self.outcome, self.code) = (usage, outcome, None);
    }
}

impl Record {
    /// A request to `endpoint` that arrives now. Where the gateway traces, its headers become those of
    /// the trace that it goes on in.
    pub(super) fn new(
        gateway: &Gateway,
        endpoint: &'static str,
        request: &mut Request<Body>,
    ) -> Arc<Self> {
        gateway.metrics.in_flight.inc();
        let parent = Parent::of(request.headers());
        let (mut facts, mut traces) = (Facts::default(), None);
        let mut trace = parent.map(|parent| parent.trace);
        if let Some((collected, target)) = &gateway.traces {
            let context = collected.begin(parent);
            context.pass_on(request.headers_mut());
            if context.sampled {
                trace = Some(context.trace);
                traces = Some(Arc::clone(collected));
                let (method, headers) = (request.method().clone(), request.headers());
                let notes = Trace::new(context, Arc::clone(target), method, headers);
                facts.trace = Some(Box::new(notes));
            }
        }
        Arc::new(Self {
            trace,
            traces,
            metrics: Arc::clone(&gateway.metrics),
            history: Arc::clone(&gateway.history),
            log: gateway.config.log.requests,
            arrived: Instant::now(),
            id: RequestId::new(),
            endpoint,
            facts: Mutex::new(facts),
        })
    }

    /// The request's name.
    pub(super) const fn id(&self) -> &RequestId {
        &self.id
    }

    /// When it arrived.
    pub(super) const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Where it counts.
    pub(super) const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Adds to what is known.
    pub(super) fn note(&self, note: impl FnOnce(&mut Facts)) {
        note(&mut self.facts.lock());
    }

    /// Adds to what is noted of it, if it is traced.
    pub(super) fn trace(&self, note: impl FnOnce(&mut Trace)) {
        if self.traces.is_some() {
            self.note(|facts| {
                if let Some(trace) = &mut facts.trace {
                    note(trace);
                }
            });
        }
    }

    /// It is sent to the upstream now; returns what that is told of the trace, if there is one.
    fn begin_call(&self) -> Option<HeaderValue> {
        let span = self.traces.as_ref()?.span();
        let facts = &mut *self.facts.lock();
        facts.trace.as_mut().map(|trace| trace.begin_call(span, facts.model.clone()))
    }

    /// Sends it to the upstream, within a span of its own if it is traced.
    pub(super) async fn call(
        &self,
        upstream: &Upstream,
        outgoing: &Outgoing,
        fresh: bool,
    ) -> Result<Response<Incoming>, Failure> {
        let answer = upstream.send(outgoing, fresh, self.begin_call()).await;
        self.trace(|trace| match &answer {
            Ok(answer) => trace.answered(answer.status()),
            Err(failure) => trace.end_call(Some(failure.as_str())),
        });
        answer
    }

    /// The trace that it belongs to, if it is known.
    pub(super) const fn trace_id(&self) -> Option<TraceId> {
        self.trace
    }

    /// Says how it ended, unless that has been said.
    pub(super) fn end(&self, outcome: Outcome) {
        self.facts.lock().outcome.get_or_insert(outcome);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut facts = std::mem::take(self.facts.get_mut());
        let outcome = facts.outcome.or(facts.unbroken).unwrap_or(Outcome::ClientGone);
        self.metrics.count(outcome);
        let ended = Instant::now();
        if let Some(fate) = outcome.fate() {
            let Usage { prompt, completion, cached, .. } = facts.usage.unwrap_or_default();
            let waited = facts.waited;
            let (tenant, model) = (facts.tenant.as_deref(), facts.model.as_deref());
            let share = Share { fate, prompt, completion, cached, waited };
            self.metrics.tenants.count(tenant.map(|name| (facts.tenant_id, name)), &share);
            let sample = Sample { fate, prompt, completion, cached, waited };
            self.history.add_at(ended, tenant, model, &sample);
        }
        if is_refusal(outcome, facts.status) {
            self.metrics.refusals.note(Refusal {
                at: ended,
                tenant: facts.tenant.clone(),
                model: facts.model.clone(),
                outcome,
                status: facts.status.map(|status| status.as_u16()),
                code: facts.code.as_deref().map(Into::into),
                limited_by: facts.limited_by.clone(),
                retry_after: facts.retry_after,
            });
        }
        if self.log {
            self.log(&facts, outcome, ended);
        }
        if let Some((traces, mut trace)) = self.traces.take().zip(facts.trace.take()) {
            trace.end(self.id, self.endpoint, (self.arrived, ended), outcome, facts);
            traces.end(trace);
        }
        // Last, so that whoever sees none in flight sees all of them counted.
        self.metrics.in_flight.dec();
    }
}

impl Record {
    /// Its one line.
    fn log(&self, facts: &Facts, outcome: Outcome, ended: Instant) {
        let usage = facts.usage;
        tracing::info!(
            target: "tidegate::request",
            {
            request.id = self.id.as_str(),
            trace_id = self.trace.map(tracing::field::display),
            endpoint = self.endpoint,
            outcome = outcome.as_str(),
            status = facts.status.map(|status| status.as_u16()),
            code = facts.code.as_deref(),
            tenant = facts.tenant.as_deref(),
            model = facts.model.as_deref(),
            fallback = facts.fallback.as_deref(),
            duration_ms = millis(ended - self.arrived),
            wait_ms = millis(facts.waited),
            limited_by = facts.limited_by.as_deref(),
            attempts = facts.attempts,
            tokens.estimated = facts.estimated,
            tokens.prompt = usage.map(|usage| usage.prompt),
            tokens.completion = usage.map(|usage| usage.completion)
            },
            "request"
        );
    }
}

/// Whether it was turned away for want of quota or room, here or at the upstream. Whoever has no key is
/// not: strangers would drive out of sight what happens to callers.
fn is_refusal(outcome: Outcome, status: Option<StatusCode>) -> bool {
    match outcome {
        Outcome::AboveLimit
        | Outcome::QueueFull
        | Outcome::WaitExceeded
        | Outcome::Overloaded
        | Outcome::Draining => true,
        Outcome::UpstreamError => {
            status.is_some_and(|status| matches!(status.as_u16(), 429 | 503 | 529))
        }
        _ => false,
    }
}

/// The history of this gateway's callers: those with keys are always told apart.
pub(super) fn history(config: &Config, epoch: Epoch) -> History {
    let keep = config.state.place().map(|_| Keep::from(&config.state));
    let known = config.keys.iter().map(|key| Arc::clone(&key.name)).collect();
    History::new(epoch, keep, known)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
