//! An exact, clock-free model of the upstream's limits: the oracle the gateway is checked against.
//!
//! A request is *admitted* (its estimate is reserved in every window, or in none), and later
//! either *settled* with what it really used or *kept*, charged in full.
//!
//! # Invariants
//!
//! - **Independent.** Nothing here is shared with the gateway's own limiter.
//! - **Pure.** No clock: `now_ns` is nanoseconds since the Unix epoch, and time never runs back
//!   (an earlier `now_ns` counts as the latest one seen).
//! - **Exact.** Integers only; a token bucket's level is kept in unit-nanoseconds.
//! - **All or nothing.** A request that does not fit one window is charged to none.
//!
//! The order in which windows are asked, and so the one a refusal names, is requests before
//! tokens, then second, minute, hour, day.

mod limit;
mod parse;
#[cfg(test)]
mod tests;
mod window;

pub use limit::{Limit, Name, Semantics, Unit};
pub use parse::ParseError;

use serde::Serialize;
use window::Window;

/// The upstream's account of one pool: every limit at once.
#[derive(Clone, Debug)]
pub struct Quota {
    windows: Vec<Window>,
    semantics: Semantics,
    charge_rejected: bool,
    counters: Counters,
    next_id: u64,
    latest_ns: u64,
}

/// A request the quota has let in; give it back through [`Quota::settle`] or [`Quota::keep`].
#[derive(Debug)]
#[must_use = "an admission that is neither settled nor kept stays outstanding"]
pub struct Admission {
    id: u64,
    at_ns: u64,
    tokens: u64,
}

impl Admission {
    /// Tokens reserved: the estimated prompt and the output reservation.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
}

/// Why a request was not admitted: the first window it did not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rejection {
    /// The window that is used up.
    pub limit: Limit,
    /// Nanoseconds to the end of that window on the clock.
    pub reset_ns: u64,
}

/// One limit and what is left of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Level {
    /// The limit.
    pub limit: Limit,
    /// Units left with every reservation held; negative when more was used than reserved.
    pub remaining: i64,
    /// Nanoseconds to the end of the window on the clock.
    pub reset_ns: u64,
    /// Units charged so far, less those refunded.
    pub charged: u64,
    /// Units whose refund came after the window they were charged to had gone; negative where
    /// usage above the reservation came too late to be charged.
    pub refunds_lost: i64,
    /// Requests refused because of this limit.
    pub rejected: u64,
}

/// What a quota has counted since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// Requests that asked for admission.
    pub requests: u64,
    /// Requests that were let in.
    pub admitted: u64,
    /// Requests that were refused.
    pub rejected: u64,
    /// Tokens reserved by admitted requests, whatever became of them.
    pub tokens_reserved: u64,
    /// Tokens of ended requests: the actual usage of settled ones, the reservation of kept ones.
    pub tokens_used: u64,
    /// Tokens reserved by requests that have not ended.
    pub tokens_held: u64,
}

impl Quota {
    /// A quota that has seen no request: every bucket full, every window empty.
    pub fn new(limits: &[Limit], semantics: Semantics) -> Self {
        let mut limits = limits.to_vec();
        limits.sort_by_key(|limit| (limit.unit, limit.name));
        let windows = limits.into_iter().map(|limit| Window::new(limit, semantics)).collect();
        Self {
            windows,
            semantics,
            charge_rejected: false,
            counters: Counters::default(),
            next_id: 0,
            latest_ns: 0,
        }
    }

    /// Whether a refused request costs a unit of every request window that still has one.
    #[must_use]
    pub fn charging_rejected(mut self, charge: bool) -> Self {
        self.charge_rejected = charge;
        self
    }

    /// Reserves one request and `tokens` (estimated prompt and output reservation).
    ///
    /// # Errors
    ///
    /// The first window that lacks the units; nothing is reserved then.
    pub fn admit(&mut self, now_ns: u64, tokens: u64) -> Result<Admission, Rejection> {
        let now_ns = self.advance(now_ns);
        let id = self.next_id;
        self.next_id += 1;
        self.counters.requests += 1;
        if let Some(index) = self.windows.iter().position(|window| !window.fits(tokens)) {
            return Err(self.reject(index, now_ns, id));
        }
        for window in &mut self.windows {
            window.charge(now_ns, id, window.cost(tokens));
        }
        self.counters.admitted += 1;
        self.counters.tokens_reserved = self.counters.tokens_reserved.saturating_add(tokens);
        self.counters.tokens_held = self.counters.tokens_held.saturating_add(tokens);
        Ok(Admission { id, at_ns: now_ns, tokens })
    }

    fn reject(&mut self, index: usize, now_ns: u64, id: u64) -> Rejection {
        self.counters.rejected += 1;
        let refusing = &mut self.windows[index];
        refusing.rejected += 1;
        let rejection = Rejection {
            limit: refusing.limit,
            reset_ns: refusing.limit.reset_ns(self.semantics, now_ns),
        };
        if self.charge_rejected {
            let requests = self.windows.iter_mut().filter(|w| w.limit.unit == Unit::Requests);
            for window in requests.filter(|window| window.fits(0)) {
                window.charge(now_ns, id, 1);
            }
        }
        rejection
    }

    /// Replaces a reservation by what was really used: the difference is given back, or charged
    /// on top when it is negative.
    ///
    /// A bucket never rises above its capacity. A fixed window or log entry that has gone takes
    /// no refund: those units are lost.
    #[expect(clippy::needless_pass_by_value, reason = "an admission is settled once")]
    pub fn settle(&mut self, now_ns: u64, admission: Admission, actual_tokens: u64) {
        self.advance(now_ns);
        let refund = i128::from(admission.tokens) - i128::from(actual_tokens);
        for window in self.windows.iter_mut().filter(|w| w.limit.unit == Unit::Tokens) {
            window.refund(admission.at_ns, admission.id, refund);
        }
        self.end(&admission, actual_tokens);
    }

    /// Ends a request without a refund: its reservation is what it cost.
    #[expect(clippy::needless_pass_by_value, reason = "an admission is kept once")]
    pub fn keep(&mut self, admission: Admission) {
        self.end(&admission, admission.tokens);
    }

    fn end(&mut self, admission: &Admission, used: u64) {
        self.counters.tokens_held = self.counters.tokens_held.saturating_sub(admission.tokens);
        self.counters.tokens_used = self.counters.tokens_used.saturating_add(used);
    }

    /// Every limit, in the order they are asked, with what is left of it.
    pub fn remaining(&mut self, now_ns: u64) -> Vec<Level> {
        let now_ns = self.advance(now_ns);
        let semantics = self.semantics;
        self.windows.iter().map(|window| window.level(semantics, now_ns)).collect()
    }

    /// The most this quota could have admitted of `unit` in `[from_ns, to_ns]`, beginning with
    /// everything free: the smallest capacity among that unit's limits. `None` if it has none.
    pub fn capacity(&self, unit: Unit, from_ns: u64, to_ns: u64) -> Option<u64> {
        let of_unit = self.windows.iter().filter(|window| window.limit.unit == unit);
        of_unit.map(|window| window.limit.capacity(self.semantics, from_ns, to_ns)).min()
    }

    /// What has been counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How this quota's windows give units back.
    pub fn semantics(&self) -> Semantics {
        self.semantics
    }

    fn advance(&mut self, now_ns: u64) -> u64 {
        self.latest_ns = self.latest_ns.max(now_ns);
        for window in &mut self.windows {
            window.advance(self.latest_ns);
        }
        self.latest_ns
    }
}
