//! What it costs, in whatever currency the prices are in.

use super::decimal::Decimal;
use super::exact::mul_div;
use super::job::Job;

/// Prices of a million tokens, in millionths of the currency.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Prices {
    /// Of prompts.
    pub input_micros: u64,
    /// Of answers.
    pub output_micros: u64,
}

/// What jobs cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// One job, in 10^-15 of the currency: millionths of a price for thousandths of a millionth.
    femtos: u128,
}

impl Cost {
    /// The cost of a job at such prices.
    pub fn of(job: &Job, prices: Prices) -> Self {
        let part = |milli: u64, micros: u64| u128::from(milli) * u128::from(micros);
        let input = part(job.input_milli(), prices.input_micros);
        Self { femtos: input.saturating_add(part(job.output_milli(), prices.output_micros)) }
    }

    /// The cost of so many jobs, rounded to millionths of the currency.
    pub fn of_jobs(self, jobs: u64) -> Decimal {
        // Half of a millionth, so that what is rounded down is rounded half up.
        let doubled = mul_div(self.femtos, u128::from(jobs) * 2, 1_000_000_000);
        Decimal::new(doubled.map_or(u128::MAX, |doubled| doubled.div_ceil(2)), 6)
    }
}
