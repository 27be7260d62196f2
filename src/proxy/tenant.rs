//! A tenant's own limits: a line of its own, before that of the account.
//!
//! A request whose tenant has limits first waits for those, in a pool that is the tenant's alone, and
//! then for its account's. What it holds there it keeps until it has ended, however often it is sent:
//! a tenant pays for one answer, once.
//!
//! # Invariants
//!
//! - Nobody waits in the account's line who may not go anyway: a tenant at its limit is in nobody's way.
//! - First the tenant's pool, then the account's, and never the other way round: no two requests wait
//!   for each other.
//! - A hold ends once. Dropped while nothing of its request is or was left at the upstream, it is as if
//!   it had not been; else it is charged.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::admission::pools::Named;
use crate::admission::{
    Admitted, Bound, PoolConfig, PoolKey, Refused, Rejection, Request, TenantLimits, circuit,
};
use crate::config::Config;
use crate::identity::{Caller, Terms};
use crate::limit::{ColdStart, Constraint, Cost, Spent, Unit};
use crate::proxy::Gateway;
use crate::proxy::admit::{Price, within};
use crate::proxy::error::ProxyError;
use crate::usage::Estimate;

/// What a request has to pass before its account's line.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// The tenant's own pool.
    pub(super) pool: Arc<Named>,
    terms: Arc<Terms>,
    /// What the request is held to cost at its account, if that was found to be less while it waited
    /// here.
    pub(super) lowered: Arc<OnceLock<Cost>>,
}

/// What a request goes upstream with.
#[derive(Debug)]
pub(super) struct Passage {
    /// Its admission to the account's quota.
    pub(super) account: Admitted,
    /// What it holds of its tenant's, if that has limits.
    pub(super) tenant: Option<TenantHold>,
}

/// What a request holds of its tenant's quota.
#[derive(Debug)]
pub(super) struct TenantHold {
    admitted: Option<Admitted>,
    at_upstream: bool,
    /// Whether an attempt that is over may have been charged.
    owes: bool,
}

/// A request that was not let in, and where.
#[derive(Debug)]
pub(super) struct Turned {
    pub(super) refused: Refused,
    /// Whether it was its tenant's limits.
    pub(super) by_tenant: bool,
    /// What it holds of its tenant's quota, should it be let in elsewhere.
    hold: Option<Box<TenantHold>>,
}

impl Gate {
    /// The gate of a caller's requests; `None` if there is nothing to pass.
    pub(super) fn of(gateway: &Gateway, caller: &Caller) -> Result<Option<Self>, ProxyError> {
        let Some(terms) = caller.terms.as_ref().filter(|terms| terms.are_counted()) else {
            return Ok(None);
        };
        let name = &caller.tenant;
        let make = || (Arc::clone(name), pool_config(terms, &gateway.config));
        let pool = gateway.tenants.get(PoolKey(terms.quota), name, make);
        let pool = pool.map_err(|_| ProxyError::Overloaded { what: "tenants" })?;
        Ok(Some(Self { pool, terms: Arc::clone(terms), lowered: Arc::default() }))
    }

    /// What is asked for here for a request that asks for `request` at its account.
    pub(super) fn request(&self, request: &Request, price: &Price) -> Request {
        Request { cost: self.cost(price.estimate, price.least), ..*request }
    }

    /// What is held here.
    pub(super) fn cost(&self, estimate: Estimate, least: Estimate) -> Cost {
        let limits: &[Constraint] = &self.terms.limits;
        let held = |unit| within(limits, unit, estimate.total(), least.total());
        Cost { requests: 1, tokens: held(Unit::Tokens), uncached: held(Unit::UncachedTokens) }
    }

    /// What a request waits for here, as callers, logs and metrics name it.
    pub(super) fn name_of(&self, bound: Bound) -> String {
        format!("{TENANT}{}", self.pool.pool.name_of(bound))
    }
}

/// What names of tenants' limits begin with, so that none is taken for the account's.
pub const TENANT: &str = "tenant:";

