//! What is learned of requests, by pool and tenant, while the gateway runs.
//!
//! # Invariants
//!
//! - Bounded: callers choose models and, in pass-through, tenants. At the bound, what was used
//!   longest ago makes room; it is learned again within a few answers.
//! - Nothing is made for a request, only for an answer: models that do not exist leave no trace.
//! - A lookup takes no memory.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::admission::PoolKey;
use crate::usage::{Calibration, Demand, Lesson, Summary, Usage};

/// Callers and models remembered. Each takes 6 KB for every kind of text it sends, of which there
/// are four; most send one or two.
const MOST: usize = 1_024;

/// Whose requests, to what.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Subject {
    pub(super) pool: PoolKey,
    pub(super) tenant: Arc<str>,
}

/// Every calibration of this process.
#[derive(Debug, Default)]
pub(super) struct Book {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Subject, Entry>,
    /// Counts uses, so that the oldest is known.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    calibration: Arc<Mutex<Calibration>>,
    used: u64,
    /// Whether something was learned that has not been saved.
    changed: bool,
}

/// What a request teaches when it has ended.
#[derive(Clone, Debug)]
pub(super) struct Study {
    pub(super) book: Arc<Book>,
    pub(super) subject: Subject,
    /// The request as it was sent.
    pub(super) demand: Demand,
    /// Its prompt's tokens, if they were counted.
    pub(super) counted: Option<u64>,
}

impl Book {
    /// What is known of a subject, if anything is.
    pub(super) fn find(&self, subject: &Subject) -> Option<Arc<Mutex<Calibration>>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let clock = state.clock;
        let entry = state.entries.get_mut(subject)?;
        entry.used = clock;
        Some(Arc::clone(&entry.calibration))
    }

    /// The same, to learn; made if there is nothing yet.
    fn entry(&self, subject: Subject) -> Arc<Mutex<Calibration>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let clock = state.clock;
        if let Some(entry) = state.entries.get_mut(&subject) {
            (entry.used, entry.changed) = (clock, true);
            return Arc::clone(&entry.calibration);
        }
        state.add(subject, Arc::default(), true)
    }

    /// Takes up what was learned before, unless that has been learned anew.
    pub(super) fn restore(&self, subject: Subject, calibration: Calibration) {
        let mut state = self.state.lock();
        if !state.entries.contains_key(&subject) {
            state.add(subject, Arc::new(Mutex::new(calibration)), false);
        }
    }

    /// What has been learned since the last time, or `all` there is; and whose.
    pub(super) fn save(&self, all: bool) -> Vec<(Subject, Vec<u8>)> {
        let mut state = self.state.lock();
        let wanted = state.entries.iter_mut().filter(|(_, entry)| entry.changed || all);
        let mut found: Vec<_> = wanted
            .map(|(subject, entry)| {
                entry.changed = false;
                (entry.used, subject.clone(), Arc::clone(&entry.calibration))
            })
            .collect();
        drop(state);
        // The latest last: that is the order in which they are taken up again.
        found.sort_unstable_by_key(|(used, ..)| *used);
        found.into_iter().map(|(_, subject, it)| (subject, it.lock().save())).collect()
    }
}

impl State {
    fn add(
        &mut self,
        subject: Subject,
        calibration: Arc<Mutex<Calibration>>,
        changed: bool,
    ) -> Arc<Mutex<Calibration>> {
        let state = self;
        if state.entries.len() >= MOST {
            // Rare, and a thousand numbers to look at.
            let oldest = state.entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) {
                state.entries.remove(&oldest);
            }
        }
        let used = state.clock;
        let entry = state.entries.entry(subject);
        let entry = entry.or_insert(Entry { calibration, used, changed });
        Arc::clone(&entry.calibration)
    }
}

impl Book {
    /// What has been learned of the tenants of a pool, by name, at most `most` of them.
    pub(super) fn of_pool(&self, pool: PoolKey, most: usize) -> Vec<(Arc<str>, Summary)> {
        let state = self.state.lock();
        let mut found: Vec<_> = state
            .entries
            .iter()
            .filter(|(subject, _)| subject.pool == pool)
            .map(|(subject, entry)| (Arc::clone(&subject.tenant), Arc::clone(&entry.calibration)))
            .collect();
        drop(state);
        found.sort_by(|one, other| one.0.cmp(&other.0));
        found.truncate(most);
        found.into_iter().map(|(tenant, it)| (tenant, it.lock().summary())).collect()
    }
}

impl Study {
    /// Learns from the answer: what it used, and whether an output limit cut it.
    pub(super) fn learn(self, usage: Usage, cut: bool) {
        let calibration = self.book.entry(self.subject);
        let lesson = Lesson { usage, counted: self.counted, cut };
        calibration.lock().learn(&self.demand, lesson);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::BodyKind;

    fn study(book: &Arc<Book>, tenant: usize) -> Study {
        let kind = BodyKind::from_headers(None, None).unwrap();
        let demand = Demand::read(kind, br#"{"model":"m","messages":[]}"#, 100).unwrap();
        let subject = Subject { pool: PoolKey([1; 16]), tenant: format!("t{tenant:05}").into() };
        Study { book: Arc::clone(book), subject, demand, counted: None }
    }

    #[test]
    fn callers_are_told_apart_and_the_one_unused_longest_makes_room() {
        let book = Arc::new(Book::default());
        let usage = Usage { prompt: 5, completion: 5, total: 10, cached: 0 };
        for tenant in 0..MOST {
            study(&book, tenant).learn(usage, false);
        }
        // The first is used again; so the second goes when one more comes.
        assert!(book.find(&study(&book, 0).subject).is_some());
        study(&book, MOST).learn(usage, false);
        let known = |tenant| book.find(&study(&book, tenant).subject).is_some();
        assert_eq!([0, 1, 2, MOST].map(known), [true, false, true, true]);
        assert_eq!(book.state.lock().entries.len(), MOST);
        let shown = book.of_pool(PoolKey([1; 16]), 3);
        assert_eq!(shown.len(), 3);
        assert!(shown.iter().all(|(_, summary)| summary.answers == 1));
        assert!(book.of_pool(PoolKey([2; 16]), 3).is_empty());
        study(&book, 0).learn(usage, false);
        assert_eq!(book.find(&study(&book, 0).subject).unwrap().lock().summary().answers, 2);
    }
}
