//! What may be asked of the history, and the answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Counts, Keep};
use crate::time::Timestamp;

/// Rows of an answer: a few megabytes. What is more says so.
pub(super) const MOST_ROWS: usize = 10_000;

impl Keep {
    /// What is kept in memory where there is no store.
    pub(super) const MEMORY: Self = {
        let hours = Duration::from_secs(6 * 3_600);
        Self { minutes: hours, hours, days: hours }
    };
}

/// Which sums are told apart.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct By {
    /// By tenant.
    pub tenant: bool,
    /// By model.
    pub model: bool,
}

/// The time of one row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, in UTC.
    Day,
    /// All of it.
    Total,
}

impl Step {
    /// Its name in questions and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Total => "total",
        }
    }

    /// Its length in seconds.
    const fn seconds(self) -> u64 {
        match self {
            Self::Minute | Self::Total => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// A question about the usage from one instant to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Question {
    /// Which sums are told apart.
    pub by: By,
    /// The first instant; where it lies within the finest thing that is kept, all of that counts.
    pub since: Timestamp,
    /// The instant before which usage counts, by the same rule.
    pub until: Timestamp,
    /// The time of one row.
    pub step: Step,
    /// What the sums are made of; decided by [`Question::settled`].
    pub(super) of: Step,
}

/// A row of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Its beginning, in seconds since the Unix epoch.
    pub at: u64,
    /// The tenant, if tenants are told apart.
    pub tenant: Option<Arc<str>>,
    /// The model, if models are.
    pub model: Option<Arc<str>>,
    /// The sums.
    pub counts: Counts,
}

/// What is known, in the order of time, tenant, model.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What was answered.
    pub question: Question,
    /// The rows.
    pub rows: Vec<Group>,
    /// Whether there are more than can be told at once.
    pub truncated: bool,
    /// Whether everything up to now is in it; else what could not be written yet is missing.
    pub complete: bool,
    /// Whether it comes from disk; else from the memory of this process.
    pub disk: bool,
}

/// Time, tenant and model of a row.
type Key = (u64, Option<Arc<str>>, Option<Arc<str>>);

impl Question {
    /// A question that [`super::History::ask`] answers.
    pub const fn new(by: By, since: Timestamp, until: Timestamp, step: Step) -> Self {
        Self { by, since, until, step, of: step }
    }

    /// The finest resolution of the answer's beginning and end.
    pub const fn resolution(&self) -> Step {
        self.of
    }

    /// The question that can be answered exactly: sums of what is still kept, from the beginning of
    /// the first of them.
    pub(super) fn settled(mut self, now: Timestamp, keep: Keep) -> Self {
        let age = now.since(self.since);
        self.of = match self.step {
            Step::Total if age <= keep.minutes => Step::Minute,
            Step::Total if age <= keep.hours => Step::Hour,
            Step::Total => Step::Day,
            step => step,
        };
        let whole = self.of.seconds() * 1_000_000_000;
        let since = self.since.as_nanos();
        self.since = Timestamp::from_nanos(since - since % whole);
        self
    }

    /// The first second that counts, and the first that does not.
    pub(super) const fn span(&self) -> (u64, u64) {
        let (since, until) = (self.since.as_nanos(), self.until.as_nanos());
        (since / 1_000_000_000, until.div_ceil(1_000_000_000))
    }

    /// Adds a minute's sums to the group that they belong to.
    pub(super) fn fold(
        &self,
        groups: &mut HashMap<Key, Counts>,
        at: u64,
        tenant: &Arc<str>,
        model: &Arc<str>,
        counts: &Counts,
    ) {
        let (since, until) = self.span();
        let whole = at - at % self.of.seconds();
        if !(since..until).contains(&whole) {
            return;
        }
        let at = if self.step == Step::Total { since } else { whole };
        let tenant = self.by.tenant.then(|| Arc::clone(tenant));
        let model = self.by.model.then(|| Arc::clone(model));
        groups.entry((at, tenant, model)).or_default().add(counts);
    }

    /// The groups in order, as many as can be told.
    pub(super) fn in_order(&self, groups: HashMap<Key, Counts>) -> (Vec<Group>, bool) {
        let mut rows: Vec<_> = groups
            .into_iter()
            .map(|((at, tenant, model), counts)| Group { at, tenant, model, counts })
            .collect();
        rows.sort_by(|a, b| (a.at, &a.tenant, &a.model).cmp(&(b.at, &b.tenant, &b.model)));
        let truncated = rows.len() > MOST_ROWS;
        rows.truncate(MOST_ROWS);
        (rows, truncated)
    }
}
