//! Requests that go elsewhere: to another account or model, where their own would refuse them, have
//! them wait for long, or fail (`[[fallback]]`).
//!
//! A request leaves its line for one that can send it now. One that has to be waited for is taken only
//! where the request would be turned away otherwise. The next in order is tried, never one before it.
//!
//! # Invariants
//!
//! - Never silent: the answer names it. A stream whose head is out cannot, and stays where it is.
//! - Never at two at once: an attempt is over, or a place in line given up, before anything is sent.
//! - The caller's deadline and the budget of retries are the same wherever it goes.
//! - Each has the pool of its account and model: a ledger, a circuit and an order of its own.

mod elsewhere;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use tower::retry::budget::Budget as _;

pub(super) use self::elsewhere::Elsewhere;
use self::elsewhere::Other;
use crate::admission::{Asked, Bound, Refused};
use crate::config::{Cause, Fallback};
use crate::identity::Caller;
use crate::metrics::RetryReason;
use crate::proxy::Gateway;
use crate::proxy::admit::Ask;
use crate::proxy::error::ProxyError;
use crate::proxy::forward::{Forward, Miss};
use crate::proxy::learned::Study;
use crate::proxy::tenant::{Passage, Turned};
use crate::proxy::trace;
use crate::proxy::turn::{Turn, Wait};
use crate::proxy::upstream::Upstream;
use crate::usage::name_model;

/// It is not looked more often than once in twice this time whether a request can go elsewhere.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);

/// What a request is made of that may go elsewhere.
pub(super) struct Choices {
    caller: Caller,
    headers: HeaderMap,
    /// The model that it asks for.
    model: Arc<str>,
    /// The first that has not been tried.
    next: usize,
    /// How long it had waited when it was last seen whether it can go elsewhere.
    looked: Duration,
}

/// A request as it is to be sent elsewhere.
struct Made {
    ask: Ask,
    study: Study,
    body: Bytes,
}

/// Why a request would go elsewhere.
#[derive(Clone, Copy, Debug)]
struct Why {
    cause: Cause,
    /// What it waits for here.
    bound: Option<Bound>,
    /// How long it would; `None` if it is turned away.
    waits: Option<Duration>,
    /// Whether it has been sent before.
    again: bool,
}

impl Why {
    /// Whether a fallback is meant for this.
    fn is_met_by(&self, rule: &Fallback) -> bool {
        rule.on.has(self.cause) && self.waits.is_none_or(|waits| waits >= rule.after)
    }
}

impl Choices {
    /// The choices of a request, if there are any for it, and its caller does not forbid them.
    pub(super) fn of(
        gateway: &Gateway,
        caller: &Caller,
        headers: &HeaderMap,
        model: &str,
    ) -> Result<Option<Box<Self>>, ProxyError> {
        static NAME: HeaderName = HeaderName::from_static("x-tidegate-fallback");
        let wanted = match headers.get(&NAME).map(http::HeaderValue::as_bytes) {
            None | Some(b"on") => true,
            Some(b"off") => false,
            Some(_) => {
                let expected = "\"on\" or \"off\"";
                return Err(ProxyError::Header { name: NAME.as_str(), expected });
            }
        };
        if !wanted || !gateway.elsewhere.iter().any(|it| it.rule.is_for(model)) {
            return Ok(None);
        }
        let (caller, headers) = (caller.clone(), headers.clone());
        let looked = Duration::ZERO;
        Ok(Some(Box::new(Self { caller, headers, model: model.into(), next: 0, looked })))
    }

    /// Those that may still be tried.
    fn left<'g>(&self, gateway: &'g Gateway) -> impl Iterator<Item = (usize, &'g Elsewhere)> {
        let all = gateway.elsewhere.iter().enumerate().skip(self.next);
        all.filter(move |(_, it)| it.rule.is_for(&self.model))
    }
}

impl Forward {
    /// The other account that the request goes to, if it is not everybody's.
    fn other(&self) -> Option<&Other> {
        let elsewhere = self.fallback.and_then(|index| self.gateway.elsewhere.get(index));
        elsewhere.and_then(|it| it.other.as_ref())
    }

    /// The upstream that the request goes to.
    pub(super) fn upstream(&self) -> &Upstream {
        self.other().map_or(&self.gateway.upstream, |other| &other.upstream)
    }

    /// Whether it goes to the account that everybody's requests go to.
    pub(super) fn is_at_home(&self) -> bool {
        self.other().is_none()
    }

    /// Whether it waits where it may leave the line for another.
    pub(super) fn may_leave(&self, turn: &Turn) -> bool {
        self.choices.is_some() && !self.begun && !turn.wait.is_over()
    }

