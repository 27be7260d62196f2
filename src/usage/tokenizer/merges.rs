//! Byte-pair encoding of one piece of text: neighbours merge, the pair of the lowest rank first,
//! until no pair is left that the vocabulary knows.
//!
//! # Invariants
//!
//! - A piece of n bytes takes O(n log n) steps: each merge takes one symbol away and offers two
//!   pairs at most.
//! - Only the number of tokens comes out; which they are is nobody's business here.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::packed;

/// No symbol: what a symbol that was merged into its neighbour becomes, and the end of the links.
/// No token has this number.
pub(super) const NO_TOKEN: u32 = u32::MAX;
const NOWHERE: usize = usize::MAX;

/// What becomes of a byte that the vocabulary does not have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Unknown {
    /// It is left out.
    #[default]
    Dropped,
    /// It is the token of this number.
    Token(u32),
    /// It is, and one such token stands for all in a row.
    Fused(u32),
}

/// What a pair of tokens becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Merge {
    /// Its place in the order of merges.
    rank: u32,
    /// The token that both make.
    token: u32,
}

/// The merges of a vocabulary.
pub(super) struct Merges {
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    unknown: Unknown,
    known: Known,
}

/// What a vocabulary knows of more than one byte.
enum Known {
    Read {
        pairs: HashMap<u64, Merge, BuildHasherDefault<PairHasher>>,
        /// Pieces that are one token whatever the merges say.
        whole: HashSet<Box<[u8]>>,
    },
    /// That of the program itself.
    Packed,
}

/// Memory for counting, used again for the next piece.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    /// Pairs that may be merged: rank, place of the left one, what they make.
    offers: BinaryHeap<Reverse<(u32, usize, u32)>>,
}

/// A token that may still grow, linked to its neighbours.
struct Symbol {
    token: u32,
    previous: usize,
    next: usize,
}

impl Merges {
    pub(super) fn new(bytes: [Option<u32>; 256], unknown: Unknown) -> Self {
        let known = Known::Read { pairs: HashMap::default(), whole: HashSet::new() };
        Self { bytes, unknown, known }
    }

    /// Those of a vocabulary that is part of the program, all bytes of which are tokens.
    pub(super) fn packed() -> Self {
        let bytes = packed::bytes().map(Some);
        Self { bytes, unknown: Unknown::Dropped, known: Known::Packed }
    }

    /// Lets `left` and `right` become `token`; of two ranks for a pair the last counts.
    pub(super) fn merge(&mut self, rank: u32, left: u32, right: u32, token: u32) {
        if let Known::Read { pairs, .. } = &mut self.known {
            pairs.insert(pair(left, right), Merge { rank, token });
        }
    }

    /// Makes `piece` one token where it stands alone.
    pub(super) fn keep_whole(&mut self, piece: Box<[u8]>) {
        if let Known::Read { whole, .. } = &mut self.known {
            whole.insert(piece);
        }
    }

    /// The number of tokens in `piece`.
    pub(super) fn count(&self, piece: &[u8], scratch: &mut Scratch) -> usize {
        if self.is_whole(piece) {
            return 1;
        }
        let Scratch { symbols, offers } = scratch;
        self.start(piece, symbols);
        offers.clear();
        for left in 0..symbols.len() {
            self.offer(symbols, left, offers);
        }
        let mut tokens = symbols.len();
        while let Some(Reverse((_, left, token))) = offers.pop() {
            // What was offered may have gone or grown since.
            if self.merged(symbols, left).is_none_or(|merge| merge.token != token) {
                continue;
            }
            let right = symbols[left].next;
            let after = symbols[right].next;
            symbols[left].token = token;
            symbols[left].next = after;
            symbols[right].token = NO_TOKEN;
            tokens -= 1;
            if let Some(symbol) = symbols.get_mut(after) {
                symbol.previous = left;
            }
            self.offer(symbols, left, offers);
            if let previous @ 0..NOWHERE = symbols[left].previous {
                self.offer(symbols, previous, offers);
            }
        }
        tokens
    }

    /// A symbol for each byte.
    fn start(&self, piece: &[u8], symbols: &mut Vec<Symbol>) {
        symbols.clear();
        let mut fusing = false;
        for byte in piece {
            let (token, fuses) = match (self.bytes[usize::from(*byte)], self.unknown) {
                (Some(token), _) | (None, Unknown::Token(token)) => (token, false),
                (None, Unknown::Fused(token)) => (token, true),
                (None, Unknown::Dropped) => continue,
            };
            if fusing && fuses {
                continue;
            }
            fusing = fuses;
            let at = symbols.len();
            symbols.push(Symbol { token, previous: at.wrapping_sub(1), next: at + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NOWHERE;
        }
    }

    /// What the symbol at `left` and the one after it become.
    fn merged(&self, symbols: &[Symbol], left: usize) -> Option<Merge> {
        let left = &symbols[left];
        let right = symbols.get(left.next)?;
        match &self.known {
            Known::Read { pairs, .. } => pairs.get(&pair(left.token, right.token)).copied(),
            Known::Packed => {
                // Tokens have their numbers in the order of merges.
                let token = packed::merged(left.token, right.token)?;
                Some(Merge { rank: token, token })
            }
        }
    }

    /// Whether `piece` is one token whatever the merges say.
    fn is_whole(&self, piece: &[u8]) -> bool {
        match &self.known {
            Known::Read { whole, .. } => whole.contains(piece),
            Known::Packed => packed::is_token(piece),
        }
    }

    fn offer(
        &self,
        symbols: &[Symbol],
        left: usize,
        offers: &mut BinaryHeap<Reverse<(u32, usize, u32)>>,
    ) {
        if let Some(Merge { rank, token }) = self.merged(symbols, left) {
            offers.push(Reverse((rank, left, token)));
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Hashes one `u64`. The keys are the operator's own, so nobody can choose them to collide, and a
/// count is a few look-ups for each byte of text.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        // Multiplied by 2^64 over the golden ratio; the high bits, which depend on all others, go
        // where the table looks.
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by the definition: of all pairs the one of the lowest rank, of those the first.
    fn by_definition(merges: &[(u32, u32, u32)], piece: &[u8]) -> usize {
        let mut tokens: Vec<u32> = piece.iter().map(|byte| u32::from(*byte)).collect();
        let rank = |pair: &[u32]| merges.iter().rposition(|it| (it.0, it.1) == (pair[0], pair[1]));
        while let Some((rank, at)) = (0..tokens.len().saturating_sub(1))
            .filter_map(|at| Some((rank(&tokens[at..at + 2])?, at)))
            .min()
        {
            tokens.splice(at..at + 2, [merges[rank].2]);
        }
        tokens.len()
    }

    proptest! {
        /// Of the letters a to d, and what was merged before, anything may merge.
        #[test]
        fn neighbours_merge_in_the_order_of_ranks(
            parts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..24),
            piece in prop::collection::vec(b'a'..=b'd', 0..60),
        ) {
            let mut known: Vec<u32> = (u32::from(b'a')..=u32::from(b'd')).collect();
            let mut expected = Vec::new();
            let bytes = std::array::from_fn(|byte| u32::try_from(byte).ok());
            let mut merges = Merges::new(bytes, Unknown::Dropped);
            for (rank, (left, right)) in (0..).zip(parts) {
                let (left, right, token) = (*left.get(&known), *right.get(&known), 1_000 + rank);
                merges.merge(rank, left, right, token);
                expected.push((left, right, token));
                known.push(token);
            }
            let counted = merges.count(&piece, &mut Scratch::default());
            prop_assert_eq!(counted, by_definition(&expected, &piece));
        }
    }
}
