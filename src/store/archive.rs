//! Files and batches of requests, in a directory of this machine: the files as they are, all else in
//! an SQLite database of its own, so that large results are in nobody's way.
//!
//! One thread has the database. What it is asked to do ([`Archive`]'s methods) it does in the order in
//! which it was asked, and commits whatever has gathered meanwhile at once; an answer comes when the
//! commit has been made.
//!
//! # Invariants
//!
//! - **Committed, then said.** No method returns before what it did would survive the process.
//! - **Once.** A line of a batch has one result at most: a second one changes nothing.
//! - **A file is there if the database says so.** It is complete and named before it is entered, and
//!   taken out before it is deleted; what else lies in the directory is removed at the start.

mod batches;
mod files;
mod lines;
mod record;
mod schema;
#[cfg(test)]
mod tests;
mod thread;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

pub use self::record::{
    Batch, Counts, Done, InUse, LineProblem, Page, Purpose, Record, State, StoredFile,
};
use self::schema::SCHEMA;
use self::thread::Thread;
pub use self::thread::Trouble;
use super::database;
use super::local::OpenError;
use super::local::lock::Lock;
use crate::config::Durability;

/// The name of the database in its directory.
const DATABASE: &str = "batches.db";

/// The directory of the files, and what the name of one ends in that is not complete.
const FILES: &str = "files";
const PARTIAL: &str = "part";

/// A directory with files and batches, open for this process alone.
#[derive(Clone, Debug)]
pub struct Archive {
    thread: Thread,
    files: Arc<Path>,
    /// Bytes of all files and results.
    stored: Arc<AtomicU64>,
}

impl Archive {
    /// Opens the directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, another process uses it, or what is in it cannot be trusted.
    pub fn open(dir: &Path, sync: Durability) -> Result<Self, OpenError> {
        database::private_directory(dir)?;
        let files = dir.join(FILES);
        database::private_directory(&files)?;
        let lock = Lock::take(dir)?;
        let file = dir.join(DATABASE);
        SCHEMA.provide(dir, &file)?;
        let mut connection = SCHEMA.connect(&file)?;
        let failed = |problem| OpenError::database(&file, problem);
        if let Some(problem) =
            database::quick_check(&connection, "quick_check(1)").map_err(failed)?
        {
            return Err(OpenError::Damaged { file, problem });
        }
        database::configure(&connection, sync).map_err(failed)?;
        let stored = begin(&mut connection).map_err(failed)?;
        let unusable = |problem| OpenError::Unusable { path: files.clone(), problem };
        files::tidy(&connection, &files).map_err(failed)?.map_err(unusable)?;
        let thread = Thread::start(connection, lock).map_err(unusable)?;
        Ok(Self { thread, files: files.into(), stored: Arc::new(AtomicU64::new(stored)) })
    }

    /// Where the content of the file `id` is.
    pub fn path(&self, id: &str) -> PathBuf {
        self.files.join(id)
    }

    /// Where the content of the file `id` is written, until it is complete.
    pub fn partial_path(&self, id: &str) -> PathBuf {
        self.files.join(id).with_extension(PARTIAL)
    }

    /// Bytes of all files and results.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Ends the thread when all has been done that it was asked for, and closes the database.
    pub async fn close(&self) {
        self.thread.close().await;
    }

    /// Counts bytes that are about to be stored.
    pub fn grow(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts them no more.
    pub fn shrink(&self, bytes: u64) {
        let less = |stored: u64| Some(stored.saturating_sub(bytes));
        // It always succeeds: `less` has an answer for every number.
        let _ = self.stored.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Brings the database up to date, which is also the test that it can be written; the bytes stored.
fn begin(connection: &mut Connection) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    SCHEMA.bring_to(&transaction, SCHEMA.steps.len())?;
    let files: i64 =
        transaction.query_row("SELECT coalesce(sum(bytes), 0) FROM files", [], |row| row.get(0))?;
    let lines: i64 =
        transaction
            .query_row("SELECT coalesce(sum(length(text)), 0) FROM lines", [], |row| row.get(0))?;
    transaction.commit()?;
    Ok(u64::try_from(files + lines).unwrap_or(0))
}