/// What a tenant's own pool goes by. Its quota is the gateway's to give: nobody else has used any, and
/// what is refunded is free at once.
pub(super) fn pool_config(terms: &Terms, config: &Config) -> PoolConfig {
    let admission = &config.admission;
    let count = |most: std::num::NonZeroU32| usize::try_from(most.get()).unwrap_or(usize::MAX);
    PoolConfig {
        constraints: terms.limits.clone(),
        cold_start: ColdStart::Full,
        classes: config.classes.all().iter().map(|class| class.rule).collect(),
        max_queued: count(admission.max_queued_per_tenant),
        per_tenant: TenantLimits {
            queued: count(admission.max_queued_per_tenant),
            bytes: admission.max_queued_bytes_per_tenant.get(),
        },
        settle_delay: Duration::ZERO,
        max_concurrent: terms.max_concurrent,
        min_gap: Duration::ZERO,
        // How the upstream does is the account's business.
        circuit: circuit::Rule::OFF,
    }
}

impl Turned {
    pub(super) const fn by_tenant(refused: Refused) -> Self {
        Self { refused, by_tenant: true, hold: None }
    }

    pub(super) fn by_account(refused: Refused, hold: Option<TenantHold>) -> Self {
        Self { refused, by_tenant: false, hold: hold.map(Box::new) }
    }

    /// What it holds of its tenant's quota.
    pub(super) fn take_hold(&mut self) -> Option<TenantHold> {
        self.hold.take().map(|hold| *hold)
    }
}

impl Passage {
    /// Boxed: it is handed on a dozen times.
    pub(super) fn new(account: Admitted, tenant: Option<TenantHold>) -> Box<Self> {
        Box::new(Self { account, tenant })
    }

    /// Tokens and requests held of the account's quota.
    pub(super) const fn cost(&self) -> Cost {
        self.account.cost()
    }

    /// How long it waited, in both lines.
    pub(super) fn waited(&self) -> Duration {
        let before = self.tenant.as_ref().and_then(|hold| hold.admitted.as_ref());
        self.account.waited() + before.map_or(Duration::ZERO, Admitted::waited)
    }

    /// Marks the request as handed upstream; called before its first byte is.
    pub(super) fn sent(&mut self) {
        self.account.sent();
        if let Some(TenantHold { admitted: Some(admitted), at_upstream, .. }) = &mut self.tenant {
            admitted.sent();
            *at_upstream = true;
        }
    }

    /// The head of an answer arrived: its tenant has been charged by now. The account is told by itself, along
    /// with what the head shows.
    pub(super) fn tenant_charged(&mut self) {
        if let Some(TenantHold { admitted: Some(admitted), .. }) = &mut self.tenant {
            admitted.charged();
        }
    }

    /// The answer has ended.
    pub(super) fn settle(&mut self, spent: Spent) {
        self.account.settle_here(spent);
        if let Some(TenantHold { admitted: Some(admitted), .. }) = &mut self.tenant {
            admitted.settle_here(spent);
        }
    }

    /// The upstream refused the request, and it is not sent there again; returns what it holds of its
    /// tenant's quota, which is as good elsewhere.
    pub(super) fn missed(self, rejection: Rejection) -> Option<TenantHold> {
        let Self { account, mut tenant } = self;
        account.reject(rejection);
        if let Some(hold) = &mut tenant {
            hold.missed(rejection);
        }
        tenant
    }

    /// The same, and it is sent nowhere else.
    pub(super) fn reject(self, rejection: Rejection) {
        self.missed(rejection);
    }
}

impl TenantHold {
    pub(super) const fn new(admitted: Admitted) -> Self {
        Self { admitted: Some(admitted), at_upstream: false, owes: false }
    }

    /// What it waited for last.
    pub(super) fn bound(&self) -> Option<Bound> {
        self.admitted.as_ref().and_then(Admitted::bound)
    }

    /// An attempt gave no answer. What the upstream says of quotas is about the account's.
    pub(super) const fn missed(&mut self, rejection: Rejection) {
        self.at_upstream = false;
        self.owes |= rejection.charged;
    }
}

impl Drop for TenantHold {
    fn drop(&mut self) {
        let Some(admitted) = self.admitted.take() else { return };
        if self.at_upstream || self.owes {
            // Charged as held: nobody knows better.
            drop(admitted);
        } else {
            admitted.reject(Rejection::default());
        }
    }
}

#[cfg(test)]
mod tests;
