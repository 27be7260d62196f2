//! One replica's view of a ledger that it shares with others.
//!
//! All replicas write to one log, and make the same ledger of it: what they have in common. What one
//! has done and not yet seen in the log comes on top, so that it decides by both. A request is let go
//! in one of two ways: *asked*, when the log takes it only if nobody else wrote meanwhile, so that
//! what it was decided by still holds; or *free*, when it is only told.
//!
//! # Invariants
//!
//! - What is asked is decided by everything that stands before it in the log.
//! - What may be free without anybody knowing, of all replicas together, is at most one part in
//!   [`FLOATING`] of each limit; and it goes only while half of the limit is left. What is asked
//!   leaves that part alone until everybody knows that there is less.
//! - A hold that the log has and nobody here knows of is given back; one that the log lost is told
//!   again. Neither depends on how that came about.
//! - Without a log, what goes is a share of what was left, and of what comes back.

mod alone;
mod clock;
mod common;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::alone::Alone;
pub use self::clock::Clock;
use self::common::{Common, Word};
pub use self::common::{Head, Line, Turn};
use crate::limit::journal::Said;
use crate::limit::{BadJournal, Blame, ColdStart, Constraint, Cost, Denied, Ledger, Reading, Unit};
use crate::time::Timestamp;

/// One part in so many of each limit may be let go without having asked, by all replicas together.
const FLOATING: u64 = 8;

/// How long what is free may be on its way to the others, and what they did to who lets it go: in all
/// far longer than two calls may take.
const KNOWN_AFTER: Duration = Duration::from_millis(250);

/// Words that wait for a log before those that only matter for a moment are left out.
const MOST_WAITING: usize = 10_000;

/// How a request goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// At once.
    Free(u64),
    /// When the log has taken it.
    Asked(u64),
}

/// Something that another replica did which the order of turns depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard {
    /// A request of its was let go.
    Held {
        /// Whose it is, and its number there.
        name: (u64, u64),
        /// Whose turn it took.
        turn: Turn,
    },
    /// It ended; the tokens that its tenant is charged, if not as many as before.
    Ended {
        /// Whose it is, and its number there.
        name: (u64, u64),
        /// Tokens.
        fair: Option<u64>,
    },
    /// Who waits first there.
    Waits {
        /// The replica.
        replica: u64,
        /// The first in line, if anybody waits.
        head: Option<Head>,
    },
    /// The replica is gone.
    Gone {
        /// Which.
        replica: u64,
    },
}

/// How replicas are to share.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// Who this is to the others; not 0.
    pub own: u64,
    /// Whether requests may go without having asked while there is plenty.
    pub float: bool,
    /// Replicas to reckon with at least.
    pub replicas: u32,
}

/// A ledger that is shared.
#[derive(Debug)]
pub struct Replica {
    sharing: Sharing,
    configured: Arc<[Constraint]>,
    start: ColdStart,
    /// What the log says.
    common: Common,
    /// Whether anything was read of the log.
    loaded: bool,
    /// That, and what is not seen in it yet.
    view: Common,
    stale: bool,
    /// What the log was told, by number, and has not shown yet.
    told: VecDeque<(u64, Words)>,
    /// What it was not told yet.
    fresh: Words,
    /// What it is asked.
    asked: Words,
    last: u64,
    /// What is let go here and has not ended, with whose turn it took.
    open: HashMap<u64, (Cost, Turn)>,
    /// By constraint: until when what is asked leaves alone what may be free.
    guarded: Vec<Timestamp>,
    /// While there is no log: what may go without.
    alone: Option<Alone>,
    clock: Clock,
    /// Requests let go free, and asked for, since somebody looked.
    counts: (u64, u64),
}

/// Words and when they were said.
type Words = Vec<(Timestamp, Word)>;

impl Replica {
    /// A replica that knows nothing of the others yet.
    pub fn new(
        sharing: Sharing,
        configured: Vec<Constraint>,
        start: ColdStart,
        now: Timestamp,
    ) -> Self {
        let configured: Arc<[Constraint]> = configured.into();
        let common = Common::new(Arc::clone(&configured), start, now);
        let view = common.clone();
        let guarded = vec![Timestamp::default(); configured.len()];
        let (told, fresh, asked, last, open, alone, clock, counts) = Default::default();
        let (loaded, stale) = (false, false);
        Self {
            sharing,
            configured,
            start,
            common,
            loaded,
            view,
            stale,
            told,
            fresh,
            asked,
            last,
            open,
            guarded,
            alone,
            clock,
            counts,
        }
    }

