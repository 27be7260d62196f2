//! What is measured.

use std::num::NonZeroU32;

use super::section::Section;

/// Each tenant has nine series of some eighty bytes: with so many a scrape stays below a megabyte.
const MOST_TENANTS: u32 = 1_000;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metrics {
    /// Tenants told apart by name.
    pub max_tenants: NonZeroU32,
}

/// Reads the section.
pub(super) fn metrics(mut section: Section<'_>) -> Metrics {
    const DEFAULT: NonZeroU32 = NonZeroU32::new(200).expect("above zero");
    let max_tenants = section.get_or("max_tenants", DEFAULT);
    if max_tenants.get() > MOST_TENANTS {
        let message = format!("at most {MOST_TENANTS}, got {max_tenants}: /usage tells more apart");
        section.problem("max_tenants", message);
    }
    section.finish();
    Metrics { max_tenants }
}
