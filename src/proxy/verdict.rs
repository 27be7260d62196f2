//! What an answer of the upstream that is not a success means: whose fault it is, whether it was
//! charged, and whether sending the request again can help.

use std::borrow::Cow;
use std::io::Read;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::limit::Unit;
use crate::metrics::{Rejection, RetryReason};

/// Error bodies are read up to here to find out what they say; a longer one is passed on unread.
pub(super) const LONGEST_ERROR: usize = 64 << 10;

/// What to make of an unsuccessful answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Verdict {
    /// Whether the upstream may have charged the request.
    pub(super) charged: bool,
    /// Why sending it again may help, if it may.
    pub(super) retry: Option<RetryReason>,
    /// How it counts among refusals, if it is one.
    pub(super) kind: Option<Rejection>,
    /// The quota that the upstream says is used up.
    pub(super) exhausted: Option<(Unit, &'static str)>,
    /// When the upstream says to come back.
    pub(super) retry_after: Option<Duration>,
    /// The upstream's error code, as far as it is a short word.
    pub(super) code: Option<String>,
}

/// The longest code that is told: the known ones are below 30 bytes.
const LONGEST_CODE: usize = 64;

/// Whether the body of an answer with this status has to be read to judge it.
pub(super) fn needs_body(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504 | 529)
}

/// Whether this status says that the upstream or the account is in trouble, and not the one request.
pub(super) fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 401..=403)
}

/// Judges an answer by its status, headers and, where [`needs_body`] says so, its body.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let error = needs_body(status).then(|| parse(headers, body)).flatten();
    let code = error.as_ref().and_then(|error| word(error.code.as_deref()?));
    let message = error.and_then(|error| error.message).unwrap_or_default();
    let mut verdict = Verdict {
        // What is refused for its content, its key or its model was never processed.
        charged: status.is_server_error(),
        retry: None,
        kind: None,
        exhausted: None,
        retry_after: retry_after(headers),
        code,
    };
    let quota = match verdict.code.as_deref() {
        Some("request_quota_exceeded") => Some((Rejection::RequestQuota, Unit::Requests)),
        Some("token_quota_exceeded") => Some((Rejection::TokenQuota, Unit::Tokens)),
        _ => None,
    };
    let overload = verdict.code.as_deref() == Some("queue_exceeded");
    match (status.as_u16(), quota) {
        (429, Some((kind, unit))) => {
            verdict.kind = Some(kind);
            verdict.retry = Some(RetryReason::Quota);
            verdict.exhausted = window(&message).map(|name| (unit, name));
        }
        (429 | 503 | 529, _) => {
            let known = overload || status.as_u16() != 429;
            verdict.kind = Some(if known { Rejection::Queue } else { Rejection::Unknown });
            verdict.retry = Some(RetryReason::Overload);
            verdict.charged = false;
        }
        (500 | 502 | 504, _) => verdict.retry = Some(RetryReason::ServerError),
        _ => {}
    }
    verdict
}

/// A code that is one word. Another is none: an upstream may quote what it was sent, and codes are
/// logged and shown.
fn word(code: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (code.len() <= LONGEST_CODE && code.bytes().all(plain)).then(|| code.to_owned())
}

/// The window that a message such as "Tokens per minute limit exceeded" names.
fn window(message: &str) -> Option<&'static str> {
    let named = |name: &&str| {
        let phrase = format!("per {name} limit");
        message.to_ascii_lowercase().contains(&phrase)
    };
    ["second", "minute", "hour", "day"].into_iter().find(|name| named(name))
}

