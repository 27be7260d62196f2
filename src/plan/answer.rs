//! Everything there is to say, and what it is said from.

use std::time::Duration;

use super::capacity::{Plan, Question};
use super::decimal::Decimal;
use super::exact::Rate;
use super::measure::Measured;
use super::rehearsal::Rehearsal;

/// A question and what came of it.
#[derive(Debug)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// What was worked out.
    pub plan: Plan,
    /// What the job was measured from, if it was.
    pub measured: Option<Measured>,
    /// What was rehearsed, if it was.
    pub rehearsal: Option<Rehearsal>,
}

impl Answer {
    /// Names of what binds, with a comma between them.
    pub(super) fn names(&self, bounds: &[super::Bound]) -> String {
        let names: Vec<_> = bounds.iter().map(|it| self.plan.name_of(*it)).collect();
        names.join(", ")
    }

    /// What a number of jobs costs, if prices are known.
    pub(super) fn cost_of(&self, jobs: u64) -> Option<Decimal> {
        self.plan.cost.map(|cost| cost.of_jobs(jobs))
    }

    /// Workers that keep up with a rate, if it is known how long a job takes.
    pub(super) fn workers(&self, rate: Rate) -> Option<u64> {
        self.question.job.latency.map(|latency| rate.workers(latency))
    }
}

/// Thousandths as a decimal number.
pub(super) const fn milli(thousandths: u64) -> Decimal {
    Decimal::new(thousandths as u128, 3)
}

/// Seconds, to the microsecond.
pub(super) fn seconds(span: Duration) -> Decimal {
    Decimal::new(span.as_nanos().div_ceil(1_000), 6)
}

/// Thousandths as a decimal number with one digit: averages, for people.
pub(super) const fn tenths(thousandths: u64) -> Decimal {
    Decimal::new((thousandths as u128 + 50) / 100, 1)
}
