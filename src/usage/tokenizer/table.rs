//! Tables that are made once, when the program is built, and searched where they lie: slots of
//! eight bytes, in which a key is looked for from its home on until it or an empty slot is found.
//!
//! The build script has this file too, so that both ends agree. There is nothing here but `core`.

/// A slot that nothing is in; no entry is this.
pub(super) const EMPTY: u64 = u64::MAX;

/// Bits of a token's number: an entry of a table of merges is a [`pair`] shifted by as many, and
/// what the two make below it.
pub(super) const TOKEN_BITS: u32 = 18;

const SLOT: usize = size_of::<u64>();

/// What `left` and `right` make, by a table of merges.
pub(super) fn merged(table: &[u8], left: u32, right: u32) -> Option<u32> {
    let pair = pair(left, right);
    let entry = find(table, pair, |entry| entry >> TOKEN_BITS == pair)?;
    u32::try_from(entry & ((1 << TOKEN_BITS) - 1)).ok()
}

/// What stands for `bytes` in a table of byte strings, its own key. Two strings may share it, as
/// rarely as 64 bits are the same by chance.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    // FNV-1a. Strings are short, and nobody gains by making two of them collide.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.min(EMPTY - 1)
}

/// Whether a table of fingerprints has that of `bytes`.
pub(super) fn contains(table: &[u8], bytes: &[u8]) -> bool {
    let fingerprint = fingerprint(bytes);
    find(table, fingerprint, |entry| entry == fingerprint).is_some()
}

/// Where `key` is at home in a table of `slots`, a power of two.
pub(super) fn home(key: u64, slots: usize) -> usize {
    // Multiplied by 2^64 over the golden ratio; the high bits depend on all of the key.
    let high = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(high).unwrap_or(0) & (slots - 1)
}

/// The key of a merge.
pub(super) fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << TOKEN_BITS | u64::from(right)
}

fn find(table: &[u8], key: u64, is: impl Fn(u64) -> bool) -> Option<u64> {
    let (slots, _) = table.as_chunks::<SLOT>();
    let home = home(key, slots.len());
    let (before, from) = slots.split_at(home);
    let entries = from.iter().chain(before).map(|slot| u64::from_le_bytes(*slot));
    entries.take_while(|entry| *entry != EMPTY).find(|entry| is(*entry))
}
