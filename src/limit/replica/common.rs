//! What replicas have in common: a ledger made of the words that all of them wrote to one log.
//!
//! # Invariants
//!
//! - A function of the log: whoever applied the same entries in the same order has the same state,
//!   and whatever is decided by it is decided alike.
//! - Times are the log's: an entry counts from the moment it was appended.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limit::journal::{Entry, Event, Said, Seen, Twin};
use crate::limit::{BadJournal, ColdStart, Constraint, Cost, Ledger, Spent};
use crate::time::Timestamp;

/// Classes whose turns are kept: more than any configuration has.
const MOST_CLASSES: usize = 64;

/// Who has, or waits for, a turn. What it means is not known here.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Turn {
    /// Index of the class.
    pub class: usize,
    /// The tenant.
    pub tenant: u64,
    /// Its weight.
    pub weight: NonZeroU32,
    /// Tokens that the request is likely to use.
    pub fair: u64,
    /// What the order between tenants goes by: less is earlier.
    pub tag: i128,
}

/// The first in line at a replica.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    /// Whose turn it would be there.
    pub turn: Turn,
    /// The most it can cost.
    pub cost: Cost,
    /// What it is ordered by among its tenant's: its deadline, or earlier.
    pub order: Timestamp,
    /// What waits in its class.
    pub line: Line,
}

/// What waits in a class at a replica.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Line {
    /// Requests.
    pub queued: u64,
    /// Tokens that they are likely to use.
    pub fair: u64,
    /// Tokens that will be held for them.
    pub safe: u64,
    /// The tenants that they are of.
    pub tenants: u64,
}

/// What a replica says to all.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Word {
    /// The limits are these from now on.
    #[serde(rename = "b")]
    Begun { configured: Arc<[Constraint]>, start: ColdStart },
    /// A request was let go.
    #[serde(rename = "h")]
    Held { id: u64, cost: Cost, turn: Turn },
    /// The head of its answer came.
    #[serde(rename = "c")]
    Charged { id: u64 },
    /// It showed levels.
    #[serde(rename = "o")]
    Observed { id: u64, seen: Vec<Seen> },
    /// The upstream refused it because of the constraint with this index.
    #[serde(rename = "r")]
    Refused { id: u64, index: usize },
    /// It ended, with what it used, which the upstream takes off after this time; and what its tenant
    /// is charged for it, if that is known.
    #[serde(rename = "e")]
    Ended { id: u64, used: Cost, after: Duration, fair: Option<u64> },
    /// Nothing is left of the constraint with this index, and after which time it may be asked again.
    #[serde(rename = "d")]
    Drained { index: usize, ask_after: Option<Duration> },
    /// Who waits first there.
    #[serde(rename = "w")]
    Waits(Option<Head>),
}

/// Words as the bytes of one entry.
pub(super) fn write<'a>(words: impl IntoIterator<Item = &'a Word>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words {
        let before = bytes.len();
        // Everything in a word can be written, and a vector takes it.
        if rmp_serde::encode::write(&mut bytes, word).is_err() {
            bytes.truncate(before);
        }
    }
    bytes
}

/// The words of an entry. What cannot be read ends it: whoever reads on has the same version.
pub(super) fn read(mut bytes: &[u8]) -> Result<Vec<Word>, BadJournal> {
    let mut words = Vec::new();
    while !bytes.is_empty() {
        let mut reader = rmp_serde::Deserializer::new(bytes);
        let word = Word::deserialize(&mut reader);
        words.push(word.map_err(|error| BadJournal::Unreadable(error.to_string()))?);
        bytes = reader.into_inner();
    }
    Ok(words)
}

#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) twin: Twin,
    pub(super) configured: Arc<[Constraint]>,
    /// Whether the log has said what the limits are; before, this is a guess of one replica.
    pub(super) begun: bool,
    /// By class: the tag of the last turn that was taken in order.
    pub(super) turns: Vec<i128>,
}

/// [`Common`] as bytes.
#[derive(Deserialize, Serialize)]
struct Saved {
    configured: Arc<[Constraint]>,
    turns: Vec<i128>,
    twin: Vec<u8>,
}

