//! Gets a request admitted and sent, again where that can help, and hands the answer over.
//!
//! As long as the caller has seen nothing, a failure is the gateway's to deal with: the request goes
//! back to the head of its line, with a random and growing delay, within a budget shared by all
//! requests and never past the caller's deadline. What cannot be helped passes through unchanged.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::retry::budget::Budget as _;

use crate::admission::recent::{self, TurnedAway};
use crate::admission::{Bound, Refused, Rejection};
use crate::metrics::{Outcome, RetryReason, observe};
use crate::proxy::Gateway;
use crate::proxy::admit::Ask;
use crate::proxy::body::{Broken, Metered, Passed};
use crate::proxy::error::ProxyError;
use crate::proxy::fallback::Choices;
use crate::proxy::headers;
use crate::proxy::peek::{Seen, peek};
use crate::proxy::pump::pump;
use crate::proxy::read::Share;
use crate::proxy::readings::Readings;
use crate::proxy::record::Record;
use crate::proxy::tenant::{Passage, Turned};
use crate::proxy::trace::Trace;
use crate::proxy::turn::{Turn, Wait};
use crate::proxy::upstream::Outgoing;
use crate::proxy::verdict::{LONGEST_ERROR, Verdict, is_trouble, judge, needs_body};

/// Answers that are not streamed are read up to here before their head is handed over, so that it can
/// say what they used: twice the longest that 32,000 tokens make.
const READ_AHEAD: usize = 256 << 10;
/// An answer that takes longer than this is handed over as it comes: some upstreams keep a caller
/// patient with white space.
const READ_AHEAD_FOR: Duration = Duration::from_secs(1);

/// One request on its way through the pool to the upstream. It owns all it needs, because it may
/// outlive the handler that it came from.
pub(super) struct Forward {
    pub(super) gateway: Arc<Gateway>,
    pub(super) record: Arc<Record>,
    pub(super) ask: Ask,
    /// The body as the caller sent it.
    pub(super) came: Bytes,
    pub(super) outgoing: Outgoing,
    /// Whether the caller shares its connection with others.
    pub(super) multiplexed: bool,
    /// What it may go elsewhere with, and the fallback that it has gone to.
    pub(super) choices: Option<Box<Choices>>,
    pub(super) fallback: Option<usize>,
    /// Whether the caller has been handed a head already.
    pub(super) begun: bool,
    /// What its body counts for, until the answer is there.
    pub(super) memory: Share,
}

/// An attempt that gave no answer to hand over. It still holds its admissions: what becomes of that
/// depends on whether the request is sent again.
pub(super) struct Miss {
    pub(super) passage: Box<Passage>,
    /// What the caller gets if this was the last word.
    pub(super) answer: Result<Response, ProxyError>,
    /// What became of the request at the upstream.
    pub(super) rejection: Rejection,
    /// Why sending it again may help, if it may.
    pub(super) retry: Option<RetryReason>,
    /// When the upstream says to come back.
    pub(super) retry_after: Option<Duration>,
    /// The upstream's error code.
    pub(super) code: Option<String>,
}

impl Forward {
    /// Takes its place in line: the one kept for it, or the last.
    ///
    /// # Errors
    ///
    /// If there is none for it.
    pub(super) fn enter(&mut self) -> Result<Turn, ProxyError> {
        let wait = match self.stand(true) {
            Ok(wait) => wait,
            Err(mut turned) => match self.instead_of_refusal(&mut turned) {
                Some(wait) => wait,
                None => return Err(self.refuse(&turned)),
            },
        };
        Ok(Turn::first(wait))
    }

    /// The answer to hand over; `None` if the caller has to be told first that it waits.
    pub(super) async fn answer(&mut self, turn: &mut Turn) -> Option<Response> {
        let gateway = Arc::clone(&self.gateway);
        let carried = tokio::select! {
            biased;
            carried = self.carry(turn) => carried?,
            // Better than a connection that is cut: it says when to come back.
            () = gateway.given_up() => Err(ProxyError::Draining),
        };
        Some(match carried {
            Ok(response) if self.ask.capped.is_some() => {
                // In a box: most requests shall not carry the room for it.
                let response = Box::pin(self.without_cap(response)).await;
                self.finish(Ok(response))
            }
            carried => self.finish(carried),
        })
    }

