//! What one job takes: the average, which is what counts in the long run.

use std::time::Duration;

use crate::limit::Unit;

/// One job of many: one request, the tokens it uses on the average, its time at the upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Job {
    /// Tokens of the prompt, in thousandths.
    input_milli: u64,
    /// Tokens of the answer, in thousandths.
    output_milli: u64,
    /// From the request to the end of its answer; `None` if nobody knows.
    pub latency: Option<Duration>,
}

/// Numbers that make no job.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadJob {
    /// It would use nothing, and any number of them would fit.
    #[error("a job must use at least one token")]
    Empty,
    /// It is larger than anything that is sent.
    #[error("a job must not use more than {} tokens", Job::MOST_TOKENS)]
    TooLarge,
}

impl Job {
    /// The most tokens of a job: far more than any model reads, few enough for exact arithmetic.
    pub const MOST_TOKENS: u64 = 1_000_000_000;

    /// The least job, in place of one that is not known yet.
    pub const ONE_TOKEN: Self = Self { input_milli: 1_000, output_milli: 0, latency: None };

    /// A job with so many tokens on the average, in thousandths.
    ///
    /// # Errors
    ///
    /// [`BadJob`] if it uses nothing or far too much.
    pub fn new(
        input_milli: u64,
        output_milli: u64,
        latency: Option<Duration>,
    ) -> Result<Self, BadJob> {
        let total = input_milli.checked_add(output_milli).ok_or(BadJob::TooLarge)?;
        if total > Self::MOST_TOKENS * 1_000 {
            return Err(BadJob::TooLarge);
        }
        if total == 0 {
            return Err(BadJob::Empty);
        }
        Ok(Self { input_milli, output_milli, latency })
    }

    /// Tokens of the prompt, in thousandths.
    pub const fn input_milli(&self) -> u64 {
        self.input_milli
    }

    /// Tokens of the answer, in thousandths.
    pub const fn output_milli(&self) -> u64 {
        self.output_milli
    }

    /// What it takes of a limit in `unit`, in thousandths. Nothing is taken to be cached.
    pub const fn cost_milli(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => 1_000,
            Unit::Tokens | Unit::UncachedTokens => self.input_milli + self.output_milli,
        }
    }
}
