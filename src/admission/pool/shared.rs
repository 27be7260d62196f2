//! A pool that shares its quota with other replicas, and what goes between it and their log.
//!
//! Whoever goes between [prepares](Pool::prepare) a call, makes it, and brings the
//! [answer](Pool::heard). Requests that have to be asked for leave the line only when a call is
//! prepared, so that they are decided by the newest there is; if others were faster they are put back
//! to where they were.
//!
//! # Invariants
//!
//! - While a request is being asked for it is in nobody's hands: the answer gives it to its waiter, or
//!   puts it back.
//! - Nobody waits for another replica for longer than [`PATIENCE`] after that one could have gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::book::Held;
use super::state::{Answer, State, Waiter};
use super::turn::Wait;
use super::{Bound, Pool};
use crate::admission::scheduler::{Charge, Departure};
use crate::limit::{BadJournal, Denied, Head, Heard};
use crate::time::Timestamp;

/// How long a replica whose turn it is has for taking it: some calls, or the pause of a busy machine.
const PATIENCE: Duration = Duration::from_millis(100);

/// A request that is being asked for.
#[derive(Debug)]
pub(super) struct Going {
    pub(super) departure: Departure<Waiter>,
    pub(super) held: Held,
}

/// What a pool that shares its quota needs beside.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// Whether requests that have to be asked for may leave the line now.
    pub(super) asking: bool,
    /// Whether one wants to.
    pub(super) wants: bool,
    pub(super) going: Vec<Going>,
    /// What tenants are charged for requests at other replicas.
    charges: HashMap<(u64, u64), Charge>,
    /// Since when a replica whose turn it is could have gone.
    could_since: Option<(u64, Timestamp)>,
    /// Who the others think is first here.
    told: Option<Head>,
}

/// An entry of the log.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// Whose it is.
    pub owner: u64,
    /// Its number there.
    pub number: u64,
    /// The log's time when it was appended.
    pub at: Timestamp,
    /// What was appended; `None` if its owner is gone.
    pub bytes: Option<&'a [u8]>,
}

/// What became of what was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answered {
    /// Nothing was.
    Nothing,
    /// The log has taken it.
    Taken,
    /// It has not, or nobody knows.
    Refused,
}

impl State {
    /// Whether there is something to ask or to tell.
    pub(super) fn has_work(&mut self) -> bool {
        let Some(replica) = self.ledger.shared() else { return false };
        let (heard, news) = (replica.is_heard(), replica.has_news());
        heard && (news || self.together.wants || self.new_head().is_some())
    }

    /// Who is first here, if the others think otherwise.
    fn new_head(&self) -> Option<Option<Head>> {
        let head = self.scheduler.head_for_others();
        // How many wait behind it changes all the time, and is news only with it.
        let known = match (&head, &self.together.told) {
            (Some(head), Some(told)) => Head { line: told.line, ..*head } == *told,
            (head, told) => head.is_none() && told.is_none(),
        };
        (!known).then_some(head)
    }