    /// Who this is to the others.
    pub const fn own(&self) -> u64 {
        self.sharing.own
    }

    /// It is `now` here when the log's time is `log`.
    pub fn set_clock(&mut self, log: Timestamp, now: Timestamp) {
        self.clock = Clock::between(log, now);
    }

    /// How many requests were let go without asking, and asked for, since the last time.
    pub fn take_counts(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.counts)
    }

    /// There are at least so many replicas, this one included.
    pub fn saw(&mut self, replicas: u32) {
        self.sharing.replicas = self.sharing.replicas.max(replicas);
    }

    /// Whether anything can be decided: by a log that says what the limits are, or without one.
    pub const fn is_ready(&self) -> bool {
        self.alone.is_some() || (self.loaded && self.common.begun)
    }

    /// Whether there is a log, and what it said was read.
    pub const fn is_heard(&self) -> bool {
        self.loaded && self.alone.is_none()
    }

    /// Whether requests go without a log.
    pub const fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// The tag of the last turn that was taken of each class.
    pub fn turns(&self) -> &[i128] {
        &self.common.turns
    }

    /// The ledger to decide by, its time, and what makes local time of that.
    pub fn ledger(&mut self, now: Timestamp) -> (&mut Ledger, Timestamp, Clock) {
        let at = self.refresh(now);
        (&mut self.view.twin.ledger, at, self.clock)
    }

    /// The ledger as it was when it was last decided by.
    pub const fn view(&self) -> &Ledger {
        &self.view.twin.ledger
    }

    /// Whether a request could go now: asked or free.
    ///
    /// # Errors
    ///
    /// [`Denied`], as by [`Ledger::check`].
    pub fn check(&mut self, cost: Cost, paced: bool, now: Timestamp) -> Result<(), Denied> {
        let clock = self.clock;
        if !self.is_ready() {
            return Err(Denied::Wait { constraint: 0, until: None });
        }
        let at = self.refresh(now);
        let checked = self.view.twin.ledger.check_as(cost, paced, at);
        let checked = checked.and_then(|()| match &mut self.alone {
            Some(alone) => alone.check(cost, at),
            None => self.leaves_enough(cost, at),
        });
        checked.map_err(|denied| clock.denied(denied))
    }

    /// Whether a request that may go has to be asked for.
    pub fn has_to_ask(&mut self, cost: Cost, now: Timestamp) -> bool {
        let at = self.refresh(now);
        self.alone.is_none() && !self.is_free(cost, at)
    }

    /// Lets a request go, or asks for it.
    ///
    /// # Errors
    ///
    /// [`Denied`], as by [`Self::check`].
    pub fn take(
        &mut self,
        cost: Cost,
        paced: bool,
        turn: Turn,
        now: Timestamp,
    ) -> Result<Taken, Denied> {
        self.check(cost, paced, now)?;
        let at = self.refresh(now);
        self.last += 1;
        let id = self.last;
        let free = self.alone.is_some() || self.is_free(cost, at);
        if let Some(alone) = &mut self.alone {
            alone.hold(id, cost, at);
        }
        let word = Word::Held { id, cost, turn };
        self.view.apply(self.sharing.own, at, word.clone());
        self.open.insert(id, (cost, turn));
        if free {
            self.counts.0 += 1;
            self.fresh.push((at, word));
            return Ok(Taken::Free(id));
        }
        self.counts.1 += 1;
        self.asked.push((at, word));
        Ok(Taken::Asked(id))
    }

    /// The head of the answer to a request came.
    pub fn charged(&mut self, id: u64, now: Timestamp) {
        let at = self.clock.log(now);
        if let Some(alone) = &mut self.alone {
            alone.charged(id, at);
        }
        self.say(Word::Charged { id }, now);
    }

    /// What it shows of the quota; as [`Ledger::observe`].
    pub fn observe<'a>(
        &mut self,
        id: u64,
        readings: impl Iterator<Item = Reading<'a>>,
        now: Timestamp,
    ) -> Option<(u64, u64)> {
        self.refresh(now);
        let (seen, count) = self.view.twin.ledger.seen(readings);
        let seen = seen.get(..count)?.to_vec();
        if seen.is_empty() {
            return None;
        }
        match self.say(Word::Observed { id, seen }, now) {
            Said::Reserved(reserved) => reserved,
            Said::Nothing | Said::Blame(_) => None,
        }
    }

    /// The upstream refused a request; as [`Ledger::refused`].
    pub fn refused(&mut self, id: u64, unit: Unit, window: &str, now: Timestamp) -> Blame {
        self.refresh(now);
        let Some(index) = self.view.twin.ledger.index_of(unit, window) else {
            return Blame::Unlisted;
        };
        match self.say(Word::Refused { id, index }, now) {
            Said::Blame(blame) => blame,
            Said::Nothing | Said::Reserved(_) => Blame::Unlisted,
        }
    }

    /// A request has ended, with what it `used`, which counts `after` a while. Its tenant is charged
    /// `fair` tokens, or as many as before.
    pub fn end(
        &mut self,
        id: u64,
        used: Cost,
        after: Duration,
        fair: Option<u64>,
        now: Timestamp,
    ) {
        if self.open.remove(&id).is_some() {
            let at = self.clock.log(now).after(after);
            if let Some(alone) = &mut self.alone {
                alone.end(id, used, at);
            }
            self.say(Word::Ended { id, used, after, fair }, now);
        }
    }

    /// The upstream says that nothing is left; as [`Ledger::drained`].
    pub fn drained(
        &mut self,
        unit: Unit,
        window: &str,
        ask_after: Option<Duration>,
        now: Timestamp,
    ) {
        self.refresh(now);
        if let Some(index) = self.view.twin.ledger.index_of(unit, window) {
            self.say(Word::Drained { index, ask_after }, now);
        }
    }

    /// Tells the others who waits first here.
    pub fn waits(&mut self, head: Option<Head>, now: Timestamp) {
        // Only the last of them counts.
        self.fresh.retain(|(_, word)| !matches!(word, Word::Waits(_)));
        self.say(Word::Waits(head), now);
    }

    fn say(&mut self, word: Word, now: Timestamp) -> Said {
        let at = self.refresh(now);
        let said = self.view.apply(self.sharing.own, at, word.clone());
        self.fresh.push((at, word));
        if self.fresh.len() > MOST_WAITING {
            self.shorten();
        }
        said
    }

    /// Brings the view up to date, and to the time.
    fn refresh(&mut self, now: Timestamp) -> Timestamp {
        if std::mem::take(&mut self.stale) {
            self.view = self.common.clone();
            let told = self.told.iter().flat_map(|(_, words)| words);
            for (at, word) in told.chain(&self.fresh).chain(&self.asked) {
                self.view.apply(self.sharing.own, *at, word.clone());
            }
        }
        let at = self.clock.log(now).max(self.view.twin.at);
        self.view.twin.end(at);
        for (until, level) in self.guarded.iter_mut().zip(self.view.twin.ledger.levels(at)) {
            if is_plenty(level.available, level.quota.limit()) {
                *until = at.after(KNOWN_AFTER);
            }
        }
        at
    }

    /// Whether a request may go without the log's leave.
    fn is_free(&mut self, cost: Cost, at: Timestamp) -> bool {
        if !self.sharing.float || self.alone.is_some() || !self.asked.is_empty() {
            return false;
        }
        let told = self.told.iter().flat_map(|(_, words)| words);
        let unknown = told.chain(&self.fresh).fold(cost, |sum, (_, word)| match word {
            Word::Held { cost, .. } => sum.plus(*cost),
            _ => sum,
        });
        let share = FLOATING * u64::from(self.sharing.replicas.max(1));
        self.view.twin.ledger.levels(at).all(|level| {
            let limit = level.quota.limit();
            is_plenty(level.available, limit) && unknown.of(level.quota.unit()) <= limit / share
        })
    }

    /// Whether a request leaves what others may have taken without anybody knowing.
    fn leaves_enough(&mut self, cost: Cost, at: Timestamp) -> Result<(), Denied> {
        if !self.sharing.float || self.sharing.replicas < 2 || self.is_free(cost, at) {
            return Ok(());
        }
        let guarded = self.guarded.iter().zip(self.view.twin.ledger.levels(at)).enumerate();
        for (constraint, (until, level)) in guarded {
            let limit = level.quota.limit();
            // One that takes more than the rest at once would never find it alone.
            let needed = cost.of(level.quota.unit()).saturating_add(limit / FLOATING).min(limit);
            let has = i128::from(level.available);
            if *until > at && has < i128::from(needed) {
                return Err(Denied::Wait { constraint, until: Some(*until) });
            }
        }
        Ok(())
    }
}

