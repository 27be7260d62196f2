//! Spans of a request, by the conventions of OpenTelemetry for HTTP servers and for clients of
//! generative models. What those do not know of is called `tidegate.…`.
//!
//! The request's own span says how it went and why; tokens stand on the calls to the upstream only, so
//! that whoever adds them up counts none twice.

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::{Call, End, Trace, Wait, millis};
use crate::metrics::Outcome;
use crate::telemetry::traces::{Builder, Clock, Ended, Kind, Span};

impl Ended for Trace {
    fn count(&self) -> u64 {
        let bodies = self.calls.iter().filter(|call| call.first.is_some()).count();
        let waits = self.waits.len() + usize::from(self.waiting.is_some());
        u64::try_from(1 + waits + self.calls.len() + bodies).unwrap_or(u64::MAX)
    }

    fn make(&self, clock: &Clock, spans: &mut Vec<Span>) {
        // It is handed over when it has ended, and not before.
        let Some(end) = &self.end else { return };
        spans.push(self.request(end, clock));
        let unfinished = self.waiting.map(|from| Wait {
            from,
            until: end.ended,
            pool: self.asked.as_ref().map(|asked| asked.pool),
            limited_by: end.facts.limited_by.clone(),
            admitted: false,
        });
        for wait in self.waits.iter().chain(&unfinished) {
            spans.push(self.queue(wait, clock));
        }
        for (index, call) in self.calls.iter().enumerate() {
            let until = call.until.unwrap_or(end.ended);
            spans.push(self.call(index, call, until, end, clock));
            if let Some(first) = call.first {
                let body = Builder::within(&self.context, call.span, None, &self.state);
                spans.push(body.named("body", Kind::Internal).lasting(clock, first, until).build());
            }
        }
    }
}

impl Trace {
    /// The span of the request itself.
    fn request(&self, end: &End, clock: &Clock) -> Span {
        let facts = &end.facts;
        let method = method(&self.method);
        let route = route(end.endpoint);
        let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
        let mut span = Builder::request(&self.context, &self.state)
            .named(name, Kind::Server)
            .lasting(clock, end.arrived, end.ended);
        span.set("http.request.method", method);
        span.set("url.scheme", "http");
        span.set_known("http.route", route);
        span.set_known("http.response.status_code", facts.status.map(|it| it.as_u16()));
        span.set_known("error.type", error_type(end.outcome, facts.status));
        span.set_known("gen_ai.request.model", facts.model.as_deref());
        span.set("tidegate.request.id", end.id.as_str());
        span.set("tidegate.outcome", end.outcome.as_str());
        span.set_known("tidegate.tenant", facts.tenant.as_deref());
        if let Some(asked) = &self.asked {
            span.set("tidegate.class", &*asked.class);
            span.set("tidegate.pool", asked.pool.to_string());
            span.set("tidegate.tokens.estimated", facts.estimated);
            span.set("tidegate.wait_ms", millis(facts.waited));
        }
        span.set_known("tidegate.limited_by", facts.limited_by.as_deref());
        span.set_known("tidegate.fallback", facts.fallback.as_deref());
        span.set_known("tidegate.output_cap", facts.output_cap);
        span.set_known("tidegate.code", facts.code.as_deref());
        if facts.attempts > 0 {
            span.set("tidegate.attempts", facts.attempts);
        }
        if let Some(line) = &self.line {
            span.set("tidegate.batch.id", &*line.batch);
            span.set("tidegate.batch.line", line.line);
            if let Some(made_in) = &line.made_in {
                span.link(made_in);
            }
        }
        if is_failure(end.outcome, facts.status) {
            span.fail();
        }
        span.build()
    }

    /// A wait for admission, a retry's backoff included.
    fn queue(&self, wait: &Wait, clock: &Clock) -> Span {
        let mut span = Builder::within(&self.context, self.context.span, None, &self.state)
            .named("queue", Kind::Internal)
            .lasting(clock, wait.from, wait.until);
        if let Some(asked) = &self.asked {
            span.set("tidegate.class", &*asked.class);
        }
        span.set_known("tidegate.pool", wait.pool.map(|pool| pool.to_string()));
        span.set_known("tidegate.limited_by", wait.limited_by.as_deref());
        span.set("tidegate.admitted", wait.admitted);
        span.build()
    }

