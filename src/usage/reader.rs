//! Reads the top level of a request body.
//!
//! One visitor serves JSON and MessagePack: it borrows what it compares, counts what it weighs and
//! skips the rest. Serde's own error texts quote the value at fault, so they are dropped: the
//! reader remembers which field it is in, and that field's row in [`Field`] words the error.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::demand::{Demand, OutputLimit, PromptWeight, ServiceTier};
use super::encoding::Format;
use super::error::BodyError;
use super::message::Messages;
use super::scalar::{Choices, Flag, Limit, Model, Tier, seed};
use super::tokenizer::Tokenizer;
use super::weigh::{Prompt, Scale, Text, Tools};

/// Deepest nesting in MessagePack: the depth to which `serde_json` reads, so both agree.
const MAX_DEPTH: usize = 128;

/// A field that is read, under its own name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Model,
    Stream,
    N,
    BestOf,
    MaxTokens,
    MaxCompletionTokens,
    ServiceTier,
    Messages,
    Prompt,
    Suffix,
    Tools,
    Functions,
    ResponseFormat,
    Prediction,
}

impl Field {
    /// Every field, its name and what its value must be.
    const ALL: [(Self, &'static str, &'static str); 14] = [
        (Self::Model, "model", "a name of 1 to 256 bytes without control characters"),
        (Self::Stream, "stream", "true or false"),
        (Self::N, "n", "a whole number from 1 to 1024"),
        (Self::BestOf, "best_of", "a whole number from 1 to 1024"),
        (Self::MaxTokens, "max_tokens", LIMIT),
        (Self::MaxCompletionTokens, "max_completion_tokens", LIMIT),
        (Self::ServiceTier, "service_tier", "a string"),
        (Self::Messages, "messages", CONTENT),
        (Self::Prompt, "prompt", CONTENT),
        (Self::Suffix, "suffix", CONTENT),
        (Self::Tools, "tools", CONTENT),
        (Self::Functions, "functions", CONTENT),
        (Self::ResponseFormat, "response_format", CONTENT),
        (Self::Prediction, "prediction", CONTENT),
    ];

    /// The field of this name, if it is read.
    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1.as_bytes() == name).map(|row| row.0)
    }

    /// Name, and what its value must be.
    fn row(self) -> (&'static str, &'static str) {
        let (_, name, expected) = Self::ALL[self as usize];
        (name, expected)
    }
}

const LIMIT: &str = "a whole number from 0 to 2^53, or -1 for no limit";
const CONTENT: &str = "made of text, numbers, lists and objects";

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The field being read: the one at fault if its visitor fails.
    field: Option<Field>,
    /// One bit for each field seen.
    seen: u16,
    /// A fault that is not the value's type or range.
    fault: Option<BodyError>,
    model: Option<String>,
    stream: bool,
    n: Option<u64>,
    best_of: Option<u64>,
    max_tokens: Option<OutputLimit>,
    max_completion_tokens: Option<OutputLimit>,
    tier: Option<ServiceTier>,
    prompts: u64,
    scale: Scale,
}

impl Reader {
    /// One that counts each text with `tokenizer`, if there is one.
    fn new(tokenizer: Option<Tokenizer>) -> Self {
        Self { scale: Scale { tokenizer, ..Scale::default() }, ..Self::default() }
    }

    /// Reads a JSON document; returns the tokens that `tokenizer` counted, too.
    pub(super) fn json(
        bytes: &[u8],
        tokenizer: Option<Tokenizer>,
    ) -> Result<(Demand, u64), BodyError> {
        // Checked once and here: skipped strings would go unchecked, and the parser need not
        // check what is already a `str`.
        let text = std::str::from_utf8(bytes).map_err(|_| BodyError::NotUtf8)?;
        let mut reader = Self::new(tokenizer);
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_any(&mut reader).and_then(|()| json.end()).map_err(|error| {
            if error.is_data() {
                reader.refuse(Format::Json)
            } else {
                BodyError::Json { line: error.line(), column: error.column() }
            }
        })?;
        reader.finish()
    }

