//! What whoever goes between a pool and its log does.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{Answered, Written};
use crate::admission::pool::Pool;
use crate::limit::BadJournal;
use crate::time::Timestamp;

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
                state.together.retell = true;
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
            state.together.retell = true;
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