/// Whether more than half of a limit is left.
fn is_plenty(available: i64, limit: u64) -> bool {
    i128::from(available) * 2 > i128::from(limit)
}

/// What goes between a replica and the log.
impl Replica {
    /// What the log is to be told: nothing if nothing has to be, or there is no log. `told` gives the
    /// number that it is told under, or `None` if there is no room for more.
    pub fn tell(&mut self, now: Timestamp, told: impl FnOnce(Vec<u8>) -> Option<u64>) {
        if !self.has_news() {
            return;
        }
        let now = self.refresh(now);
        for (at, word) in &mut self.fresh {
            // What counts after a while has waited for some of it here.
            let waited = now.since(*at);
            if let Word::Ended { after, .. } | Word::Drained { ask_after: Some(after), .. } = word {
                *after = after.saturating_sub(waited);
            }
            *at = now.max(*at);
        }
        let bytes = common::write(self.fresh.iter().map(|(_, word)| word));
        if let Some(number) = told(bytes) {
            self.told.push_back((number, std::mem::take(&mut self.fresh)));
        }
    }

    /// Whether there is something that the log was not told.
    pub fn has_news(&self) -> bool {
        self.is_heard() && !self.fresh.is_empty()
    }

    /// Whether the others must not wait for what there is to tell: a request went without asking.
    pub fn is_urgent(&self) -> bool {
        self.fresh.iter().any(|(_, word)| held(word).is_some())
    }

