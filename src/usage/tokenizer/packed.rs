//! The vocabulary that is part of the program, `o200k`, as the build script packed it.

use std::sync::LazyLock;

use super::byte_level::{Added, ByteLevel};
use super::merges::Merges;
use super::pieces::{Kept, Pattern, Step};
use super::table;

/// How `o200k` cuts text, by the expression that is published with it.
const CUT: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The longest token in bytes.
const LONGEST: usize = 128;

static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/o200k.bytes"));
static MERGES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/o200k.merges"));
static WHOLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/o200k.whole"));

/// The token of each byte.
pub(super) fn bytes() -> [u32; 256] {
    let (tokens, _) = BYTES.as_chunks();
    std::array::from_fn(|byte| tokens.get(byte).map_or(0, |it| u32::from_le_bytes(*it)))
}

/// What two neighbours become.
pub(super) fn merged(left: u32, right: u32) -> Option<u32> {
    table::merged(MERGES, left, right)
}

/// Whether `piece` is a token.
pub(super) fn is_token(piece: &[u8]) -> bool {
    piece.len() <= LONGEST && table::contains(WHOLE, piece)
}

/// The tokenizer of `o200k`.
pub(super) static O200K: LazyLock<ByteLevel> = LazyLock::new(|| {
    let cut = Pattern::new(CUT).expect("the published expression compiles");
    let added = Added { search: None, strips: Vec::new() };
    let steps = vec![Step::Cut(cut, Kept::All)];
    ByteLevel { added, forms: Vec::new(), steps, merges: Merges::packed() }
});
