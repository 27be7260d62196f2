//! A pool that shares its quota with other replicas, and what goes between it and their log.
//!
//! Whoever goes between [prepares](super::Pool::prepare) a call, makes it, and brings the
//! [answer](super::Pool::heard). Requests that have to be asked for leave the line only when a call is
//! prepared, so that they are decided by the newest there is; if others were faster they are put back
//! to where they were.
//!
//! # Invariants
//!
//! - While a request is being asked for it is in nobody's hands: the answer gives it to its waiter, or
//!   puts it back.
//! - Nobody waits for another replica for longer than [`PATIENCE`] after that one could have gone.

mod log;

use std::collections::HashMap;
use std::time::Duration;

use super::Bound;
use super::book::Held;
use super::state::{Answer, State, Waiter};
use super::turn::Wait;
use crate::admission::circuit::Round;
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
    pub(super) round: Round,
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
    /// Who the others were told is first here, and whether some of them may not know.
    told: Option<Head>,
    retell: bool,
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
        let news = news || replica.has_to_announce();
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
        let again = self.together.retell && head.is_some();
        (!known || again).then_some(head)
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
                let gone =
                    |Going { departure, held, round }| self.gone(departure, (held, round), now);
                going.into_iter().map(gone).collect()
            }
            Answered::Refused => {
                replica.give_up();
                for Going { departure, round, .. } in going.into_iter().rev() {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.circuit.left(round, now);
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
            (self.together.told, self.together.retell) = (head, false);
        }
    }

    fn set_clock(&mut self, log: Timestamp, now: Timestamp) {
        if let Some(replica) = self.ledger.shared() {
            replica.set_clock(log, now);
        }
    }
}
