//! What was done to a ledger, in order: enough to make another one that is the same.
//!
//! A ledger decides by its state and by what it is told, with the time as an argument; so the calls
//! made on it are its state. They are written down as bytes that whoever keeps them need not
//! understand, and [`Twin`] makes a ledger of them again.
//!
//! # Invariants
//!
//! - An entry stands for itself: entries can be cut apart and joined anywhere between two of them.
//! - Writing one takes no allocation, once there is room for it.
//! - What is held when the journal ends was sent, or may have been: it is charged.
//! - What may be missing at its end is bounded: whoever keeps a journal is told to hurry before more
//!   than what [`UNWRITTEN`] of quota is worth, and one request, has been let go without it.

mod heir;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::heir::{Heritage, Left, Told};
use crate::limit::{Blame, ColdStart, Constraint, Cost, Ledger, Sent, Spent};
use crate::time::Timestamp;

/// The version of snapshots and entries. Fields may be added; whatever changes the meaning of one
/// that exists needs another version.
const VERSION: u32 = 1;

/// The part of the quota, in time, that may be let go before the journal of it is kept.
pub const UNWRITTEN: Duration = Duration::from_millis(200);

/// The largest hold fades by one part in so many with every other.
const FADING: u64 = 64;

/// Something that was done to a ledger.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Entry<S = Vec<Seen>> {
    pub(super) at: Timestamp,
    pub(super) event: Event<S>,
}

/// What was done. Holds go by the number that the ledger gave them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Event<S = Vec<Seen>> {
    /// A request was let go.
    #[serde(rename = "h")]
    Held { id: u64, cost: Cost },
    /// The head of its answer came.
    #[serde(rename = "c")]
    Charged { id: u64 },
    /// It showed levels.
    #[serde(rename = "o")]
    Observed { id: u64, seen: S },
    /// The upstream refused it because of the constraint with this index.
    #[serde(rename = "r")]
    Refused { id: u64, index: usize },
    /// It ended, with what it used; this may be written before its time.
    #[serde(rename = "s")]
    Settled { id: u64, used: Cost },
    /// Nothing is left of the constraint with this index, and from when on it may be asked again.
    #[serde(rename = "d")]
    Drained { index: usize, ask_at: Option<Timestamp> },
    /// The constraints are others.
    #[serde(rename = "l")]
    Reconfigured { configured: Arc<[Constraint]>, start: ColdStart },
}

/// A level that an answer showed: of the constraint with this index, its limit and what remains.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Seen(pub(super) u8, pub(super) Option<u64>, pub(super) Option<u64>);

/// The entries that nobody has taken yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    bytes: Vec<u8>,
    /// What was let go since they were taken, and what may be before they are kept.
    unwritten: Cost,
    allowed: Cost,
    call: Call,
}

/// What whoever keeps a journal has to be told.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Call {
    /// Nothing that it has not been told.
    #[default]
    None,
    /// There is something to keep.
    Wake,
    /// There is so much that it has to be kept now.
    Hurry,
}

impl Journal {
    pub(super) fn write(&mut self, at: Timestamp, event: Event<&[Seen]>) {
        if self.bytes.is_empty() {
            self.call = self.call.max(Call::Wake);
        }
        let before = self.bytes.len();
        // A vector takes whatever is written to it, and everything in an entry can be written.
        if rmp_serde::encode::write(&mut self.bytes, &Entry { at, event }).is_err() {
            self.bytes.truncate(before);
        }
    }

    /// So much may be let go from now on.
    pub(super) const fn allow(&mut self, allowed: Cost) {
        self.allowed = allowed;
    }

    /// So much is let go.
    pub(super) fn let_go(&mut self, cost: Cost) {
        let before = self.unwritten;
        self.unwritten = before.plus(cost);
        // At half of it: to keep it takes a moment.
        let half = self.allowed.map(|units| units / 2);
        if self.unwritten.exceeds(half) && !before.exceeds(half) {
            self.call = Call::Hurry;
        }
    }
}

/// What was read is no journal, or that of a later version.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadJournal {
    /// It cannot be read.
    #[error("the saved quota cannot be read: {0}")]
    Unreadable(String),
    /// It was written by a later version of this program.
    #[error("the saved quota has version {0}, and this program knows only version {VERSION}")]
    Version(u32),
}