    /// Waits for admission and sends the request until there is an answer to hand over; `None` if
    /// the caller has to be told first that it waits.
    pub(super) async fn carry(&mut self, turn: &mut Turn) -> Option<Result<Response, ProxyError>> {
        loop {
            if !turn.wait.is_over() {
                self.record.trace(Trace::begin_wait);
            }
            let waited = if self.may_leave(turn) {
                // In a box: most have nowhere else to go, and no room for it.
                Box::pin(self.wait_anywhere(turn)).await
            } else {
                self.wait(&mut turn.wait).await
            };
            let passage = match waited? {
                Ok(passage) => passage,
                Err(mut turned) => {
                    if let Some(wait) = self.instead_of_refusal(&mut turned) {
                        turn.go_elsewhere(wait);
                        continue;
                    }
                    let own = self.refuse(&turned);
                    self.record.note(|facts| facts.end_wait(false));
                    // What the upstream said is of more use than that it cannot be asked again.
                    return Some(match turn.said.take() {
                        Some(said) => self.give_up(Ok(said.0), said.1),
                        None => Err(own),
                    });
                }
            };
            if let Some(inside) = &turn.inside {
                inside.admit();
            }
            self.note_admission(&passage, turn.attempt);
            self.note_probe(&passage.account);
            // In a box: whoever waits has no room for it.
            let miss = match Box::pin(self.attempt(passage, turn.fresh)).await {
                Ok(response) => return Some(Ok(response)),
                Err(miss) => miss,
            };
            let Some((reason, delay)) = self.plan_retry(&miss, turn) else {
                if let Some(asked) = self.instead_of_giving_up(&miss) {
                    self.record.note(|facts| facts.at_upstream = false);
                    let tenant = miss.passage.missed(miss.rejection);
                    turn.attempt += 1;
                    turn.go_elsewhere(Wait::of(asked, tenant));
                    continue;
                }
                miss.passage.reject(miss.rejection);
                return Some(self.give_up(miss.answer, miss.code));
            };
            self.gateway.metrics.count_retry(reason);
            self.record.note(|facts| facts.at_upstream = false);
            let Miss { passage, answer, rejection, code, .. } = miss;
            turn.attempt += 1;
            turn.fresh = reason == RetryReason::StaleConnection;
            turn.said = answer.ok().map(|answer| Box::new((answer, code)));
            turn.wait = self.again(passage, rejection, reason, delay);
        }
    }

    fn note_admission(&self, passage: &Passage, attempt: u32) {
        let admitted = &passage.account;
        let bound = admitted.bound().map(|bound| admitted.pool().name_of(bound));
        let here = attempt == 1 && self.fallback.is_none();
        let waited = if here { passage.waited() } else { self.record.arrived().elapsed() };
        if attempt == 1 {
            self.gateway.retry_budget.deposit();
            admitted.pool().recent().admitted(admitted.cost().tokens, waited);
            observe(&self.gateway.metrics.queue_wait, waited);
            self.gateway.metrics.observe_forecast(admitted.forecast(), admitted.waited());
            if let Some(wait) = self.gateway.metrics.class_wait.get(self.ask.request.class) {
                observe(wait, waited);
            }
        }
        self.record.note(|facts| {
            facts.at_upstream = true;
            facts.waited = waited;
            facts.attempts = attempt;
            if let Some(bound) = bound {
                facts.limited_by = Some(bound.into());
            }
            facts.end_wait(true);
        });
    }

    fn refuse(&self, turned: &Turned) -> ProxyError {
        let gate = self.ask.gate.as_ref().filter(|_| turned.by_tenant);
        let named = gate.map_or(&self.ask.pool, |gate| &gate.pool);
        let bound = match turned.refused {
            Refused::Wall { constraint } => Some(Bound::Constraint(constraint)),
            Refused::TooLong { bound, place, .. } => {
                self.keep_place(named, place);
                Some(bound)
            }
            Refused::Circuit { .. } => Some(Bound::Circuit),
            Refused::Full { .. } | Refused::TenantFull { .. } | Refused::Closed => None,
        };
        let waited = self.record.arrived().elapsed();
        self.record.note(|facts| {
            facts.waited = waited;
            facts.limited_by = bound.map(|bound| {
                gate.map_or_else(|| named.pool.name_of(bound), |gate| gate.name_of(bound)).into()
            });
        });
        self.ask.refused(turned, waited)
    }

    /// Sends the request once.
    async fn attempt(&self, mut passage: Box<Passage>, fresh: bool) -> Result<Response, Miss> {
        let (record, upstream) = (&self.record, self.upstream());
        passage.sent();
        let sent_at = Instant::now();
        let answer = record.call(upstream, &self.outgoing, fresh).await;
        if self.is_at_home() {
            self.gateway.note_health(&answer);
        }
        match answer {
            Ok(answer) => {
                observe(&self.gateway.metrics.upstream_head, sent_at.elapsed());
                self.judge(answer, passage, sent_at).await
            }
            Err(failure) => {
                let trace_id = record.trace_id().map(tracing::field::display);
                let id = record.id().as_str();
                tracing::debug!(request.id = id, trace_id, ?failure, "no answer");
                let (retry, charged) = (failure.retry(), failure.may_be_charged());
                self.report_failure(&mut passage.account, &failure);
                let pool = passage.account.pool();
                pool.recent().failed((&failure).into(), pool.now());
                Err(Miss::without_answer(passage, failure.into(), charged, retry))
            }
        }
    }

