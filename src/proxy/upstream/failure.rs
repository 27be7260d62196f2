//! Why there is no answer, and what the upstream can have done with the request.
//!
//! # Invariants
//!
//! - A request counts as unprocessed only if not one of its bytes was written, or if the upstream said
//!   so in the words that HTTP/2 has for it. Whatever else breaks may have been worked on, however soon
//!   it broke and however long the connection had been idle: nobody can tell.

use std::error::Error as StdError;

use hyper_util::client::legacy::Error;

use super::connect::Trace;
use crate::admission::recent;
use crate::metrics::{RetryReason, UpstreamFailure};
use crate::proxy::error::ProxyError;

/// Why there is no head of an answer.
#[derive(Debug)]
pub(in crate::proxy) enum Failure {
    /// No connection was made, or it was gone before the first byte: nothing was sent.
    Connect(Box<dyn StdError + Send + Sync>),
    /// The upstream said that it has not looked at the request: it refused the stream, or went away
    /// naming an earlier one as its last.
    Unprocessed(Box<dyn StdError + Send + Sync>),
    /// A kept connection broke under the request, most likely because it had been closed. Nobody
    /// knows what the upstream did.
    Stale(Box<dyn StdError + Send + Sync>),
    /// The connection broke, and nobody knows what the upstream did.
    Broken(Box<dyn StdError + Send + Sync>),
    /// The head did not come in time.
    Timeout,
}

impl Failure {
    /// What an error of the client means, which came `at_once` or later.
    pub(super) fn of(error: Error, at_once: bool) -> Self {
        let Some(connected) = error.connect_info() else {
            // The request has never met a connection.
            return Self::Connect(error.into());
        };
        let mut extensions = http::Extensions::new();
        connected.get_extras(&mut extensions);
        if find(&error, hyper::Error::is_canceled) {
            // The connection was gone before it took the request.
            Self::Connect(error.into())
        } else if find(&error, is_refusal) {
            Self::Unprocessed(error.into())
        } else if at_once && extensions.get::<Trace>().is_some_and(Trace::is_stale) {
            Self::Stale(error.into())
        } else {
            Self::Broken(error.into())
        }
    }

    /// Whether the upstream may have charged the request.
    pub(in crate::proxy) const fn may_be_charged(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Unprocessed(_))
    }

    /// Why sending the request again may help, if it may. A request that has timed out once would
    /// cost its caller the same time again.
    pub(in crate::proxy) const fn retry(&self) -> Option<RetryReason> {
        match self {
            Self::Connect(_) => Some(RetryReason::Connect),
            Self::Unprocessed(_) => Some(RetryReason::Unprocessed),
            Self::Stale(_) => Some(RetryReason::StaleConnection),
            Self::Broken(_) => Some(RetryReason::Broken),
            Self::Timeout => None,
        }
    }

    /// Its name in traces.
    pub(in crate::proxy) const fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Unprocessed(_) => "unprocessed",
            Self::Stale(_) => "stale_connection",
            Self::Broken(_) => "broken",
            Self::Timeout => "timeout",
        }
    }

    /// How it counts.
    pub(in crate::proxy) const fn kind(&self) -> UpstreamFailure {
        match self {
            Self::Connect(_) => UpstreamFailure::Connect,
            Self::Unprocessed(_) | Self::Stale(_) | Self::Broken(_) => UpstreamFailure::Broken,
            Self::Timeout => UpstreamFailure::Timeout,
        }
    }
}

/// Whether an error or one of its causes is an `E` like this.
fn find<E: StdError + 'static>(error: &Error, is: impl Fn(&E) -> bool) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<E>().is_some_and(&is) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the upstream vouches for not having processed the stream (RFC 9113, 8.7). A stream that a
/// `GOAWAY` includes does not fail by it, but by what comes after.
fn is_refusal(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

impl From<&Failure> for recent::Failure {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Connect(_) => Self::Unreachable,
            Failure::Unprocessed(_) | Failure::Stale(_) | Failure::Broken(_) => Self::Broken,
            Failure::Timeout => Self::Timeout,
        }
    }
}

impl From<Failure> for ProxyError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect(source) => Self::Unreachable(source),
            Failure::Unprocessed(source) | Failure::Stale(source) | Failure::Broken(source) => {
                Self::Broken(source)
            }
            Failure::Timeout => Self::Timeout,
        }
    }
}