    /// What the requests here wait for if somebody at another replica comes before them.
    pub(super) fn waits_for_others(&mut self, now: Timestamp) -> Option<Wait> {
        if self.ledger.shared().is_none_or(|replica| replica.is_alone()) {
            return None;
        }
        while let Some((replica, head)) = self.scheduler.first_elsewhere() {
            let at_once = match self.ledger.check_as(head.cost, false, now) {
                Ok(()) => true,
                Err(Denied::Wait { until: None, .. }) => false,
                Err(denied @ Denied::Wait { .. }) => {
                    self.together.could_since = None;
                    return Some(denied.into());
                }
                // Its limits are others: it will never go.
                Err(Denied::Wall { .. }) => {
                    self.scheduler.waits_elsewhere(replica, None);
                    continue;
                }
            };
            let bound = Bound::Replicas;
            if !at_once {
                return Some(Wait { bound, until: None, wall: None });
            }
            let since = match self.together.could_since {
                Some((other, since)) if other == replica => since,
                _ => now,
            };
            self.together.could_since = Some((replica, since));
            let until = since.after(PATIENCE);
            if now < until {
                return Some(Wait { bound, until: Some(until), wall: None });
            }
            // It does not want to, or it is not there any more. It says so when it is.
            self.scheduler.waits_elsewhere(replica, None);
        }
        None
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Held { name, turn } => {
                let charge = self.scheduler.pass_elsewhere(&turn);
                if let Some(before) = self.together.charges.insert(name, charge) {
                    self.end_elsewhere(before, None);
                }
            }
            Heard::Ended { name, fair } => {
                if let Some(charge) = self.together.charges.remove(&name) {
                    self.end_elsewhere(charge, fair);
                }
            }
            Heard::Waits { replica, head } => {
                self.together.could_since = None;
                self.scheduler.waits_elsewhere(replica, head);
            }
            Heard::Gone { replica } => {
                self.scheduler.waits_elsewhere(replica, None);
                let all = self.together.charges.keys().filter(|name| name.0 == replica);
                for name in all.copied().collect::<Vec<_>>() {
                    if let Some(charge) = self.together.charges.remove(&name) {
                        self.end_elsewhere(charge, None);
                    }
                }
            }
        }
    }

    fn end_elsewhere(&mut self, charge: Charge, fair: Option<u64>) {
        let used = fair.unwrap_or_else(|| charge.fair());
        self.scheduler.settle(charge, used);
    }

    /// Takes an entry of the log.
    fn take_entry(&mut self, entry: &Written<'_>) -> Result<(), BadJournal> {
        let Some(replica) = self.ledger.shared() else { return Ok(()) };
        let mut heard = Vec::new();
        match entry.bytes {
            Some(bytes) => {
                let name = (entry.owner, entry.number);
                replica.apply(name, entry.at, bytes, |it| heard.push(it))?;
            }
            None => replica.gone(entry.owner, entry.at, |it| heard.push(it)),
        }
        heard.into_iter().for_each(|it| self.hear(it));
        Ok(())
    }

    /// Lets go what was asked for, or puts it back.
    fn answer(&mut self, answered: Answered, now: Timestamp) -> Vec<Answer> {
        let going = std::mem::take(&mut self.together.going);
        let Some(replica) = self.ledger.shared() else { return Vec::new() };
        match answered {
            Answered::Nothing => Vec::new(),
            Answered::Taken => {
                replica.taken();
                let gone = |Going { departure, held }| self.gone(departure, held, now);
                going.into_iter().map(gone).collect()
            }
            Answered::Refused => {
                replica.give_up();
                for Going { departure, .. } in going.into_iter().rev() {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    if departure.item.answer.is_closed() {
                        // Nobody waits for it any more.
                        self.scheduler.settle(departure.charge, 0);
                    } else {
                        self.scheduler.put_back(departure);
                    }
                }
                Vec::new()
            }
        }
    }

    /// Tells the others who is first here, if they think otherwise.
    fn tell_head(&mut self, now: Timestamp) {
        let head = self.new_head();
        let replica = self.ledger.shared().filter(|replica| replica.is_heard());
        if let (Some(replica), Some(head)) = (replica, head) {
            replica.waits(head, now);
            self.together.told = head;
        }
    }

    fn set_clock(&mut self, log: Timestamp, now: Timestamp) {
        if let Some(replica) = self.ledger.shared() {
            replica.set_clock(log, now);
        }
    }
}

impl Pool {
    /// Notified when there is something to ask or to tell.
    pub fn work(&self) -> Arc<Notify> {
        Arc::clone(&self.work)
    }

    /// Whether there is anything to tell.
    pub fn has_news(&self) -> bool {
        self.state.lock().ledger.shared().is_some_and(|replica| replica.has_news())
    }

    /// Whether somebody, here or elsewhere, waits for what there is to ask or to tell.
    pub fn is_urgent(&self) -> bool {
        let mut state = self.state.lock();
        let waits = !state.scheduler.is_empty() || state.scheduler.is_waited_elsewhere();
        let wants = state.together.wants || state.new_head().is_some();
        waits || wants || state.ledger.shared().is_some_and(|replica| replica.is_urgent())
    }

    /// Prepares a call when the log's time is `log`: `tell` is given what the log is to be told, and
    /// returns the number that it goes under; what is returned is asked.
    pub fn prepare(
        self: &Arc<Self>,
        log: Timestamp,
        tell: impl FnOnce(Vec<u8>) -> Option<u64>,
    ) -> Option<Vec<u8>> {
        let (question, answers, rearm, now) = self.locked(|state, now| {
            state.set_clock(log, now);
            state.together.asking = state.ledger.shared().is_some_and(|it| it.is_ready());
            state.together.wants = false;
            let answers = state.turn(now);
            state.together.asking = false;
            state.tell_head(now);
            let question = state.ledger.shared().and_then(|replica| {
                let question = replica.question(now);
                replica.tell(now, tell);
                question
            });
            (question, answers, state.rearm(now), now)
        });
        let rearm = self.deliver(answers, now) | rearm;
        self.wake_if(rearm);
        question
    }