impl Common {
    /// Nothing was said yet.
    pub(super) fn new(configured: Arc<[Constraint]>, start: ColdStart, at: Timestamp) -> Self {
        let ledger = Ledger::cold(configured.to_vec(), start, at);
        Self { twin: Twin::of(&ledger, at), configured, begun: false, turns: Vec::new() }
    }

    /// Does what `owner` said at `at`.
    pub(super) fn apply(&mut self, owner: u64, at: Timestamp, word: Word) -> Said {
        let at = at.max(self.twin.at);
        let event = match word {
            Word::Begun { configured, start } => {
                self.begin(configured, start, at);
                return Said::Nothing;
            }
            Word::Held { id, cost, turn } => {
                self.took(&turn);
                Event::Held { id, cost }
            }
            Word::Charged { id } => Event::Charged { id },
            Word::Observed { id, seen } => Event::Observed { id, seen },
            Word::Refused { id, index } => Event::Refused { id, index },
            Word::Ended { id, used, after, .. } => {
                self.twin.end(at);
                let entry = Entry { at: at.after(after), event: Event::Settled { id, used } };
                return self.twin.apply(owner, entry);
            }
            Word::Drained { index, ask_after } => {
                Event::Drained { index, ask_at: ask_after.map(|span| at.after(span)) }
            }
            Word::Waits(_) => return Said::Nothing,
        };
        self.twin.apply(owner, Entry { at, event })
    }

    fn begin(&mut self, configured: Arc<[Constraint]>, start: ColdStart, at: Timestamp) {
        if !self.begun {
            *self = Self { begun: true, ..Self::new(configured, start, at) };
        } else if configured != self.configured {
            self.twin.reconfigure(&configured, start, at);
            self.configured = configured;
        }
    }

    fn took(&mut self, turn: &Turn) {
        if turn.class < MOST_CLASSES {
            if self.turns.len() <= turn.class {
                self.turns.resize(turn.class + 1, 0);
            }
            let last = &mut self.turns[turn.class];
            *last = turn.tag.max(*last);
        }
    }

    /// A replica is gone: what it held is spent.
    pub(super) fn gone(&mut self, owner: u64, at: Timestamp) {
        self.twin.charge_all_of(owner, at);
    }

    pub(super) fn save(&self) -> Vec<u8> {
        let Self { configured, turns, .. } = self;
        let (configured, turns) = (Arc::clone(configured), turns.clone());
        let saved = Saved { configured, turns, twin: self.twin.save() };
        // Everything in it can be written, and a vector takes it.
        rmp_serde::to_vec_named(&saved).unwrap_or_default()
    }

    pub(super) fn load(bytes: &[u8]) -> Result<Self, BadJournal> {
        let saved = rmp_serde::from_slice::<Saved>(bytes);
        let Saved { configured, turns, twin } =
            saved.map_err(|error| BadJournal::Unreadable(error.to_string()))?;
        Ok(Self { twin: Twin::load(&twin)?, configured, begun: true, turns })
    }
}

impl Twin {
    /// Takes everything that `owner` held as spent, but for what is known to have ended.
    fn charge_all_of(&mut self, owner: u64, at: Timestamp) {
        self.end(at);
        let mut lost: Vec<_> = self.open.keys().filter(|name| name.0 == owner).copied().collect();
        lost.sort_unstable();
        for name in lost.into_iter().filter(|name| !self.is_ending(*name)).collect::<Vec<_>>() {
            if let Some(mut sent) = self.open.remove(&name) {
                self.ledger.charged(&mut sent, at);
                self.ledger.settle(sent, Spent::Unknown, at);
            }
        }
        self.at = self.at.max(at);
    }

    /// Goes on with other limits, and with everything that is held.
    fn reconfigure(&mut self, configured: &[Constraint], start: ColdStart, at: Timestamp) {
        self.end(at);
        self.at = self.at.max(at);
        self.ledger.reconfigure_to(configured, start, at);
    }
}
