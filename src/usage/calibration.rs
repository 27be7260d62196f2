//! What the requests of one caller really cost at one model, learned from finished answers.
//!
//! A [`Calibration`] turns what a prompt is made of into a bound on its tokens: the most likely
//! number, and as many standard deviations above it as make a miss rare. Both are learned from
//! `usage.prompt_tokens`. Until enough has been seen, and for what has never been seen, the bound
//! is that of the configured rule.
//!
//! # Invariants
//!
//! - Memory is fixed, some tens of kilobytes, whatever comes.
//! - The bound never exceeds the configured rule's, unless what was seen contradicts that rule.
//! - Bounds and likely costs are never mixed: [`Calibration::prompt`] is for what is held,
//!   [`Calibration::fair`] for whose turn it is.
//! - Floating point ends here: bounds are whole tokens, rounded up, and the ledger sees no others.

mod features;
mod kind;
mod noise;
mod saved;

use self::features::{COUNTED, FEATURES, PRIOR, PRIOR_COUNTED, counted_features, features, float};
use self::kind::Kind;
use self::noise::Noise;
use super::demand::{Demand, OutputLimit, PromptWeight};
use super::estimate::EstimateRule;
use super::lengths::Lengths;
use super::regression::{Belief, Regression};
use super::report::Usage;

/// Answers of a kind to learn from before its bound differs from the configured rule's.
const ENOUGH: u64 = 8;

/// Standard deviations between the most likely number of tokens and the bound. With errors of a
/// normal distribution one request in three million is above; theirs has a longer tail.
const MARGIN: f64 = 5.0;

/// Answers after which what follows from them is worked out only now and then: one more says little that
/// is new, and working it out is most of what an answer's lesson costs.
const OFTEN_UNTIL: u64 = 128;

/// Answers from one time to the next, then.
const SELDOM: u64 = 8;

/// What the past is worth after an answer above the bound.
const AFTER_MISS: f64 = 0.5;

/// What is known of one caller's requests to one model.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    kinds: [Option<Box<Kindred>>; Kind::COUNT],
    /// The errors of all kinds.
    noise: Noise,
    seen: u64,
    lengths: Lengths,
}

/// What is known of prompts of one [`Kind`].
#[derive(Clone, Debug)]
struct Kindred {
    text: Learned<FEATURES>,
    counted: Learned<COUNTED>,
}

/// A rule, and how good it is.
#[derive(Clone, Debug)]
struct Learned<const N: usize> {
    rule: Regression<N>,
    noise: Noise,
    seen: u64,
}

/// An answer's end, as far as there is something to learn from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lesson {
    /// What the answer used.
    pub usage: Usage,
    /// The prompt's tokens by [`Tokenizer::count_prompt`](super::Tokenizer::count_prompt), if they
    /// were counted.
    pub counted: Option<u64>,
    /// Whether an output limit ended it.
    pub cut: bool,
}

/// What a [`Calibration`] has learned, for people.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Answers learned from.
    pub answers: u64,
    /// Answers whose text had been counted as well.
    pub counted: u64,
    /// The middle length of an answer, in tokens of a choice.
    pub output_median: Option<u64>,
    /// The length that 99 of a hundred answers stay within.
    pub output_p99: Option<u64>,
}

impl Default for Kindred {
    fn default() -> Self {
        Self { text: Learned::new(&PRIOR), counted: Learned::new(&PRIOR_COUNTED) }
    }
}

impl Calibration {
    /// The most tokens that the prompt of `demand` is expected to have: `rule`'s bound until
    /// enough has been seen. With the text's tokens `counted`, where that says more.
    #[must_use]
    pub fn prompt(&self, rule: &EstimateRule, demand: &Demand, counted: Option<u64>) -> u64 {
        let safe = rule.estimate(demand).prompt;
        let Some(kindred) = self.kindred(demand) else { return safe };
        let assumed = self.noise.factor(1.0);
        let by_text = kindred.text.bound(&features(demand), assumed);
        let by_count = counted.and_then(|tokens| {
            kindred
                .counted
                .bound(&counted_features(demand, tokens), kindred.counted.noise.factor(1.0))
        });
        let best = match (by_text, by_count) {
            (Some(text), Some(count)) if count.most < text.most => count,
            (Some(bound), _) | (None, Some(bound)) => bound,
            (None, None) => return safe,
        };
        // Parts that are not text cost what the rule says, tokens given by number what they are.
        let rest = fixed(rule, &demand.prompt);
        safe.max(best.sure.saturating_add(rest)).min(best.most.saturating_add(rest))
    }

