//! What is sent: the body of every request, from a seed and its number.
//!
//! # Invariants
//!
//! - **Reproducible.** A request's body depends on the settings, the seed and its number, and on nothing
//!   else: two targets, or two runs, are asked the same things in the same order.
//! - **Not cached.** No two made-up prompts begin alike, so that an upstream's prompt cache does not
//!   answer for it.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::size::Size;

/// Each is one token after a space by `o200k` and by the simulator's rule, and safe in JSON.
const WORDS: [&str; 64] = [
    "air", "animal", "answer", "apple", "arm", "art", "baby", "back", "ball", "bank", "base",
    "bed", "bird", "blood", "blue", "board", "body", "book", "box", "boy", "bread", "bridge",
    "car", "card", "case", "cat", "cause", "chair", "child", "city", "class", "clock", "cloud",
    "coat", "cold", "color", "corn", "cost", "cow", "dark", "day", "desk", "dog", "door", "dream",
    "drink", "ear", "earth", "east", "egg", "end", "eye", "face", "fact", "farm", "fear", "field",
    "fire", "fish", "floor", "food", "foot", "forest", "friend",
];

/// Where prompts come from.
#[derive(Clone, Debug)]
pub(crate) enum Prompts {
    /// Words, as many as drawn.
    Made(Size),
    /// Fields of request bodies, taken in turn from the first.
    Given(Arc<[GivenPrompt]>),
}

/// A prompt from a file: the fields of a body as they stand between its braces, less those that the
/// command line decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct GivenPrompt {
    /// `"messages":[…],"temperature":0`: never empty.
    pub(super) fields: String,
    /// Whether the fields limit the output.
    pub(super) limits_output: bool,
}

/// Everything that decides what a request says.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) model: String,
    pub(crate) prompts: Prompts,
    /// What `max_completion_tokens` says; `None` leaves it to the prompt's own fields, or out.
    pub(crate) output: Option<Size>,
    /// The share of requests that ask for a stream, from 0 to 1.
    pub(crate) streamed: f64,
    pub(crate) seed: u64,
}

/// A request to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Job {
    pub(crate) body: Bytes,
    pub(crate) streamed: bool,
}

impl Workload {
    /// Request number `index`.
    pub(crate) fn job(&self, index: u64) -> Job {
        let mut rng = rng(self.seed, index);
        // Always drawn, in this order: one setting does not change what another one draws.
        let streamed = rng.f64() < self.streamed;
        let output = self.output.as_ref().map(|size| size.sample(&mut rng));
        let mut body = String::with_capacity(256);
        body.push_str("{\"model\":");
        body.push_str(&json_text(&self.model));
        body.push(',');
        let mut limit = output;
        match &self.prompts {
            Prompts::Made(size) => {
                let words = size.sample(&mut rng);
                body.push_str("\"messages\":[{\"role\":\"user\",\"content\":\"");
                write_words(&mut rng, words, &mut body);
                body.push_str("\"}]");
            }
            Prompts::Given(all) => {
                let count = u64::try_from(all.len()).unwrap_or(u64::MAX).max(1);
                let place = usize::try_from(index % count).unwrap_or(0);
                if let Some(given) = all.get(place) {
                    body.push_str(&given.fields);
                    limit = limit.filter(|_| !given.limits_output);
                }
            }
        }
        if let Some(tokens) = limit {
            let _ = write!(body, ",\"max_completion_tokens\":{tokens}");
        }
        if streamed {
            // Without it OpenAI's streams do not say what they used.
            body.push_str(",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
        }
        body.push('}');
        Job { body: body.into(), streamed }
    }
}

/// A generator for one request: near numbers must not give near draws, so the bits are spread
/// (splitmix64's finish).
fn rng(seed: u64, index: u64) -> fastrand::Rng {
    let mut mixed = seed ^ index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    fastrand::Rng::with_seed(mixed ^ (mixed >> 31))
}

fn write_words(rng: &mut fastrand::Rng, count: u64, out: &mut String) {
    for number in 0..count {
        if number > 0 {
            out.push(' ');
        }
        out.push_str(rng.choice(WORDS).unwrap_or("end"));
    }
}

/// A text as JSON writes it, quotes included.
pub(super) fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::simulator::count_messages;

