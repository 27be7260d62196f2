//! Exact counts of a text's tokens, for requests that have the time for it.
//!
//! A count by a tokenizer that is not the model's own is a hint and no bound: what it is worth is
//! learned like everything else (see `calibration`).

use super::demand::Demand;
use super::encoding::{BodyKind, Format};
use super::reader::Reader;

/// A way to cut text into tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tokenizer {
    /// `o200k`: byte-pair encoding with a vocabulary of 200,000, as good a stand-in as any for a
    /// recent model's own.
    O200k,
}

impl Tokenizer {
    /// The tokenizer's name in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::O200k => "o200k",
        }
    }

    /// Tokens of all text in the prompt of `body`, without what a template adds around it.
    ///
    /// Takes about 15 ns a byte; the first call takes some ten milliseconds more. `None` for a body
    /// that [`Demand::read`] refuses.
    #[must_use]
    pub fn count_prompt(self, kind: BodyKind, body: &[u8], max_decoded: usize) -> Option<u64> {
        let decoded = kind.decode(body, max_decoded).ok()?;
        match kind.format {
            Format::Json => Reader::json(&decoded, Some(self)),
            Format::MsgPack => Reader::msgpack(&decoded, Some(self)),
        }
        .ok()
        .map(|(_, counted)| counted)
    }

    /// Tokens of one text.
    pub(super) fn count(self, text: &str) -> u64 {
        match self {
            Self::O200k => u64::try_from(bpe_openai::o200k_base().count(text)).unwrap_or(u64::MAX),
        }
    }
}

impl Demand {
    /// Reads a document that has been decoded.
    pub(super) fn decoded(format: Format, bytes: &[u8]) -> Result<Self, super::BodyError> {
        match format {
            Format::Json => Reader::json(bytes, None),
            Format::MsgPack => Reader::msgpack(bytes, None),
        }
        .map(|(demand, _)| demand)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_of_a_prompt_is_counted_and_nothing_else() {
        let count = |text: &str| Tokenizer::O200k.count(text);
        assert_eq!(count("The harbour clocks had stopped."), 6);
        let body = json!({
            "model": "a name that is no prompt", "user": "nor is this",
            "messages": [
                {"role": "system", "content": "one two"},
                {"role": "user", "content": [{"type": "text", "text": "three \u{1f30a}"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            ],
            "tools": [{"type": "function", "function": {"name": "tide"}}],
        });
        let texts = ["one two", "three \u{1f30a}", "type", "function", "function", "name", "tide"];
        let expected: u64 = texts.into_iter().map(count).sum();
        for (content_type, bytes) in [
            (None, body.to_string().into_bytes()),
            (Some("application/msgpack"), rmp_serde::to_vec_named(&body).unwrap()),
        ] {
            let kind = BodyKind::from_headers(content_type, None).unwrap();
            assert_eq!(Tokenizer::O200k.count_prompt(kind, &bytes, 1 << 20), Some(expected));
        }
        let kind = BodyKind::from_headers(None, None).unwrap();
        assert_eq!(Tokenizer::O200k.count_prompt(kind, b"{", 1 << 20), None);
    }
}
