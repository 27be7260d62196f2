//! What is learned of requests and what is made of it: keys of a model's profile and of callers'
//! keys.

use super::section::Section;
use super::tokenizers::Tokenizers;
use crate::usage::{OutputCap, OutputPolicy, Tokenizer};

/// What is added to what answers show, unless configured: what the upstream sets aside for a prompt
/// is an estimate, and may well be a few hundredths above the count that it reports afterwards.
const MARGIN_PERCENT: u64 = 5;

/// The most that can be added: with ten times the tokens nothing has been learned.
const MOST_MARGIN: u64 = 1_000;

/// Whether and how prompts are learned from; what is absent comes from the fallback.
#[derive(Clone, Default)]
pub(super) struct Learning {
    calibrate: Option<bool>,
    margin_percent: Option<u64>,
    tokenizer: Option<Option<Tokenizer>>,
}

/// A policy as written; what is absent comes from elsewhere.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OutputChoice {
    cap: Option<OutputCap>,
    retry: Option<bool>,
}

impl Learning {
    /// Reads its keys of `prompt_estimate`.
    pub(super) fn read(section: &mut Section<'_>, tokenizers: &Tokenizers<'_>) -> Self {
        let calibrate = section.get("calibrate");
        let margin_percent = section.get("margin_percent");
        if margin_percent.is_some_and(|percent| percent > MOST_MARGIN) {
            section.problem("margin_percent", format!("at most {MOST_MARGIN}"));
        }
        let tokenizer = section.get::<String>("tokenizer").and_then(|name| {
            let found = tokenizers.find(&name);
            found.map_err(|message| section.problem("tokenizer", message)).ok()
        });
        Self { calibrate, margin_percent, tokenizer }
    }

    pub(super) fn over(self, base: &Self) -> Self {
        Self {
            calibrate: self.calibrate.or(base.calibrate),
            margin_percent: self.margin_percent.or(base.margin_percent),
            tokenizer: self.tokenizer.or_else(|| base.tokenizer.clone()),
        }
    }

    /// Whether to learn, what to add, and what counts tokens while a request waits.
    pub(super) fn finish(self) -> (bool, u64, Option<Tokenizer>) {
        let calibrate = self.calibrate.unwrap_or(true);
        let tokenizer = self.tokenizer.unwrap_or(Some(Tokenizer::O200k));
        let margin_percent = self.margin_percent.unwrap_or(MARGIN_PERCENT);
        (calibrate, margin_percent, tokenizer.filter(|_| calibrate))
    }
}

impl OutputChoice {
    /// Reads its keys.
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let cap = section.get::<String>("output_cap").and_then(|text| {
            let cap = text.parse();
            if let Err(error) = cap {
                section.problem("output_cap", format!("{error}, got {text:?}"));
            }
            cap.ok()
        });
        Self { cap, retry: section.get("output_cap_retry") }
    }

    /// Itself, and where it says nothing `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self { cap: self.cap.or(base.cap), retry: self.retry.or(base.retry) }
    }

    /// What it comes to.
    #[must_use]
    pub fn policy(self) -> OutputPolicy {
        OutputPolicy { cap: self.cap.unwrap_or_default(), retry: self.retry.unwrap_or(false) }
    }

    /// Whether it says nothing.
    pub(super) const fn is_empty(self) -> bool {
        self.cap.is_none() && self.retry.is_none()
    }

    /// What it says, as it is written.
    pub(super) fn entries(self) -> impl Iterator<Item = (&'static str, toml::Value)> {
        let cap = self.cap.map(|cap| ("output_cap", toml::Value::String(cap.to_string())));
        let retry = self.retry.map(|retry| ("output_cap_retry", toml::Value::Boolean(retry)));
        cap.into_iter().chain(retry)
    }
}

impl From<OutputPolicy> for OutputChoice {
    fn from(policy: OutputPolicy) -> Self {
        Self { cap: Some(policy.cap), retry: Some(policy.retry) }
    }
}
