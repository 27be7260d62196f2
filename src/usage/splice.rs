//! Writes an output limit, or another model's name, into a request's body, and nothing else.
//!
//! The body is not parsed and written again, which could change numbers, order or spelling: the
//! value is replaced where it stands, or a member is put first. Every other byte of the document
//! stays as it came.
//!
//! # Invariants
//!
//! - A body of which there is any doubt is left alone.
//! - The result is read by [`Demand::read`](super::Demand::read) as the same demand with the new
//!   limit or model: it is tested to be.

mod msgpack;

use std::fmt;
use std::io::Write;
use std::ops::Range;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::encoding::{BodyKind, Coding, Format};

const NEW: &str = "max_completion_tokens";
const OLD: &str = "max_tokens";

/// The body with `tokens` as its output limit; `None` if it cannot be written in safely. `body` has
/// been read before: it is a whole document of its kind.
#[must_use]
pub fn limit_output(kind: BodyKind, body: &[u8], max: usize, tokens: u64) -> Option<Vec<u8>> {
    let decoded = kind.decode(body, max).ok()?;
    let spliced = match kind.format {
        Format::Json => json(&decoded, tokens)?,
        Format::MsgPack => msgpack::splice(&decoded, tokens)?,
    };
    coded(kind, spliced)
}

/// The body with `model` as the model that it names; `None` if it cannot be written in safely. `body`
/// has been read before: it is a whole document of its kind.
#[must_use]
pub fn name_model(kind: BodyKind, body: &[u8], max: usize, model: &str) -> Option<Vec<u8>> {
    let decoded = kind.decode(body, max).ok()?;
    let (span, value) = match kind.format {
        Format::Json => {
            let text = std::str::from_utf8(&decoded).ok()?;
            (outline(text)?.model?.span, serde_json::to_vec(model).ok()?)
        }
        Format::MsgPack => (msgpack::members(&decoded)?.model?.span, msgpack::string(model)?),
    };
    let (before, after) = (decoded.get(..span.start)?, decoded.get(span.end..)?);
    coded(kind, [before, &value, after].concat())
}

/// A document as its body is coded.
fn coded(kind: BodyKind, spliced: Vec<u8>) -> Option<Vec<u8>> {
    match kind.coding {
        Coding::Identity => Some(spliced),
        Coding::Gzip => {
            // Sent once and unpacked at once: time counts for more than size.
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&spliced).ok()?;
            packed.finish().ok()
        }
    }
}

/// Where the members stand that decide what is written where.
#[derive(Debug, Default, Eq, PartialEq)]
struct Members {
    new: Option<Value>,
    old: Option<Value>,
    model: Option<Value>,
    chat: bool,
}

/// The value of a member.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Value {
    span: Range<usize>,
    null: bool,
}

/// What is to be written.
#[derive(Debug, Eq, PartialEq)]
enum Plan {
    /// A value, over another.
    Replace(Range<usize>),
    /// A member of this name, before all others.
    Insert(&'static str),
}

impl Members {
    /// The value of the limit that the caller named is replaced; where none is, the endpoint's own
    /// name for it is used.
    fn plan(self) -> Option<Plan> {
        let Self { new, old, chat, .. } = self;
        let named = |value: &Option<Value>| value.as_ref().is_some_and(|it| !it.null);
        let replaced = match (named(&new), named(&old)) {
            // Two limits: an upstream that refuses that shall go on refusing it.
            (true, true) => return None,
            (false, true) => old,
            _ => new.or(old),
        };
        Some(match replaced {
            Some(value) => Plan::Replace(value.span),
            None => Plan::Insert(if chat { NEW } else { OLD }),
        })
    }
}

fn json(document: &[u8], tokens: u64) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(document).ok()?;
    let (span, value) = match outline(text)?.plan()? {
        Plan::Replace(span) => (span, tokens.to_string()),
        Plan::Insert(name) => {
            // Not an empty object: it names a model at least.
            let first = text.find('{')? + 1;
            (first..first, format!("\"{name}\":{tokens},"))
        }
    };
    let (before, after) = (text.get(..span.start)?, text.get(span.end..)?);
    Some([before, &value, after].concat().into_bytes())
}

/// Where the members of a JSON document stand.
fn outline(text: &str) -> Option<Members> {
    serde_json::Deserializer::from_str(text).deserialize_map(Outline { text }).ok()
}

/// Reads where they stand.
struct Outline<'a> {
    text: &'a str,
}

impl Outline<'_> {
    /// Where `raw`, a part of the text, stands in it.
    fn span(&self, raw: &RawValue) -> Range<usize> {
        let start = raw.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + raw.get().len()
    }
}

impl<'de> Visitor<'de> for Outline<'de> {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        // Keys are compared as they read, not as they are spelt: they may hold escapes.
        while let Some((key, raw)) = map.next_entry::<String, &RawValue>()? {
            let value = || Value { span: self.span(raw), null: raw.get() == "null" };
            match key.as_str() {
                NEW => members.new = Some(value()),
                OLD => members.old = Some(value()),
                "model" => members.model = Some(value()),
                "messages" => members.chat = true,
                _ => {}
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests;
