//! Between two attempts: where a request stands, whether it is sent again, and when.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::Response;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::retry::budget::Budget as _;

use crate::admission::{Admitted, Asked, Coming, Refused, Rejection, Waiting};
use crate::config;
use crate::metrics::RetryReason;
use crate::proxy::forward::{Forward, Miss};
use crate::proxy::inside::Inside;
use crate::proxy::tenant::{Passage, TenantHold, Turned};
use crate::time::Timestamp;

/// A wait for admission that can be moved, and gone on with elsewhere. What it holds of its tenant's is in a
/// box: most hold nothing, and have no room for it.
pub(super) enum Wait {
    /// It is over: admitted at once.
    Over(Option<Box<Passage>>),
    /// In its tenant's own line, and expected in the account's.
    Gate(Waiting, Option<Coming>),
    /// In the account's line, with what it holds of its tenant's quota.
    Line(Waiting, Option<Box<TenantHold>>),
    /// On the way back into the account's line, after such a miss.
    Again(Pin<Box<Readmission>>, Option<Box<TenantHold>>, RetryReason),
}

/// The way back into a line.
type Readmission = dyn Future<Output = Result<Admitted, Refused>> + Send;

/// Where a request stands that waits for its first or next attempt.
pub(super) struct Turn {
    pub(super) wait: Wait,
    /// The attempt that it waits for, from 1.
    pub(super) attempt: u32,
    /// Attempts that do not count: they reached nobody, while all wait for the upstream, or were made
    /// elsewhere.
    pub(super) unsent: u32,
    /// The upstream's last answer and its error code, if it gave one. In a box: most give none that is
    /// followed by another attempt.
    pub(super) said: Option<Box<(Response, Option<String>)>>,
    /// What is known of it if it is the gateway's own.
    pub(super) inside: Option<Inside>,
    /// Whether it takes a connection of its own: a kept one has just broken under it.
    pub(super) fresh: bool,
}

impl Turn {
    /// That of a request which has just asked.
    pub(super) const fn first(wait: Wait) -> Self {
        Self { wait, attempt: 1, unsent: 0, said: None, inside: None, fresh: false }
    }

    /// Goes on elsewhere, where attempts count anew.
    pub(super) fn go_elsewhere(&mut self, wait: Wait) {
        (self.wait, self.unsent, self.said) = (wait, self.attempt - 1, None);
        self.fresh = false;
    }
}

impl Wait {
    /// That of a request which has asked its account, with what it holds of its tenant's quota.
    pub(super) fn of(asked: Asked, tenant: Option<TenantHold>) -> Self {
        match asked {
            Asked::Go(account) => Self::Over(Some(Passage::new(account, tenant))),
            Asked::Wait(waiting) => Self::Line(waiting, tenant.map(Box::new)),
        }
    }

    /// What it holds of its tenant's quota, for whoever goes on with it.
    pub(super) fn take_hold(&mut self) -> Option<TenantHold> {
        match self {
            Self::Line(_, tenant) | Self::Again(_, tenant, _) => tenant.take().map(|it| *it),
            Self::Over(_) | Self::Gate(..) => None,
        }
    }

    /// Whether there is nothing to wait for.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Over(_))
    }
}

pin_project! {
    /// A wait that ends when its caller has to be told of it. Not an `async fn`: that would have room for
    /// the wait twice.
    pub(super) struct UnlessTold<W> {
        #[pin]
        wait: W,
        told: Option<Pin<Box<Sleep>>>,
    }
}

impl<W: Future> Future for UnlessTold<W> {
    type Output = Option<W::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(decided) = this.wait.poll(cx) {
            return Poll::Ready(Some(decided));
        }
        match this.told {
            Some(told) => told.as_mut().poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    }
}

impl Forward {
    /// Asks for admission, at the places that were kept for the request if it is `back` for them.
    pub(super) fn stand(&self, back: bool) -> Result<Wait, Turned> {
        let Some(gate) = &self.ask.gate else { return self.line(None, None, back) };
        let place = if back { self.kept_place(&gate.pool) } else { None };
        let request = gate.request(&self.ask.request, &self.ask.price);
        match gate.pool.pool.ask(request, place).map_err(Turned::by_tenant)? {
            Asked::Go(admitted) => self.line(Some(TenantHold::new(admitted)), None, back),
            Asked::Wait(waiting) => {
                self.count_meanwhile(&waiting, Some(gate));
                self.record.note(|facts| facts.at_gate = true);
                let coming = self.ask.pool.pool.expect(self.ask.request.cost);
                Ok(Wait::Gate(waiting, Some(coming)))
            }
        }
    }

    /// Asks for admission to the account's quota.
    fn line(
        &self,
        tenant: Option<TenantHold>,
        coming: Option<Coming>,
        back: bool,
    ) -> Result<Wait, Turned> {
        let mut request = self.ask.request;
        let lowered = self.ask.gate.as_ref().and_then(|gate| gate.lowered.get());
        request.cost = lowered.copied().unwrap_or(request.cost);
        let place = if back { self.kept_place(&self.ask.pool) } else { None };
        let pool = &self.ask.pool.pool;
        let asked = match coming {
            None => pool.ask(request, place),
            Some(coming) => pool.ask_as(coming, request, place),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(refused) => return Err(Turned::by_account(refused, tenant)),
        };
        if let Asked::Wait(waiting) = &asked
            && lowered.is_none()
        {
            self.count_meanwhile(waiting, None);
        }
        Ok(Wait::of(asked, tenant))
    }

