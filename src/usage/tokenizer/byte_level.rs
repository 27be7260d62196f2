//! A tokenizer by byte-level byte-pair encoding, as nearly all recent models have one.
//!
//! The text is normalized, cut at tokens that stand for themselves, cut into pieces, and each
//! piece is encoded.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;
use unicode_normalization::{IsNormalized, UnicodeNormalization};

use super::merges::{Merges, Scratch};
use super::pieces::{Step, cut};

/// The most bytes of a piece that are encoded together, which takes some fifty bytes for each of
/// them. Words end far below; a megabyte of one letter is cut here, and may count a few tokens more.
const MOST_PIECE: usize = 64 << 10;

/// A vocabulary and how text is cut for it.
pub(super) struct ByteLevel {
    pub(super) added: Added,
    pub(super) forms: Vec<Form>,
    pub(super) steps: Vec<Step>,
    pub(super) merges: Merges,
}

/// Tokens that stand for themselves wherever a text has them, the longest first.
pub(super) struct Added {
    /// `None` if there are none.
    pub(super) search: Option<AhoCorasick>,
    /// For each, whether it takes white space before and after it along.
    pub(super) strips: Vec<(bool, bool)>,
}

/// A normalization form of Unicode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

impl ByteLevel {
    /// The tokens of `text`, without what a template adds.
    pub(super) fn count(&self, text: &str) -> usize {
        let mut scratch = Scratch::default();
        let Some(search) = &self.added.search else { return self.plain(text, &mut scratch) };
        let (mut tokens, mut done) = (0, 0);
        for found in search.find_iter(text) {
            let (left, right) = self.added.strips[found.pattern().as_usize()];
            // White space that another one took along is gone.
            let Some(mut before) = text.get(done..found.start()) else { continue };
            if left {
                before = before.trim_end();
            }
            tokens += self.plain(before, &mut scratch) + 1;
            done = found.end();
            if right {
                done = text.len() - text[done..].trim_start().len();
            }
        }
        tokens + self.plain(&text[done..], &mut scratch)
    }

    /// The tokens of a text that has no added ones.
    fn plain(&self, text: &str, scratch: &mut Scratch) -> usize {
        let mut text = Cow::Borrowed(text);
        for form in &self.forms {
            text = form.apply(text);
        }
        let mut tokens = 0;
        cut(&self.steps, &text, &mut |piece| {
            let mut rest = piece;
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.floor(MOST_PIECE));
                tokens += self.merges.count(part.as_bytes(), scratch);
                rest = after;
            }
        });
        tokens
    }
}

impl Form {
    fn apply(self, text: Cow<'_, str>) -> Cow<'_, str> {
        use unicode_normalization::{is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick};
        let quick = match self {
            Self::Nfc => is_nfc_quick(text.chars()),
            Self::Nfd => is_nfd_quick(text.chars()),
            Self::Nfkc => is_nfkc_quick(text.chars()),
            Self::Nfkd => is_nfkd_quick(text.chars()),
        };
        if quick == IsNormalized::Yes {
            return text;
        }
        Cow::Owned(match self {
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
        })
    }
}

/// The character that each byte is spelt as: itself where it can be seen, else one from U+0100 on.
pub(super) fn spelling() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = u8::try_from(byte).unwrap_or(u8::MAX);
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

/// Where a text can be cut.
trait Floor {
    /// The end of its last whole character within `most` bytes.
    fn floor(&self, most: usize) -> usize;
}

impl Floor for str {
    fn floor(&self, most: usize) -> usize {
        // A character has four bytes at most.
        (most.saturating_sub(3)..=most.min(self.len()))
            .rev()
            .find(|at| self.is_char_boundary(*at))
            .unwrap_or(self.len())
    }
}
