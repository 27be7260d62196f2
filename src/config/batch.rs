//! The section `[batch]`: files and batches of requests that the gateway works off by itself.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use super::classes::Classes;
use super::section::Section;
use super::value::Bytes;

/// What OpenAI allows for one batch.
const MAX_LINES: NonZeroU32 = NonZeroU32::new(50_000).expect("not zero");
const MAX_FILE: Bytes = Bytes(NonZeroU64::new(200 << 20).expect("not zero"));
/// Fifty files of the largest size with their answers; a disk is rarely smaller.
const MAX_STORED: Bytes = Bytes(NonZeroU64::new(20 << 30).expect("not zero"));
/// At 100 requests a second that take ten seconds each, none waits for this.
const MAX_IN_FLIGHT: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
/// Each is preceded by the gateway's own retries of a request.
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(5).expect("not zero");
/// One a minute for two hours and a half.
const MAX_BATCHES: NonZeroU32 = NonZeroU32::new(150).expect("not zero");
const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A line's number shares 64 bits with its batch's.
const MOST_LINES: u32 = 10_000_000;

/// Files and batches, and what they may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The directory; `None` for the one below the state's.
    pub dir: Option<PathBuf>,
    /// Index of the class of the requests in batches.
    pub class: usize,
    /// Requests in one batch.
    pub max_lines: NonZeroU32,
    /// Bytes of one uploaded file.
    pub max_file_bytes: NonZeroU64,
    /// Bytes of all files and results kept.
    pub max_stored_bytes: NonZeroU64,
    /// Batches of all callers that are not finished.
    pub max_batches: NonZeroU32,
    /// Requests of batches at the upstream at once, all batches together.
    pub max_in_flight: NonZeroU32,
    /// Times that a failing request is tried, each with the retries of `[retry]`.
    pub max_attempts: NonZeroU32,
    /// How long files are kept, and batches after their end.
    pub keep: Duration,
}

/// Reads the section.
pub(super) fn batch(mut section: Section<'_>, classes: &Classes) -> Batch {
    let dir = section.get_or("dir", String::new());
    let last = classes.all().len().saturating_sub(1);
    let usual = classes.index("batch").unwrap_or(last);
    let named = section.get::<String>("class").filter(|name| !name.is_empty());
    let class = named.map_or(usual, |name| {
        classes.index(&name).unwrap_or_else(|| {
            let message = format!("one of {} is expected, got {name:?}", classes.listed());
            section.problem("class", message);
            usual
        })
    });
    let batch = Batch {
        dir: (!dir.is_empty()).then(|| PathBuf::from(dir)),
        class,
        max_lines: section.get_or("max_lines", MAX_LINES),
        max_file_bytes: section.get_or("max_file_bytes", MAX_FILE).0,
        max_stored_bytes: section.get_or("max_stored_bytes", MAX_STORED).0,
        max_batches: section.get_or("max_batches", MAX_BATCHES),
        max_in_flight: section.get_or("max_in_flight", MAX_IN_FLIGHT),
        max_attempts: section.get_or("max_attempts", MAX_ATTEMPTS),
        keep: section.get_or("keep", KEEP),
    };
    if batch.max_lines.get() > MOST_LINES {
        section.problem("max_lines", format!("at most {MOST_LINES}"));
    }
    if batch.max_in_flight.get() > 1_000_000 {
        section.problem("max_in_flight", "at most 1000000");
    }
    if batch.keep < Duration::from_secs(3_600) {
        section.problem("keep", "at least 1h: results have to be fetched");
    }
    section.finish();
    batch
}
