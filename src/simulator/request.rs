//! Reads a metered request: JSON or `MessagePack`, compressed or not, checked as the vendor does.

use std::io::Read;

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::options::Reservation;
use super::{output, tokens};

/// Every field the vendor's and `OpenAI`'s clients send; any other is refused by name.
const FIELDS: &[&str] = &[
    "audio",
    "best_of",
    "clear_thinking",
    "disable_reasoning",
    "echo",
    "frequency_penalty",
    "function_call",
    "functions",
    "grammar_root",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "min_completion_tokens",
    "min_tokens",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "reasoning_format",
    "response_format",
    "return_raw_tokens",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

/// Which of the two metered endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Endpoint {
    Chat,
    Text,
}

/// A request as far as the simulator cares.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) endpoint: Endpoint,
    pub(super) model: String,
    pub(super) prompt_tokens: u64,
    /// The most output tokens of one candidate; `None` for absent and for -1.
    pub(super) max_tokens: Option<u64>,
    /// Choices returned.
    pub(super) choices: u64,
    /// Choices generated, and paid for.
    pub(super) candidates: u64,
    pub(super) stream: bool,
    /// Stands for the request wherever something random depends on it.
    pub(super) digest: u64,
}

impl Parsed {
    /// What admission reserves: the prompt with its slack, and the output of every candidate.
    pub(super) fn estimate(&self, rule: Reservation) -> u64 {
        let slack = self.prompt_tokens.saturating_mul(rule.prompt_slack_percent).div_ceil(100);
        let named = self.max_tokens.unwrap_or(rule.default);
        let output = named.min(rule.cap.unwrap_or(u64::MAX)).saturating_mul(self.candidates);
        self.prompt_tokens.saturating_add(slack).saturating_add(output)
    }
}

/// Decodes and checks a body.
pub(super) fn parse(
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: &Bytes,
    max_bytes: usize,
) -> Result<Parsed, ApiError> {
    let plain = decompress(headers, body, max_bytes)?;
    let Value::Object(fields) = decode(headers, &plain)? else {
        return Err(ApiError::format("body", "the request must be an object"));
    };
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let message = format!("body.{unknown}: property '{unknown}' is unsupported");
        return Err(ApiError::format(unknown, message));
    }
    let model = match fields.get("model") {
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        _ => return Err(ApiError::format("model", "body.model: a non-empty string is required")),
    };
    let choices = integer(&fields, "n", 1)?.unwrap_or(1);
    let best_of = integer(&fields, "best_of", 1)?.unwrap_or(1);
    Ok(Parsed {
        endpoint,
        model,
        prompt_tokens: count_prompt(endpoint, &fields)?.max(1),
        max_tokens: max_tokens(&fields)?,
        choices,
        candidates: choices.max(best_of),
        stream: boolean(&fields, "stream")?,
        digest: output::digest(&plain),
    })
}

fn decompress(headers: &HeaderMap, body: &Bytes, max_bytes: usize) -> Result<Bytes, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b"identity"[..], |v| v.as_bytes());
    match encoding {
        b"identity" => Ok(body.clone()),
        b"gzip" => {
            let mut plain = Vec::new();
            // One byte more than allowed tells "too large" from "just fits".
            let most = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
            let mut decoder = flate2::read::MultiGzDecoder::new(&body[..]).take(most);
            let read = decoder.read_to_end(&mut plain);
            read.map_err(|_| ApiError::format("body", "the body is not valid gzip"))?;
            if plain.len() > max_bytes { Err(ApiError::too_large()) } else { Ok(plain.into()) }
        }
        _ => Err(ApiError::format("content-encoding", "unsupported content encoding")),
    }
}

fn decode(headers: &HeaderMap, plain: &[u8]) -> Result<Value, ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default();
    let invalid = |what| ApiError::format("body", format!("the body is not valid {what}"));
    match essence.trim().to_ascii_lowercase().as_str() {
        "application/json" => serde_json::from_slice(plain).map_err(|_| invalid("JSON")),
        "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
            rmp_serde::from_slice(plain).map_err(|_| invalid("msgpack"))
        }
        _ => Err(ApiError::format("content-type", "unsupported content type")),
    }
}

