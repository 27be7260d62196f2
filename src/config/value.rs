//! The types of values: each says what it expects when it gets something else.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::source::{Kind, Node};
use crate::time::Timestamp;

/// A value that a node can be read as.
pub(super) trait FromNode: Sized {
    /// The value, or what is wrong with it.
    fn from_node(node: Node) -> Result<Self, String>;
}

/// Text that is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret {
    text: String,
    reference: String,
}

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Where it comes from: `env:NAME` or `file:PATH`.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// A part of the text that `reference` refers to.
    pub(super) fn within(text: String, reference: &str) -> Self {
        Self { text, reference: reference.to_owned() }
    }

    /// Resolves a reference to a key.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without the secret.
    pub fn resolve(reference: &str, environment: &[(String, String)]) -> Result<Self, String> {
        let secret = Self::resolve_text(reference, environment)?;
        let text = &secret.text;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{reference} holds no key: visible ASCII without spaces"));
        }
        Ok(secret)
    }

    /// Resolves a reference to any text.
    pub(super) fn resolve_text(
        reference: &str,
        environment: &[(String, String)],
    ) -> Result<Self, String> {
        let text = if let Some(name) = reference.strip_prefix("env:") {
            let found = environment.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).ok_or_else(|| format!("{name} is not set"))?
        } else if let Some(path) = reference.strip_prefix("file:") {
            std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?
        } else {
            // Not quoted: it may be the secret itself.
            return Err(
                "a reference is expected, \"env:NAME\" or \"file:PATH\", not the secret".into()
            );
        };
        Ok(Self { text: text.trim().to_owned(), reference: reference.to_owned() })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}

