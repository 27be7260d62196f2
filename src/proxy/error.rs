//! Everything the gateway itself refuses or fails with, and how a caller sees it.
//!
//! The shape is the upstream's own: a flat object of four strings. A refusal that waiting can cure
//! says when to come back, in the header every SDK reads; one that it cannot says that too.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::identity::BadKey;
use crate::metrics::Outcome;
use crate::proxy::headers;
use crate::usage::{BodyError, Unsupported};

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// SDKs obey no longer wait than this; most of them retry early instead.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a request was not answered by the upstream. `Display` is for the caller.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The path is none of ours.
    #[error("there is no such endpoint here; see GET /v1/models and POST /v1/chat/completions")]
    NotFound,
    /// The path is ours, the method is not.
    #[error("this endpoint takes {allow} only")]
    MethodNotAllowed {
        /// The method that it takes.
        allow: &'static str,
    },
    /// No `Host`, more than one, or one that names no host.
    #[error("exactly one Host header is needed, and it must name a host")]
    Host,
    /// The path and query are too long.
    #[error("the request target is longer than {limit} bytes")]
    UriTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// The body was sent in a coding other than chunks, or in several.
    #[error("the only transfer coding understood here is chunked, applied once")]
    TransferCoding,
    /// A header of ours makes no sense.
    #[error("{name} must be {expected}")]
    Header {
        /// Its name.
        name: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// The body cannot be understood.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is in a format that cannot be understood.
    #[error(transparent)]
    Format(#[from] Unsupported),
    /// The body is too large.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The body did not arrive.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The body broke off.
    #[error("the body broke off")]
    BodyBroken,
    /// The caller has no valid key.
    #[error("wrong API key")]
    UnknownKey,
    /// The time of the caller's key is over.
    #[error("this API key has expired")]
    ExpiredKey,
    /// The caller's key was revoked.
    #[error("this API key has been revoked")]
    RevokedKey,
    /// The model has no profile.
    #[error("the model is not configured on this gateway")]
    UnknownModel,
    /// The caller's key is not good for the model.
    #[error("the model does not exist here, or this API key may not use it")]
    NotYourModel,
    /// It costs more than a limit allows at all.
    #[error("{0}")]
    AboveLimit(String),
    /// Too many wait already.
    #[error("too many requests are waiting ({most}); come back in {}s", seconds(*retry_after))]
    QueueFull {
        /// Requests that may wait.
        most: u32,
        /// When there may be room.
        retry_after: Duration,
    },
    /// It cannot be admitted in time.
    #[error("{message}; come back in {}s", seconds(*retry_after))]
    WaitExceeded {
        /// What it waited for.
        message: String,
        /// The limit that it waited for, if it was one.
        level: Option<UsedUp>,
        /// When its cost may fit.
        retry_after: Duration,
    },
    /// The upstream fails whatever it is sent, and it is not tried for now.
    #[error("the upstream does not answer: one request after the other failed; come back in {}s", seconds(*retry_after))]
    CircuitOpen {
        /// When it will be tried again.
        retry_after: Duration,
    },
    /// No memory or pool is left for it.
    #[error("the gateway is at its limit of {what}; come back in 1s")]
    Overloaded {
        /// What ran out.
        what: &'static str,
    },
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Draining,
    /// No connection to the upstream.
    #[error("the upstream cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke before the head of the answer.
    #[error("the upstream broke off before it answered")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No head in time.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The upstream wants to speak another protocol.
    #[error("the upstream answered with a protocol switch")]
    Upgrade,
    /// The upstream answered a streamed request, whose stream had begun, with something else.
    #[error("the upstream did not answer with a stream that can be passed on")]
    NoStream,
    /// Something about the gateway's own files and batches.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A defect.
    #[error("internal error")]
    Internal,
}

impl From<BadKey> for ProxyError {
    fn from(bad: BadKey) -> Self {
        match bad {
            BadKey::Unknown => Self::UnknownKey,
            BadKey::Expired => Self::ExpiredKey,
            BadKey::Revoked => Self::RevokedKey,
        }
    }
}

/// Why the gateway does not do what it was asked to with files and batches.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The JSON `code`.
    pub code: &'static str,
    /// The part of the request that is at fault; empty if none is.
    pub param: &'static str,
    /// What is wrong, for the caller.
    pub message: String,
}

