//! Who used how much since midnight in UTC, by tenant: sums of the minutes that have passed.
//!
//! # Invariants
//!
//! - Bounded: beyond [`MOST_TENANTS`] that are not configured, tenants are added up as [`OTHER`].
//! - Adding costs a request nothing: whole minutes are added, and the one that passes when asked.

use std::collections::HashMap;
use std::sync::Arc;

use super::series::{MOST_TENANTS, OTHER};
use super::{Counts, UsageRow};

/// Seconds of a day.
pub(super) const DAY: u64 = 86_400;

/// Sums of the day that passes.
#[derive(Debug, Default)]
pub(super) struct Today {
    /// From the Unix epoch.
    day: u64,
    /// Tenants that are always counted by name, whether they have used anything or not.
    known: Vec<Arc<str>>,
    tenants: HashMap<Arc<str>, Counts>,
}

impl Today {
    pub(super) fn new(known: Vec<Arc<str>>) -> Self {
        Self { known, ..Self::default() }
    }

    /// Adds sums of minutes, of this day or a later one.
    pub(super) fn add(&mut self, rows: &[UsageRow]) {
        for UsageRow { at, tenant, counts, .. } in rows {
            let day = at / DAY;
            if day > self.day {
                self.day = day;
                self.tenants.clear();
            }
            if day == self.day {
                count(&mut self.tenants, &self.known, tenant, counts);
            }
        }
    }

    /// The sums of a day, with the `rows` that were not added yet.
    pub(super) fn told<'a>(
        &self,
        day: u64,
        rows: impl Iterator<Item = (u64, &'a Arc<str>, &'a Arc<str>, &'a Counts)>,
    ) -> Vec<(Arc<str>, Counts)> {
        let mut tenants = if day == self.day { self.tenants.clone() } else { HashMap::default() };
        for (at, tenant, _, counts) in rows {
            if at / DAY == day {
                count(&mut tenants, &self.known, tenant, counts);
            }
        }
        tenants.into_iter().collect()
    }
}

fn count(
    tenants: &mut HashMap<Arc<str>, Counts>,
    known: &[Arc<str>],
    tenant: &Arc<str>,
    counts: &Counts,
) {
    if let Some(sums) = tenants.get_mut(tenant) {
        sums.add(counts);
        return;
    }
    let full = tenants.len() >= known.len() + MOST_TENANTS && !known.contains(tenant);
    let tenant = if full { OTHER.into() } else { Arc::clone(tenant) };
    tenants.entry(tenant).or_default().add(counts);
}
