//! What text is made of, as far as that decides how many tokens it has.
//!
//! Tokenizers differ in their vocabularies but cut alike: words, groups of digits, marks, line
//! breaks, and characters beyond ASCII by their script. Counted apart, these say far more of a
//! text's tokens than its bytes do: prose has five bytes a token, base64 one and a half.
//!
//! # Invariants
//!
//! - One pass, no allocation, and nothing of the text is kept once it is counted, or ever shown.
//! - Where the blocks of a text meet cannot matter: a block knows what the one before it left.
//! - A text begins and ends where it does: no word is made of two of them.
//! - Every machine counts alike, whichever of its instructions that is done with.

use std::fmt;

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x64};

/// Bytes looked at together: as many as an integer has bits.
const BLOCK: usize = 64;
/// Bytes of short texts that are gathered: to begin takes as long as four blocks do.
const GATHERED: usize = 4 * BLOCK;
/// Nothing is counted of it, and what is counted ends with it.
const NOTHING: u8 = 0;

/// What a scan counts, in the order of [`Texture::counts`].
const WORD: usize = 0;
const LONG: usize = 1;
const LETTER: usize = 2;
const HUMP: usize = 3;
const GROUP: usize = 4;
const MARKS: usize = 5;
const MARK_RUN: usize = 6;
const BLANK: usize = 7;
/// Characters of two bytes: Latin with accents, Greek, Cyrillic, Hebrew, Arabic.
const LETTER2: usize = 8;
/// Kana, and the marks of Chinese and Japanese.
const KANA: usize = 9;
const IDEOGRAPH: usize = 10;
const HANGUL: usize = 11;
/// Further characters of three bytes.
const LETTER3: usize = 12;
/// Characters of four bytes.
const LETTER4: usize = 13;

/// What is counted of a text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Texture {
    /// Words; words of more than six letters, which few vocabularies have whole; letters; capitals
    /// within words; groups of up to three digits, as tokenizers cut numbers; marks; runs of marks;
    /// runs of white space but single spaces; then characters beyond ASCII: of two bytes, kana,
    /// ideographs, hangul, others of three bytes, of four bytes.
    pub counts: [u64; Self::COUNTS],
}

impl Texture {
    /// How many things are counted.
    pub const COUNTS: usize = 14;

    /// Words in the letters of ASCII.
    pub(super) const fn words(&self) -> u64 {
        self.counts[WORD]
    }

    /// Capitals within words.
    pub(super) const fn humps(&self) -> u64 {
        self.counts[HUMP]
    }

    /// Marks of ASCII.
    pub(super) const fn marks(&self) -> u64 {
        self.counts[MARKS]
    }

    /// Characters beyond ASCII.
    pub(super) fn wide(&self) -> u64 {
        self.counts.iter().skip(LETTER2).sum()
    }

    /// Adds a text, with the instructions of this level.
    fn add(&mut self, level: Level, text: &[u8]) {
        dispatch!(level, simd => self.scan(simd, text));
    }

    #[inline(always)]
    fn scan<S: Simd>(&mut self, simd: S, text: &[u8]) {
        let mut sums = Sums(self.counts);
        let mut left = Left::default();
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        for block in blocks {
            left = sums.add(simd, block, left);
        }
        if !rest.is_empty() {
            let mut block = [NOTHING; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            sums.add(simd, &block, left);
        }
        self.counts = sums.0;
    }
}

/// Counts what many texts are made of.
pub(super) struct Counter {
    level: Level,
    texture: Texture,
    /// Short texts, [`NOTHING`] behind each: the names and words of a tool, of which there are many.
    gathered: [u8; GATHERED],
    len: usize,
}

impl Default for Counter {
    fn default() -> Self {
        Self::with(Level::new())
    }
}

/// Without the texts.
impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { texture, len, .. } = self;
        f.debug_struct("Counter")
            .field("texture", texture)
            .field("len", len)
            .finish_non_exhaustive()
    }
}

impl Counter {
    /// One that counts with the instructions of this level.
    const fn with(level: Level) -> Self {
        let texture = Texture { counts: [0; Texture::COUNTS] };
        Self { level, texture, gathered: [NOTHING; GATHERED], len: 0 }
    }

    /// Adds a text.
    pub(super) fn add(&mut self, text: &[u8]) {
        if text.len() >= GATHERED {
            self.texture.add(self.level, text);
            return;
        }
        if text.len() >= GATHERED - self.len {
            self.flush();
        }
        let end = self.len + text.len();
        self.gathered[self.len..end].copy_from_slice(text);
        self.gathered[end] = NOTHING;
        self.len = end + 1;
    }