impl Kind {
    /// What the value is, for people; short, and without its text.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::String(_) | Self::Untyped(_) => "text".to_owned(),
            Self::Integer(integer) => integer.to_string(),
            Self::Float(float) => float.to_string(),
            Self::Bool(boolean) => boolean.to_string(),
            Self::Datetime(text) => text.clone(),
            Self::Other => "something else".to_owned(),
            Self::Array(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

impl FromNode for String {
    fn from_node(node: Node) -> Result<Self, String> {
        match node.kind {
            Kind::String(text) | Kind::Untyped(text) => Ok(text),
            kind => Err(format!("text is expected, got {}", kind.describe())),
        }
    }
}

impl FromNode for bool {
    fn from_node(node: Node) -> Result<Self, String> {
        match &node.kind {
            Kind::Bool(value) => Ok(*value),
            Kind::Untyped(text) if text == "true" => Ok(true),
            Kind::Untyped(text) if text == "false" => Ok(false),
            kind => Err(format!("true or false is expected, got {}", kind.describe())),
        }
    }
}

impl FromNode for u64 {
    fn from_node(node: Node) -> Result<Self, String> {
        let value = match &node.kind {
            Kind::Integer(integer) => Self::try_from(*integer).ok(),
            Kind::Untyped(text) => text.replace('_', "").parse().ok(),
            _ => None,
        };
        value.ok_or_else(|| format!("a whole number is expected, got {}", shown(&node.kind)))
    }
}

impl FromNode for u32 {
    fn from_node(node: Node) -> Result<Self, String> {
        let value = u64::from_node(node)?;
        Self::try_from(value).map_err(|_| format!("at most {}, got {value}", Self::MAX))
    }
}

impl FromNode for NonZeroU32 {
    fn from_node(node: Node) -> Result<Self, String> {
        Self::new(u32::from_node(node)?).ok_or_else(|| "at least 1, got 0".to_owned())
    }
}

impl FromNode for Duration {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = match &node.kind {
            Kind::String(text) | Kind::Untyped(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        let expected =
            "a duration with its unit is expected, such as \"500ms\", \"30s\" or \"10m\"";
        text.ok_or_else(|| format!("{expected}, got {}", shown(&node.kind)))
    }
}

impl FromNode for Timestamp {
    fn from_node(node: Node) -> Result<Self, String> {
        let at = match &node.kind {
            Kind::String(text) | Kind::Untyped(text) | Kind::Datetime(text) => {
                Self::parse_rfc3339(text)
            }
            _ => None,
        };
        let expected = "an instant is expected, such as \"2027-01-01T00:00:00Z\"";
        at.ok_or_else(|| format!("{expected}, got {}", shown(&node.kind)))
    }
}

/// A number of bytes: "32MiB", or a plain integer.
pub(super) struct Bytes(pub(super) NonZeroU64);

impl FromNode for Bytes {
    fn from_node(node: Node) -> Result<Self, String> {
        let value = match &node.kind {
            Kind::String(text) | Kind::Untyped(text) => {
                text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
            }
            Kind::Integer(integer) => u64::try_from(*integer).ok(),
            _ => None,
        };
        value.and_then(NonZeroU64::new).map(Self).ok_or_else(|| {
            format!("a size is expected, such as \"32MiB\", got {}", shown(&node.kind))
        })
    }
}

impl FromNode for SocketAddr {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        text.parse().map_err(|_| {
            format!("an address and port is expected, such as \"127.0.0.1:8080\", got {text:?}")
        })
    }
}

impl FromNode for http::Uri {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        let expected = "\"http://HOST[:PORT]\" or \"https://HOST[:PORT]\" is expected";
        let uri: Self = text.parse().map_err(|_| format!("{expected}, got {text:?}"))?;
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.authority().is_some_and(|it| !it.host().is_empty());
        // Credentials in a URL end up in logs; a path would be silently doubled by SDKs that bring
        // their own.
        let plain = uri.authority().is_some_and(|it| !it.as_str().contains('@'));
        let root = matches!(uri.path(), "" | "/" | "/v1" | "/v1/") && uri.query().is_none();
        if scheme && host && plain && root {
            return Ok(uri);
        }
        Err(if plain {
            format!("{expected}, with no path but /v1, got {text:?}")
        } else {
            format!("{expected}, without credentials")
        })
    }
}

/// A decimal number above zero, in thousandths.
pub(super) struct Milli(pub(super) NonZeroU64);

impl FromNode for Milli {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded to a million before the cast"
    )]
    fn from_node(node: Node) -> Result<Self, String> {
        let value = decimal(&node.kind);
        let milli = value.filter(|value| (0.001..1_000_000.0).contains(value));
        milli
            .and_then(|value| NonZeroU64::new((value * 1_000.0).round() as u64))
            .map(Self)
            .ok_or_else(|| {
                format!("a number between 0.001 and 1000000 is expected, got {}", shown(&node.kind))
            })
    }
}

/// A share of the whole, from 0 to 1, in thousandths.
pub(super) struct Share(pub(super) u16);

impl FromNode for Share {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded to one before the cast"
    )]
    fn from_node(node: Node) -> Result<Self, String> {
        let value = decimal(&node.kind);
        let share = value.filter(|value| (0.0..=1.0).contains(value));
        share.map(|value| Self((value * 1_000.0).round() as u16)).ok_or_else(|| {
            format!("a share between 0 and 1 is expected, such as 0.25, got {}", shown(&node.kind))
        })
    }
}

impl FromNode for Option<http::HeaderName> {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        if text.is_empty() {
            return Ok(None);
        }
        let name = text.parse().map(Some);
        name.map_err(|_| format!("the name of a header is expected, got {text:?}"))
    }
}

/// A decimal number, however it is written.
#[expect(clippy::cast_precision_loss, reason = "larger integers are out of all bounds")]
pub(super) fn decimal(kind: &Kind) -> Option<f64> {
    match kind {
        Kind::Integer(integer) => Some(*integer as f64),
        Kind::Float(float) => Some(*float),
        Kind::Untyped(text) => text.parse().ok(),
        _ => None,
    }
}

/// The value as the user wrote it, where it is a scalar.
pub(super) fn shown(kind: &Kind) -> String {
    match kind {
        Kind::String(text) | Kind::Untyped(text) => format!("{text:?}"),
        kind => kind.describe(),
    }
}

/// 32 bytes from 64 hexadecimal digits.
pub(super) fn sha256(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Text with `%40` for `@` and the like.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
