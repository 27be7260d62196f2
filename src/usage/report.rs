//! What a response says about itself: usage and error, parsed from their raw values.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::scan::Key;

/// Longest error code kept, in bytes: the known ones are below 30.
const CODE_MAX: usize = 64;

/// The tokens a call really used, as the upstream reports them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt, the cached ones included.
    pub prompt: u64,
    /// Tokens of the completion.
    pub completion: u64,
    /// All tokens; prompt and completion together where the upstream names no total.
    pub total: u64,
    /// Tokens of the prompt that came from the upstream's cache: never more than `prompt`.
    pub cached: u64,
}

/// An error the upstream reported in the body of a response.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StreamError {
    /// The HTTP status it would have had, if named.
    pub status: Option<u16>,
    /// The error's `code`, or where there is none its `type`: at most 64 of `a-z`, `0-9` and `_`;
    /// empty if neither is there.
    pub code: String,
}

/// What one JSON document has shown so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) usage: Option<Usage>,
    /// Whether a non-empty list of choices has begun.
    pub(super) choices: bool,
    code: Option<String>,
    status: Option<u16>,
}

impl Report {
    /// Takes the raw value of a top-level key; of several the last one counts, as for a parser.
    pub(super) fn note(&mut self, key: Key, raw: &[u8]) {
        match key {
            Key::Usage => self.usage = usage(raw),
            Key::Error => self.code = code(raw),
            Key::StatusCode => self.status = serde_json::from_slice(raw).ok(),
            Key::Choices => {
                let mut bytes = raw.iter().filter(|byte| !byte.is_ascii_whitespace());
                self.choices = bytes.next() == Some(&b'[') && bytes.next() != Some(&b']');
            }
        }
    }

    /// The error shown, if any.
    pub(super) fn error(&self) -> Option<StreamError> {
        self.code.as_ref().map(|code| StreamError { status: self.status, code: code.clone() })
    }
}

#[derive(Deserialize)]
struct RawUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<RawDetails>,
}

#[derive(Deserialize)]
struct RawDetails {
    cached_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawError {
    code: Option<Scalar>,
    r#type: Option<Scalar>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(u64),
    Else(IgnoredAny),
}

/// The usage in an object that names at least one count.
fn usage(raw: &[u8]) -> Option<Usage> {
    // A list would do for a struct, and is not a usage.
    let raw: RawUsage = raw.starts_with(b"{").then(|| serde_json::from_slice(raw).ok())??;
    raw.prompt_tokens.or(raw.completion_tokens).or(raw.total_tokens)?;
    let prompt = raw.prompt_tokens.unwrap_or(0);
    let completion = raw.completion_tokens.unwrap_or(0);
    let cached = raw.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
    Some(Usage {
        prompt,
        completion,
        total: raw.total_tokens.unwrap_or_else(|| prompt.saturating_add(completion)),
        cached: cached.min(prompt),
    })
}

/// The code of an error: empty for one that names none, `None` for what is no error.
fn code(raw: &[u8]) -> Option<String> {
    match raw.first()? {
        b'"' => Some(String::new()),
        b'{' => {
            let raw: RawError = serde_json::from_slice(raw).unwrap_or_default();
            let code = label(raw.code);
            Some(if code.is_empty() { label(raw.r#type) } else { code })
        }
        _ => None,
    }
}

/// A scalar as a short word that is safe in a metric or a log.
fn label(scalar: Option<Scalar>) -> String {
    let text = match scalar {
        Some(Scalar::Text(text)) => text,
        Some(Scalar::Number(number)) => number.to_string(),
        Some(Scalar::Else(_)) | None => String::new(),
    };
    text.chars().filter(|c| matches!(c, 'a'..='z' | '0'..='9' | '_')).take(CODE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_what_is_there() {
        let counts =
            |prompt, completion, total, cached| Some(Usage { prompt, completion, total, cached });
        for (raw, expected) in [
            (r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#, counts(5, 7, 12, 0)),
            (r#"{"prompt_tokens":5,"completion_tokens":7}"#, counts(5, 7, 12, 0)),
            (r#"{"prompt_tokens":5,"total_tokens":5,"x":[{}]}"#, counts(5, 0, 5, 0)),
            (
                r#"{"completion_tokens":1,"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":8,"y":1}}"#,
                counts(9, 1, 10, 8),
            ),
            (
                r#"{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":80}}"#,
                counts(9, 0, 9, 9),
            ),
            (r#"{"prompt_tokens":9,"prompt_tokens_details":null}"#, counts(9, 0, 9, 0)),
            (
                r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1}"#,
                counts(u64::MAX, 1, u64::MAX, 0),
            ),
            (r"{}", None),
            (r"null", None),
            (r"[1,2,3,null]", None),
            (r#"{"prompt_tokens":-1}"#, None),
            (r#"{"prompt_tokens":"5"}"#, None),
        ] {
            assert_eq!(usage(raw.as_bytes()), expected, "{raw}");
        }
    }

    #[test]
    fn an_error_has_a_short_and_safe_code() {
        let long = format!(r#"{{"code":"{}"}}"#, "a".repeat(1000));
        for (raw, expected) in [
            (
                r#"{"message":"m","type":"t","param":"p","code":"queue_exceeded","id":""}"#,
                Some("queue_exceeded"),
            ),
            (r#"{"code":null,"type":"server_error"}"#, Some("server_error")),
            (r#"{"code":503}"#, Some("503")),
            (r#"{"code":{"x":1},"type":"t"}"#, Some("t")),
            (r#"{"code":"A b\n\"c\u00e9_1"}"#, Some("bc_1")),
            (r#"{"code":"x","code":"y"}"#, Some("")),
            (r#""secret words""#, Some("")),
            (r"{}", Some("")),
            (r"null", None),
            (r"false", None),
            (long.as_str(), Some("a".repeat(CODE_MAX).as_str())),
        ] {
            assert_eq!(code(raw.as_bytes()).as_deref(), expected, "{raw}");
        }
    }
}
