//! What is added up.

use std::time::Duration;

pub use crate::metrics::Fate;

/// One request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How.
    pub fate: Fate,
    /// Tokens of its prompt, the cached ones included.
    pub prompt: u64,
    /// Tokens of its answer.
    pub completion: u64,
    /// Tokens of its prompt that the upstream had in its cache.
    pub cached: u64,
    /// How long it waited in line.
    pub waited: Duration,
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Requests whose answers reached their callers whole.
    pub completed: u64,
    /// Requests that failed at the upstream, or here.
    pub failed: u64,
    /// Requests that were turned away.
    pub refused: u64,
    /// Requests whose callers went away.
    pub gone: u64,
    /// Tokens of prompts, the cached ones included.
    pub prompt: u64,
    /// Tokens of answers.
    pub completion: u64,
    /// Tokens of prompts that the upstream had in its cache.
    pub cached: u64,
    /// Microseconds that they waited in line, together.
    pub waited: u64,
    /// Microseconds that the one waited that waited longest.
    pub longest_wait: u64,
}

impl Counts {
    /// All requests.
    pub const fn requests(&self) -> u64 {
        self.completed + self.failed + self.refused + self.gone
    }

    /// Adds a request.
    pub(super) fn count(&mut self, sample: &Sample) {
        let Sample { fate, prompt, completion, cached, waited } = *sample;
        match fate {
            Fate::Completed => self.completed += 1,
            Fate::Failed => self.failed += 1,
            Fate::Refused => self.refused += 1,
            Fate::Gone => self.gone += 1,
        }
        // The upstream says these: whatever it says, nothing overflows.
        self.prompt = self.prompt.saturating_add(prompt);
        self.completion = self.completion.saturating_add(completion);
        self.cached = self.cached.saturating_add(cached);
        let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.waited = self.waited.saturating_add(waited);
        self.longest_wait = self.longest_wait.max(waited);
    }

    /// Adds other sums.
    pub fn add(&mut self, other: &Self) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        sum(&mut self.completed, other.completed);
        sum(&mut self.failed, other.failed);
        sum(&mut self.refused, other.refused);
        sum(&mut self.gone, other.gone);
        sum(&mut self.prompt, other.prompt);
        sum(&mut self.completion, other.completion);
        sum(&mut self.cached, other.cached);
        sum(&mut self.waited, other.waited);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}