    /// A call to the upstream.
    fn call(&self, index: usize, call: &Call, until: Instant, end: &End, clock: &Clock) -> Span {
        let model = call.model.as_deref();
        let operation = operation(end.endpoint);
        let method = method(&self.method);
        let name = match (operation, model) {
            (Some(operation), Some(model)) => format!("{operation} {model}"),
            _ => method.to_owned(),
        };
        let own = Some(call.span);
        let mut span = Builder::within(&self.context, self.context.span, own, &self.state)
            .named(name, Kind::Client)
            .lasting(clock, call.sent, until);
        span.set("http.request.method", method);
        span.set("server.address", call.target.host.as_str());
        span.set("server.port", call.target.port);
        // Of a path with a caller's words in it, and of a query, nobody knows what they hold.
        let path = operation.and_then(|_| route(end.endpoint));
        span.set_known("url.full", path.map(|path| format!("{}{path}", call.target.base)));
        span.set_known("http.response.status_code", call.status.map(|it| it.as_u16()));
        if index > 0 {
            span.set("http.request.resend_count", u64::try_from(index).unwrap_or(u64::MAX));
        }
        if operation.is_some() {
            self.generation(&mut span, call, operation, model);
        }
        let broken = call.until.is_none() && end.outcome != Outcome::Completed;
        let refused = call.status.filter(|it| it.is_client_error() || it.is_server_error());
        let error = call.error.or_else(|| broken.then(|| end.outcome.as_str()));
        let error = error.map(str::to_owned).or_else(|| refused.map(|it| it.as_str().to_owned()));
        if let Some(error) = error {
            span.set("error.type", error);
            span.fail();
        }
        span.build()
    }

    /// What the conventions for generative models say.
    fn generation(
        &self,
        span: &mut Builder,
        call: &Call,
        operation: Option<&str>,
        model: Option<&str>,
    ) {
        span.set_known("gen_ai.operation.name", operation);
        span.set("gen_ai.provider.name", call.target.provider.as_str());
        span.set_known("gen_ai.request.model", model);
        if let Some(asked) = &self.asked {
            span.set("gen_ai.request.stream", asked.stream);
            span.set_known("gen_ai.request.max_tokens", asked.most);
            span.set_known(
                "gen_ai.request.choice.count",
                Some(asked.choices).filter(|choices| *choices != 1),
            );
        }
        span.set_known("gen_ai.response.model", call.details.model.as_deref());
        span.set_known("gen_ai.response.id", call.details.id.as_deref());
        let reasons = &call.details.finish_reasons;
        if !reasons.is_empty() {
            span.set("gen_ai.response.finish_reasons", reasons.clone());
        }
        let first = call.first.map(|first| (first - call.sent).as_secs_f64());
        span.set_known("gen_ai.response.time_to_first_chunk", first);
        if let Some(usage) = call.usage {
            span.set("gen_ai.usage.input_tokens", usage.prompt);
            span.set("gen_ai.usage.output_tokens", usage.completion);
            span.set("gen_ai.usage.cache_read.input_tokens", usage.cached);
        }
    }
}

/// The methods that there are; a caller's own is none.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

/// The path of an endpoint, whatever was sent; for those with ids, what stands before them.
fn route(endpoint: &str) -> Option<&'static str> {
    Some(match endpoint {
        "chat" => "/v1/chat/completions",
        "completions" => "/v1/completions",
        "tcp_warming" => "/v1/tcp_warming",
        "models" => "/v1/models",
        "files" => "/v1/files",
        "batches" => "/v1/batches",
        _ => return None,
    })
}

/// The conventions' name for what an endpoint does, if it has a model do something.
fn operation(endpoint: &str) -> Option<&'static str> {
    match endpoint {
        "chat" => Some("chat"),
        "completions" => Some("text_completion"),
        _ => None,
    }
}

/// What kind of error a request ended with: the upstream's status if that is what it got.
fn error_type(outcome: Outcome, status: Option<StatusCode>) -> Option<String> {
    match (outcome, status) {
        (Outcome::Completed | Outcome::Local, _) => None,
        (Outcome::UpstreamError, Some(status)) => Some(status.as_str().to_owned()),
        _ => Some(outcome.as_str().to_owned()),
    }
}

/// Whether a request failed for another reason than its caller: by the conventions, what the caller did
/// wrong is no error of the server's.
fn is_failure(outcome: Outcome, status: Option<StatusCode>) -> bool {
    match outcome {
        Outcome::Completed
        | Outcome::Local
        | Outcome::ClientGone
        | Outcome::Invalid
        | Outcome::Unauthorized => false,
        Outcome::UpstreamError => status.is_none_or(|status| {
            status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
        }),
        _ => true,
    }
}