    fn flush(&mut self) {
        self.texture.add(self.level, &self.gathered[..self.len]);
        self.len = 0;
    }

    /// What they all are made of.
    pub(super) fn finish(mut self) -> Texture {
        self.flush();
        self.texture
    }
}

/// What of a block matters to the next one: a bit for each byte, the first byte's the lowest.
#[derive(Clone, Copy, Default)]
struct Left {
    letters: u64,
    /// The last of two letters; of four; of seven.
    pairs: u64,
    fours: u64,
    sevens: u64,
    digits: u64,
    /// The first digits of groups.
    groups: u64,
    marks: u64,
    blanks: u64,
    /// Spaces before which there is no white space.
    spaces: u64,
}

/// For each byte, what there is `by` bytes before it.
#[inline(always)]
const fn before(bits: u64, left: u64, by: u32) -> u64 {
    bits << by | left >> (u64::BITS - by)
}

struct Sums([u64; Texture::COUNTS]);

impl Sums {
    #[inline(always)]
    fn count(&mut self, which: usize, bits: u64) {
        self.0[which] = self.0[which].saturating_add(u64::from(bits.count_ones()));
    }

    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, block: &[u8; BLOCK], left: Left) -> Left {
        let bytes = u8x64::from_slice(simd, block);
        let splat = |byte| u8x64::splat(simd, byte);
        let is = |byte| bytes.simd_eq(splat(byte)).to_bitmask();
        let among = |bytes: u8x64<S>, first: u8, last: u8| {
            (bytes - splat(first)).simd_le(splat(last - first)).to_bitmask()
        };

        // The bit that tells small letters from capitals.
        let letters = among(bytes | splat(0x20), b'a', b'z');
        let small = bytes.simd_ge(splat(b'a')).to_bitmask();
        let follow = before(letters, left.letters, 1);
        let pairs = letters & follow;
        let fours = pairs & before(pairs, left.pairs, 2);
        let sevens = fours & before(fours, left.fours, 3);
        self.count(WORD, letters & !follow);
        self.count(LONG, sevens & !before(sevens, left.sevens, 1));
        self.count(LETTER, letters);
        self.count(HUMP, pairs & !small);

        let digits = among(bytes, b'0', b'9');
        let groups = if digits == 0 { 0 } else { groups(digits, left) };
        self.count(GROUP, groups);

        let marks = among(bytes, b'!', b'~') & !letters & !digits;
        self.count(MARKS, marks);
        self.count(MARK_RUN, marks & !before(marks, left.marks, 1));

        // A run counts where it turns out to be more than one space.
        let breaks = among(bytes, b'\t', b'\n') | is(b'\r');
        let blanks = is(b' ') | breaks;
        let firsts = blanks & !before(blanks, left.blanks, 1);
        let spaces = firsts & !breaks;
        self.count(BLANK, (firsts & breaks) | (before(spaces, left.spaces, 1) & blanks));

        if bytes.simd_ge(splat(0x80)).to_bitmask() != 0 {
            // By the first bytes of characters; those within one count for nothing.
            let (kana, ideographs) = (is(0xE3), among(bytes, 0xE4, 0xE9));
            let hangul = among(bytes, 0xEA, 0xED);
            self.count(LETTER2, among(bytes, 0xC0, 0xDF));
            self.count(KANA, kana);
            self.count(IDEOGRAPH, ideographs);
            self.count(HANGUL, hangul);
            self.count(LETTER3, among(bytes, 0xE0, 0xEF) & !(kana | ideographs | hangul));
            self.count(LETTER4, among(bytes, 0xF0, 0xFF));
        }
        Left { letters, pairs, fours, sevens, digits, groups, marks, blanks, spaces }
    }
}

/// The first digits of groups: those of runs, and each third one after them.
#[inline(always)]
const fn groups(digits: u64, left: Left) -> u64 {
    let follow = before(digits, left.digits, 1);
    let third = digits & follow & before(digits, left.digits, 2);
    let mut groups = digits & !follow;
    let mut next = before(groups, left.groups, 3) & third;
    // 21 times, if the block has nothing but digits.
    while next & !groups != 0 {
        groups |= next;
        next = groups << 3 & third;
    }
    groups
}

#[cfg(test)]
mod tests;
