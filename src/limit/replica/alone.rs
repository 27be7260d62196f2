//! What a replica may let go while it cannot reach the others: a share of what was left when it lost
//! them, and of what comes back since.

use std::collections::HashMap;

use crate::limit::{Constraint, Cost, Denied, Ledger, Sent, Spent};
use crate::time::Timestamp;

/// Of its share a replica uses so many tenths: what was on its way when it lost the others, and how
/// the clocks run, it does not know.
const TENTHS: u64 = 9;

/// A share of each limit.
#[derive(Debug)]
pub(super) struct Alone {
    parts: Vec<Part>,
    /// A constraint whose share is less than one unit, if there is one: nothing goes.
    nothing: Option<usize>,
}

/// A share of one limit: what is spent of it already differs from the others'.
#[derive(Debug)]
struct Part {
    /// Which constraint's.
    constraint: usize,
    ledger: Ledger,
    open: HashMap<u64, Sent>,
}

impl Alone {
    /// What goes without the others, of which there are `replicas` with this one.
    pub(super) fn new(ledger: &mut Ledger, replicas: u32, at: Timestamp) -> Self {
        let share = |units: u64| {
            let part = u128::from(units) * u128::from(TENTHS) / (10 * u128::from(replicas.max(1)));
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        let (mut parts, mut nothing) = (Vec::new(), None);
        for (constraint, level) in ledger.levels(at).enumerate() {
            let (quota, limit) = (level.quota, share(level.quota.limit()));
            let part =
                Constraint::new(quota.unit(), limit, quota.window(), quota.name(), level.mode);
            let Ok(part) = part else {
                nothing = nothing.or(Some(constraint));
                continue;
            };
            let left = share(u64::try_from(level.available).unwrap_or(0)).min(limit);
            let mut part =
                Part { constraint, ledger: Ledger::new(vec![part], at), open: HashMap::new() };
            let spent = limit - left;
            let spent = Cost { requests: spent, tokens: spent, uncached: spent };
            let mut sent = part.ledger.place(spent, at).sent();
            part.ledger.charged(&mut sent, at);
            part.ledger.settle(sent, Spent::Unknown, at);
            parts.push(part);
        }
        Self { parts, nothing }
    }

    /// Whether there is room for a request. One that is only too large for the share may still go
    /// when the others are there again.
    pub(super) fn check(&mut self, cost: Cost, at: Timestamp) -> Result<(), Denied> {
        if let Some(constraint) = self.nothing {
            return Err(Denied::Wait { constraint, until: None });
        }
        let mut last: Option<Denied> = None;
        for Part { constraint, ledger, .. } in &mut self.parts {
            let until = match ledger.check(cost, at) {
                Ok(()) => continue,
                Err(Denied::Wall { .. }) => None,
                Err(Denied::Wait { until, .. }) => until,
            };
            let later = match last {
                Some(Denied::Wait { until: other, .. }) => {
                    until.unwrap_or(Timestamp::MAX) > other.unwrap_or(Timestamp::MAX)
                }
                _ => true,
            };
            if later {
                last = Some(Denied::Wait { constraint: *constraint, until });
            }
        }
        last.map_or(Ok(()), Err)
    }

    /// A request goes.
    pub(super) fn hold(&mut self, id: u64, cost: Cost, at: Timestamp) {
        for Part { ledger, open, .. } in &mut self.parts {
            open.insert(id, ledger.place(cost, at).sent());
        }
    }

    /// The head of its answer came.
    pub(super) fn charged(&mut self, id: u64, at: Timestamp) {
        for Part { ledger, open, .. } in &mut self.parts {
            if let Some(sent) = open.get_mut(&id) {
                ledger.charged(sent, at);
            }
        }
    }

    /// It ended.
    pub(super) fn end(&mut self, id: u64, used: Cost, at: Timestamp) {
        for Part { ledger, open, .. } in &mut self.parts {
            if let Some(sent) = open.remove(&id) {
                ledger.settle(sent, Spent::Exact(used), at);
            }
        }
    }
}
