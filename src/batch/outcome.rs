//! What the answer to a line's request means: it is done, it has to wait, or it has failed.

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::archive::{Counts, Done};

/// What becomes of a line.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It has its result.
    Done(Done),
    /// There was no room, or no quota in time: it has not been tried.
    Later(Duration, String),
    /// It failed in a way that may pass; what to write if it was the last try.
    Failed(Option<Duration>, String, Done),
    /// The gateway ends: it is left for the next start.
    Left,
}

/// A line of an output or error file.
#[derive(Debug, Serialize)]
struct Written<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<Trouble<'a>>,
}

#[derive(Debug, Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: &'a RawValue,
}

#[derive(Debug, Serialize)]
struct Trouble<'a> {
    code: &'a str,
    message: &'a str,
}

/// Whose line it is, for what is written of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    /// The batch's id.
    pub(super) batch: &'a str,
    /// The line's number, from 0.
    pub(super) line: u32,
    /// The caller's name for it.
    pub(super) custom_id: &'a str,
}

impl Named<'_> {
    /// What is written of a line that has no answer.
    pub(super) fn unanswered(&self, code: &str, message: &str) -> Done {
        self.done(false, None, Some(Trouble { code, message }), Counts::default())
    }

    fn done(
        &self,
        good: bool,
        response: Option<Response<'_>>,
        error: Option<Trouble<'_>>,
        counts: Counts,
    ) -> Done {
        let batch = self.batch.trim_start_matches("batch_");
        let id = format!("batch_req_{batch}_{}", self.line + 1);
        let written = Written { id, custom_id: self.custom_id, response, error };
        // Strings and JSON that was parsed cannot fail to become JSON.
        let mut text = serde_json::to_vec(&written).unwrap_or_default();
        text.push(b'\n');
        let one = (u64::from(good), u64::from(!good));
        let counts = Counts { completed: one.0, failed: one.1, ..counts };
        Done { line: self.line, good, text: Bytes::from(text), counts }
    }

    /// What becomes of a line that was answered.
    pub(super) fn judge(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
        let said: Said<'_> = serde_json::from_slice(body).unwrap_or_default();
        let code = said.code().unwrap_or_default();
        if status.is_success() {
            let Some(json) = one_line(body) else {
                return self.no_json();
            };
            let counts = said.usage.map_or_else(Counts::default, |usage| usage.counts());
            let response = self.response(status, headers, &json);
            return Outcome::Done(self.done(true, Some(response), None, counts));
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let own = text("x-tidegate-source") == Some("gateway");
        let wait = retry_after(headers);
        let what = format!("{} {code}", status.as_u16()).trim_end().to_owned();
        if own {
            match code {
                "draining" => return Outcome::Left,
                "queue_full" | "wait_exceeded" | "overloaded" => {
                    return Outcome::Later(wait.unwrap_or(Duration::from_secs(1)), what);
                }
                _ => {}
            }
        }
        let json = one_line(body).or_else(|| as_text(body));
        let Some(json) = json else { return self.no_json() };
        let response = self.response(status, headers, &json);
        let done = self.done(false, Some(response), None, Counts::default());
        // What is refused for its content will be again; what for its account, its time or the
        // upstream's trouble need not be. A key that the gateway itself takes no more is gone for good.
        let passes = !(own && status == StatusCode::UNAUTHORIZED)
            && matches!(status.as_u16(), 401 | 402 | 408 | 409 | 425 | 429 | 500..);
        if passes { Outcome::Failed(wait, what, done) } else { Outcome::Done(done) }
    }

    /// What becomes of a line whose answer broke off or is nothing that can be written.
    pub(super) fn broken(&self, code: &str, message: &str) -> Outcome {
        Outcome::Failed(None, code.to_owned(), self.unanswered(code, message))
    }

    fn no_json(&self) -> Outcome {
        self.broken("invalid_answer", "the upstream's answer is not JSON")
    }

    fn response<'a>(
        &self,
        status: StatusCode,
        headers: &'a HeaderMap,
        body: &'a RawValue,
    ) -> Response<'a> {
        let id = headers.get("x-request-id").and_then(|value| value.to_str().ok());
        Response { status_code: status.as_u16(), request_id: id.unwrap_or_default(), body }
    }
}

/// JSON on one line.
fn one_line(body: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(body).ok()?.trim();
    // Within a string there is none: there it has to be written as an escape.
    let text =
        if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text.into() };
    RawValue::from_string(text).ok()
}

/// What is no JSON, as a string.
fn as_text(body: &[u8]) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(&String::from_utf8_lossy(body)).ok()
}

/// When the answer says to come back.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms")
        .map(|millis| millis / 1_000.0)
        .or_else(|| number(RETRY_AFTER.as_str()))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What an answer says of itself.
