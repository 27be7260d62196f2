//! Between two attempts: where a request stands, whether it is sent again, and when.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use tower::retry::budget::Budget as _;

use crate::admission::{Asked, Refused, Rejection, Waiting};
use crate::config;
use crate::metrics::RetryReason;
use crate::proxy::forward::{Forward, Miss};
use crate::proxy::inside::Inside;
use crate::proxy::tenant::{Passage, TenantHold, Turned};

/// A wait for admission that can be moved, and gone on with elsewhere.
#[expect(clippy::large_enum_variant, reason = "a box would cost every request an allocation")]
pub(super) enum Wait {
    /// It is over: admitted at once.
    Over(Option<Passage>),
    /// In its tenant's own line.
    Gate(Waiting),
    /// In the account's line, with what it holds of its tenant's quota.
    Line(Waiting, Option<TenantHold>),
    /// On the way back into the account's line.
    Again(Pin<Box<dyn Future<Output = Result<Passage, Refused>> + Send>>),
}

/// Where a request stands that waits for its first or next attempt.
pub(super) struct Turn {
    pub(super) wait: Wait,
    /// The attempt that it waits for, from 1.
    pub(super) attempt: u32,
    /// Attempts that reached nobody and were not the last, because others wait for the upstream too.
    pub(super) unsent: u32,
    /// The upstream's last answer and its error code, if it gave one.
    pub(super) said: Option<(Response, Option<String>)>,
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
}

impl Wait {
    /// Whether there is nothing to wait for.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Over(_))
    }
}

impl Forward {
    /// Asks for admission, at the places that were kept for the request if it is `back` for them.
    pub(super) fn stand(&self, back: bool) -> Result<Wait, Turned> {
        let Some(gate) = &self.ask.gate else { return self.line(None, back) };
        let place = if back { self.kept_place(&gate.pool) } else { None };
        let request = gate.request(&self.ask.request, &self.ask.price);
        match gate.pool.pool.ask(request, place).map_err(Turned::by_tenant)? {
            Asked::Go(admitted) => self.line(Some(TenantHold::new(admitted)), back),
            Asked::Wait(waiting) => {
                self.count_meanwhile(&waiting, Some(gate));
                self.record.note(|facts| facts.at_gate = true);
                Ok(Wait::Gate(waiting))
            }
        }
    }

    /// Asks for admission to the account's quota.
    fn line(&self, tenant: Option<TenantHold>, back: bool) -> Result<Wait, Turned> {
        let mut request = self.ask.request;
        let lowered = self.ask.gate.as_ref().and_then(|gate| gate.lowered.get());
        request.cost = lowered.copied().unwrap_or(request.cost);
        let place = if back { self.kept_place(&self.ask.pool) } else { None };
        let asked = self.ask.pool.pool.ask(request, place).map_err(Turned::by_account)?;
        Ok(match asked {
            Asked::Go(account) => Wait::Over(Some(Passage { account, tenant })),
            Asked::Wait(waiting) => {
                if lowered.is_none() {
                    self.count_meanwhile(&waiting, None);
                }
                Wait::Line(waiting, tenant)
            }
        })
    }

    /// Waits in the lines that are left. Dropping the future leaves the wait where it is.
    pub(super) async fn pass(&self, wait: &mut Wait) -> Result<Passage, Turned> {
        if let Wait::Gate(waiting) = wait {
            let admitted = waiting.await.map_err(Turned::by_tenant)?;
            let hold = TenantHold::new(admitted);
            let gate = self.ask.gate.as_ref();
            let bound = gate.and_then(|gate| hold.bound().map(|bound| gate.name_of(bound)));
            self.record.note(|facts| {
                facts.at_gate = false;
                facts.limited_by = bound.map(Into::into);
            });
            *wait = self.line(Some(hold), true)?;
        }
        let passed = match wait {
            Wait::Over(passage) => passage.take().ok_or(Refused::Closed),
            Wait::Line(waiting, tenant) => {
                let account = waiting.await;
                account.map(|account| Passage { account, tenant: tenant.take() })
            }
            Wait::Again(waiting) => waiting.await,
            Wait::Gate(_) => Err(Refused::Closed),
        };
        passed.map_err(Turned::by_account)
    }

    /// Whether, why and when to send the request again.
    pub(super) fn plan_retry(
        &self,
        miss: &Miss,
        turn: &mut Turn,
    ) -> Option<(RetryReason, Duration)> {
        let config = &self.gateway.config.retry;
        let (reason, attempt) = (miss.retry?, turn.attempt - turn.unsent);
        // What may have been worked on costs twice.
        let lost = matches!(reason, RetryReason::StaleConnection | RetryReason::Broken);
        if lost && !config.lost_answers {
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
        let (now, deadline) = (self.ask.pool.pool.now(), self.ask.request.deadline);
        if now.after(delay) >= deadline || !self.gateway.retry_budget.withdraw() {
            return None;
        }
        Some((reason, delay))
    }

    /// Gets a request that has to be sent again admitted again. It keeps what it holds of its
    /// tenant's.
    pub(super) fn again(
        &self,
        passage: Passage,
        rejection: Rejection,
        reason: RetryReason,
        delay: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Passage, Refused>> + Send>> {
        let (pool, request) = (Arc::clone(&self.ask.pool.pool), self.ask.request);
        let Passage { account, mut tenant } = passage;
        if let Some(hold) = &mut tenant {
            hold.missed(rejection);
        }
        match reason {
            // The next in line would fare no better: everyone waits.
            RetryReason::Quota | RetryReason::Overload => {
                let until = pool.now().after(delay);
                Box::pin(async move {
                    let account = pool.retry(account, rejection, request, until).await?;
                    Ok(Passage { account, tenant })
                })
            }
            // So they do while the upstream is away, and it keeps its place.
            _ if pool.is_broken() => {
                let until = pool.now();
                Box::pin(async move {
                    let account = pool.retry(account, rejection, request, until).await?;
                    Ok(Passage { account, tenant })
                })
            }
            _ => {
                let draining = self.gateway.draining.clone();
                let place = account.reject(rejection);
                Box::pin(async move {
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        // Nobody is admitted any more: there is nothing to wait for.
                        () = draining.cancelled() => {}
                    }
                    let account = pool.readmit(request, place).await?;
                    Ok(Passage { account, tenant })
                })
            }
        }
    }
}

/// Full jitter: anything up to a bound that doubles with each attempt.
fn backoff(config: &config::Retry, attempt: u32) -> Duration {
    let doubled = config.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(config.max_backoff).mul_f64(fastrand::f64())
}