impl Ledger {
    /// Writes down from now on what is done to it.
    pub fn keep_journal(&mut self) {
        let allowed = self.allowed();
        self.journal.get_or_insert_default().allowed = allowed;
    }

    /// Moves what was written since the last time to the end of `into`.
    pub fn take_journal(&mut self, into: &mut Vec<u8>) {
        let allowed = self.allowed();
        if let Some(journal) = &mut self.journal {
            // The room stays: the next entries need it.
            into.append(&mut journal.bytes);
            journal.unwritten = Cost::default();
            // The limits may have been learned anew.
            journal.allowed = allowed;
        }
    }

    /// What whoever keeps the journal has to be told now.
    pub fn take_call(&mut self) -> Call {
        self.journal.as_mut().map_or(Call::None, |journal| std::mem::take(&mut journal.call))
    }

    /// What may be let go before it is kept.
    pub(super) fn allowed(&self) -> Cost {
        // Of what is not limited, anything.
        let mut allowed = Cost { requests: u64::MAX, tokens: u64::MAX, uncached: u64::MAX };
        for quota in self.constraints() {
            let worth = u128::from(quota.limit()) * UNWRITTEN.as_nanos();
            let worth = worth.div_ceil(quota.window().as_nanos().max(1));
            let worth = u64::try_from(worth).unwrap_or(u64::MAX).min(quota.limit());
            let units = allowed.of_mut(quota.unit());
            *units = if *units == u64::MAX { worth } else { worth.max(*units) };
        }
        allowed
    }
}

/// A second ledger, made of the journal of a first one.
#[derive(Debug)]
pub struct Twin {
    pub(super) ledger: Ledger,
    pub(super) open: HashMap<Name, Sent>,
    /// The ends that were written down before their time, in order of it.
    ending: VecDeque<(Timestamp, Name, Cost)>,
    /// The largest hold of late.
    largest: Cost,
    pub(super) at: Timestamp,
}

/// Whose a hold is, of those who write to one journal, and the number it has there. Who writes alone
/// is nobody: 0.
pub(super) type Name = (u64, u64);

/// A twin as it is kept.
#[derive(Deserialize, Serialize)]
struct Saved<L = Ledger, O = Vec<(Name, Sent)>> {
    version: u32,
    at: Timestamp,
    ledger: L,
    open: O,
    ending: VecDeque<(Timestamp, Name, Cost)>,
    largest: Cost,
}

impl Clone for Twin {
    fn clone(&self) -> Self {
        let open = self.open.iter().map(|(name, sent)| (*name, sent.twin())).collect();
        let (ledger, ending) = (self.ledger.clone(), self.ending.clone());
        Self { ledger, open, ending, largest: self.largest, at: self.at }
    }
}

/// What an entry says of the upstream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    Nothing,
    /// So many tokens, at least and at most, are reserved there for the request.
    Reserved(Option<(u64, u64)>),
    /// Whose use it was that a request was refused for.
    Blame(Blame),
}

impl Twin {
    /// The twin of a ledger to which nothing has been done since `now`.
    pub fn of(ledger: &Ledger, now: Timestamp) -> Self {
        let mut ledger = ledger.clone();
        ledger.journal = None;
        let (open, ending, largest) = Default::default();
        Self { ledger, open, ending, largest, at: now }
    }

    /// Does what was done to the first ledger.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if the bytes are no entries; those before are done then.
    pub fn replay(&mut self, mut journal: &[u8]) -> Result<(), BadJournal> {
        while !journal.is_empty() {
            let mut reader = rmp_serde::Deserializer::new(journal);
            let entry = Entry::deserialize(&mut reader).map_err(unreadable)?;
            journal = reader.into_inner();
            self.apply(0, entry);
        }
        Ok(())
    }

