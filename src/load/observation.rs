//! What became of one request.

use http::HeaderMap;
use tokio::time::Instant;

use crate::usage::Usage;

/// Why a request has no whole answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// No connection was made.
    Connect,
    /// It took longer than a request may.
    Timeout,
    /// The connection broke before the head of the answer.
    Broken,
    /// The answer broke off: a body that ends early, a stream without its `[DONE]`.
    Cut,
    /// A stream ended with an error event.
    ErrorEvent,
    /// A 2xx that is no completion.
    BadAnswer,
}

impl Failure {
    pub(crate) const ALL: [Self; 6] =
        [Self::Connect, Self::Timeout, Self::Broken, Self::Cut, Self::ErrorEvent, Self::BadAnswer];

    /// Its name in reports.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Cut => "cut",
            Self::ErrorEvent => "error_event",
            Self::BadAnswer => "bad_answer",
        }
    }
}

/// What a request has shown until it ended.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    /// The status of the answer; `None` if there was no head.
    pub(crate) status: Option<u16>,
    /// The headers of the answer.
    pub(crate) headers: HeaderMap,
    /// Why there is no whole answer; `None` for refusals, which are whole.
    pub(crate) failure: Option<Failure>,
    /// When the first event with a choice had come; streams only.
    pub(crate) first_token: Option<Instant>,
    /// What the answer says it used.
    pub(crate) usage: Option<Usage>,
    /// The status that an error event named.
    pub(crate) event_status: Option<u16>,
}

impl Observation {
    /// Whether there was a whole answer, and a completion.
    pub(crate) fn is_ok(&self) -> bool {
        self.failure.is_none() && self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether the gateway says that it speaks for itself.
    pub(crate) fn is_gateways(&self) -> bool {
        self.headers.get("x-tidegate-source").is_some_and(|value| value == "gateway")
    }

    /// How long the gateway says the request has waited, in milliseconds.
    pub(crate) fn wait_ms(&self) -> Option<u64> {
        self.headers.get("x-tidegate-wait-ms")?.to_str().ok()?.parse().ok()
    }
}