    /// Waits for admission, here or elsewhere; `None` if the caller has to be told first.
    pub(super) async fn wait_anywhere(
        &mut self,
        turn: &mut Turn,
    ) -> Option<Result<Box<Passage>, Turned>> {
        // The tenant's own limits are the same wherever it goes.
        let waits = matches!(turn.wait, Wait::Gate(..));
        if let Err(turned) = self.unless_told(waits, self.pass_gate(&mut turn.wait)).await? {
            return Some(Err(turned));
        }
        if let Wait::Line(waiting, _) = &turn.wait {
            let forecast = waiting.forecast();
            self.leave(turn, forecast);
        }
        while let Some(look) = self.next_look().filter(|_| !turn.wait.is_over()) {
            // What is later than any clock tells never comes.
            let Some(at) = self.record.arrived().checked_add(look) else { break };
            if at > Instant::now() {
                tokio::select! {
                    biased;
                    decided = self.wait(&mut turn.wait) => return decided,
                    () = tokio::time::sleep_until(at) => {}
                }
            }
            if let Some(choices) = &mut self.choices {
                choices.looked = look;
            }
            self.leave(turn, look);
        }
        self.wait(&mut turn.wait).await
    }

    /// How long it will have waited when it is to be seen whether it can go elsewhere.
    fn next_look(&self) -> Option<Duration> {
        let choices = self.choices.as_ref()?;
        let left = choices.left(&self.gateway).map(|(_, it)| it.rule.after);
        left.filter_map(|after| next_look(after, choices.looked)).min()
    }

    /// Leaves the line for the first that can send the request now, which has to wait for so long here.
    fn leave(&mut self, turn: &mut Turn, waits: Duration) {
        let (cause, bound) = self.cause(&turn.wait);
        // Of an upstream that is away nobody knows when it will be back.
        let waits = if cause == Cause::Failure { Duration::MAX } else { waits };
        let why = Why { cause, bound, waits: Some(waits), again: turn.attempt > 1 };
        if let Some(asked) = self.go_elsewhere(why) {
            let hold = turn.wait.take_hold();
            // Here its place in line is given up.
            turn.go_elsewhere(Wait::of(asked, hold));
        }
    }

    /// What becomes of a request that is refused here, if it can go elsewhere.
    pub(super) fn instead_of_refusal(&mut self, turned: &mut Turned) -> Option<Wait> {
        if turned.by_tenant {
            return None;
        }
        let (cause, bound) = match turned.refused {
            Refused::Closed => return None,
            Refused::Circuit { .. } => (Cause::Failure, Some(Bound::Circuit)),
            Refused::TooLong { bound, .. } => (cause_of(bound), Some(bound)),
            Refused::Wall { constraint } => (Cause::Quota, Some(Bound::Constraint(constraint))),
            Refused::Full { .. } | Refused::TenantFull { .. } => (Cause::Quota, None),
        };
        let asked = self.go_elsewhere(Why { cause, bound, waits: None, again: false })?;
        Some(Wait::of(asked, turned.take_hold()))
    }

    /// What becomes of a request whose last attempt here has failed, if it can go elsewhere.
    pub(super) fn instead_of_giving_up(&mut self, miss: &Miss) -> Option<Asked> {
        let reason = miss.retry.filter(|reason| self.may_send_again(*reason))?;
        let cause = cause_of_miss(reason);
        let in_time = self.ask.pool.pool.now() < self.ask.request.deadline;
        let why = Why { cause, bound: None, waits: None, again: true };
        in_time.then(|| self.go_elsewhere(why))?
    }

    /// Goes to the first that can send the request now; or to the first that lets it wait, if it is
    /// turned away here.
    fn go_elsewhere(&mut self, why: Why) -> Option<Asked> {
        let choices = self.choices.as_ref().filter(|_| !self.begun)?;
        let gateway = Arc::clone(&self.gateway);
        let left = choices.left(&gateway).filter(|(_, it)| why.is_met_by(&it.rule));
        let left: Vec<_> = left.collect();
        let mut patient = None;
        for (index, elsewhere) in left {
            // What it cannot take is for the others.
            let Some(made) = self.made_for(elsewhere) else { continue };
            match made.ask.pool.pool.ask(made.ask.request, None) {
                Ok(asked @ Asked::Go(_)) => return self.take((index, elsewhere), why, made, asked),
                Ok(asked) if why.waits.is_none() && patient.is_none() => {
                    patient = Some(((index, elsewhere), made, asked));
                }
                Ok(_) | Err(_) => {}
            }
        }
        let (there, made, asked) = patient?;
        self.take(there, why, made, asked)
    }