    /// Reads a MessagePack document; otherwise as [`Self::json`].
    pub(super) fn msgpack(
        bytes: &[u8],
        tokenizer: Option<Tokenizer>,
    ) -> Result<(Demand, u64), BodyError> {
        let mut reader = Self::new(tokenizer);
        let mut pack = rmp_serde::Deserializer::from_read_ref(bytes);
        pack.set_max_depth(MAX_DEPTH);
        pack.deserialize_any(&mut reader).map_err(|error| match error {
            rmp_serde::decode::Error::Syntax(_) => reader.refuse(Format::MsgPack),
            _ => BodyError::MsgPack,
        })?;
        // There is no `end`: only where no byte is left does the next marker fail to be read.
        match pack.deserialize_any(Nothing) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => reader.finish(),
            _ => Err(BodyError::MsgPack),
        }
    }

    /// The error behind a visitor's refusal.
    fn refuse(&mut self, format: Format) -> BodyError {
        if let Some(fault) = self.fault.take() {
            return fault;
        }
        self.field.map_or(BodyError::NotAnObject { format }, |field| {
            let (param, expected) = field.row();
            BodyError::Invalid { param, expected }
        })
    }

    /// The demand, once the document has been read to its end.
    fn finish(self) -> Result<(Demand, u64), BodyError> {
        let output_limit = match (self.max_tokens, self.max_completion_tokens) {
            (Some(a), Some(b)) if a != b => return Err(BodyError::Conflict),
            (a, b) => a.or(b).unwrap_or(OutputLimit::Unlimited),
        };
        let texture = self.scale.counter.finish();
        let demand = Demand {
            model: self.model.ok_or(BodyError::Missing { param: "model" })?,
            stream: self.stream,
            choices: self.n.max(self.best_of).unwrap_or(1),
            prompts: self.prompts.max(1),
            output_limit,
            service_tier: self.tier,
            prompt: PromptWeight { texture, ..self.scale.weight },
        };
        Ok((demand, self.scale.counted))
    }

    /// Notes that `field` is being read now; an error if it was read before.
    fn enter<E: Error>(&mut self, field: Field) -> Result<(), E> {
        let bit = 1_u16 << (field as u16);
        if self.seen & bit != 0 {
            self.fault = Some(BodyError::Duplicate { param: field.row().0 });
            return Err(E::custom("duplicate field"));
        }
        self.seen |= bit;
        self.field = Some(field);
        Ok(())
    }

    /// Reads the value of `field`.
    fn value<'de, A: MapAccess<'de>>(&mut self, field: Field, map: &mut A) -> Result<(), A::Error> {
        let scale = &mut self.scale;
        match field {
            Field::Model => self.model = Some(map.next_value_seed(Model)?),
            Field::Stream => self.stream = map.next_value_seed(Flag)?,
            Field::N => self.n = map.next_value_seed(Choices)?,
            Field::BestOf => self.best_of = map.next_value_seed(Choices)?,
            Field::MaxTokens => self.max_tokens = map.next_value_seed(Limit)?,
            Field::MaxCompletionTokens => {
                self.max_completion_tokens = map.next_value_seed(Limit)?;
            }
            Field::ServiceTier => self.tier = map.next_value_seed(Tier)?,
            Field::Messages => map.next_value_seed(Messages(scale))?,
            Field::Prompt => self.prompts = map.next_value_seed(Prompt(scale))?,
            Field::Tools | Field::Functions => map.next_value_seed(Tools(scale))?,
            Field::Suffix | Field::ResponseFormat | Field::Prediction => {
                map.next_value_seed(Text(scale))?;
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name)? {
            match field {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(field) => {
                    self.enter(field)?;
                    self.value(field, &mut map)?;
                    // What is wrong between two fields is no field's fault.
                    self.field = None;
                }
            }
        }
        Ok(())
    }
}

/// A key of the top level.
struct Name;

seed! { Name => Option<Field> }

impl Visitor<'_> for Name {
    type Value = Option<Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Field::named(name.as_bytes()))
    }

    /// MessagePack may write a name as bytes, and a lenient reader would know it.
    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(Field::named(name))
    }

    /// MessagePack keys may be numbers: no field of ours.
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Refuses whatever comes, without reading into it.
struct Nothing;

impl Visitor<'_> for Nothing {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_finds_its_own_row() {
        for (field, name, expected) in Field::ALL {
            assert_eq!(field.row(), (name, expected));
            assert_eq!(Field::named(name.as_bytes()), Some(field));
        }
    }
}
