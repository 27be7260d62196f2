//! What is noted of a request that is traced, for the spans that are made of it when it has ended.
//!
//! A request that is not traced keeps no notes: all it costs is to find that out.

mod spans;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use crate::admission::PoolKey;
use crate::config;
use crate::metrics::Outcome;
use crate::proxy::record::{Facts, RequestId};
use crate::telemetry::traces::{self, Context, Parent, SpanId, traceparent};
use crate::usage::{Demand, Details, OutputLimit, Usage};

/// Waits and calls that are kept of one request: more than it is sent by any sensible configuration.
/// Of more, the first ones and the last are kept.
const MOST: usize = 64;

/// The notes.
#[derive(Debug)]
pub(super) struct Trace {
    context: Context,
    state: String,
    method: Method,
    /// Where it is sent next.
    target: Arc<Target>,
    asked: Option<Asked>,
    line: Option<BatchLine>,
    waiting: Option<Instant>,
    waits: Vec<Wait>,
    calls: Vec<Call>,
    end: Option<End>,
}

/// What all requests to an upstream say of it.
#[derive(Debug)]
pub(super) struct Target {
    /// `gen_ai.provider.name`.
    pub(super) provider: String,
    /// Scheme and authority.
    pub(super) base: String,
    /// The host's name or address.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
}

impl Target {
    /// Of an upstream as configured.
    pub(super) fn new(upstream: &config::Upstream, provider: &str) -> Self {
        let uri = &upstream.base_url;
        let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or_default());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
        let provider = if provider.is_empty() { host } else { provider };
        Self {
            provider: provider.to_owned(),
            base: format!("{scheme}://{authority}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        }
    }
}

/// A line of a batch that a request was made for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BatchLine {
    /// The batch's id.
    pub batch: Arc<str>,
    /// The line's number, from 1.
    pub line: u32,
    /// The span of the request that made the batch, if this process knows it.
    pub made_in: Option<Parent>,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) pool: PoolKey,
    pub(super) class: Arc<str>,
    pub(super) stream: bool,
    pub(super) choices: u64,
    pub(super) most: Option<u64>,
}

impl Asked {
    /// By its demand.
    pub(super) fn new(pool: PoolKey, class: &Arc<str>, demand: &Demand) -> Self {
        let most = match demand.output_limit {
            OutputLimit::Unlimited => None,
            OutputLimit::Tokens(tokens) => Some(tokens),
        };
        let Demand { stream, choices, .. } = *demand;
        Self { pool, class: Arc::clone(class), stream, choices, most }
    }
}

/// A wait for admission.
#[derive(Debug)]
struct Wait {
    from: Instant,
    until: Instant,
    /// What it waited in.
    pool: Option<PoolKey>,
    limited_by: Option<Arc<str>>,
    admitted: bool,
}

/// A call to the upstream.
#[derive(Debug)]
struct Call {
    span: SpanId,
    /// Where it went.
    target: Arc<Target>,
    /// What it asked for.
    model: Option<Arc<str>>,
    sent: Instant,
    /// The first content of a stream.
    first: Option<Instant>,
    until: Option<Instant>,
    status: Option<StatusCode>,
    /// Why it failed.
    error: Option<&'static str>,
    usage: Option<Usage>,
    details: Details,
}

/// How a request ended.
#[derive(Debug)]
struct End {
    id: RequestId,
    endpoint: &'static str,
    arrived: Instant,
    ended: Instant,
    outcome: Outcome,
    facts: Facts,
}

impl Trace {
    /// Of a request that has this context, method and headers.
    pub(super) fn new(
        context: Context,
        target: Arc<Target>,
        method: Method,
        headers: &HeaderMap,
    ) -> Self {
        let state = context.parent.map(|_| traces::state(headers)).unwrap_or_default();
        Self {
            context,
            state,
            method,
            target,
            asked: None,
            line: None,
            waiting: None,
            waits: Vec::new(),
            // One is what nearly all need.
            calls: Vec::with_capacity(1),
            end: None,
        }
    }

    /// What it asks for.
    pub(super) fn asks(&mut self, asked: Asked) {
        self.asked = Some(asked);
    }

    /// It is sent there from now on, if anywhere else than until now.
    pub(super) fn goes_to(&mut self, target: Option<&Arc<Target>>) {
        if let Some(target) = target {
            self.target = Arc::clone(target);
        }
    }

    /// It is a line of a batch.
    pub(super) fn is_line(&mut self, line: BatchLine) {
        self.line = Some(line);
    }

    /// It waits for admission from now on, unless it does already.
    pub(super) fn begin_wait(&mut self) {
        self.waiting.get_or_insert_with(Instant::now);
    }

    /// Its wait is over, if it did wait.
    pub(super) fn end_wait(&mut self, limited_by: Option<Arc<str>>, admitted: bool) {
        if let Some(from) = self.waiting.take() {
            let (until, pool) = (Instant::now(), self.asked.as_ref().map(|asked| asked.pool));
            keep(&mut self.waits, Wait { from, until, pool, limited_by, admitted });
        }
    }

    /// It is sent now and asks for this model; returns what the upstream is told of the trace.
    pub(super) fn begin_call(&mut self, span: SpanId, model: Option<Arc<str>>) -> HeaderValue {
        let call = Call {
            span,
            target: Arc::clone(&self.target),
            model,
            sent: Instant::now(),
            first: None,
            until: None,
            status: None,
            error: None,
            usage: None,
            details: Details::default(),
        };
        keep(&mut self.calls, call);
        traceparent(self.context.trace, span, true)
    }

    /// The head of the answer has come.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(call) = self.calls.last_mut() {
            call.status = Some(status);
        }
    }

    /// The last call is over; why, if it failed.
    pub(super) fn end_call(&mut self, error: Option<&'static str>) {
        if let Some(call) = self.calls.last_mut().filter(|call| call.until.is_none()) {
            call.until = Some(Instant::now());
            call.error = error;
        }
    }

    /// The first content of a stream is there.
    pub(super) fn first_token(&mut self) {
        if let Some(call) = self.calls.last_mut() {
            call.first = Some(Instant::now());
        }
    }

    /// What the answer said of itself.
    pub(super) fn tells(&mut self, usage: Option<Usage>, details: Option<&Details>) {
        if let Some(call) = self.calls.last_mut() {
            call.usage = usage;
            call.details = details.cloned().unwrap_or_default();
        }
    }

    /// The request has ended.
    pub(super) fn end(
        &mut self,
        id: RequestId,
        endpoint: &'static str,
        (arrived, ended): (Instant, Instant),
        outcome: Outcome,
        mut facts: Facts,
    ) {
        // Nothing that somebody could make large waits to be sent.
        facts.study = None;
        facts.code = facts.code.as_deref().map(short);
        self.end = Some(End { id, endpoint, arrived, ended, outcome, facts });
    }
}

/// Keeps one more: of too many, not the second.
fn keep<T>(list: &mut Vec<T>, one: T) {
    if list.len() >= MOST {
        list.remove(1);
    }
    list.push(one);
}

/// A short word of plain letters, whatever the upstream wrote.
fn short(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(64).collect()
}

/// Whole milliseconds.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
