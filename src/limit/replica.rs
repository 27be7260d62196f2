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
//!   eight of each limit; and it goes only while half of the limit is left. What is asked
//!   leaves that part alone until everybody knows that there is less.
//! - A hold that the log has and nobody here knows of is given back; one that the log lost is told
//!   again. Neither depends on how that came about.
//! - Without a log, what goes is a share of what was left, and of what comes back.

mod alone;
mod clock;
mod common;
mod float;
mod heard;
mod log;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::alone::Alone;
pub use self::clock::Clock;
use self::common::{Common, Word};
pub use self::common::{Head, Line, Turn};
use self::float::{KNOWN_AFTER, is_plenty};
pub use self::heard::Heard;
use crate::limit::journal::Said;
use crate::limit::{Blame, ColdStart, Constraint, Cost, Denied, Ledger, Reading, Unit};
use crate::time::Timestamp;

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
    /// Whether the others have been told the limits as they are configured here.
    announced: bool,
    /// Whether the log was just found again, and others may not have told what they did without it.
    quiet: bool,
    /// When the log was last heard of.
    heard_at: Timestamp,
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
        let (loaded, stale, announced, quiet, heard_at) = Default::default();
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
            announced,
            quiet,
            heard_at,
            clock,
            counts,
        }
    }

    /// Is configured in this way from now on, and tells the others, who keep to that as well.
    pub fn reconfigure(&mut self, configured: &[Constraint], start: ColdStart) {
        self.start = start;
        if *configured != *self.configured {
            self.configured = configured.into();
            self.announced = false;
            self.guarded.resize(configured.len(), Timestamp::default());
            self.find_limits();
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
        self.alone.is_some() || (self.loaded && self.common.begun && !self.quiet)
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
    pub fn end(&mut self, id: u64, used: Cost, after: Duration, fair: Option<u64>, now: Timestamp) {
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
        let clock = self.clock;
        let head = head.map(|head| Head { order: clock.log(head.order), ..head });
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
}