    fn workload(seed: u64) -> Workload {
        Workload {
            model: "a \"quoted\" model".to_owned(),
            prompts: Prompts::Made(Size::Uniform(1, 400)),
            output: Some(Size::Fixed(50)),
            streamed: 0.5,
            seed,
        }
    }

    fn read(job: &Job) -> Value {
        serde_json::from_slice(&job.body).expect("JSON")
    }

    proptest! {
        /// A request is the same whenever it is asked for, and its body says what was drawn.
        #[test]
        fn a_request_depends_on_seed_and_number(seed: u64, index: u64) {
            let job = workload(seed).job(index);
            prop_assert_eq!(&job, &workload(seed).job(index));
            let body = read(&job);
            prop_assert_eq!(&body["model"], "a \"quoted\" model");
            prop_assert_eq!(&body["max_completion_tokens"], 50);
            prop_assert_eq!(body.get("stream").is_some(), job.streamed);
            let usage = body.pointer("/stream_options/include_usage").is_some();
            prop_assert_eq!(usage, job.streamed);
        }

        /// A prompt of so many tokens is one by the simulator's count, beside its seven of framing.
        #[test]
        fn prompts_have_the_tokens_asked_for(seed: u64, tokens in 1..2_000_u64) {
            let prompts = Prompts::Made(Size::Fixed(tokens));
            let body = read(&Workload { prompts, ..workload(seed) }.job(seed));
            let messages = body["messages"].as_array().expect("a list");
            prop_assert_eq!(count_messages(messages), tokens + 7);
        }
    }

    #[test]
    fn every_word_is_one_token() {
        let tokenizer = bpe_openai::o200k_base();
        for word in WORDS {
            assert_eq!(tokenizer.count(&format!(" {word}")), 1, "{word}");
        }
    }

    #[test]
    fn the_share_of_streams_is_as_asked() {
        for (share, expected) in [(0.0, 0..=0), (1.0, 2_000..=2_000), (0.25, 384..=616)] {
            // A quarter of 2,000 within six standard deviations (19.4 each).
            let workload = Workload { streamed: share, ..workload(7) };
            let streamed = (0..2_000).filter(|index| workload.job(*index).streamed).count();
            assert!(expected.contains(&streamed), "{share}: {streamed}");
        }
    }

    #[test]
    fn neither_neighbours_nor_seeds_share_a_prompt() {
        let prompt = |seed, index| {
            let prompts = Prompts::Made(Size::Fixed(20));
            read(&Workload { prompts, ..workload(seed) }.job(index))["messages"].to_string()
        };
        let all: std::collections::BTreeSet<_> =
            (0..1_000).flat_map(|index| [prompt(1, index), prompt(2, index)]).collect();
        assert_eq!(all.len(), 2_000);
    }

    #[test]
    fn given_prompts_are_taken_in_turn_and_keep_their_own_limit() {
        let given =
            |fields: &str, limits_output| GivenPrompt { fields: fields.to_owned(), limits_output };
        let prompts = Prompts::Given(
            [given("\"messages\":[1],\"max_tokens\":3", true), given("\"messages\":[2]", false)]
                .into(),
        );
        let workload = Workload { prompts, streamed: 0.0, ..workload(0) };
        for (index, messages, own, limit) in [
            (0, 1, json!(3), json!(null)),
            (1, 2, json!(null), json!(50)),
            (2, 1, json!(3), json!(null)),
        ] {
            let body = read(&workload.job(index));
            assert_eq!(body["messages"], json!([messages]));
            assert_eq!((&body["max_tokens"], &body["max_completion_tokens"]), (&own, &limit));
        }
    }
}
