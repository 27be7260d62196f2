//! Opens the database, or says why it cannot be.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::time::Instant;

use super::lock::Lock;
use super::schema::{self, STEPS};
use super::{DATABASE, Local, OpenError, Options, Saved, Waker, read};
use crate::config::Durability;
use crate::time::Machine;

/// How long the usage history is checked at the start: half a gigabyte's worth. What the quota depends
/// on is always checked whole; it is a few megabytes.
const CHECK_FOR: Duration = Duration::from_secs(2);

/// Instructions of SQLite's between two looks at the clock: some tens of microseconds.
const LOOK_EVERY: i32 = 10_000;

/// How long a commit waits for somebody who looks at the database with other tools.
const BUSY: Duration = Duration::from_secs(1);

/// The log is folded into the database at so many pages (4 MB), and cut to this size if it was longer.
const LOG_PAGES: i64 = 1_000;
const LOG_BYTES: i64 = 16 << 20;

pub(super) fn open(dir: &Path, options: Options) -> Result<(Local, Saved), OpenError> {
    let unusable = |problem| OpenError::Unusable { path: dir.to_owned(), problem };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let lock = Lock::take(dir)?;
    let file = dir.join(DATABASE);
    match fs::metadata(&file) {
        // A new database gets its name when it is whole, so this one was cut off since.
        Ok(found) if found.len() == 0 => {
            let problem = "it is empty".to_owned();
            return Err(OpenError::Damaged { file, problem });
        }
        Ok(_) => {}
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => create(dir, &file)?,
        Err(problem) => return Err(OpenError::Unusable { path: file, problem }),
    }
    let (connection, saved) = ready(&file, options)?;
    let bytes = |batches: &[Vec<u8>]| batches.iter().map(|events| events.len() as u64).sum();
    let journal = saved.pools.iter().map(|pool| (pool.key, bytes(&pool.batches))).collect();
    let (machine, waker) = (Machine::identify(), Waker::default());
    let local = Local { file, connection, machine, waker, options, journal, _lock: lock };
    Ok((local, saved))
}

/// Makes a database beside its place, and puts it there when it is whole.
fn create(dir: &Path, file: &Path) -> Result<(), OpenError> {
    let new = file.with_extension("new");
    // What a process left that was killed here; and the log of a database that was taken away, which
    // would be taken for the new one's.
    for suffix in ["new", "new-wal", "new-shm", "db-wal", "db-shm"] {
        let path = file.with_extension(suffix);
        match fs::remove_file(&path) {
            Err(problem) if problem.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Unusable { path, problem });
            }
            _ => {}
        }
    }
    let unusable = |problem| OpenError::Unusable { path: new.clone(), problem };
    // Nobody else's to read: it says who used how much.
    let mut private = fs::OpenOptions::new();
    private.write(true).create_new(true).mode(0o600).open(&new).map_err(unusable)?;
    let made = connect(&new).and_then(|mut connection| {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let transaction = connection.transaction()?;
        schema::bring_to(&transaction, STEPS.len())?;
        transaction.commit()?;
        connection.close().map_err(|(_, problem)| problem)
    });
    made.map_err(|problem| OpenError::database(&new, problem))?;
    let placed = File::open(&new)
        .and_then(|made| made.sync_all())
        .and_then(|()| fs::rename(&new, file))
        .and_then(|()| File::open(dir)?.sync_all());
    placed.map_err(unusable)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Brings the database up to date, checks it, makes sure that it can be written, and reads it.
fn ready(file: &Path, options: Options) -> Result<(Connection, Saved), OpenError> {
    let failed = |problem| OpenError::database(file, problem);
    let mut connection = connect(file).map_err(failed)?;
    let found = schema::version(&connection).map_err(failed)?;
    let damaged = |problem: String| OpenError::Damaged { file: file.to_owned(), problem };
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    if application != schema::APPLICATION || found < 1 {
        return Err(damaged("it is not a database of this program's".to_owned()));
    }
    if usize::try_from(found).is_ok_and(|found| found > STEPS.len()) {
        return Err(OpenError::Newer { file: file.to_owned(), found, known: STEPS.len() });
    }
    if let Some(problem) = check(&connection).map_err(failed)? {
        return Err(damaged(problem));
    }
    configure(&connection, options).map_err(failed)?;
    let saved = take_over(&mut connection).map_err(failed)?;
    Ok((connection, saved))
}

/// Reads what is there, and marks that the process may end without a word from now on, which is also
/// the test that it can be written. What cannot be read is left as it is.
fn take_over(connection: &mut Connection) -> rusqlite::Result<Saved> {
    let transaction = connection.transaction()?;
    schema::bring_to(&transaction, STEPS.len())?;
    let saved = read::saved(&transaction)?;
    transaction.execute("UPDATE mark SET clean = 0", [])?;
    transaction.commit()?;
    Ok(saved)
}

fn configure(connection: &Connection, options: Options) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let sync = match options.sync {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", sync)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
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

fn quick_check(connection: &Connection, pragma: &str) -> rusqlite::Result<Option<String>> {
    let said: String = connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}