    /// Waits in its tenant's own line, if it stands there. Dropping the future leaves the wait where it
    /// is.
    pub(super) async fn pass_gate(&self, wait: &mut Wait) -> Result<(), Turned> {
        let Wait::Gate(waiting, coming) = wait else { return Ok(()) };
        let admitted = waiting.await.map_err(Turned::by_tenant)?;
        let hold = TenantHold::new(admitted);
        let gate = self.ask.gate.as_ref();
        let bound = gate.and_then(|gate| hold.bound().map(|bound| gate.name_of(bound)));
        self.record.note(|facts| {
            facts.at_gate = false;
            facts.limited_by = bound.map(Into::into);
        });
        *wait = self.line(Some(hold), coming.take(), true)?;
        Ok(())
    }

    /// Waits in the lines that are left. Dropping the future leaves the wait where it is.
    pub(super) async fn pass(&self, wait: &mut Wait) -> Result<Box<Passage>, Turned> {
        self.pass_gate(wait).await?;
        let admitted = match wait {
            Wait::Over(passage) => {
                let passage = passage.take();
                return passage.ok_or_else(|| Turned::by_account(Refused::Closed, None));
            }
            Wait::Line(waiting, _) => waiting.await,
            Wait::Again(waiting, ..) => waiting.await,
            Wait::Gate(..) => Err(Refused::Closed),
        };
        let tenant = wait.take_hold();
        match admitted {
            Ok(account) => Ok(Passage::new(account, tenant)),
            Err(refused) => Err(Turned::by_account(refused, tenant)),
        }
    }

    /// Waits for admission; `None` if the caller has to be told first.
    pub(super) async fn wait(&self, wait: &mut Wait) -> Option<Result<Box<Passage>, Turned>> {
        let waits = !wait.is_over();
        self.unless_told(waits, self.pass(wait)).await
    }

    /// Waits; `None` if the caller has to be told first that it `waits`.
    pub(super) fn unless_told<W: Future>(&self, waits: bool, wait: W) -> UnlessTold<W> {
        let beats = self.ask.beats.filter(|_| waits && !self.begun);
        let told = beats
            .map(|beats| Box::pin(tokio::time::sleep_until(self.record.arrived() + beats.after)));
        UnlessTold { wait, told }
    }

    /// Whether, why and when to send the request again.
    pub(super) fn plan_retry(
        &self,
        miss: &Miss,
        turn: &mut Turn,
    ) -> Option<(RetryReason, Duration)> {
        let config = &self.gateway.config.retry;
        let (reason, attempt) = (miss.retry?, turn.attempt - turn.unsent);
        if !self.may_send_again(reason) {
            return None;
        }
        let waits = miss.passage.account.pool().is_broken();
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
        let (now, last) = (self.ask.pool.pool.now(), self.ask.pool.pool.last_start());
        let deadline = self.ask.request.deadline.min(last.unwrap_or(Timestamp::MAX));
        if now.after(delay) >= deadline || !self.gateway.retry_budget.withdraw() {
            return None;
        }
        Some((reason, delay))
    }

    /// Whether a request may be sent again after this, here or elsewhere.
    pub(super) fn may_send_again(&self, reason: RetryReason) -> bool {
        // What may have been worked on costs twice.
        let lost = matches!(reason, RetryReason::StaleConnection | RetryReason::Broken);
        !lost || self.gateway.config.retry.lost_answers
    }

    /// Gets a request that has to be sent again admitted again. It keeps what it holds of its
    /// tenant's.
    pub(super) fn again(
        &self,
        passage: Box<Passage>,
        rejection: Rejection,
        reason: RetryReason,
        delay: Duration,
    ) -> Wait {
        let (pool, request) = (Arc::clone(&self.ask.pool.pool), self.ask.request);
        let Passage { account, mut tenant } = *passage;
        if let Some(hold) = &mut tenant {
            hold.missed(rejection);
        }
        let back: Pin<Box<Readmission>> = match reason {
            // The next in line would fare no better: everyone waits.
            RetryReason::Quota | RetryReason::Overload => {
                // At once, and not when somebody asks: it may leave again before that.
                let until = pool.now().after(delay);
                let asked = pool.put_back(account, rejection, request, until);
                Box::pin(async move { asked?.admitted().await })
            }
            // So they do while the upstream is away, and it keeps its place.
            _ if pool.is_broken() => {
                let asked = pool.put_back(account, rejection, request, pool.now());
                Box::pin(async move { asked?.admitted().await })
            }
            _ => {
                let (drain, at) = (self.gateway.drain.clone(), pool.now().after(delay));
                let place = account.reject(rejection);
                Box::pin(async move {
                    drain.pause(&pool, at, delay).await;
                    pool.readmit(request, place).await
                })
            }
        };
        Wait::Again(back, tenant.map(Box::new), reason)
    }
}

/// Full jitter: anything up to a bound that doubles with each attempt.
fn backoff(config: &config::Retry, attempt: u32) -> Duration {
    let doubled = config.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(config.max_backoff).mul_f64(fastrand::f64())
}
