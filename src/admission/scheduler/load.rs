//! What waiting requests come to, kept up as they come and go.

use super::Entry;

/// What waiting requests come to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// How many they are.
    pub queued: usize,
    /// Bytes of memory they keep.
    pub bytes: u64,
    /// Tokens that they are likely to use.
    pub fair: u64,
    /// Tokens that will be held for them.
    pub safe: u64,
}

impl Load {
    pub(super) fn add(&mut self, entry: &Entry) {
        self.queued += 1;
        self.bytes += entry.bytes;
        self.fair += entry.fair;
        self.safe += entry.cost.tokens;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.queued += other.queued;
        self.bytes += other.bytes;
        self.fair += other.fair;
        self.safe += other.safe;
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        self.queued -= 1;
        self.bytes -= entry.bytes;
        self.fair -= entry.fair;
        self.safe -= entry.cost.tokens;
    }
}
