//! What jobs are like: how they spread around their average, and some of them as examples.

use std::time::Duration;

use fastrand::Rng;
use hdrhistogram::Histogram;

use super::job::{BadJob, Job};

/// Examples kept, however many jobs there were: enough for percentiles to one in a hundred.
const EXAMPLES: usize = 4_096;

/// The largest value that is told from larger ones: a million millions, of tokens or milliseconds.
const MOST: u64 = 1_000_000_000_000;

/// Significant digits of percentiles.
const DIGITS: u8 = 3;

/// One job as it was, or may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Example {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Tokens set aside for it until its answer has ended.
    pub held: u64,
    /// From the request to the end of its answer, if that is known.
    pub latency: Option<Duration>,
}

/// Many jobs: what they have in common.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Tokens of prompts.
    pub input: Spread,
    /// Tokens of answers.
    pub output: Spread,
    /// Tokens of both.
    pub total: Spread,
    /// Tokens set aside.
    pub held: Spread,
    /// Milliseconds at the upstream, of those of which they are known.
    pub latency_ms: Spread,
    examples: Vec<Example>,
    rng: Rng,
}

/// How values spread. Takes some hundred kilobytes, however many there are.
#[derive(Clone, Debug)]
pub struct Spread {
    count: u64,
    sum: u128,
    max: u64,
    histogram: Histogram<u64>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            input: Spread::default(),
            output: Spread::default(),
            total: Spread::default(),
            held: Spread::default(),
            latency_ms: Spread::default(),
            examples: Vec::new(),
            // Which examples are kept is the same for the same file.
            rng: Rng::with_seed(0),
        }
    }
}

impl Profile {
    /// Jobs that are all alike.
    pub fn of(example: Example) -> Self {
        let mut profile = Self::default();
        profile.add(example);
        profile
    }

    /// Adds a job.
    pub fn add(&mut self, example: Example) {
        let Example { input, output, held, latency } = example;
        self.input.add(input);
        self.output.add(output);
        self.total.add(input.saturating_add(output));
        self.held.add(held);
        if let Some(latency) = latency {
            self.latency_ms.add(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
        }
        if self.examples.len() < EXAMPLES {
            self.examples.push(example);
        } else {
            // Each job is as likely to be among the examples as any other.
            let count = usize::try_from(self.input.count).unwrap_or(usize::MAX);
            let place = self.rng.usize(..count);
            if let Some(kept) = self.examples.get_mut(place) {
                *kept = example;
            }
        }
    }

    /// Jobs.
    pub const fn jobs(&self) -> u64 {
        self.input.count
    }

    /// Some of the jobs; all of them if there are few.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The average job; with `output` tokens or `latency` of its own, where those are given.
    ///
    /// # Errors
    ///
    /// [`BadJob`] if that is none.
    pub fn job(&self, output: Option<u64>, latency: Option<Duration>) -> Result<Job, BadJob> {
        let output = match output {
            Some(tokens) => tokens.checked_mul(1_000).ok_or(BadJob::TooLarge)?,
            // Of the average of both, which was rounded once.
            None => self.total.mean_milli().saturating_sub(self.input.mean_milli()),
        };
        // Thousandths of milliseconds.
        let measured = (self.latency_ms.count > 0)
            .then(|| Duration::from_micros(self.latency_ms.mean_milli()));
        Job::new(self.input.mean_milli(), output, latency.or(measured))
    }
}

impl Default for Spread {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MOST, DIGITS);
        Self { count: 0, sum: 0, max: 0, histogram: histogram.expect("the bounds are in order") }
    }
}

impl Spread {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
        self.histogram.saturating_record(value);
    }

    /// Values.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The average in thousandths, rounded up; zero if there are no values.
    pub fn mean_milli(&self) -> u64 {
        let mean = (self.sum * 1_000).checked_div(u128::from(self.count)).unwrap_or(0);
        let exact = mean * u128::from(self.count) == self.sum * 1_000;
        u64::try_from(mean + u128::from(!exact)).unwrap_or(u64::MAX)
    }

    /// What so many thousandths of the values do not exceed, to three significant digits.
    pub fn at(&self, permille: u16) -> u64 {
        self.histogram.value_at_quantile(f64::from(permille) / 1_000.0).min(self.max)
    }

    /// The largest value.
    pub const fn max(&self) -> u64 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_exact_and_percentiles_near() {
        let mut spread = Spread::default();
        assert_eq!((spread.mean_milli(), spread.at(500)), (0, 0));
        (1..=1_000).for_each(|value| spread.add(value));
        assert_eq!((spread.count(), spread.mean_milli()), (1_000, 500_500));
        assert_eq!((spread.at(500), spread.at(950), spread.max()), (500, 950, 1_000));
        let mut thirds = Spread::default();
        [0, 0, 1].into_iter().for_each(|value| thirds.add(value));
        assert_eq!(thirds.mean_milli(), 334, "rounded up");
        spread.add(u64::MAX);
        assert!(spread.max() == u64::MAX && spread.at(1_000) >= MOST);
    }

    #[test]
    fn examples_are_few_and_come_from_everywhere() {
        let mut profile = Profile::default();
        for input in 0..100_000 {
            profile.add(Example { input, output: 1, held: 10, latency: None });
        }
        assert_eq!((profile.jobs(), profile.examples().len()), (100_000, EXAMPLES));
        let late = profile.examples().iter().filter(|it| it.input >= 50_000).count();
        assert!((EXAMPLES * 2 / 5..EXAMPLES * 3 / 5).contains(&late), "{late}");
        let job = profile.job(Some(7), Some(Duration::from_secs(2))).unwrap();
        assert_eq!((job.input_milli(), job.output_milli()), (49_999_500, 7_000));
        assert_eq!(job.latency, Some(Duration::from_secs(2)));
        assert_eq!(profile.job(None, None).unwrap().latency, None);
        assert_eq!(profile.job(Some(u64::MAX), None), Err(BadJob::TooLarge));
    }
}
