//! Going on with a ledger while its owner still has requests of it at the upstream.
//!
//! Whoever hands its ledger over lets nobody in any more, but for those who wait already: what they
//! cost is set aside as one hold, the *reserve*. It goes on to write its journal, and whoever has the
//! ledger now does what it reads there to the holds that it was left. What is not said by the end
//! counts as spent.

use std::collections::{HashMap, VecDeque};

use serde::Deserialize;

use super::{BadJournal, Entry, Event, Twin, unreadable};
use crate::limit::{ColdStart, Constraint, Cost, Ledger, Sent, Spent};
use crate::time::Timestamp;

/// A ledger to go on with, and what is held in it for others.
#[derive(Debug)]
pub struct Heritage {
    /// The ledger.
    pub ledger: Ledger,
    /// Its twin, if there are holds that the journal of the ledger does not tell of.
    pub twin: Option<Twin>,
    /// What is held for others.
    pub left: Left,
    /// What has been used, but is not given back yet: by the time at which it will be.
    pub settling: VecDeque<(Timestamp, Sent, Spent)>,
}

impl From<Ledger> for Heritage {
    /// A ledger in which nothing is held for others.
    fn from(ledger: Ledger) -> Self {
        Self { ledger, twin: None, left: Left::default(), settling: VecDeque::new() }
    }
}

/// What is held for the requests of whoever had the ledger before.
#[derive(Debug, Default)]
pub struct Left {
    /// By the number in the journal of before.
    open: HashMap<u64, Sent>,
    /// For those that had not gone.
    reserve: Option<Sent>,
}

/// What a journal says that matters to whoever has the ledger now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// One that had not gone goes.
    Went(u64, Cost),
    /// The head of its answer came.
    Charged(u64),
    /// It has ended, with what it used.
    Ended(u64, Cost),
}

impl Told {
    /// What a piece of a journal tells.
    ///
    /// # Errors
    ///
    /// [`BadJournal`] if the bytes are no entries.
    pub fn read(mut journal: &[u8]) -> Result<Vec<Self>, BadJournal> {
        let mut told = Vec::new();
        while !journal.is_empty() {
            let mut reader = rmp_serde::Deserializer::new(journal);
            let Entry { event, .. }: Entry = Entry::deserialize(&mut reader).map_err(unreadable)?;
            journal = reader.into_inner();
            told.push(match event {
                Event::Held { id, cost } => Self::Went(id, cost),
                Event::Charged { id } => Self::Charged(id),
                Event::Settled { id, used } => Self::Ended(id, used),
                // What the upstream shows of its levels, it shows whoever asks next as well; and how
                // another process is configured is its own business.
                Event::Observed { .. }
                | Event::Refused { .. }
                | Event::Drained { .. }
                | Event::Reconfigured { .. } => continue,
            });
        }
        Ok(told)
    }
}

impl Left {
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.reserve.is_none()
    }

    /// Requests that are at the upstream.
    pub fn at_upstream(&self) -> usize {
        self.open.len()
    }

    /// Does what was told to the ledger; returns the hold that has ended with what was used, to be
    /// settled when the upstream has done the same.
    pub fn hear(
        &mut self,
        ledger: &mut Ledger,
        told: Told,
        now: Timestamp,
    ) -> Option<(Sent, Cost)> {
        match told {
            Told::Went(id, cost) => {
                if let Some(reserve) = self.reserve.take() {
                    let rest = reserve.cost().minus(cost);
                    ledger.reject(reserve, now);
                    if rest != Cost::default() {
                        self.reserve = Some(ledger.place(rest, now).sent());
                    }
                }
                self.open.insert(id, ledger.place(cost, now).sent());
            }
            Told::Charged(id) => {
                if let Some(sent) = self.open.get_mut(&id) {
                    ledger.charged(sent, now);
                }
            }
            Told::Ended(id, used) => return self.open.remove(&id).map(|sent| (sent, used)),
        }
        None
    }

    /// All that is held still: for requests at the upstream, and for those that had not gone.
    pub fn end(&mut self) -> (Vec<Sent>, Option<Sent>) {
        (self.open.drain().map(|(_, sent)| sent).collect(), self.reserve.take())
    }
}

impl Twin {
    /// The ledger, to go on with `now` as [`Self::into_ledger`] says, while its owner still has requests
    /// at the upstream, and others that have to go before it ends: they cost `reserve`.
    pub fn hand_on(
        mut self,
        reserve: Option<Cost>,
        configured: &[Constraint],
        start: ColdStart,
        now: Timestamp,
    ) -> Heritage {
        let now = now.max(self.at);
        self.end(now);
        self.ledger.reconfigure_to(configured, start, now);
        let reserve = reserve.map(|cost| self.ledger.place(cost, now).sent());
        if let Some(sent) = &reserve {
            self.open.insert((0, sent.id), sent.twin());
        }
        self.at = now;
        let twin = self.clone();
        let Self { ledger, mut open, ending, .. } = self;
        let settling = ending.into_iter().filter_map(|(due, name, used)| {
            let mut sent = open.remove(&name)?;
            sent.announced = true;
            Some((due, sent, Spent::Exact(used)))
        });
        let settling = settling.collect();
        if let Some(sent) = &reserve {
            open.remove(&(0, sent.id));
        }
        let open = open.into_iter().map(|((_, id), sent)| (id, sent)).collect();
        Heritage { ledger, twin: Some(twin), left: Left { open, reserve }, settling }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::{Mode, Unit};

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos((1_000 + seconds) * SECOND)
    }