/// The state of a limit that was waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UsedUp {
    /// Units allowed per window.
    pub limit: u64,
    /// Units used, those held included.
    pub used: u64,
    /// Units held by requests that have not ended.
    pub held: u64,
}

/// What an error is, for programs.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The HTTP status.
    pub status: StatusCode,
    /// The JSON `type`: whose business it is.
    pub class: &'static str,
    /// The JSON `code`: a closed set.
    pub code: &'static str,
    /// How the request is counted.
    pub outcome: Outcome,
}

const INVALID: &str = "invalid_request_error";
const TOO_MANY: &str = "too_many_requests_error";
const SERVER: &str = "server_error";
const UNAUTHORIZED: &str = "authentication_error";

impl ProxyError {
    /// Status, type, code and outcome.
    pub fn kind(&self) -> Kind {
        let (status, class, code, outcome) = match self {
            Self::Api(error) => {
                let (class, outcome) = match error.status.as_u16() {
                    404 => ("not_found_error", Outcome::Invalid),
                    429 => (TOO_MANY, Outcome::Overloaded),
                    500.. => (SERVER, Outcome::Overloaded),
                    _ => (INVALID, Outcome::Invalid),
                };
                return Kind { status: error.status, class, code: error.code, outcome };
            }
            Self::NotFound => (404, "not_found_error", "not_found", Outcome::Invalid),
            Self::MethodNotAllowed { .. } => (405, INVALID, "method_not_allowed", Outcome::Invalid),
            Self::Host | Self::Header { .. } => {
                (400, INVALID, "wrong_api_format", Outcome::Invalid)
            }
            Self::UriTooLong { .. } => (414, INVALID, "uri_too_long", Outcome::Invalid),
            Self::TransferCoding => (501, INVALID, "unsupported_transfer_coding", Outcome::Invalid),
            Self::Body(BodyError::TooLarge { .. } | BodyError::Bomb { .. })
            | Self::BodyTooLarge { .. } => (413, INVALID, "request_too_large", Outcome::Invalid),
            Self::Body(_) => (400, INVALID, "wrong_api_format", Outcome::Invalid),
            Self::Format(_) => (415, INVALID, "unsupported_media_type", Outcome::Invalid),
            Self::BodyTimeout => (408, INVALID, "request_timeout", Outcome::Invalid),
            Self::BodyBroken => (400, INVALID, "wrong_api_format", Outcome::ClientGone),
            Self::UnknownKey => (401, UNAUTHORIZED, "wrong_api_key", Outcome::Unauthorized),
            Self::ExpiredKey => (401, UNAUTHORIZED, "expired_api_key", Outcome::Unauthorized),
            Self::RevokedKey => (401, UNAUTHORIZED, "revoked_api_key", Outcome::Unauthorized),
            Self::UnknownModel | Self::NotYourModel => {
                (404, "not_found_error", "model_not_found", Outcome::Invalid)
            }
            Self::AboveLimit(_) => (413, INVALID, "above_limit", Outcome::AboveLimit),
            Self::QueueFull { .. } => (429, TOO_MANY, "queue_full", Outcome::QueueFull),
            Self::WaitExceeded { .. } => (429, TOO_MANY, "wait_exceeded", Outcome::WaitExceeded),
            Self::CircuitOpen { .. } => (503, SERVER, "circuit_open", Outcome::UpstreamUnavailable),
            Self::Overloaded { .. } => (503, SERVER, "overloaded", Outcome::Overloaded),
            Self::Draining => (503, SERVER, "draining", Outcome::Draining),
            Self::Unreachable(_) => {
                (502, SERVER, "upstream_unreachable", Outcome::UpstreamUnavailable)
            }
            Self::Broken(_) => (502, SERVER, "upstream_broken", Outcome::UpstreamUnavailable),
            Self::Timeout => (504, SERVER, "upstream_timeout", Outcome::UpstreamTimeout),
            Self::Upgrade | Self::NoStream => {
                (502, SERVER, "upstream_protocol", Outcome::UpstreamUnavailable)
            }
            Self::Internal => (500, SERVER, "internal_error", Outcome::Internal),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Kind { status, class, code, outcome }
    }

    /// The part of the request that is at fault; empty if none is.
    pub(super) fn param(&self) -> &'static str {
        match self {
            Self::Body(error) => error.param(),
            Self::Header { name, .. } => name,
            Self::Api(error) => error.param,
            Self::Host => "host",
            Self::UnknownKey | Self::ExpiredKey | Self::RevokedKey => "api_key",
            Self::UnknownModel | Self::NotYourModel => "model",
            Self::AboveLimit(_) | Self::QueueFull { .. } | Self::WaitExceeded { .. } => "quota",
            _ => "",
        }
    }

