//! Who used how much: requests, tokens and waits by tenant, model and minute.
//!
//! Requests are added up in memory, under one short lock. Where state is kept on disk, the store's
//! thread takes the sums along with its commits (`table`); where it is not, those of the last hours
//! stay in memory. Either way a [`Question`] gets the same kind of answer.
//!
//! # Invariants
//!
//! - Bounded: callers choose models and, in pass-through, tenants. Beyond what is bounded they are
//!   added up as [`OTHER`]; the totals are always right.
//! - Adding takes no memory but for the first request of a tenant and model within an hour.
//! - Nothing of a request is kept but numbers, and the names that the log has as well.

mod counts;
mod hash;
mod question;
mod recent;
mod series;
pub(in crate::store) mod table;
mod today;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::counts::{Counts, Fate, Sample};
pub use self::question::{Answer, By, Group, Question, Step};
use self::recent::Recent;
use self::series::Series;
pub use self::series::{NONE, OTHER};
use self::today::{DAY, Today};
use crate::config::State;
use crate::store::local::{Desk, Waker};
use crate::time::{Epoch, Timestamp};

/// How long an answer may take: a million rows are added up in less.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long usage is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keep {
    /// By the minute.
    pub minutes: Duration,
    /// By the hour.
    pub hours: Duration,
    /// By the day.
    pub days: Duration,
}

impl From<&State> for Keep {
    fn from(state: &State) -> Self {
        let State { keep_minutes: minutes, keep_hours: hours, keep_days: days, .. } = *state;
        Self { minutes, hours, days }
    }
}

/// Sums of one tenant and model.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsageRow {
    /// The beginning of the minute (hour, day), in seconds since the Unix epoch.
    pub at: u64,
    /// Whose requests.
    pub tenant: Arc<str>,
    /// To which model.
    pub model: Arc<str>,
    /// How much.
    pub counts: Counts,
}

impl UsageRow {
    /// Sums of one tenant and every model.
    fn of_tenant(Group { at, tenant, counts, .. }: Group) -> Self {
        Self { at, tenant: tenant.unwrap_or_else(|| NONE.into()), model: NONE.into(), counts }
    }
}

/// A day, to be added to an instant.
const DAY_LONG: Duration = Duration::from_secs(DAY);

/// The beginning of the day in UTC.
const fn midnight(now: Timestamp) -> Timestamp {
    let now = now.as_nanos();
    Timestamp::from_nanos(now - now % (DAY * 1_000_000_000))
}

/// The usage of this process's callers, and of those before it if it is kept on disk.
#[derive(Debug)]
pub struct History {
    epoch: Epoch,
    keep: Option<Keep>,
    sums: Mutex<Sums>,
    disk: OnceLock<Disk>,
}

#[derive(Debug)]
struct Sums {
    now: Series,
    /// Minutes that have passed: all there is to ask of, or what the disk has yet to take.
    recent: Recent,
    /// The day that passes, up to the last time that `now` was taken.
    today: Today,
}

#[derive(Debug)]
struct Disk {
    waker: Waker,
    desk: Desk,
}

/// A question cannot be answered now.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is more to add up than fits into the time.
    #[error("this takes too long: ask for a shorter time or a coarser step")]
    TooLong,
    /// The database cannot be read.
    #[error("the history cannot be read")]
    Unreadable(#[source] rusqlite::Error),
    /// A defect.
    #[error("the history cannot be read")]
    Defect,
}

impl History {
    /// No usage yet. With `keep` it is for a store to take; else the last hours stay in memory.
    /// `known` are tenants that are counted by name however many others there are.
    pub fn new(epoch: Epoch, keep: Option<Keep>, known: Vec<Arc<str>>) -> Self {
        let today = Today::new(known.clone());
        let sums = Sums { now: Series::new(known), recent: Recent::default(), today };
        Self { epoch, keep, sums: Mutex::new(sums), disk: OnceLock::new() }
    }

    /// Rings `waker` from now on when there is something to take, and asks at `desk`.
    pub fn attach(&self, waker: Waker, desk: Desk) {
        self.recall(&desk);
        // Once: a process has one store.
        let _ = self.disk.set(Disk { waker, desk });
    }

    /// Takes up what was used on this day before the process began.
    fn recall(&self, desk: &Desk) {
        let now = self.epoch.now();
        let by = By { tenant: true, model: false };
        let question = Question::new(by, midnight(now), now.after(DAY_LONG), Step::Day);
        let question = question.settled(now, self.keep.unwrap_or(Keep::MEMORY));
        match desk.look(PATIENCE, |connection| table::select(connection, &question)) {
            Ok((groups, _)) => {
                let rows: Vec<_> = groups.into_iter().map(UsageRow::of_tenant).collect();
                self.sums.lock().today.add(&rows);
            }
            Err(error) => tracing::warn!(%error, "today's usage begins with this process"),
        }
    }

