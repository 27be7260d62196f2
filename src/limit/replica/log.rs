//! What goes between a replica and the log.

use std::collections::HashSet;
use std::sync::Arc;

use super::alone::Alone;
use super::common::{self, Common, Word};
use super::waiting::held;
use super::{Heard, Replica};
use crate::limit::BadJournal;
use crate::time::Timestamp;

impl Replica {
    /// What the log is to be told, if anything. `told` gives the
    /// number that it is told under, or `None` if there is no room for more.
    pub fn tell(&mut self, now: Timestamp, told: impl FnOnce(Vec<u8>) -> Option<u64>) {
        if !self.loaded || self.fresh.is_empty() {
            return;
        }
        if self.alone.is_some() {
            self.forget_passing();
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

    /// Whether the others must not wait for what there is to tell: a request went without asking, or the
    /// limits are others.
    pub fn is_urgent(&self) -> bool {
        self.has_to_announce() || self.fresh.iter().any(|(_, word)| held(word).is_some())
    }

    /// Whether the log has to be told what the limits are.
    pub fn has_to_announce(&self) -> bool {
        let differs = self.common.configured != self.configured && !self.announced;
        self.is_heard() && (differs || !self.common.begun)
    }

    /// What the log is to be asked, if anything is: the same until it is [taken](Self::taken) or
    /// [given up](Self::give_up).
    pub fn question(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        if self.alone.is_some() || !self.loaded {
            return None;
        }
        // Once: of two with other limits, the one that began last decides, and both keep to that.
        if self.has_to_announce() && self.asked.is_empty() {
            let (configured, start) = (Arc::clone(&self.configured), self.start);
            self.asked.push((self.clock.log(now), Word::Begun { configured, start }));
            self.stale = true;
        }
        let words = self.asked.iter().map(|(_, word)| word);
        (!self.asked.is_empty()).then(|| common::write(words))
    }

    /// The log has taken what was asked; it was applied with the entry that it is now.
    pub fn taken(&mut self) {
        self.announced |= self.asked.iter().any(|(_, word)| matches!(word, Word::Begun { .. }));
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
                word.heard(owner, self.clock).into_iter().for_each(&mut hear);
            } else if let Word::Held { id, .. } = word {
                held.push(id);
            }
            self.common.apply(owner, at, word);
        }
        self.find_limits();
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
        self.find_limits();
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

    /// Whoever finds its own limits in the log has nothing to say when another changes them.
    pub(super) fn find_limits(&mut self) {
        self.announced |= self.common.begun && self.common.configured == self.configured;
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

    /// The log is there again. Nothing goes until [`Self::resume`]: others may have been without it, too,
    /// and have to tell what they did.
    pub fn come_back(&mut self) {
        if self.alone.take().is_some() {
            self.forget_passing();
            (self.quiet, self.stale) = (true, true);
        }
    }

    /// Everybody has told what they did without the log.
    pub const fn resume(&mut self) {
        self.quiet = false;
    }

    /// The log was heard of `now`: whatever was pushed before has come.
    pub fn heard_of(&mut self, now: Timestamp) {
        self.heard_at = self.clock.log(now);
    }

    /// What the heads of answers showed a while ago is no news any more.
    fn forget_passing(&mut self) {
        self.fresh.retain(|(_, word)| !matches!(word, Word::Observed { .. }));
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
}