    /// When to come back; `None` if the caller's own backoff is as good.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. }
            | Self::WaitExceeded { retry_after, .. }
            | Self::CircuitOpen { retry_after } => Some(*retry_after),
            Self::Overloaded { .. } | Self::Draining => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// The whole seconds that a caller is told to wait, 1 to 60: never early, except beyond a minute.
fn seconds(wait: Duration) -> u64 {
    let wait = wait.min(LONGEST_RETRY_AFTER);
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[derive(Serialize)]
struct Flat<'a> {
    message: &'a str,
    r#type: &'a str,
    param: &'a str,
    code: &'a str,
}

impl IntoResponse for ProxyError {
    fn into_response(self) -> Response {
        let kind = self.kind();
        let message = self.to_string();
        let flat =
            Flat { message: &message, r#type: kind.class, param: self.param(), code: kind.code };
        // Four strings cannot fail to become JSON.
        let body = serde_json::to_vec(&flat).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = kind.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers::blame_gateway(headers);
        if let Some(wait) = self.retry_after() {
            let wait = wait.min(LONGEST_RETRY_AFTER);
            let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis.max(1)));
        }
        match &self {
            // SDKs repeat a 409 and all 5xx by themselves; nothing will have changed by then.
            Self::AboveLimit(_)
            | Self::TransferCoding
            | Self::Api(ApiError {
                status:
                    StatusCode::CONFLICT
                    | StatusCode::NOT_IMPLEMENTED
                    | StatusCode::INSUFFICIENT_STORAGE,
                ..
            }) => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Self::WaitExceeded { level: Some(level), .. } => headers::explain_level(headers, level),
            Self::MethodNotAllowed { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        response.extensions_mut().insert(kind.outcome);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_to_come_back_within_a_minute_and_never_early() {
        for (wait_ms, retry_after, retry_after_ms) in [
            (0, "1", "1"),
            (1, "1", "1"),
            (1_001, "2", "1001"),
            (60_000, "60", "60000"),
            (90_000, "60", "60000"),
        ] {
            let retry_after_at = Duration::from_millis(wait_ms);
            let error = ProxyError::QueueFull { most: 1, retry_after: retry_after_at };
            let response = error.into_response();
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("retry-after"), retry_after, "{wait_ms}");
            assert_eq!(header("retry-after-ms"), retry_after_ms, "{wait_ms}");
            assert_eq!(response.headers().get("x-should-retry"), None);
        }
        let wall = ProxyError::AboveLimit("too much".to_owned()).into_response();
        assert_eq!(wall.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(wall.headers()["x-should-retry"], "false");
        assert!(wall.headers().get("retry-after").is_none(), "no wait helps");
    }
}
