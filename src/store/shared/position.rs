//! Entries of a log, and how far along it somebody is. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::time::Timestamp;

/// One run of a gateway: random, so that a restarted one is another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ReplicaId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// A stretch of a log's life during which nothing of it was lost.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Epoch {
    /// Tells it from any other; empty before the first.
    pub id: Arc<str>,
    /// Later epochs have larger numbers.
    pub number: u64,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryKind {
    /// Bytes that its replica appended.
    Own,
    /// The replica has not been heard of for a while. What it held is to be taken as spent.
    Gone,
}

/// One entry of a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its place; the first is 1, and none is left out.
    pub seq: u64,
    /// The log's time when it was appended; never before that of the entry before it.
    pub at: Timestamp,
    /// Whose it is.
    pub replica: ReplicaId,
    /// Its replica's number for it; later ones are larger.
    pub number: u64,
    /// What it is.
    pub kind: EntryKind,
    /// What was appended.
    pub bytes: Bytes,
}

/// How an entry stands to a position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// It is the next one, and the position has moved behind it.
    Next,
    /// The position was behind it already.
    Known,
    /// Something before it is missing.
    Gap,
}

/// How far along a log somebody is: everything up to `seq` was applied, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Position {
    /// The epoch in which that was so.
    pub epoch: Epoch,
    /// The last entry that was applied; 0 for none.
    pub seq: u64,
    /// The last number of each replica's among the entries up to here.
    pub versions: BTreeMap<ReplicaId, u64>,
}

impl Position {
    /// Moves behind `entry` if it is the next one; says whether it is.
    pub fn accept(&mut self, entry: &Entry) -> Step {
        if entry.seq <= self.seq {
            return Step::Known;
        }
        if entry.seq != self.seq + 1 {
            return Step::Gap;
        }
        self.seq = entry.seq;
        if entry.kind == EntryKind::Own {
            self.versions.insert(entry.replica, entry.number);
        }
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_takes_entries_in_order_and_once() {
        let entry = |seq, number| Entry {
            seq,
            at: Timestamp::default(),
            replica: ReplicaId(7),
            number,
            kind: EntryKind::Own,
            bytes: Bytes::new(),
        };
        let mut position = Position::default();
        let steps = [entry(1, 3), entry(1, 3), entry(3, 9), entry(2, 5), entry(3, 9)];
        let steps = steps.map(|entry| position.accept(&entry));
        assert_eq!(steps, [Step::Next, Step::Known, Step::Gap, Step::Next, Step::Next]);
        assert_eq!((position.seq, position.versions[&ReplicaId(7)]), (3, 9));
    }
}
