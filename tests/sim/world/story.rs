//! What happened in a simulated world.

use super::Moment;
use crate::law::Spend;
use crate::workload::{Fate, Job};

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) sent: u64,
    /// Refused by the upstream's quota although no debt was open that explains it.
    pub(crate) rejected: u64,
    /// Refused by the upstream's quota while a debt was.
    pub(crate) rejected_in_debt: u64,
    /// Refusals that the ledger itself takes for its own fault.
    pub(crate) attributable: u64,
    /// Those of them that came when more than two windows had passed.
    pub(crate) attributable_later: u64,
    /// Requests of others that were refused.
    pub(crate) foreign_refused: u64,
    /// Times at which the ledger had promised more than the upstream had left.
    pub(crate) broken: u64,
    /// What each window was taken for at the end.
    pub(crate) modes: Vec<&'static str>,
    /// Whether the two were equal, to the whole unit, whenever nothing was on its way.
    pub(crate) twin: bool,
    /// The first of these, in words.
    pub(crate) first_fault: Option<String>,
    /// Units charged by the upstream at the end and not given back, by unit.
    pub(crate) charged: [i128; 2],
    /// What was let in and what it used in the end, without debt.
    pub(crate) requests: Vec<Spend>,
    pub(crate) tokens: Vec<Spend>,
    /// Over all admitted requests, for the maths of utilisation.
    pub(crate) sums: Sums,
    /// What was seen after every event, where the workload is `traced`.
    pub(crate) moments: Vec<Moment>,
}

/// Sums over admitted requests, of tokens unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) count: f64,
    pub(crate) held: f64,
    /// What stays charged in the ledger, and at the upstream.
    pub(crate) used: f64,
    pub(crate) charged: f64,
    pub(crate) held_squared: f64,
    /// Tokens beyond those used, times the nanoseconds for which they were held.
    pub(crate) spare_area: f64,
    /// Tokens used, times the nanoseconds until the charge was seen.
    pub(crate) late_area: f64,
}

impl Story {
    /// Enters a request that was let in at `now`, with the time from sending until it is settled,
    /// and until its charge is seen.
    pub(super) fn note(
        &mut self,
        job: &Job,
        cut_refunded: bool,
        now: u64,
        settled_after: u64,
        seen_after: u64,
    ) {
        // A cut request is kept in full; a debt is beyond what any limit promises.
        let refunded = cut_refunded && job.fate == Fate::Cut { seen: true };
        let cut = matches!(job.fate, Fate::Cut { .. }) && !refunded;
        let spent = if cut { job.reserve } else { job.used.min(job.hold) };
        self.requests.push((now, 1));
        self.tokens.push((now, spent));
        let charged = if cut { job.hold } else { spent };
        let [held, used] = [job.hold, charged].map(|tokens| tokens as f64);
        let sums = &mut self.sums;
        sums.count += 1.0;
        sums.held += held;
        sums.used += used;
        sums.charged += spent as f64;
        sums.held_squared += held * held;
        sums.spare_area += (held - used) * settled_after as f64;
        sums.late_area += used * seen_after as f64;
    }

    /// Counts nothing, but remembers the first fault in words.
    pub(super) fn fault(&mut self, words: impl FnOnce() -> String) {
        self.first_fault.get_or_insert_with(words);
    }
}
