//! The closed sets that requests are counted by.

/// Declares an enum whose variants have names for labels, logs and error codes.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of its discriminant.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// The name in labels and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

labels! {
    /// The one end of a request.
    Outcome {
        /// A successful answer reached the caller whole.
        Completed = "completed",
        /// The upstream's own error reached the caller whole.
        UpstreamError = "upstream_error",
        /// The answer was a stream that ended with an error event.
        StreamError = "stream_error",
        /// The upstream's answer broke off.
        UpstreamCut = "upstream_cut",
        /// The upstream could not be reached, or broke off before the head.
        UpstreamUnavailable = "upstream_unavailable",
        /// The upstream took too long.
        UpstreamTimeout = "upstream_timeout",
        /// The caller hung up, waiting or in mid-answer.
        ClientGone = "client_gone",
        /// The request was wrong: nothing was queued or charged.
        Invalid = "invalid",
        /// The caller has no valid key.
        Unauthorized = "unauthorized",
        /// It asks for more than a limit allows at all.
        AboveLimit = "above_limit",
        /// Too many were waiting.
        QueueFull = "queue_full",
        /// It could not be admitted in time.
        WaitExceeded = "wait_exceeded",
        /// No memory or pool was left for it.
        Overloaded = "overloaded",
        /// The gateway is shutting down.
        Draining = "draining",
        /// A defect of the gateway.
        Internal = "internal",
        /// Answered by the gateway itself, as meant.
        Local = "local",
    }
}

labels! {
    /// Why the upstream refused.
    Rejection {
        /// A limit of requests.
        RequestQuota = "request_quota",
        /// A limit of tokens.
        TokenQuota = "token_quota",
        /// Its own load, not the account's quota.
        Queue = "queue",
        /// It did not say.
        Unknown = "unknown",
    }
}

labels! {
    /// Why a request is sent again.
    RetryReason {
        /// The upstream said that a quota is used up.
        Quota = "quota",
        /// The upstream said that it is overloaded.
        Overload = "overload",
        /// The upstream failed (5xx).
        ServerError = "server_error",
        /// No connection could be made.
        Connect = "connect",
        /// A kept connection broke under it, most likely because it had been closed.
        StaleConnection = "stale_connection",
        /// The upstream said that it had not looked at it.
        Unprocessed = "unprocessed",
        /// The connection broke before the head of the answer.
        Broken = "broken",
        /// The gateway's own output limit cut the answer.
        OutputCap = "output_cap",
    }
}

labels! {
    /// How an attempt failed at the upstream.
    UpstreamFailure {
        /// No connection could be made.
        Connect = "connect",
        /// The connection broke before the head of the answer.
        Broken = "broken",
        /// The head of the answer did not come in time.
        Timeout = "timeout",
        /// A status of 500 or above.
        ServerError = "server_error",
    }
}

labels! {
    /// A state that a circuit gets into.
    CircuitState {
        /// Requests go.
        Closed = "closed",
        /// One goes to find out.
        HalfOpen = "half_open",
        /// Nothing goes.
        Open = "open",
    }
}

labels! {
    /// How a request ended, in as many words as a bill needs.
    Fate {
        /// Its answer reached the caller whole.
        Completed = "completed",
        /// The upstream, or the gateway, failed.
        Failed = "failed",
        /// It was turned away.
        Refused = "refused",
        /// The caller went away.
        Gone = "gone",
    }
}

impl Outcome {
    /// How a request with this outcome counts on a bill; not at all if it was the gateway's own.
    pub const fn fate(self) -> Option<Fate> {
        Some(match self {
            Self::Completed => Fate::Completed,
            Self::UpstreamError
            | Self::StreamError
            | Self::UpstreamCut
            | Self::UpstreamUnavailable
            | Self::UpstreamTimeout
            | Self::Internal => Fate::Failed,
            Self::Invalid
            | Self::Unauthorized
            | Self::AboveLimit
            | Self::QueueFull
            | Self::WaitExceeded
            | Self::Overloaded
            | Self::Draining => Fate::Refused,
            Self::ClientGone => Fate::Gone,
            Self::Local => return None,
        })
    }
}
