//! One answer: how long each choice is, how long it takes, and its JSON as one object.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::options::Options;
use super::output::{self, Words};
use super::request::{Endpoint, Parsed};

/// A finished answer before it is put into words.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) endpoint: Endpoint,
    pub(super) model: String,
    pub(super) created: u64,
    pub(super) choices: Vec<Choice>,
    pub(super) prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    pub(super) timing: Timing,
    seed: u64,
    digest: u64,
}

/// One choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) tokens: u64,
    pub(super) finish_reason: &'static str,
}

/// When the tokens of each choice are there, counted from admission, in real time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    pub(super) first_token: Duration,
    pub(super) per_token: Duration,
}

/// What a request may ask of the simulator in headers of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    pub(super) output_tokens: Option<u64>,
    pub(super) cached_tokens: Option<u64>,
    pub(super) latency: Option<Duration>,
}

impl Timing {
    /// When `tokens` tokens of each choice are there.
    pub(super) fn at(&self, tokens: u64) -> Duration {
        let nanos = self.per_token.as_nanos().saturating_mul(u128::from(tokens));
        self.first_token + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Answer {
    pub(super) fn new(
        options: &Options,
        request: &Parsed,
        wishes: Wishes,
        id: String,
        now_ns: u64,
    ) -> Self {
        let mut rng = output::rng(options.seed, request.digest);
        let most = request.max_tokens.unwrap_or(u64::MAX);
        let mut choices = Vec::new();
        let mut completion_tokens = 0_u64;
        for candidate in 0..request.candidates {
            let wanted = wishes.output_tokens.unwrap_or_else(|| options.output.sample(&mut rng));
            let tokens = wanted.min(most);
            completion_tokens = completion_tokens.saturating_add(tokens);
            if candidate < request.choices {
                let finish_reason = if wanted > most { "length" } else { "stop" };
                choices.push(Choice { tokens, finish_reason });
            }
        }
        let timing = match wishes.latency {
            Some(first_token) => Timing { first_token, per_token: Duration::ZERO },
            None => timing(options, &mut rng),
        };
        Self {
            id,
            endpoint: request.endpoint,
            model: request.model.clone(),
            created: now_ns / 1_000_000_000,
            choices,
            prompt_tokens: request.prompt_tokens,
            cached_tokens: wishes.cached_tokens.unwrap_or(0).min(request.prompt_tokens),
            completion_tokens,
            timing,
            seed: options.seed,
            digest: request.digest,
        }
    }

    /// What the request has cost once answered in full.
    pub(super) fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// Tokens of the longest choice, which is what generation takes its time for.
    pub(super) fn longest(&self) -> u64 {
        self.choices.iter().map(|choice| choice.tokens).max().unwrap_or(0)
    }

    pub(super) fn words(&self, choice: u64) -> Words {
        Words::new(self.seed, self.digest, choice)
    }

    pub(super) fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens(),
            "prompt_tokens_details": { "cached_tokens": self.cached_tokens },
        })
    }

    pub(super) fn time_info(&self) -> Value {
        let prompt_time = self.timing.first_token.as_secs_f64();
        let total_time = self.timing.at(self.longest()).as_secs_f64();
        json!({
            "queue_time": 0.0,
            "prompt_time": prompt_time,
            "completion_time": total_time - prompt_time,
            "total_time": total_time,
            "created": self.created,
        })
    }

    /// The fields every object of this answer begins with.
    pub(super) fn envelope(&self, streamed: bool) -> Map<String, Value> {
        let object = match (self.endpoint, streamed) {
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Chat, true) => "chat.completion.chunk",
            (Endpoint::Text, _) => "text_completion",
        };
        let mut fields = Map::new();
        fields.insert("id".to_owned(), self.id.clone().into());
        fields.insert("object".to_owned(), object.into());
        fields.insert("created".to_owned(), self.created.into());
        fields.insert("model".to_owned(), self.model.clone().into());
        fields.insert("system_fingerprint".to_owned(), format!("fp_{:08x}", self.seed).into());
        fields
    }

    /// The whole answer as one object.
    pub(super) fn whole(&self, with_usage: bool) -> Value {
        let choice = |(index, choice): (u64, &Choice)| {
            let mut text = String::new();
            self.words(index).write(choice.tokens, &mut text);
            let finish_reason = choice.finish_reason;
            match self.endpoint {
                Endpoint::Chat => json!({
                    "index": index,
                    "message": { "role": "assistant", "content": text },
                    "finish_reason": finish_reason,
                }),
                Endpoint::Text => {
                    json!({ "index": index, "text": text, "finish_reason": finish_reason })
                }
            }
        };
        let mut fields = self.envelope(false);
        let choices: Vec<_> = (0..).zip(&self.choices).map(choice).collect();
        fields.insert("choices".to_owned(), choices.into());
        if with_usage {
            fields.insert("usage".to_owned(), self.usage());
        }
        fields.insert("time_info".to_owned(), self.time_info());
        Value::Object(fields)
    }
}

fn timing(options: &Options, rng: &mut fastrand::Rng) -> Timing {
    let latency = options.latency;
    let spread = f64::from(latency.jitter_percent.min(100)) / 100.0;
    let mut jitter = |span: Duration| {
        let factor = 1.0 + spread * (2.0 * rng.f64() - 1.0);
        options.scaled(span).mul_f64(factor)
    };
    let second = Duration::from_secs(1).as_nanos();
    let per_token = second.checked_div(u128::from(latency.tokens_per_second)).unwrap_or(0);
    let per_token = Duration::from_nanos(u64::try_from(per_token).unwrap_or(0));
    Timing { first_token: jitter(latency.first_token), per_token: jitter(per_token) }
}
