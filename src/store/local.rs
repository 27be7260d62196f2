//! State in a directory of this machine: an SQLite database and the thread that writes it.
//!
//! [`Local::open`] takes the directory for this process alone, brings the database up to date, checks
//! it and reads what is there. [`Local::start`] hands it to a thread of its own, which asks a
//! [`Source`] what has changed and commits that: at once when something happens after a quiet while,
//! then every tenth of a second for as long as something does. When nothing does, the thread sleeps.
//!
//! # Invariants
//!
//! - **Off the path of requests.** They only ring: an atomic swap, and an unpark if the thread sleeps.
//! - **All or nothing.** What one call of [`Source::collect`] gave is committed in one transaction,
//!   after all that came before it.
//! - **Trouble is not the requests'.** When a commit fails it is tried again, less and less often; what
//!   waits for it is bounded, and when it has been dropped the source is asked for everything.
//! - **No silent loss.** A database that is damaged, or newer than this program, is an error at the
//!   start; nothing is ever put in its place.

mod backlog;
mod error;
mod keeper;
mod kept;
pub(super) mod lock;
mod open;
mod read;
mod running;
mod schema;
#[cfg(test)]
mod tests;
mod waker;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub use self::error::OpenError;
pub use self::kept::{Batch, Learned, PoolBatch, Saved, SavedPool, Source, Stamp};
use self::lock::Lock;
pub use self::running::{Desk, Running};
pub use self::waker::Waker;
use crate::admission::PoolKey;
use crate::config::Durability;
use crate::time::Machine;

/// The name of the database in its directory.
pub const DATABASE: &str = "tidegate.db";

/// How the store works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// What a commit waits for.
    pub sync: Durability,
    /// How long usage is kept.
    pub keep: super::history::Keep,
}

/// A directory that is this process's own, and its database.
#[derive(Debug)]
pub struct Local {
    file: PathBuf,
    connection: Connection,
    machine: Machine,
    waker: Waker,
    options: Options,
    /// Bytes of each pool's journal.
    journal: HashMap<PoolKey, u64>,
    /// Last, so that the directory is free only when the database is closed.
    _lock: Lock,
}

impl Local {
    /// Opens the database in `dir`, which is made if it is not there, and reads it.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, another process uses it, or what is in it cannot be trusted.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Saved), OpenError> {
        open::open(dir, options)
    }

    /// What rings the thread, before and after it starts.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
