//! Opens the database, or says why it cannot be.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::Instant;

use super::lock::Lock;
use super::schema::SCHEMA;
use super::write::{Mark, write_mark};
use super::{DATABASE, Local, OpenError, Options, Saved, Waker, read};
use crate::store::database::{self, quick_check};
use crate::time::Machine;

/// How long the usage history is checked at the start: half a gigabyte's worth. What the quota depends
/// on is always checked whole; it is a few megabytes.
const CHECK_FOR: Duration = Duration::from_secs(2);

/// Instructions of SQLite's between two looks at the clock: some tens of microseconds.
const LOOK_EVERY: i32 = 10_000;

pub(super) fn open(dir: &Path, options: Options) -> Result<(Local, Saved), OpenError> {
    database::private_directory(dir)?;
    let lock = Lock::take(dir)?;
    let file = dir.join(DATABASE);
    SCHEMA.provide(dir, &file)?;
    let (connection, saved) = ready(&file, options)?;
    let journal = saved.pools.iter().map(|pool| (pool.key, pool.events.len() as u64)).collect();
    let (machine, waker) = (Machine::identify(), Waker::default());
    let local = Local { file, connection, machine, waker, options, journal, _lock: lock };
    Ok((local, saved))
}

/// Brings the database up to date, checks it, makes sure that it can be written, and reads it.
fn ready(file: &Path, options: Options) -> Result<(Connection, Saved), OpenError> {
    let failed = |problem| OpenError::database(file, problem);
    let damaged = |problem: String| OpenError::Damaged { file: file.to_owned(), problem };
    let mut connection = SCHEMA.connect(file)?;
    if let Some(problem) = check(&connection).map_err(failed)? {
        return Err(damaged(problem));
    }
    database::configure(&connection, options.sync).map_err(failed)?;
    let saved = take_over(&mut connection).map_err(failed)?;
    Ok((connection, saved))
}

/// Reads what is there, and marks that the process may end without a word from now on, which is also
/// the test that it can be written. What cannot be read is left as it is.
fn take_over(connection: &mut Connection) -> rusqlite::Result<Saved> {
    let transaction = connection.transaction()?;
    SCHEMA.bring_to(&transaction, SCHEMA.steps.len())?;
    let saved = read::saved(&transaction)?;
    if let Some(stamp) = saved.last {
        let mark = Mark { stamp, clean: false, quiet: saved.quiet };
        write_mark(&transaction, &mark)?;
    }
    transaction.commit()?;
    Ok(saved)
}

/// The first thing that is wrong with the database, if anything is.
fn check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    for table in ["mark", "pools", "journal", "learned"] {
        if let Some(problem) = quick_check(connection, &format!("quick_check('{table}')"))? {
            return Ok(Some(problem));
        }
    }
    let until = Instant::now() + CHECK_FOR;
    connection.progress_handler(LOOK_EVERY, Some(move || Instant::now() > until))?;
    let checked = quick_check(connection, "quick_check(1)");
    connection.progress_handler(0, None::<fn() -> bool>)?;
    match checked {
        Err(problem)
            if problem.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) =>
        {
            tracing::info!("the usage history is large: only a part of it was checked");
            Ok(None)
        }
        checked => checked,
    }
}
