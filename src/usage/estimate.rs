//! Turns a demand into the tokens to hold for it.
//!
//! The estimate is an upper bound, because what the upstream counts must never be more than what
//! is held here; the true usage replaces it afterwards. Integers only: sums saturate, divisions
//! round up.

use std::num::NonZeroU64;

use super::demand::{Demand, OutputLimit, PromptWeight};

/// Bytes of a token where tokens are longest: prose has 4 to 5, deeply indented code up to 7.
const MOST_BYTES_PER_TOKEN: u64 = 8;

/// How heavy text, media and output are assumed to be. Plain data: any value is valid.
///
/// ```
/// use std::num::NonZeroU64;
/// use tidegate::usage::{BodyKind, Demand, EstimateRule};
///
/// let rule = EstimateRule {
///     prompt_bytes_per_token_milli: NonZeroU64::new(2_000).ok_or("zero")?,
///     per_message: 8,
///     per_request: 16,
///     per_image: 2_000,
///     per_other_part: 4_000,
///     output_default: 16_384,
///     output_cap: None,
/// };
/// let body = br#"{"model": "m", "messages": [{"role": "user", "content": "twelve bytes"}]}"#;
/// let demand = Demand::read(BodyKind::from_headers(None, None)?, body, 1 << 20)?;
/// let estimate = rule.estimate(&demand);
/// assert_eq!((estimate.prompt, estimate.output), (6 + 8 + 16, 16_384));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EstimateRule {
    /// Fewest bytes of prompt text that make a token, in thousandths: 2000 is two bytes a token.
    ///
    /// A tokenizer that works on bytes never exceeds one token a byte, so 1000 is always safe.
    pub prompt_bytes_per_token_milli: NonZeroU64,
    /// Tokens the upstream's template adds around each message and each tool.
    pub per_message: u64,
    /// Tokens the upstream's template adds once for each prompt: its own preamble, start and end.
    pub per_request: u64,
    /// Tokens of an image.
    pub per_image: u64,
    /// Tokens of an audio, video or file part.
    pub per_other_part: u64,
    /// Output tokens of each choice, if the request names no limit.
    pub output_default: u64,
    /// The most output tokens the upstream reserves for each choice, whatever the request says.
    pub output_cap: Option<u64>,
}

/// The most tokens a request is expected to use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the output, over all choices of all prompts.
    pub output: u64,
}

impl Estimate {
    /// Prompt and output together, in tokens.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt.saturating_add(self.output)
    }
}

/// Bytes per token, in thousandths. Counted with two public tokenizers, prose, source code and JSON
/// have more than 2, but base64, hexadecimal and emoji go down to 1.42. What is held beyond the true
/// count comes back; what is not held is a refusal.
const BYTES_PER_TOKEN_MILLI: NonZeroU64 = NonZeroU64::new(1_400).expect("it is not zero");

/// Tokens that chat templates put around one message: role, start and end markers, and line breaks
/// come to 4 to 7 in the published templates of open models.
const PER_MESSAGE: u64 = 8;

/// Tokens that chat templates put around a whole prompt, their built-in system text included.
const PER_REQUEST: u64 = 64;

/// Tokens of an image or another part that is not text: models bound an image at about 1,500
/// tokens per tile; two tiles.
const PER_PART: u64 = 3_000;

impl EstimateRule {
    /// What is assumed of every model unless it is configured, for one whose upstream reserves
    /// `output_default` tokens where a request names no limit.
    #[must_use]
    pub const fn assumed(output_default: u64) -> Self {
        Self {
            prompt_bytes_per_token_milli: BYTES_PER_TOKEN_MILLI,
            per_message: PER_MESSAGE,
            per_request: PER_REQUEST,
            per_image: PER_PART,
            per_other_part: PER_PART,
            output_default,
            output_cap: None,
        }
    }

    /// The upper bound for `demand`.
    #[must_use]
    pub fn estimate(&self, demand: &Demand) -> Estimate {
        Estimate { prompt: self.prompt(demand), output: self.output(demand) }
    }

    /// The least that `demand` can cost: no text has fewer tokens than this. The upper bound for a
    /// long prompt may be above a limit that the prompt itself is far below; this tells the two
    /// apart.
    #[must_use]
    pub fn least(&self, demand: &Demand) -> Estimate {
        let weight = &demand.prompt;
        let prompt = weight.token_ids.saturating_add(weight.text_bytes / MOST_BYTES_PER_TOKEN);
        Estimate { prompt, output: self.output(demand) }
    }

    fn prompt(&self, demand: &Demand) -> u64 {
        let weight = &demand.prompt;
        // In 128 bits, where a thousandfold cannot overflow.
        let text = (u128::from(weight.text_bytes) * 1000)
            .div_ceil(u128::from(self.prompt_bytes_per_token_milli.get()));
        let framed = weight.messages.saturating_add(weight.tools);
        [
            weight.token_ids,
            self.per_message.saturating_mul(framed),
            self.per_request.saturating_mul(demand.prompts),
            self.parts(weight),
        ]
        .into_iter()
        .fold(u64::try_from(text).unwrap_or(u64::MAX), u64::saturating_add)
    }

    /// Tokens of what is not text.
    pub(super) fn parts(&self, weight: &PromptWeight) -> u64 {
        let images = self.per_image.saturating_mul(weight.images);
        images.saturating_add(self.per_other_part.saturating_mul(weight.other_parts))
    }

    fn output(&self, demand: &Demand) -> u64 {
        let asked = match demand.output_limit {
            OutputLimit::Unlimited => self.output_default,
            OutputLimit::Tokens(tokens) => tokens,
        };
        self.output_cap
            .map_or(asked, |cap| asked.min(cap))
            .saturating_mul(demand.choices)
            .saturating_mul(demand.prompts)
    }
}

#[cfg(test)]
mod tests;
