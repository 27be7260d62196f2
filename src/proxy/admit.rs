//! From a request body to an admission: what it costs, how long it may wait, and in which pool.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::admission::pools::Named;
use crate::admission::{Bound, Pool, PoolConfig, PoolKey, Refused, Request};
use crate::config::{Admission, Profile};
use crate::identity::Caller;
use crate::limit::{Constraint, Cost, Unit};
use crate::proxy::Gateway;
use crate::proxy::error::ProxyError;
use crate::usage::{BodyKind, Demand, Estimate};

/// What is known of a request once its body has been read.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The pool that it goes through.
    pub(super) pool: Arc<Named>,
    /// What it costs at most.
    pub(super) estimate: Estimate,
    /// What it costs at least.
    least: Estimate,
    /// What it asks the pool for.
    pub(super) request: Request,
    max_queued: NonZeroU32,
}

impl Ask {
    /// Reads a metered request.
    pub(super) fn read(
        gateway: &Gateway,
        caller: &Caller,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Self, ProxyError> {
        let text = |name: http::HeaderName| {
            let bytes = headers.get(name).map(http::HeaderValue::as_bytes);
            bytes.map(|bytes| std::str::from_utf8(bytes).unwrap_or("not text"))
        };
        let kind = BodyKind::from_headers(text(CONTENT_TYPE), text(CONTENT_ENCODING))?;
        let config = &gateway.config;
        let most = usize::try_from(config.server.max_body_bytes.get()).unwrap_or(usize::MAX);
        let demand = Demand::read(kind, body, most)?;
        let profile = config.models.profile(&demand.model).ok_or(ProxyError::UnknownModel)?;
        let estimate = profile.estimate.estimate(&demand);
        let deadline = gateway.pools.epoch().now().after(patience(headers, &config.admission)?);
        let key = PoolKey(caller.account.quota(&demand.model));
        let make = || (Arc::clone(&profile.name), pool_config(profile, &config.admission));
        let pool = gateway
            .pools
            .get(key, &demand.model, make)
            .map_err(|_| ProxyError::Overloaded { what: "accounts and models" })?;
        let least = profile.estimate.least(&demand);
        let held = |unit| within(profile, unit, estimate.total(), least.total());
        let (tokens, uncached) = (held(Unit::Tokens), held(Unit::UncachedTokens));
        let cost = Cost { requests: 1, tokens, uncached };
        let request = Request { cost, bytes: body.len() as u64, deadline };
        Ok(Self { pool, estimate, least, request, max_queued: config.admission.max_queued })
    }

    /// What a refusal of the pool means to the caller.
    pub(super) fn refused(&self, refused: Refused) -> ProxyError {
        let pool = &self.pool.pool;
        let wait = |at: Option<crate::time::Timestamp>| {
            at.map_or(Duration::from_secs(1), |at| at.since(pool.now()))
        };
        match refused {
            Refused::Wall { constraint } => ProxyError::AboveLimit(self.wall(pool, constraint)),
            Refused::Full { retry_at } => {
                ProxyError::QueueFull { most: self.max_queued.get(), retry_after: wait(retry_at) }
            }
            Refused::TooLong { bound, retry_at, .. } => {
                let message = format!(
                    "the request would not be admitted before its deadline: it waits for {}",
                    what(pool, bound)
                );
                ProxyError::WaitExceeded { message, retry_after: wait(retry_at) }
            }
            Refused::Closed => ProxyError::Draining,
        }
    }

    fn wall(&self, pool: &Pool, constraint: usize) -> String {
        let Some(quota) = pool.constraint(constraint) else { return String::new() };
        let limit = quota.limit();
        match quota.unit() {
            Unit::Requests => format!("no request fits into {quota} ({limit})"),
            Unit::Tokens | Unit::UncachedTokens => format!(
                "the request is estimated at {} tokens (prompt {}, output up to {}), {} at the very \
                 least, but {quota} never allows more than {limit}: lower max_completion_tokens (name \
                 it, if it is not named) or n, or shorten the prompt",
                self.estimate.total(),
                self.estimate.prompt,
                self.estimate.output,
                self.least.total(),
            ),
        }
    }
}

/// The tokens to hold in `unit`: the bound on what the request costs, but no more than the smallest
/// limit if the request itself may be below that. A bound errs upwards; the upstream's own count
/// decides.
fn within(profile: &Profile, unit: Unit, bound: u64, least: u64) -> u64 {
    let limits = profile.limits.iter().filter(|quota| quota.unit() == unit);
    match limits.map(Constraint::limit).min() {
        Some(limit) if least <= limit => bound.min(limit),
        _ => bound,
    }
}

/// What is waited for, in words.
fn what(pool: &Pool, bound: Bound) -> String {
    match bound {
        Bound::Constraint(_) => format!("{} quota", pool.name_of(bound)),
        Bound::Concurrency => "the requests before it".to_owned(),
        Bound::Gap => "the gap between two requests".to_owned(),
        Bound::Backoff => "the upstream, which is overloaded".to_owned(),
    }
}

/// How long the caller is ready to wait: the least of what it says and what is allowed.
fn patience(headers: &HeaderMap, config: &Admission) -> Result<Duration, ProxyError> {
    const MAX_WAIT: &str = "x-tidegate-max-wait";
    let mut patience = config.max_wait;
    if let Some(value) = headers.get(MAX_WAIT) {
        let asked = value.to_str().ok().and_then(|text| humantime::parse_duration(text).ok());
        let expected = "a duration with its unit, such as \"10s\"";
        patience = patience.min(asked.ok_or(ProxyError::Header { name: MAX_WAIT, expected })?);
    }
    // What SDKs say of their own timeouts; some say it in words when there is none.
    for name in ["x-stainless-read-timeout", "x-stainless-timeout"] {
        let seconds = headers.get(name).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
        let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        if let Some(span) = span.filter(|span| !span.is_zero()) {
            patience = patience.min(span);
        }
    }
    Ok(patience)
}

fn pool_config(profile: &Profile, admission: &Admission) -> PoolConfig {
    PoolConfig {
        constraints: profile.limits.clone(),
        max_queued: usize::try_from(admission.max_queued.get()).unwrap_or(usize::MAX),
        settle_delay: admission.settle_delay,
        max_concurrent: profile.max_concurrent,
        min_gap: profile.min_gap,
    }
}