    /// Brings entries of the log, in order and without a gap, and what became of what was asked.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if one is of another version; those before it count.
    pub fn heard<'a>(
        self: &Arc<Self>,
        log: Timestamp,
        entries: impl Iterator<Item = Written<'a>>,
        answered: Answered,
    ) -> Result<(), BadJournal> {
        let mut result = Ok(());
        let (answers, rearm, now) = self.locked(|state, now| {
            state.set_clock(log, now);
            let mut entries = entries;
            result = entries.try_for_each(|entry| state.take_entry(&entry));
            let mut answers = state.answer(answered, now);
            answers.extend(state.turn(now));
            (answers, state.rearm(now), now)
        });
        let rearm = self.deliver(answers, now) | rearm;
        self.wake_if(rearm);
        result
    }

    /// The log begins anew: with a snapshot, if there is one, and these entries. `version` is the
    /// number of the last of them that is this replica's.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if it is of another version.
    pub fn loaded<'a>(
        self: &Arc<Self>,
        (log, at): (Timestamp, Timestamp),
        snapshot: Option<&[u8]>,
        version: u64,
        mut entries: impl Iterator<Item = Written<'a>>,
    ) -> Result<(), BadJournal> {
        let mut result = Ok(());
        self.change(|state, now| {
            state.set_clock(log, now);
            if let Some(replica) = state.ledger.shared() {
                result = replica.load(snapshot, version, at);
            }
            if result.is_ok() {
                result = entries.try_for_each(|entry| state.take_entry(&entry));
            }
            if let Some(replica) = state.ledger.shared() {
                replica.mend();
                let turns = replica.turns().to_vec();
                let open = |name: &(u64, u64)| replica.is_open(*name);
                let (kept, ended): (HashMap<_, _>, HashMap<_, _>) =
                    state.together.charges.drain().partition(|(name, _)| open(name));
                state.together.charges = kept;
                ended.into_values().for_each(|charge| state.end_elsewhere(charge, None));
                state.scheduler.count_from(&turns);
                // Whoever was told may not know it any more.
                state.together.told = None;
            }
        });
        result
    }

    /// The log cannot be reached: goes on with a share.
    pub fn leave_log(self: &Arc<Self>) {
        self.change(|state, now| {
            if let Some(replica) = state.ledger.shared() {
                replica.leave(now);
            }
        });
    }

    /// The log can be reached again, and was read to its end.
    pub fn return_to_log(self: &Arc<Self>, log: Timestamp) {
        self.change(|state, now| {
            state.set_clock(log, now);
            if let Some(replica) = state.ledger.shared().filter(|it| it.is_alone()) {
                replica.come_back();
                let turns = replica.turns().to_vec();
                state.scheduler.count_from(&turns);
            }
        });
    }

    /// The log was heard of, to its end.
    pub fn heard_of_log(&self, log: Timestamp) {
        self.locked(|state, now| {
            state.set_clock(log, now);
            if let Some(replica) = state.ledger.shared() {
                replica.heard_of(now);
            }
        });
    }

    /// All replicas have told what they did without the log.
    pub fn resume(self: &Arc<Self>) {
        self.change(|state, _| {
            if let Some(replica) = state.ledger.shared() {
                replica.resume();
            }
        });
    }

    /// Tells the log everything, whether it can be reached or not; see [`Self::prepare`].
    pub fn tell_all(&self, tell: impl FnOnce(Vec<u8>) -> Option<u64>) {
        self.locked(|state, now| {
            if let Some(replica) = state.ledger.shared() {
                replica.tell(now, tell);
            }
        });
    }

    /// Whether requests go without the log.
    pub fn is_alone(&self) -> bool {
        self.state.lock().ledger.shared().is_some_and(|replica| replica.is_alone())
    }

    /// There are so many replicas, this one included; who waits first is told them again.
    pub fn saw_replicas(self: &Arc<Self>, replicas: u32) {
        self.change(|state, _| {
            if let Some(replica) = state.ledger.shared() {
                replica.saw(replicas);
            }
            state.together.told = None;
        });
    }

    /// What all have in common, as bytes to begin anew with.
    pub fn save_common(&self) -> Option<Vec<u8>> {
        self.state.lock().ledger.shared().map(|replica| replica.save())
    }

    /// How many requests were let go without asking the others, and asked for, since the last time.
    pub fn take_counts(&self) -> (u64, u64) {
        self.state.lock().ledger.shared().map_or((0, 0), |replica| replica.take_counts())
    }

    /// Whether nothing here concerns other replicas now.
    pub fn is_idle(&self) -> bool {
        let mut state = self.state.lock();
        let waits = !state.scheduler.is_empty();
        state.ledger.shared().is_none_or(|replica| !waits && replica.is_idle())
    }
}
