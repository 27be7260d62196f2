//! What a replica has said, or has to say, and not seen in the log.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Replica;
use super::common::Word;
use crate::limit::Cost;

impl Replica {
    /// What was said and is not seen in the log.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &Word> {
        let told = self.told.iter().flat_map(|(_, words)| words);
        told.chain(&self.fresh).chain(&self.asked).map(|(_, word)| word)
    }

    /// Whether somebody here will see to the end of a hold, or it has ended.
    pub(super) fn knows(&self, id: u64) -> bool {
        let ends = |word: &Word| matches!(word, Word::Ended { id: other, .. } if *other == id);
        let name = (self.sharing.own, id);
        let twin = &self.common.twin;
        self.open.contains_key(&id)
            || !twin.open.contains_key(&name)
            || twin.is_ending(name)
            || self.unseen().any(ends)
    }

    pub(super) fn give_back(&mut self, ids: Vec<u64>) {
        let at = self.common.twin.at;
        for id in ids {
            let (used, after, fair) = (Cost::default(), Duration::ZERO, Some(0));
            self.fresh.push((at, Word::Ended { id, used, after, fair }));
        }
    }

    /// Leaves out what only matters for a moment, and what has ended altogether but for its sum.
    pub(super) fn shorten(&mut self) {
        let ended: HashMap<u64, Cost> = self
            .fresh
            .iter()
            .filter_map(|(_, word)| match word {
                Word::Ended { id, used, .. } => Some((*id, *used)),
                _ => None,
            })
            .collect();
        let begun: HashSet<u64> = self.fresh.iter().filter_map(|(_, word)| held(word)).collect();
        let whole = |id: &u64| ended.contains_key(id) && begun.contains(id);
        let mut sum = (Cost::default(), None);
        self.fresh.retain(|(_, word)| match word {
            Word::Held { id, turn, .. } if whole(id) => {
                sum = (sum.0.plus(ended.get(id).copied().unwrap_or_default()), Some(*turn));
                false
            }
            Word::Held { .. } => true,
            Word::Charged { id } | Word::Refused { id, .. } | Word::Ended { id, .. } => !whole(id),
            Word::Observed { .. } | Word::Waits(_) => false,
            Word::Begun { .. } | Word::Drained { .. } => true,
        });
        if let (cost, Some(turn)) = sum {
            self.last += 1;
            let (id, at, after) = (self.last, self.common.twin.at, Duration::ZERO);
            let ended = Word::Ended { id, used: cost, after, fair: None };
            self.fresh.extend([(at, Word::Held { id, cost, turn }), (at, ended)]);
        }
    }
}

/// The number of a request that is let go.
pub(super) fn held(word: &Word) -> Option<u64> {
    match word {
        Word::Held { id, .. } => Some(*id),
        _ => None,
    }
}