    /// The request as it is sent there; `None` if it cannot be.
    fn made_for(&self, elsewhere: &Elsewhere) -> Option<Made> {
        let choices = self.choices.as_ref()?;
        let most = self.gateway.config.server.max_body_bytes.get();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let body: Bytes = match elsewhere.rule.model.as_deref() {
            Some(model) if *model != *choices.model => {
                name_model(self.ask.kind, &self.came, most, model)?.into()
            }
            _ => self.came.clone(),
        };
        let other = elsewhere.other.as_ref();
        let account = other.map_or(choices.caller.account, |other| other.account);
        let caller = Caller { account, ..choices.caller.clone() };
        let (mut ask, study) = Ask::read(&self.gateway, &caller, &choices.headers, &body).ok()?;
        // It has waited here already.
        ask.request.deadline = self.ask.request.deadline;
        ask.request.class = self.ask.request.class;
        (ask.patience, ask.beats) = (self.ask.patience, self.ask.beats);
        let body = ask.capped.as_ref().map_or(body, |capped| capped.body.clone());
        Some(Made { ask, study, body })
    }

    /// From now on it is a request to there; `None` if it may not be.
    fn take(
        &mut self,
        (index, there): (usize, &Elsewhere),
        why: Why,
        made: Made,
        asked: Asked,
    ) -> Option<Asked> {
        let (Made { ask, study, body }, Elsewhere { rule, other }) = (made, there);
        let gateway = Arc::clone(&self.gateway);
        if body.as_ptr() != self.came.as_ptr() {
            self.memory.grow(body.len() as u64).ok()?;
        }
        if why.again && !gateway.retry_budget.withdraw() {
            return None;
        }
        gateway.metrics.upstream.fell_back(&rule.name, why.cause.as_str());
        let bound = why.bound.map(|bound| self.ask.pool.pool.name_of(bound));
        let target = other.as_ref().map(|other| &other.target);
        let target = target.or_else(|| gateway.traces.as_ref().map(|(_, target)| target));
        let class = &gateway.config.classes.all()[ask.request.class].name;
        let notes = trace::Asked::new(ask.subject.pool, class, &study.demand);
        self.record.note(|facts| {
            if let Some(bound) = bound {
                facts.limited_by = Some(bound.into());
            }
            facts.end_wait(false);
            facts.fallback = Some(Arc::clone(&rule.name));
            facts.model = Some(Arc::clone(&ask.pool.model));
            facts.estimated = ask.price.estimate.total();
            facts.output_cap = ask.capped.as_ref().map(|capped| capped.tokens);
            facts.study = Some(study);
        });
        self.record.trace(|trace| {
            trace.asks(notes);
            trace.goes_to(target);
        });
        self.outgoing.body = body;
        // Back at everybody's account it is everybody's key: no host sees that of another.
        let upstream = other.as_ref().map_or(&*gateway.upstream, |other| &other.upstream);
        if let Some(key) = upstream.authorization() {
            self.outgoing.headers.insert(AUTHORIZATION, key.clone());
        }
        (self.ask, self.fallback) = (ask, Some(index));
        if let Some(choices) = &mut self.choices {
            choices.next = index + 1;
        }
        if let Asked::Wait(waiting) = &asked {
            self.count_meanwhile(waiting, None);
        }
        Some(asked)
    }

    /// Why a request waits here, and what its line waits for.
    fn cause(&self, wait: &Wait) -> (Cause, Option<Bound>) {
        let pool = &self.ask.pool.pool;
        if pool.is_broken() {
            return (Cause::Failure, Some(Bound::Circuit));
        }
        if let Wait::Again(_, _, reason) = wait {
            return (cause_of_miss(*reason), None);
        }
        let bound = pool.glance().bound;
        (bound.map_or(Cause::Quota, cause_of), bound)
    }
}

/// When to look again whether a request can go elsewhere: after so long, and then whenever its wait has
/// doubled, for there may be room by then.
fn next_look(after: Duration, looked: Duration) -> Option<Duration> {
    if looked < after {
        return Some(after);
    }
    // A wait of nothing does not get longer by being doubled.
    let doubled = looked.max(SHORTEST_LOOK).checked_mul(2)?;
    Some(doubled)
}

/// What is wrong where somebody waits for this.
const fn cause_of(bound: Bound) -> Cause {
    match bound {
        Bound::Constraint(_) | Bound::Gap | Bound::Replicas => Cause::Quota,
        Bound::Concurrency | Bound::Backoff => Cause::Overload,
        Bound::Circuit => Cause::Failure,
    }
}

/// What is wrong where an attempt fails so.
const fn cause_of_miss(reason: RetryReason) -> Cause {
    match reason {
        RetryReason::Quota => Cause::Quota,
        RetryReason::Overload => Cause::Overload,
        RetryReason::ServerError
        | RetryReason::Connect
        | RetryReason::StaleConnection
        | RetryReason::Unprocessed
        | RetryReason::Broken
        | RetryReason::OutputCap => Cause::Failure,
    }
}

#[cfg(test)]
mod tests;
