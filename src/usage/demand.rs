//! What a request asks for, read from its body.
//!
//! A [`Demand`] holds everything the gateway needs to know of a completion request and nothing of
//! what it says: the prompt is counted, not kept.
//!
//! # Invariants
//!
//! - Every field that is read stands at most once, so no other reader can see another request.
//! - What is not read is left to the upstream to judge: unknown fields, missing messages, the
//!   shape of a message.

use super::encoding::BodyKind;
use super::error::BodyError;
use super::texture::Texture;

/// A completion request, as far as cost and order are concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Demand {
    /// The model named: 1 to 256 bytes without control characters.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Completions made for each prompt: the larger of `n` and `best_of`, at least 1.
    pub choices: u64,
    /// Prompts completed by this one request: at least 1, more for a list under `prompt`.
    pub prompts: u64,
    /// The longest output asked for, for each choice.
    pub output_limit: OutputLimit,
    /// The service tier named, if any.
    pub service_tier: Option<ServiceTier>,
    /// How heavy the prompt is.
    pub prompt: PromptWeight,
}

/// The longest output a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutputLimit {
    /// None named, or -1: as much as the model can.
    Unlimited,
    /// So many tokens for each choice; 0 is passed on for the upstream to refuse.
    Tokens(u64),
}

/// The value of `service_tier`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceTier {
    /// `auto`
    Auto,
    /// `default`
    Default,
    /// `flex`
    Flex,
    /// `priority`
    Priority,
    /// A tier this gateway does not know.
    Other,
}

/// The countable parts of a prompt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PromptWeight {
    /// Bytes of text: strings without their quotes and escapes; structured values such as tools
    /// at about the length of their compact JSON.
    pub text_bytes: u64,
    /// Entries of `messages`.
    pub messages: u64,
    /// Content parts that are images; their data is not text.
    pub images: u64,
    /// Content parts that are audio, video or files; their data is not text.
    pub other_parts: u64,
    /// Entries of `tools` and `functions`; their text is in `text_bytes` as well.
    pub tools: u64,
    /// Tokens given by number in `prompt`, exactly.
    pub token_ids: u64,
    /// Those bytes of the text that only hold structured values together.
    pub structure: u64,
    /// What the text is made of.
    pub texture: Texture,
}

impl Demand {
    /// Reads the body of a chat completion or a text completion.
    ///
    /// At most `max_decoded` bytes are accepted after decoding. No document tree is built.
    ///
    /// # Errors
    ///
    /// [`BodyError`] if the body is too large, is not one whole document of its kind, or if a
    /// field read here is missing, stands twice or makes no sense.
    pub fn read(kind: BodyKind, body: &[u8], max_decoded: usize) -> Result<Self, BodyError> {
        let decoded = kind.decode(body, max_decoded)?;
        Self::decoded(kind.format, &decoded)
    }
}

#[cfg(test)]
mod tests;