    /// What the log is to be asked, if anything is: the same until it is [taken](Self::taken) or
    /// [given up](Self::give_up).
    pub fn question(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        if self.alone.is_some() || !self.loaded {
            return None;
        }
        let differs = !self.common.begun || self.common.configured != self.configured;
        if differs && self.asked.is_empty() {
            let (configured, start) = (Arc::clone(&self.configured), self.start);
            self.asked.push((self.clock.log(now), Word::Begun { configured, start }));
            self.stale = true;
        }
        let words = self.asked.iter().map(|(_, word)| word);
        (!self.asked.is_empty()).then(|| common::write(words))
    }

    /// The log has taken what was asked; it was applied with the entry that it is now.
    pub fn taken(&mut self) {
        self.asked.clear();
        self.stale = true;
    }

    /// What was asked is not asked any more, and may be in the log or not.
    pub fn give_up(&mut self) {
        for (_, word) in self.asked.drain(..) {
            if let Word::Held { id, .. } = word {
                self.open.remove(&id);
            }
        }
        self.stale = true;
    }

    /// The next entry of the log. What it says of others is told to `hear`.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if it is of another version.
    pub fn apply(
        &mut self,
        (owner, number): (u64, u64),
        at: Timestamp,
        bytes: &[u8],
        mut hear: impl FnMut(Heard),
    ) -> Result<(), BadJournal> {
        let words = common::read(bytes)?;
        if owner == self.sharing.own {
            while self.told.front().is_some_and(|(own, _)| *own <= number) {
                self.told.pop_front();
            }
        }
        let mut held = Vec::new();
        for word in words {
            if owner != self.sharing.own {
                word.heard(owner).into_iter().for_each(&mut hear);
            } else if let Word::Held { id, .. } = word {
                held.push(id);
            }
            self.common.apply(owner, at, word);
        }
        self.stale = true;
        held.retain(|id| !self.knows(*id));
        self.give_back(held);
        Ok(())
    }

    /// A replica is gone: what it held is spent.
    pub fn gone(&mut self, owner: u64, at: Timestamp, mut hear: impl FnMut(Heard)) {
        if owner == self.sharing.own {
            // The others took this one for gone, and what it held for spent.
            let twin = &self.common.twin;
            self.open.retain(|id, _| !twin.open.contains_key(&(owner, *id)));
        }
        self.common.gone(owner, at);
        self.stale = true;
        hear(Heard::Gone { replica: owner });
    }

    /// The log begins anew with a snapshot, if there is one: entries follow. `version` is the number
    /// of the last entry of this replica's that it has.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if it is of another version.
    pub fn load(
        &mut self,
        snapshot: Option<&[u8]>,
        version: u64,
        at: Timestamp,
    ) -> Result<(), BadJournal> {
        self.common = match snapshot {
            Some(bytes) => Common::load(bytes)?,
            None => Common::new(Arc::clone(&self.configured), self.start, at),
        };
        // What was asked is decided anew.
        self.told.retain(|(number, _)| *number > version);
        (self.loaded, self.stale) = (true, true);
        Ok(())
    }