    fn minute() -> Vec<Constraint> {
        let minute = Duration::from_secs(60);
        let tokens = Constraint::new(Unit::Tokens, 6_000, minute, "minute", Mode::Sliding);
        vec![tokens.expect("it is valid")]
    }

    fn level(ledger: &mut Ledger, now: Timestamp) -> (i64, u64) {
        let level = ledger.levels(now).next().expect("one window");
        (level.available, level.held)
    }

    /// A ledger with a journal and two requests at the upstream, of which one has ended and is not
    /// settled yet; and the twin that its journal makes.
    fn before() -> (Ledger, Vec<Sent>, Twin) {
        let mut ledger = Ledger::new(minute(), at(0));
        ledger.keep_journal();
        let mut twin = Twin::of(&ledger, at(0));
        let mut sent = Vec::new();
        for _ in 0..2 {
            let hold = ledger.hold(Cost::new(1, 1_000), at(1)).expect("there is room");
            sent.push(hold.sent());
        }
        let mut first = sent.remove(0);
        ledger.charged(&mut first, at(2));
        ledger.announce(&mut first, Spent::Exact(Cost::new(1, 100)), at(5));
        let mut journal = Vec::new();
        ledger.take_journal(&mut journal);
        twin.replay(&journal).expect("its own journal");
        sent.insert(0, first);
        (ledger, sent, twin)
    }

    fn told(ledger: &mut Ledger) -> Vec<Told> {
        let mut journal = Vec::new();
        ledger.take_journal(&mut journal);
        Told::read(&journal).expect("its own journal")
    }

    #[test]
    fn what_is_held_for_others_stays_held_until_they_say_or_have_gone() {
        let (mut old, mut sent, twin) = before();
        let reserve = Some(Cost::new(1, 500));
        let handed = twin.hand_on(reserve, &minute(), ColdStart::Full, at(3));
        let Heritage { mut ledger, mut left, mut settling, twin } = handed;
        assert_eq!(level(&mut ledger, at(3)), (6_000 - 2_500, 2_500));
        assert_eq!((left.at_upstream(), settling.len()), (1, 1));
        // What had ended comes back in its time.
        let (due, ended, spent) = settling.pop_front().expect("one");
        assert_eq!((due, spent), (at(5), Spent::Exact(Cost::new(1, 100))));
        ledger.settle(ended, spent, due);
        assert_eq!(level(&mut ledger, at(5)), (6_000 - 1_600, 1_500));
        // The owner lets one go that had waited, and ends the other.
        let hold = old.hold(Cost::new(1, 400), at(6)).expect("there is room");
        old.settle(sent.remove(1), Spent::Exact(Cost::new(1, 50)), at(6));
        for it in told(&mut old) {
            if let Some((sent, used)) = left.hear(&mut ledger, it, at(6)) {
                ledger.settle(sent, Spent::Exact(used), at(6));
            }
        }
        assert_eq!(level(&mut ledger, at(6)), (6_000 - 100 - 50 - 400 - 100, 500));
        assert_eq!(left.at_upstream(), 1, "the one that had waited");
        drop(hold);
        let (open, reserve) = left.end();
        assert_eq!(open.len(), 1);
        assert_eq!(reserve.map(|it| it.cost().tokens), Some(100), "what nobody took");
        assert!(
            twin.is_some_and(|twin| twin.open.len() == 3),
            "its own crash would not forget them"
        );
    }

    #[test]
    fn a_journal_of_the_heirs_own_makes_the_same_ledger() {
        let (mut old, mut sent, twin) = before();
        let handed = twin.hand_on(Some(Cost::new(1, 500)), &minute(), ColdStart::Full, at(3));
        let Heritage { mut ledger, mut left, mut settling, twin } = handed;
        let mut twin = twin.expect("it was handed on");
        ledger.keep_journal();
        let (due, ended, spent) = settling.pop_front().expect("one");
        ledger.settle(ended, spent, due);
        let _went = old.hold(Cost::new(1, 400), at(6)).expect("there is room").sent();
        old.charged(&mut sent[1], at(7));
        old.settle(sent.remove(1), Spent::Exact(Cost::new(1, 50)), at(8));
        for it in told(&mut old) {
            if let Some((sent, used)) = left.hear(&mut ledger, it, at(8)) {
                ledger.settle(sent, Spent::Exact(used), at(8));
            }
        }
        let mut journal = Vec::new();
        ledger.take_journal(&mut journal);
        twin.replay(&journal).expect("its own journal");
        twin.end(at(9));
        assert_eq!(level(&mut twin.ledger, at(9)), level(&mut ledger, at(9)));
        // It ends without a word: what it was left counts as spent, as does its own.
        let mut after = twin.close((at(9), true), at(9));
        assert_eq!(level(&mut after.ledger, at(9)).1, 0, "nothing is held for ever");
    }
}
