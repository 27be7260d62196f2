//! The state of one limit under each of the three semantics.

use std::collections::VecDeque;

use super::limit::period;
use super::{Level, Limit, Semantics, Unit};

/// One limit and what has been charged to it.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) limit: Limit,
    pub(super) rejected: u64,
    kind: Kind,
    charged: i128,
    refunds_lost: i128,
}

#[derive(Clone, Debug)]
enum Kind {
    /// `level` is in units times nanoseconds of the window, so that one nanosecond earns exactly
    /// `limit` of them and nothing is ever rounded.
    Bucket {
        level: i128,
        at_ns: Option<u64>,
    },
    Fixed {
        phase_ns: u64,
        period: u64,
        used: i128,
    },
    /// Entries by rising id and instant; `used` is their sum.
    Log {
        entries: VecDeque<Entry>,
        used: i128,
        now_ns: u64,
    },
}

#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    at_ns: u64,
    units: i128,
}

impl Window {
    pub(super) fn new(mut limit: Limit, semantics: Semantics) -> Self {
        limit.window_ns = limit.window_ns.max(1);
        let kind = match semantics {
            Semantics::TokenBucket => Kind::Bucket { level: capacity(&limit), at_ns: None },
            Semantics::FixedWindow { phase_ns } => Kind::Fixed { phase_ns, period: 0, used: 0 },
            Semantics::SlidingLog => Kind::Log { entries: VecDeque::new(), used: 0, now_ns: 0 },
        };
        Self { limit, rejected: 0, kind, charged: 0, refunds_lost: 0 }
    }

    /// What a request of `tokens` costs here.
    pub(super) fn cost(&self, tokens: u64) -> u64 {
        match self.limit.unit {
            Unit::Requests => 1,
            Unit::Tokens => tokens,
        }
    }

    /// Moves time forward: refills, begins a new period, drops entries that have left.
    pub(super) fn advance(&mut self, now_ns: u64) {
        let limit = &self.limit;
        match &mut self.kind {
            Kind::Bucket { level, at_ns } => {
                let lasted = now_ns - at_ns.unwrap_or(now_ns).min(now_ns);
                let earned = i128::from(limit.limit).saturating_mul(i128::from(lasted));
                *level = level.saturating_add(earned).min(capacity(limit));
                *at_ns = Some(now_ns);
            }
            Kind::Fixed { phase_ns, period: current, used } => {
                let now = period(now_ns, limit.window_ns, *phase_ns);
                if now != *current {
                    (*current, *used) = (now, 0);
                }
            }
            Kind::Log { entries, used, now_ns: latest } => {
                *latest = now_ns;
                while let Some(entry) = entries.front()
                    && entry.at_ns.saturating_add(limit.window_ns) <= now_ns
                {
                    *used -= entry.units;
                    entries.pop_front();
                }
            }
        }
    }

    pub(super) fn fits(&self, tokens: u64) -> bool {
        i128::from(self.cost(tokens)) <= self.free()
    }

    /// Whole units left, rounded down; negative in debt.
    fn free(&self) -> i128 {
        match &self.kind {
            Kind::Bucket { level, .. } => level.div_euclid(i128::from(self.limit.window_ns)),
            Kind::Fixed { used, .. } | Kind::Log { used, .. } => {
                i128::from(self.limit.limit) - used
            }
        }
    }

    pub(super) fn charge(&mut self, now_ns: u64, id: u64, units: u64) {
        let units = i128::from(units);
        self.charged += units;
        match &mut self.kind {
            Kind::Bucket { level, .. } => {
                *level -= units.saturating_mul(i128::from(self.limit.window_ns));
            }
            Kind::Fixed { used, .. } => *used += units,
            Kind::Log { entries, used, .. } => {
                *used += units;
                entries.push_back(Entry { id, at_ns: now_ns, units });
            }
        }
    }

    /// Gives `units` back to the charge made at `at_ns` under `id`; negative units are charged on
    /// top of it.
    pub(super) fn refund(&mut self, at_ns: u64, id: u64, units: i128) {
        let reached = match &mut self.kind {
            Kind::Bucket { level, .. } => {
                let scaled = units.saturating_mul(i128::from(self.limit.window_ns));
                let before = *level;
                *level = level.saturating_add(scaled).min(capacity(&self.limit));
                // What the cap cuts off was earned back by waiting: charged and refunded at once.
                debug_assert!(units < 0 || *level >= before, "a refund never lowers a level");
                true
            }
            Kind::Fixed { phase_ns, period: current, used } => {
                let same = period(at_ns, self.limit.window_ns, *phase_ns) == *current;
                if same {
                    *used -= units;
                }
                same
            }
            Kind::Log { entries, used, .. } => match entries.binary_search_by_key(&id, |e| e.id) {
                Ok(index) => {
                    entries[index].units -= units;
                    *used -= units;
                    true
                }
                Err(_) => false,
            },
        };
        if reached {
            self.charged -= units;
        } else {
            self.refunds_lost += units;
        }
    }

    pub(super) fn level(&self, semantics: Semantics, now_ns: u64) -> Level {
        Level {
            limit: self.limit,
            remaining: clamp(self.free()),
            reset_ns: self.limit.reset_ns(semantics, now_ns),
            charged: u64::try_from(self.charged).unwrap_or_default(),
            refunds_lost: clamp(self.refunds_lost),
            rejected: self.rejected,
        }
    }
}

/// A full bucket, in units times nanoseconds.
fn capacity(limit: &Limit) -> i128 {
    i128::from(limit.limit).saturating_mul(i128::from(limit.window_ns))
}

fn clamp(units: i128) -> i64 {
    i64::try_from(units).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
}