fn count_prompt(endpoint: Endpoint, fields: &Map<String, Value>) -> Result<u64, ApiError> {
    let text = match endpoint {
        Endpoint::Chat => match fields.get("messages") {
            Some(Value::Array(messages)) if !messages.is_empty() => {
                let whole = |m: &Value| m.get("role").is_some_and(Value::is_string);
                if let Some(index) = messages.iter().position(|message| !whole(message)) {
                    let at = format!("messages.{index}.role");
                    return Err(ApiError::format(&at, format!("body.{at}: field required")));
                }
                tokens::count_messages(messages)
            }
            _ => return Err(ApiError::format("messages", "body.messages: field required")),
        },
        Endpoint::Text => match fields.get("prompt") {
            Some(prompt @ (Value::String(_) | Value::Array(_))) => tokens::count_value(prompt),
            _ => return Err(ApiError::format("prompt", "body.prompt: field required")),
        },
    };
    let beside = ["tools", "functions", "response_format"];
    Ok(text
        + beside.iter().filter_map(|key| fields.get(*key)).map(tokens::count_value).sum::<u64>())
}

fn max_tokens(fields: &Map<String, Value>) -> Result<Option<u64>, ApiError> {
    let (old, new) = ("max_tokens", "max_completion_tokens");
    let given = |name| fields.get(name).is_some_and(|value| !value.is_null());
    if given(old) && given(new) {
        let message = format!("only one of {old} and {new} may be set");
        return Err(ApiError::format(new, message));
    }
    let name = if given(new) { new } else { old };
    if fields.get(name).and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    integer(fields, name, 1)
}

fn integer(fields: &Map<String, Value>, name: &str, least: u64) -> Result<Option<u64>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if number >= least => Ok(Some(number)),
            _ => {
                let message = format!("body.{name}: must be an integer of at least {least}");
                Err(ApiError::format(name, message))
            }
        },
    }
}

fn boolean(fields: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(ApiError::format(name, format!("body.{name}: must be a boolean"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Parsed, ApiError> {
        let body = Bytes::from(body.to_string());
        parse(Endpoint::Chat, &HeaderMap::new(), &body, 1 << 20)
    }

    #[test]
    fn the_estimate_follows_the_reservation_rule() {
        let messages = json!([{"role": "user", "content": "one two three"}]);
        let rule = Reservation { default: 16_384, cap: None, prompt_slack_percent: 0 };
        let capped = Reservation { cap: Some(1_000), ..rule };
        for (extra, reserved, when_capped, why) in [
            (json!({}), 16_384, 1_000, "no limit named"),
            (json!({"max_tokens": null}), 16_384, 1_000, "null is absent"),
            (json!({"max_completion_tokens": -1}), 16_384, 1_000, "as much as the model can"),
            (json!({"max_tokens": 500}), 500, 500, "the limit named"),
            (json!({"max_tokens": 500, "n": 3}), 1_500, 1_500, "for each choice"),
            (
                json!({"max_tokens": 2_000, "n": 2, "best_of": 3}),
                6_000,
                3_000,
                "generated, not returned",
            ),
        ] {
            let mut body = json!({"model": "m", "messages": messages});
            let fields = body.as_object_mut().expect("an object");
            fields.extend(extra.as_object().expect("an object").clone());
            let parsed = read(&body).expect("well formed");
            assert_eq!(parsed.prompt_tokens, 10);
            assert_eq!(parsed.estimate(rule), 10 + reserved, "{why}");
            assert_eq!(parsed.estimate(capped), 10 + when_capped, "{why}, capped");
        }
        let slack = Reservation { prompt_slack_percent: 2, ..rule };
        let parsed = read(&json!({"model": "m", "messages": messages})).expect("well formed");
        assert_eq!(parsed.estimate(slack), 10 + 1 + 16_384, "slack is rounded up");
    }

    #[test]
    fn a_compressed_body_may_not_unfold_beyond_the_limit() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![b' '; 1 << 16]).expect("in memory");
        let body = Bytes::from(encoder.finish().expect("in memory"));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().expect("a value"));
        let refused = parse(Endpoint::Chat, &headers, &body, (1 << 16) - 1).expect_err("too large");
        assert_eq!(refused.status.as_u16(), 413);
        let refused = parse(Endpoint::Chat, &headers, &body, 1 << 16).expect_err("only blanks");
        assert_eq!(refused.status.as_u16(), 400);
    }
}
