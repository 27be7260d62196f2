//! What a refusal of the pool means to the caller: in words, with the numbers behind it.

use std::time::Duration;

use crate::admission::{Bound, Pool, Refused};
use crate::limit::Unit;
use crate::proxy::admit::Ask;
use crate::proxy::error::{ProxyError, UsedUp};
use crate::proxy::tenant::{TENANT, Turned};
use crate::time::Timestamp;

impl Ask {
    /// The error for a request that was refused after it had `waited`.
    pub(super) fn refused(&self, turned: &Turned, waited: Duration) -> ProxyError {
        let gate = self.gate.as_ref().filter(|_| turned.by_tenant);
        let pool = gate.map_or(&self.pool.pool, |gate| &gate.pool.pool);
        let whose = if gate.is_some() { TENANT } else { "" };
        let wait = |at: Option<Timestamp>| at.map(|at| at.since(pool.now()));
        // Where nobody knows when, the caller's own backoff is as good: it starts at a second.
        let soon = Duration::from_secs(1);
        match turned.refused {
            Refused::Wall { constraint } => {
                ProxyError::AboveLimit(self.wall(pool, whose, constraint))
            }
            Refused::TenantFull { retry_at } => {
                let retry_after = wait(retry_at).unwrap_or(soon);
                ProxyError::QueueFull { most: self.max_queued_per_tenant.get(), retry_after }
            }
            Refused::Full { retry_at } => {
                let retry_after = wait(retry_at).unwrap_or(soon);
                ProxyError::QueueFull { most: self.max_queued.get(), retry_after }
            }
            Refused::Circuit { retry_at }
            | Refused::TooLong { bound: Bound::Circuit, retry_at, .. } => {
                ProxyError::CircuitOpen { retry_after: wait(retry_at).unwrap_or(soon) }
            }
            Refused::TooLong { bound, retry_at, .. } => {
                let (level, start) = (used_up(pool, bound), wait(retry_at));
                let message = self.too_long((pool, whose), bound, level, start, waited);
                let retry_after = start.unwrap_or(soon);
                ProxyError::WaitExceeded { message, level, retry_after }
            }
            Refused::Closed => ProxyError::Draining,
        }
    }

    fn wall(&self, pool: &Pool, whose: &str, constraint: usize) -> String {
        let Some(quota) = pool.constraint(constraint) else { return String::new() };
        let limit = quota.limit();
        match quota.unit() {
            Unit::Requests => format!("no request fits into {whose}{quota} ({limit})"),
            Unit::Tokens | Unit::UncachedTokens => format!(
                "the request is estimated at {} tokens (prompt {}, output up to {}), {} at the very \
                 least, but {whose}{quota} never allows more than {limit}: lower max_completion_tokens (name \
                 it, if it is not named) or n, or shorten the prompt",
                self.price.estimate.total(),
                self.price.estimate.prompt,
                self.price.estimate.output,
                self.price.least.total(),
            ),
        }
    }

    /// Why it was not admitted in time: the limit, its state, the cost, and what came of the wait.
    fn too_long(
        &self,
        (pool, whose): (&Pool, &str),
        bound: Bound,
        level: Option<UsedUp>,
        start: Option<Duration>,
        waited: Duration,
    ) -> String {
        let limit = match (bound, level) {
            (Bound::Constraint(_), Some(UsedUp { limit, used, held })) => {
                let name = pool.name_of(bound);
                format!("{name}: limit {limit}, used {used} (of which {held} held)")
            }
            (Bound::Constraint(_), None) => format!("{} quota", pool.name_of(bound)),
            (Bound::Concurrency, _) => "concurrency: all permits are taken".to_owned(),
            (Bound::Gap, _) => "gap: the one before it went a moment ago".to_owned(),
            (Bound::Backoff, _) => "backoff: the upstream is overloaded".to_owned(),
            (Bound::Circuit, _) => "circuit: the upstream does not answer".to_owned(),
            (Bound::Replicas, _) => "replicas: the others that share the quota".to_owned(),
        };
        let (cost, patience) = (self.price.estimate.total(), span(self.patience));
        let end = match start {
            _ if waited >= self.patience => format!("was not admitted within {patience}"),
            Some(start) => {
                format!("would start in about {}, after its deadline of {patience}", span(start))
            }
            None => format!("cannot start before its deadline of {patience}"),
        };
        format!("{whose}{limit}; this request is estimated at {cost} tokens and {end}")
    }
}

/// How far the limit is used up that was waited for, if it was one.
fn used_up(pool: &Pool, bound: Bound) -> Option<UsedUp> {
    let Bound::Constraint(index) = bound else { return None };
    let wanted = pool.constraint(index)?;
    let mut found = None;
    pool.levels(|level| {
        if level.quota.unit() == wanted.unit() && level.quota.name() == wanted.name() {
            let limit = level.quota.limit();
            let used = i128::from(limit) - i128::from(level.available);
            let used = u64::try_from(used.max(0)).unwrap_or(u64::MAX);
            found = Some(UsedUp { limit, used, held: level.held });
        }
    });
    found
}

/// A duration for people: whole seconds, rounded up, from ten on; milliseconds below.
fn span(span: Duration) -> String {
    let whole = |step: u64| {
        let step = u128::from(step) * 1_000_000;
        u64::try_from(span.as_nanos().div_ceil(step)).unwrap_or(u64::MAX)
    };
    let rounded = if span >= Duration::from_secs(10) {
        Duration::from_secs(whole(1_000))
    } else {
        Duration::from_millis(whole(1))
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short_and_never_understated() {
        for (nanos, text) in [
            (1, "1ms"),
            (34_000_000, "34ms"),
            (1_500_000_001, "1s 501ms"),
            (10_000_000_001, "11s"),
            (90_000_000_000, "1m 30s"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), text);
        }
    }
}
