//! Why a request body cannot be admitted.

use super::encoding::Format;

/// A body that cannot be read; the text is for the client and never quotes what was sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// Unpacked, the body is longer than the gateway accepts.
    #[error("the body is larger than {limit} bytes when decoded")]
    TooLarge {
        /// The largest decoded body, in bytes.
        limit: usize,
    },
    /// Unpacked, the body is far longer than text that somebody wrote.
    #[error("the body unpacks to more than {ratio} times its size")]
    Bomb {
        /// How many times its size is accepted.
        ratio: usize,
    },
    /// The body was announced as gzip and is not, or it is cut, corrupt or followed by something.
    #[error("the body is not valid gzip")]
    Gzip,
    /// The text is not UTF-8.
    #[error("the body is not valid UTF-8")]
    NotUtf8,
    /// The body is not one whole JSON document of sensible depth.
    #[error("the body is not valid JSON, or nested too deeply (line {line}, column {column})")]
    Json {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault in bytes, from 1; 0 where the line itself ends too early.
        column: usize,
    },
    /// The body is not one whole MessagePack document of sensible depth.
    #[error("the body is not valid MessagePack, or nested too deeply")]
    MsgPack,
    /// The document is a list, a string or the like.
    #[error("the body must be {}", match format { Format::Json => "a JSON object", Format::MsgPack => "a MessagePack map" })]
    NotAnObject {
        /// What the body was read as.
        format: Format,
    },
    /// A field that must be there is not.
    #[error("`{param}` is required")]
    Missing {
        /// Name of the field.
        param: &'static str,
    },
    /// A field stands twice, so that two readers could read two different requests.
    #[error("`{param}` is given twice")]
    Duplicate {
        /// Name of the field.
        param: &'static str,
    },
    /// A field has a value of the wrong type or out of its range.
    #[error("`{param}` must be {expected}")]
    Invalid {
        /// Name of the field.
        param: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// Both names of the output limit are given, with different values.
    #[error("`max_tokens` and `max_completion_tokens` differ: send one of them")]
    Conflict,
}

impl BodyError {
    /// The request field at fault, or `""` where the whole body is.
    #[must_use]
    pub fn param(&self) -> &'static str {
        match self {
            Self::TooLarge { .. }
            | Self::Bomb { .. }
            | Self::Gzip
            | Self::NotUtf8
            | Self::Json { .. }
            | Self::MsgPack
            | Self::NotAnObject { .. } => "",
            Self::Missing { param } | Self::Duplicate { param } | Self::Invalid { param, .. } => {
                param
            }
            Self::Conflict => "max_tokens",
        }
    }
}