    /// The log has been read to its end after it began anew: what it lost is told again, and what it
    /// has too much is given back.
    pub fn mend(&mut self) {
        let own = self.sharing.own;
        let said: HashSet<u64> = self.unseen().filter_map(held).collect();
        let twin = &self.common.twin;
        let mut lost: Vec<_> = self
            .open
            .iter()
            .filter(|(id, _)| !said.contains(id) && !twin.open.contains_key(&(own, **id)))
            .map(|(id, (cost, turn))| (*id, *cost, *turn))
            .collect();
        lost.sort_unstable_by_key(|(id, ..)| *id);
        let at = twin.at;
        let again = lost.into_iter().map(|(id, cost, turn)| (at, Word::Held { id, cost, turn }));
        // Before whatever was said of them since.
        self.fresh.splice(..0, again);
        let mine = twin.open.keys().filter(|(owner, _)| *owner == own).map(|(_, id)| *id);
        let mut extra: Vec<_> = mine.filter(|id| !self.knows(*id)).collect();
        extra.sort_unstable();
        self.give_back(extra);
        self.stale = true;
    }

    /// What is common to all, as bytes to begin anew with.
    pub fn save(&self) -> Vec<u8> {
        self.common.save()
    }

    /// There is no log any more: goes on with a share.
    pub fn leave(&mut self, now: Timestamp) {
        if self.alone.is_none() {
            let at = self.refresh(now);
            let ledger = &mut self.view.twin.ledger;
            self.alone = Some(Alone::new(ledger, self.sharing.replicas.max(1), at));
        }
    }

    /// The log is there again.
    pub fn come_back(&mut self) {
        if self.alone.take().is_some() {
            // What the heads of answers showed is no news any more.
            self.fresh.retain(|(_, word)| !matches!(word, Word::Observed { .. }));
            self.stale = true;
        }
    }

    /// Whether this replica has nothing open, and nothing to say.
    pub fn is_idle(&self) -> bool {
        let silent = self.fresh.is_empty() && self.asked.is_empty() && self.told.is_empty();
        silent && self.open.is_empty()
    }

    /// Whether it is idle, and a new ledger would decide alike.
    pub fn is_untouched(&mut self, now: Timestamp) -> bool {
        let at = self.refresh(now);
        self.is_idle() && self.view.twin.is_untouched(at)
    }

    /// Whether a hold of whosoever has not ended.
    pub fn is_open(&self, name: (u64, u64)) -> bool {
        self.common.twin.open.contains_key(&name)
    }

    /// What was said and is not seen in the log.
    fn unseen(&self) -> impl Iterator<Item = &Word> {
        let told = self.told.iter().flat_map(|(_, words)| words);
        told.chain(&self.fresh).chain(&self.asked).map(|(_, word)| word)
    }

    /// Whether somebody here will see to the end of a hold, or it has ended.
    fn knows(&self, id: u64) -> bool {
        let ends = |word: &Word| matches!(word, Word::Ended { id: other, .. } if *other == id);
        let name = (self.sharing.own, id);
        let twin = &self.common.twin;
        self.open.contains_key(&id)
            || !twin.open.contains_key(&name)
            || twin.is_ending(name)
            || self.unseen().any(ends)
    }

    fn give_back(&mut self, ids: Vec<u64>) {
        let at = self.common.twin.at;
        for id in ids {
            let (used, after, fair) = (Cost::default(), Duration::ZERO, Some(0));
            self.fresh.push((at, Word::Ended { id, used, after, fair }));
        }
    }

    /// Leaves out what only matters for a moment, and what has ended altogether but for its sum.
    fn shorten(&mut self) {
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

fn held(word: &Word) -> Option<u64> {
    match word {
        Word::Held { id, .. } => Some(*id),
        _ => None,
    }
}

impl Word {
    /// What the order of turns depends on.
    const fn heard(&self, owner: u64) -> Option<Heard> {
        match *self {
            Self::Held { id, turn, .. } => Some(Heard::Held { name: (owner, id), turn }),
            Self::Ended { id, fair, .. } => Some(Heard::Ended { name: (owner, id), fair }),
            Self::Waits(head) => Some(Heard::Waits { replica: owner, head }),
            _ => None,
        }
    }
}