#[derive(Debug, Default, Deserialize)]
struct Said<'a> {
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct Inner<'a> {
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
}

impl<'a> Said<'a> {
    /// The error's code: short, and nothing that somebody else wrote.
    fn code(&self) -> Option<&'a str> {
        let inner = || serde_json::from_str::<Inner<'a>>(self.error?.get()).ok()?.code;
        let code = self.code.or_else(inner)?;
        let code = serde_json::from_str::<&str>(code.get()).ok()?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (code.len() <= 64 && code.chars().all(plain)).then_some(code)
    }
}

#[derive(Debug, Default, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: u64,
}

#[derive(Debug, Default, Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: u64,
}

impl Usage {
    fn counts(self) -> Counts {
        Counts {
            completed: 0,
            failed: 0,
            prompt: self.prompt_tokens,
            completion: self.completion_tokens,
            cached: self.prompt_tokens_details.map_or(0, |details| details.cached_tokens),
            reasoning: self.completion_tokens_details.map_or(0, |details| details.reasoning_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::Value;

    use super::*;

    const NAMED: Named<'_> = Named { batch: "batch_ab", line: 6, custom_id: "mine \"7\"" };

    fn judge(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Outcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        NAMED.judge(StatusCode::from_u16(status).unwrap(), &map, body.as_bytes())
    }

    fn written(done: &Done) -> Value {
        assert_eq!(memchr::memchr(b'\n', &done.text), Some(done.text.len() - 1), "one line");
        serde_json::from_slice(&done.text).unwrap()
    }

    #[test]
    fn an_answer_is_written_as_it_is_on_one_line_and_its_usage_counted() {
        let body = "{\n \"usage\": {\"prompt_tokens\": 5, \"completion_tokens\": 7,\r\n\
                    \"prompt_tokens_details\": {\"cached_tokens\": 2}}, \"big\": 12345678901234567890123 }\n";
        let Outcome::Done(done) = judge(200, &[("x-request-id", "req_1")], body) else { panic!() };
        assert!(done.good && done.line == 6);
        let expected =
            Counts { completed: 1, prompt: 5, completion: 7, cached: 2, ..Counts::default() };
        assert_eq!(done.counts, expected);
        let text = std::str::from_utf8(&done.text).unwrap();
        assert!(text.contains("12345678901234567890123"), "numbers are not read: {text}");
        let line = written(&done);
        assert_eq!(line["id"], "batch_req_ab_7");
        assert_eq!(line["custom_id"], "mine \"7\"");
        assert_eq!(line["response"]["status_code"], 200);
        assert_eq!(line["response"]["request_id"], "req_1");
        assert_eq!(line["response"]["body"]["usage"]["completion_tokens"], 7);
        assert_eq!(line["error"], Value::Null);
    }

    #[test]
    fn what_waits_what_passes_and_what_stays_are_told_apart() {
        let own = ("x-tidegate-source", "gateway");
        for code in ["queue_full", "wait_exceeded", "overloaded"] {
            let body = format!("{{\"code\":\"{code}\"}}");
            let later = judge(429, &[own, ("retry-after-ms", "1500")], &body);
            let Outcome::Later(wait, what) = later else { panic!("{code}") };
            assert_eq!((wait.as_millis(), what), (1_500, format!("429 {code}")));
        }
        assert!(matches!(judge(503, &[own], r#"{"code":"draining"}"#), Outcome::Left));
        for (status, body) in [
            (429, r#"{"error":{"code":"queue_exceeded"}}"#),
            (503, "busy"),
            (500, "{}"),
            (402, "{}"),
            (504, r#"{"code":"upstream_timeout"}"#),
        ] {
            let Outcome::Failed(wait, what, done) = judge(status, &[("retry-after", "2")], body)
            else {
                panic!("{status}")
            };
            assert_eq!(wait, Some(Duration::from_secs(2)));
            assert!(what.starts_with(&status.to_string()), "{what}");
            assert!(!done.good && written(&done)["response"]["status_code"] == status);
        }
        let Outcome::Done(done) = judge(400, &[], r#"{"code":"wrong_api_format"}"#) else {
            panic!()
        };
        let line = written(&done);
        assert_eq!(line["response"]["body"]["code"], "wrong_api_format");
        assert_eq!((done.good, done.counts.failed), (false, 1));
        assert!(matches!(judge(200, &[], "<html>"), Outcome::Failed(None, ..)));
    }

    #[test]
    fn what_has_no_answer_says_why() {
        let done = NAMED.unanswered("batch_expired", "too late");
        let line = written(&done);
        assert_eq!(
            (&line["response"], &line["error"]["code"]),
            (&Value::Null, &"batch_expired".into())
        );
    }
}
