//! The minute that passes, by tenant and model.

use std::collections::HashMap;
use std::sync::Arc;

use super::hash::Seeded;
use super::{Counts, Sample, UsageRow};

/// Stands for tenants and models that were too many. No configured key can be called so.
pub const OTHER: &str = "(other)";

/// Stands for a tenant or model that a request did not come to have.
pub const NONE: &str = "(none)";

/// Tenants in an hour that are told apart, beside those that are configured.
pub(super) const MOST_TENANTS: usize = 500;

/// Models of one tenant in an hour that are told apart: more than a provider has that anybody uses.
const MOST_MODELS: usize = 32;

/// Tenants and models in an hour that are told apart, in pairs. Each is a row on disk for each minute
/// in which it is used.
const MOST_PAIRS: usize = 1_000;

/// A name longer than this is cut, in bytes: callers choose what models are called.
const LONGEST_NAME: usize = 128;

/// The models of one tenant.
type Models = HashMap<Arc<str>, Counts, Seeded>;

/// Sums since the last time they were taken, and the names known in this hour.
#[derive(Debug)]
pub(super) struct Series {
    minute: u64,
    /// Tenants that are always counted by name.
    known: Vec<Arc<str>>,
    tenants: HashMap<Arc<str>, Models, Seeded>,
    pairs: usize,
}

impl Series {
    pub(super) fn new(known: Vec<Arc<str>>) -> Self {
        let mut series = Self { minute: 0, known, tenants: HashMap::default(), pairs: 0 };
        series.forget();
        series
    }

    /// The minute that passes, from the Unix epoch.
    pub(super) const fn minute(&self) -> u64 {
        self.minute
    }

    /// Another minute begins; with another hour, other names may be known.
    pub(super) fn begin(&mut self, minute: u64) {
        if minute / 60 != self.minute / 60 {
            self.forget();
        }
        self.minute = minute;
    }

    fn forget(&mut self) {
        self.tenants.clear();
        self.pairs = 0;
        self.tenants.extend(self.known.iter().map(|name| (Arc::clone(name), Models::default())));
    }

    pub(super) fn add(&mut self, tenant: &str, model: &str, sample: &Sample) {
        let counts = self.tenants.get_mut(tenant).and_then(|models| models.get_mut(model));
        match counts {
            Some(counts) => counts.count(sample),
            None => self.entry(cut(tenant), cut(model)).count(sample),
        }
    }

    /// The sums of a pair that may be new.
    fn entry(&mut self, tenant: &str, model: &str) -> &mut Counts {
        let full = self.tenants.len() >= self.known.len() + MOST_TENANTS;
        let tenant = if full && !self.tenants.contains_key(tenant) { OTHER } else { tenant };
        let models = match self.tenants.get(tenant) {
            Some(_) => self.tenants.get_mut(tenant),
            None => Some(self.tenants.entry(tenant.into()).or_default()),
        };
        // It was found or made a line above.
        let models = models.expect("an entry");
        let full = models.len() >= MOST_MODELS || self.pairs >= MOST_PAIRS;
        let model = if full && !models.contains_key(model) { OTHER } else { model };
        if !models.contains_key(model) {
            self.pairs += 1;
        }
        models.entry(model.into()).or_default()
    }

    /// Hands over what was added since the last time.
    pub(super) fn take(&mut self, rows: &mut Vec<UsageRow>) {
        let at = self.minute * 60;
        for (tenant, models) in &mut self.tenants {
            for (model, counts) in models.iter_mut().filter(|(_, it)| it.requests() > 0) {
                let counts = std::mem::take(counts);
                let (tenant, model) = (Arc::clone(tenant), Arc::clone(model));
                rows.push(UsageRow { at, tenant, model, counts });
            }
        }
    }

    /// What was added since the last time: beginning of the minute, tenant, model, sums.
    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, &Arc<str>, &Arc<str>, &Counts)> {
        let pairs = self.tenants.iter().flat_map(|(tenant, models)| {
            models.iter().map(move |(model, counts)| (tenant, model, counts))
        });
        let used = pairs.filter(|(_, _, counts)| counts.requests() > 0);
        used.map(|(tenant, model, counts)| (self.minute * 60, tenant, model, counts))
    }
}

/// The beginning of a name that is too long.
fn cut(name: &str) -> &str {
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let end = (0..=LONGEST_NAME).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    &name[..end]
}