/// `Retry-After` in seconds; the form with a date is not used by anyone here.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[derive(Default, Deserialize)]
struct Flat {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

#[derive(Deserialize)]
struct Nested {
    error: Flat,
}

/// The upstream's error, flat or nested; `None` if the body is something else.
fn parse(headers: &HeaderMap, body: &[u8]) -> Option<Flat> {
    let body = &unpack(headers, body)?[..];
    let nested = serde_json::from_slice::<Nested>(body).map(|nested| nested.error);
    nested.or_else(|_| serde_json::from_slice::<Flat>(body)).ok()
}

/// The text of an error body, unpacked if it is gzip; `None` if it only says that it is.
pub(super) fn unpack<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    if headers.get(CONTENT_ENCODING).is_none_or(|value| value.as_bytes() != b"gzip") {
        return Some(Cow::Borrowed(body));
    }
    let mut text = Vec::new();
    let most = LONGEST_ERROR as u64;
    flate2::read::MultiGzDecoder::new(body).take(most).read_to_end(&mut text).ok()?;
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn flat(code: &str, message: &str) -> Vec<u8> {
        format!(r#"{{"message":"{message}","type":"t","param":"quota","code":"{code}"}}"#).into()
    }

    #[test]
    fn each_kind_of_refusal_is_told_apart() {
        let requests =
            flat("request_quota_exceeded", "Requests per hour limit exceeded - too many");
        let tokens = flat("token_quota_exceeded", "Tokens per minute limit exceeded - too many");
        let queue = flat("queue_exceeded", "We're experiencing high traffic right now!");
        let nested = br#"{"error":{"message":"x","code":"queue_exceeded"}}"#.to_vec();
        let (quota, overload, server) =
            (Some(RetryReason::Quota), Some(RetryReason::Overload), Some(RetryReason::ServerError));
        for (status, body, retry, rejection, exhausted, charged) in [
            (
                429,
                requests,
                quota,
                Some(Rejection::RequestQuota),
                Some((Unit::Requests, "hour")),
                false,
            ),
            (
                429,
                tokens,
                quota,
                Some(Rejection::TokenQuota),
                Some((Unit::Tokens, "minute")),
                false,
            ),
            (429, queue.clone(), overload, Some(Rejection::Queue), None, false),
            (503, queue, overload, Some(Rejection::Queue), None, false),
            (429, nested, overload, Some(Rejection::Queue), None, false),
            (429, b"busy".to_vec(), overload, Some(Rejection::Unknown), None, false),
            (500, b"{}".to_vec(), server, None, None, true),
            (504, vec![], server, None, None, true),
            (403, b"error code: 1010".to_vec(), None, None, None, false),
            (402, flat("payment_required", "pay"), None, None, None, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let verdict = judge(status, &HeaderMap::new(), &body);
            let seen = (verdict.retry, verdict.kind, verdict.exhausted, verdict.charged);
            assert_eq!(seen, (retry, rejection, exhausted, charged), "{status}");
        }
    }

    #[test]
    fn a_packed_error_is_read_and_its_retry_after_kept() {
        let mut packer = flate2::read::GzEncoder::new(
            &br#"{"message":"Tokens per day limit exceeded","code":"token_quota_exceeded"}"#[..],
            flate2::Compression::fast(),
        );
        let mut body = Vec::new();
        packer.read_to_end(&mut body).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("56"));
        let verdict = judge(StatusCode::TOO_MANY_REQUESTS, &headers, &body);
        assert_eq!(verdict.exhausted, Some((Unit::Tokens, "day")));
        assert_eq!(verdict.retry_after, Some(Duration::from_secs(56)));
        for odd in ["-1", "NaN", "Wed, 21 Oct 2026 07:28:00 GMT", "1e300"] {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(odd));
            assert_eq!(judge(StatusCode::TOO_MANY_REQUESTS, &headers, &body).retry_after, None);
        }
    }

    #[test]
    fn a_code_that_is_no_word_is_not_told() {
        let code = |code: &str| {
            judge(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new(), &flat(code, "m")).code
        };
        for word in ["queue_exceeded", "rate-limit.v2", "E1015"] {
            assert_eq!(code(word).as_deref(), Some(word));
        }
        for other in ["bad value: tell me", r"\u001b[2J", &"x".repeat(65)] {
            assert_eq!(code(other), None, "{other}");
        }
    }
}