    /// Midnight in UTC, and who used how much since then; beyond a number of tenants as [`OTHER`].
    pub fn today(&self) -> (Timestamp, Vec<(Arc<str>, Counts)>) {
        let midnight = midnight(self.epoch.now());
        let sums = self.sums.lock();
        let day = midnight.as_nanos() / 1_000_000_000 / DAY;
        (midnight, sums.today.told(day, sums.now.rows()))
    }

    /// Adds a request that ends now.
    pub fn add(&self, tenant: Option<&str>, model: Option<&str>, sample: &Sample) {
        self.add_at(Instant::now(), tenant, model, sample);
    }

    /// Adds a request that ended at `ended`, for whoever has looked at the clock already.
    pub fn add_at(
        &self,
        ended: Instant,
        tenant: Option<&str>,
        model: Option<&str>,
        sample: &Sample,
    ) {
        let minute = self.epoch.timestamp(ended).as_nanos() / 60_000_000_000;
        let mut sums = self.sums.lock();
        // Whoever ended at the end of a minute and comes late counts in the next.
        if sums.now.minute() < minute {
            sums.turn(minute, self.keep.is_some());
        }
        sums.now.add(tenant.unwrap_or(NONE), model.unwrap_or(NONE), sample);
        drop(sums);
        if let Some(disk) = self.disk.get() {
            disk.waker.wake();
        }
    }

    /// Adds sums of another process that ends.
    pub fn take_up(&self, rows: Vec<UsageRow>) {
        let mut sums = self.sums.lock();
        sums.today.add(&rows);
        sums.recent.put(rows);
        drop(sums);
        if let Some(disk) = self.disk.get() {
            disk.waker.wake();
        }
    }

    /// Hands over what was added since the last call; for the store's source.
    pub fn collect(&self, rows: &mut Vec<UsageRow>) {
        let mut sums = self.sums.lock();
        sums.recent.take(rows);
        sums.take(rows);
    }

    /// Answers a question with what was added up to now, unless the disk keeps it from being known:
    /// then the answer says that it is not complete.
    ///
    /// # Errors
    ///
    /// If there is too much to add up, or the database cannot be read.
    pub async fn ask(self: &Arc<Self>, question: Question) -> Result<Answer, AskError> {
        let Some(disk) = self.disk.get() else {
            return Ok(self.answer_from_memory(question));
        };
        let complete = disk.desk.flush(PATIENCE).await;
        let (desk, now) = (disk.desk.clone(), self.epoch.now());
        let keep = self.keep.unwrap_or(Keep::MEMORY);
        let looked = tokio::task::spawn_blocking(move || {
            let question = question.settled(now, keep);
            let rows = desk.look(PATIENCE, |connection| table::select(connection, &question));
            rows.map(|(rows, truncated)| Answer { question, rows, truncated, complete, disk: true })
        });
        match looked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) {
                    AskError::TooLong
                } else {
                    AskError::Unreadable(error)
                },
            ),
            Err(_) => Err(AskError::Defect),
        }
    }

    fn answer_from_memory(&self, question: Question) -> Answer {
        let question = question.settled(self.epoch.now(), Keep::MEMORY);
        let sums = self.sums.lock();
        let mut groups = HashMap::new();
        let rows = sums.recent.rows().chain(sums.now.rows());
        for (at, tenant, model, counts) in rows {
            question.fold(&mut groups, at, tenant, model, counts);
        }
        drop(sums);
        let (rows, truncated) = question.in_order(groups);
        Answer { question, rows, truncated, complete: true, disk: false }
    }
}

impl Sums {
    /// Hands over what was added since the last time, and counts it as today's.
    fn take(&mut self, rows: &mut Vec<UsageRow>) {
        let before = rows.len();
        self.now.take(rows);
        self.today.add(&rows[before..]);
    }

    /// A minute has passed.
    fn turn(&mut self, minute: u64, taken: bool) {
        let mut rows = Vec::new();
        self.take(&mut rows);
        self.now.begin(minute);
        self.recent.put(rows);
        // What is taken is taken within a second; if whoever takes it has failed, it is bounded still.
        let keep = if taken { Duration::MAX } else { Keep::MEMORY.minutes };
        self.recent.forget(minute, keep);
    }
}

#[cfg(test)]
mod tests;