    /// Does what `owner` did; what the upstream says of itself by that is returned.
    pub(super) fn apply(&mut self, owner: u64, Entry { at, event }: Entry) -> Said {
        if let Event::Settled { id, used } = event {
            // One that is due now comes after those that are written down for now.
            let place = self.ending.partition_point(|(due, ..)| *due <= at);
            self.ending.insert(place, (at, (owner, id), used));
            return Said::Nothing;
        }
        self.end(at);
        self.at = self.at.max(at);
        let ledger = &mut self.ledger;
        match event {
            Event::Held { id, cost } => {
                self.largest = self.largest.map(|units| units - units / FADING).max(cost);
                let mut sent = ledger.place(cost, at).sent();
                sent.id = id;
                self.open.insert((owner, id), sent);
            }
            Event::Charged { id } => {
                if let Some(sent) = self.open.get_mut(&(owner, id)) {
                    ledger.charged(sent, at);
                }
            }
            Event::Observed { id, seen } => {
                if let Some(sent) = self.open.get_mut(&(owner, id)) {
                    return Said::Reserved(ledger.observe_all(sent, &seen, at));
                }
            }
            Event::Refused { id, index } => {
                if let Some(sent) = self.open.get(&(owner, id)) {
                    return Said::Blame(ledger.refused_by(sent, index, at));
                }
            }
            Event::Settled { .. } => {}
            Event::Drained { index, ask_at } => ledger.drained_until(index, ask_at, at),
            Event::Reconfigured { configured, start } => {
                ledger.reconfigure_to(&configured, start, at);
            }
        }
        Said::Nothing
    }

    /// Ends what has ended by `now`.
    pub(super) fn end(&mut self, now: Timestamp) {
        while self.ending.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((due, id, used)) = self.ending.pop_front() else { return };
            self.at = self.at.max(due);
            if let Some(sent) = self.open.remove(&id) {
                self.ledger.settle(sent, Spent::Exact(used), due);
            }
        }
    }

    /// Whether a hold's end is known, and only not due yet.
    pub(super) fn is_ending(&self, name: Name) -> bool {
        self.ending.iter().any(|(_, other, _)| *other == name)
    }

    /// The twin as bytes.
    pub fn save(&self) -> Vec<u8> {
        let mut open: Vec<_> = self.open.iter().collect();
        open.sort_unstable_by_key(|(id, _)| **id);
        let Self { ledger, ending, largest, at, .. } = self;
        let (ending, largest, at) = (ending.clone(), *largest, *at);
        let saved = Saved { version: VERSION, at, ledger, open, ending, largest };
        // Everything in it can be written, and a vector takes it.
        rmp_serde::to_vec_named(&saved).unwrap_or_default()
    }

    /// A twin that was saved.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if these bytes are none.
    pub fn load(bytes: &[u8]) -> Result<Self, BadJournal> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let Head { version } = rmp_serde::from_slice(bytes).map_err(unreadable)?;
        if version != VERSION {
            return Err(BadJournal::Version(version));
        }
        let saved: Saved = rmp_serde::from_slice(bytes).map_err(unreadable)?;
        let Saved { ledger, open, ending, largest, at, .. } = saved;
        Ok(Self { ledger, open: open.into_iter().collect(), ending, largest, at })
    }

    /// The instant of the last entry.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Ends everything, `now`, after whoever had the first ledger was gone, at `end` at the latest: what
    /// was held is charged, and if the journal is not `complete`, so is everything that can have been
    /// sent by then; but for what a window may be asked for after a refusal.
    #[must_use]
    pub fn close(mut self, (end, complete): (Timestamp, bool), now: Timestamp) -> Self {
        let end = end.max(self.at);
        self.end(end);
        if !complete {
            let most = self.ledger.most(end).min(self.unwritten());
            let sent = self.ledger.place(most, end).sent();
            self.open.insert((0, u64::MAX), sent);
        }
        self.end(now);
        let mut open: Vec<_> = self.open.drain().map(|(_, sent)| sent).collect();
        open.sort_unstable_by_key(|sent| sent.id);
        for mut sent in open {
            self.ledger.charged(&mut sent, end);
            self.ledger.settle(sent, Spent::Unknown, end);
        }
        self.ending.clear();
        self.at = self.at.max(end);
        self
    }

    /// The most that can have been let go after the last entry.
    fn unwritten(&self) -> Cost {
        self.ledger.allowed().plus(self.largest)
    }

    /// Whether a new ledger in its place would decide alike.
    pub fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.open.is_empty() && self.ledger.is_untouched(now)
    }

    /// The ledger of a twin that was closed, to go on with `now`. The limits are those that are
    /// `configured` now; what is not configured any more is forgotten, and what was not before begins
    /// as `start` says.
    pub fn into_ledger(
        mut self,
        configured: &[Constraint],
        start: ColdStart,
        now: Timestamp,
    ) -> Ledger {
        self.ledger.reconfigure_to(configured, start, now.max(self.at));
        self.ledger
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn unreadable(error: rmp_serde::decode::Error) -> BadJournal {
    BadJournal::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests;