    /// What `demand` is most likely to cost in all: of the prompt what is expected, of the output
    /// what the caller's answers have in the middle.
    #[must_use]
    pub fn fair(&self, rule: &EstimateRule, demand: &Demand) -> u64 {
        let likely = self.kindred(demand).and_then(|it| it.text.likely(&features(demand)));
        let prompt = likely.map_or_else(
            // Before anything is known: as if text were prose.
            || rule.least(demand).prompt.saturating_add(fixed(rule, &demand.prompt)),
            |tokens| tokens.saturating_add(fixed(rule, &demand.prompt)),
        );
        let reserved = rule.estimate(demand).output;
        let output = self.lengths.median().map_or(reserved, |tokens| {
            let each = match demand.output_limit {
                OutputLimit::Unlimited => tokens,
                OutputLimit::Tokens(most) => tokens.min(most),
            };
            each.saturating_mul(demand.choices).saturating_mul(demand.prompts).min(reserved)
        });
        prompt.saturating_add(output)
    }

    /// The output that 99 of a hundred of this caller's answers stay within, per choice; `None`
    /// before a hundred have been seen.
    #[must_use]
    pub fn output_p99(&self) -> Option<u64> {
        self.lengths.p99()
    }

    /// Takes note of how a request ended.
    pub fn learn(&mut self, demand: &Demand, lesson: Lesson) {
        let Lesson { usage, counted, cut } = lesson;
        let choices = demand.choices.saturating_mul(demand.prompts).max(1);
        self.lengths.learn(usage.completion.div_ceil(choices), cut);
        self.seen = self.seen.saturating_add(1);
        let weight = &demand.prompt;
        // What a picture cost cannot be told from what the text around it did.
        if weight.images > 0 || weight.other_parts > 0 || usage.prompt == 0 {
            return;
        }
        let tokens = usage.prompt.saturating_sub(weight.token_ids);
        let kindred = self.kinds[Kind::of(&weight.texture) as usize].get_or_insert_default();
        self.noise.learn(kindred.text.learn(&features(demand), tokens));
        if let Some(counted) = counted {
            kindred.counted.learn(&counted_features(demand, counted), tokens);
        }
    }

    /// What has been learned so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let counted = self.kinds.iter().flatten().map(|kindred| kindred.counted.seen).sum();
        Summary {
            answers: self.seen,
            counted,
            output_median: self.lengths.median(),
            output_p99: self.lengths.p99(),
        }
    }

    fn kindred(&self, demand: &Demand) -> Option<&Kindred> {
        self.kinds[Kind::of(&demand.prompt.texture) as usize].as_deref()
    }
}

/// What a rule says of a prompt's text.
#[derive(Clone, Copy)]
struct Bound {
    /// The most if the rule were right, so that only chance remains.
    sure: u64,
    /// The most, with all that the rule does not know.
    most: u64,
}

impl<const N: usize> Learned<N> {
    fn new(prior: &'static [Belief; N]) -> Self {
        Self { rule: Regression::new(prior), noise: Noise::default(), seen: 0 }
    }

    /// What it says once it has seen enough; the noise is taken for `assumed` before the first.
    fn bound(&self, features: &[f64; N], assumed: f64) -> Option<Bound> {
        if self.seen < ENOUGH {
            return None;
        }
        let expected = self.rule.predict(features);
        let (factor, chance) = (self.noise.factor(assumed), noise::variance(expected.mean));
        let above = |variance: f64| whole(expected.mean + MARGIN * (factor * variance).sqrt());
        Some(Bound { sure: above(chance), most: above(chance + expected.variance) })
    }

    /// The most likely number, once it has seen enough.
    fn likely(&self, features: &[f64; N]) -> Option<u64> {
        (self.seen >= ENOUGH).then(|| whole(self.rule.mean(features)))
    }

    /// Learns what a prompt really had; returns the square of how unexpected that was.
    fn learn(&mut self, features: &[f64; N], tokens: u64) -> f64 {
        let tokens = float(tokens);
        let expected = self.rule.predict(features);
        let error = tokens - expected.mean;
        let square = error * error / (noise::variance(expected.mean) + expected.variance);
        if square > MARGIN * MARGIN * self.noise.factor(1.0) && error > 0.0 {
            // Above the bound: the upstream counts otherwise than before, or the text is of a new
            // sort. Either way the past is worth less than it seemed.
            self.rule.forget(AFTER_MISS);
        }
        self.noise.learn(square);
        self.rule.fold(features, tokens, noise::variance(expected.mean.max(tokens)));
        self.seen = self.seen.saturating_add(1);
        if self.seen < OFTEN_UNTIL || self.seen.is_multiple_of(SELDOM) {
            self.rule.solve();
        }
        square
    }
}

/// Tokens of a prompt that its text says nothing about.
fn fixed(rule: &EstimateRule, weight: &PromptWeight) -> u64 {
    weight.token_ids.saturating_add(rule.parts(weight))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn whole(tokens: f64) -> u64 {
    tokens.ceil() as u64
}

#[cfg(test)]
mod tests;