    async fn judge(
        &self,
        answer: http::Response<Incoming>,
        mut passage: Box<Passage>,
        sent_at: Instant,
    ) -> Result<Response, Miss> {
        let (mut head, body) = answer.into_parts();
        let open = headers::is_open(&head);
        headers::for_caller(&mut head);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.record.trace(|trace| trace.end_call(Some("upgrade")));
            return Err(Miss::without_answer(passage, ProxyError::Upgrade, true, None));
        }
        if head.status.is_success() {
            if let Some((least, most)) = self.answered(&mut passage, &head.headers) {
                self.ask.learn_reserved(least, most);
            }
            let idle = self.gateway.config.upstream.idle_timeout;
            let record = Arc::clone(&self.record);
            let body = Metered::new(body, &head.headers, idle, sent_at, passage, record);
            let mut body = body.open(open);
            let long = http_body::Body::size_hint(&body).lower() > READ_AHEAD as u64;
            let ahead = if self.begun || body.is_stream() || long {
                None
            } else {
                Some(peek(&mut body, READ_AHEAD, READ_AHEAD_FOR).await)
            };
            return Ok(Response::from_parts(head, self.hand_over(body, ahead)));
        }
        let mut body = Passed::new(body, self.gateway.config.upstream.idle_timeout);
        let (seen, body) = if needs_body(head.status) {
            let seen = peek(&mut body, LONGEST_ERROR, Duration::MAX).await;
            (seen.bytes.clone(), seen.and_rest(body))
        } else {
            (Bytes::new(), Body::new(body))
        };
        self.record.trace(|trace| trace.end_call(None));
        let Verdict { charged, retry, kind, exhausted, retry_after, code } =
            judge(head.status, &head.headers, &seen);
        let admitted = &mut passage.account;
        let blame = exhausted.map(|(unit, window)| admitted.blame(unit, window));
        if let Some(blame) = blame {
            self.gateway.metrics.count_blame(blame);
        }
        let (recent, now) = (admitted.pool().recent(), admitted.pool().now());
        if let Some(kind) = kind {
            self.gateway.metrics.count_rejection(kind);
            recent.refused(TurnedAway { kind: kind.as_str(), quota: exhausted, blame }, now);
        } else if is_trouble(head.status) {
            recent.failed(recent::Failure::Status(head.status.as_u16()), now);
        }
        admitted.observe(Readings::of(&head.headers).iter());
        self.report_refusal(admitted, head.status, kind);
        headers::blame_upstream(&mut head.headers);
        let answer = Ok(Response::from_parts(head, body));
        let rejection = Rejection { charged, exhausted, retry_after };
        Err(Miss { passage, answer, rejection, retry, retry_after, code })
    }

    /// The body of a success: read already if it is short and whole, else as it comes.
    fn hand_over(&self, body: Metered, ahead: Option<Seen>) -> Body {
        match ahead {
            None => self.as_it_comes(body),
            Some(seen) if seen.is_whole() => Body::from(seen.bytes),
            Some(seen) => self.as_it_comes(seen.before(body)),
        }
    }

    fn as_it_comes<B>(&self, body: B) -> Body
    where
        B: http_body::Body<Data = Bytes, Error = Broken> + Send + Unpin + 'static,
    {
        if self.multiplexed {
            let limit = self.gateway.config.server.write_timeout;
            Body::new(pump(body, limit, &self.gateway.tasks))
        } else {
            Body::new(body)
        }
    }

    /// Hands over what there is: the upstream's own error, or ours.
    fn give_up(
        &self,
        answer: Result<Response, ProxyError>,
        code: Option<String>,
    ) -> Result<Response, ProxyError> {
        if answer.is_ok() {
            self.record.note(|facts| facts.code = code);
        }
        answer.map(|answer| self.record.watch(answer, Outcome::UpstreamError))
    }

    /// The answer to the caller, with its rate-limit and explaining headers.
    pub(super) fn finish(&self, result: Result<Response, ProxyError>) -> Response {
        let mut response = result.unwrap_or_else(IntoResponse::into_response);
        let headers: &mut HeaderMap = response.headers_mut();
        headers::fill_rate_limits(headers, &self.ask.pool.pool);
        self.record.note(|facts| headers::explain(headers, facts));
        response
    }
}

impl Miss {
    const fn without_answer(
        passage: Box<Passage>,
        error: ProxyError,
        charged: bool,
        retry: Option<RetryReason>,
    ) -> Self {
        let rejection = Rejection { charged, exhausted: None, retry_after: None };
        Self { passage, answer: Err(error), rejection, retry, retry_after: None, code: None }
    }
}
