//! One account's quota for one model, and what it has to say about itself.

use parking_lot::Mutex;
use serde::Serialize;

use super::options::Options;
use super::output;
use super::quota::{Admission, Counters, Level, Quota, Rejection, Unit};

/// One quota and when it was first asked.
#[derive(Debug)]
pub(super) struct Pool {
    account: String,
    model: String,
    first_ns: u64,
    quota: Mutex<Quota>,
}

/// What became of one pool's requests, and what could have become of them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The account, or a fingerprint of the key where none was named.
    pub account: String,
    /// The model.
    pub model: String,
    /// When the first request came, in nanoseconds since the Unix epoch.
    pub first_ns: u64,
    /// When this report was made, on the same clock.
    pub now_ns: u64,
    /// Requests and tokens so far.
    pub counters: Counters,
    /// Every limit with what is left, in the order they are asked.
    pub levels: Vec<Level>,
    /// The most requests the limits could have let in since `first_ns`.
    pub possible_requests: Option<u64>,
    /// The most tokens the limits could have let in since `first_ns`.
    pub possible_tokens: Option<u64>,
}

impl Report {
    /// How much of what was possible was made use of: the larger of the admitted requests' and
    /// the used and held tokens' shares. What was reserved and given back does not count.
    pub fn utilisation(&self) -> f64 {
        let counted = self.counters;
        let tokens = counted.tokens_used.saturating_add(counted.tokens_held);
        let share = |used: u64, possible: Option<u64>| {
            possible.filter(|most| *most > 0).map_or(0.0, |most| used as f64 / most as f64)
        };
        share(counted.admitted, self.possible_requests).max(share(tokens, self.possible_tokens))
    }
}

impl Pool {
    pub(super) fn new(account: String, model: String, options: &Options, now_ns: u64) -> Self {
        let quota = Quota::new(&options.scaled_limits(), options.semantics)
            .charging_rejected(options.charge_rejected);
        Self { account, model, first_ns: now_ns, quota: Mutex::new(quota) }
    }

    /// Decides, and tells the levels just afterwards with the reservation held.
    pub(super) fn admit(
        &self,
        now_ns: u64,
        tokens: u64,
    ) -> (Result<Admission, Rejection>, Vec<Level>) {
        let mut quota = self.quota.lock();
        let decision = quota.admit(now_ns, tokens);
        (decision, quota.remaining(now_ns))
    }

    pub(super) fn settle(&self, now_ns: u64, admission: Admission, actual_tokens: u64) {
        self.quota.lock().settle(now_ns, admission, actual_tokens);
    }

    pub(super) fn keep(&self, admission: Admission) {
        self.quota.lock().keep(admission);
    }

    pub(super) fn levels(&self, now_ns: u64) -> Vec<Level> {
        self.quota.lock().remaining(now_ns)
    }

    pub(super) fn report(&self, now_ns: u64) -> Report {
        let mut quota = self.quota.lock();
        Report {
            account: self.account.clone(),
            model: self.model.clone(),
            first_ns: self.first_ns,
            now_ns,
            counters: quota.counters(),
            levels: quota.remaining(now_ns),
            possible_requests: quota.capacity(Unit::Requests, self.first_ns, now_ns),
            possible_tokens: quota.capacity(Unit::Tokens, self.first_ns, now_ns),
        }
    }
}

/// A name for a key that does not give the key away.
pub(super) fn fingerprint(key: &str) -> String {
    format!("key-{:08x}", output::digest(key.as_bytes()) >> 32)
}
