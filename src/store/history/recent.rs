//! Minutes that have passed and are in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Counts, UsageRow};

/// Rows in memory, of 150 bytes and two names: a hundred tenants for three hours.
const MOST_ROWS: usize = 20_000;

/// Rows of whole minutes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    rows: VecDeque<UsageRow>,
}

impl Recent {
    /// Adds a minute, the latest.
    pub(super) fn put(&mut self, rows: Vec<UsageRow>) {
        self.rows.extend(rows);
    }

    /// Hands over everything.
    pub(super) fn take(&mut self, rows: &mut Vec<UsageRow>) {
        rows.extend(self.rows.drain(..));
    }

    /// Forgets what is too old or too much, by whole minutes: a part of one would be a wrong sum.
    pub(super) fn forget(&mut self, minute: u64, keep: Duration) {
        while let Some(oldest) = self.rows.front().map(|row| row.at) {
            let until = oldest.saturating_add(keep.as_secs());
            if until > minute * 60 && self.rows.len() <= MOST_ROWS {
                return;
            }
            let end = self.rows.iter().position(|row| row.at != oldest);
            self.rows.drain(..end.unwrap_or(self.rows.len()));
        }
    }

    /// Beginning of the minute, tenant, model, sums.
    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, &Arc<str>, &Arc<str>, &Counts)> {
        self.rows.iter().map(|row| (row.at, &row.tenant, &row.model, &row.counts))
    }
}
