//! What a replica has to say and the log does not have yet. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

/// Entries that may wait: some minutes of a busy pool without a server.
const MOST_ENTRIES: usize = 65_536;
/// Bytes that may wait.
const MOST_BYTES: usize = 16 << 20;
/// Entries of one call, so that it does not hold up the server's other callers.
const BATCH_ENTRIES: usize = 256;
/// Numbers of one outbox, below 2^53 for two million of them.
const NUMBERS: u64 = 1 << 32;
/// Bytes of one call.
const BATCH_BYTES: usize = 256 << 10;

/// Too much waits for the server to come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too much waits for the shared store")]
pub struct Full;

/// Entries in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    last: u64,
    entries: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Outbox {
    /// Numbers later than those of all outboxes before. A pool that is let go of and comes back has
    /// another outbox, and numbers that were used would count as repeated calls.
    pub(super) fn nth(index: u64) -> Self {
        Self { last: index.saturating_mul(NUMBERS), ..Self::default() }
    }

    /// A number later than all before it.
    pub(super) const fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, bytes: Bytes) -> Result<u64, Full> {
        if self.entries.len() >= MOST_ENTRIES || self.bytes + bytes.len() > MOST_BYTES {
            return Err(Full);
        }
        let number = self.number();
        self.bytes += bytes.len();
        self.entries.push_back((number, bytes));
        Ok(number)
    }

    /// The first entries, as many as one call takes, and whether those are all.
    pub(super) fn batch(&self) -> (Vec<(u64, Bytes)>, bool) {
        let mut bytes = 0;
        let batch: Vec<_> = self
            .entries
            .iter()
            .take(BATCH_ENTRIES)
            .take_while(|(_, entry)| {
                let is_first = bytes == 0;
                bytes += entry.len().max(1);
                is_first || bytes <= BATCH_BYTES
            })
            .cloned()
            .collect();
        let whole = batch.len() == self.entries.len();
        (batch, whole)
    }

    /// The log has everything up to `number`.
    pub(super) fn acknowledge(&mut self, number: u64) {
        while let Some((own, entry)) = self.entries.front()
            && *own <= number
        {
            self.bytes -= entry.len();
            self.entries.pop_front();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_gone_and_the_rest_keeps_its_order() {
        let mut outbox = Outbox::default();
        for byte in 0..10_u8 {
            outbox.push(vec![byte].into()).expect("room");
        }
        outbox.acknowledge(4);
        let (batch, whole) = outbox.batch();
        let numbers: Vec<_> = batch.iter().map(|(number, bytes)| (*number, bytes[0])).collect();
        assert_eq!(numbers, [(5, 4), (6, 5), (7, 6), (8, 7), (9, 8), (10, 9)]);
        assert!(whole);
        assert_eq!(outbox.number(), 11, "a number is never used again");
    }

    #[test]
    fn it_is_bounded_and_parted() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![0; 200 << 10]);
        let fit = std::iter::repeat_with(|| outbox.push(large.clone())).take_while(Result::is_ok);
        assert_eq!(fit.count(), MOST_BYTES / large.len());
        assert_eq!(outbox.batch().0.len(), 1, "two are too large for one call");
        let mut outbox = Outbox::default();
        let tiny = std::iter::repeat_with(|| outbox.push(Bytes::new())).take_while(Result::is_ok);
        assert_eq!(tiny.count(), MOST_ENTRIES);
        assert_eq!(outbox.batch().0.len(), BATCH_ENTRIES);
    }
}
