//! An SQLite database of ours: made whole or not at all, and brought up to date step by step.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction};

use super::local::OpenError;
use crate::config::Durability;

/// How long a commit waits for somebody who looks at the database with other tools.
const BUSY: Duration = Duration::from_secs(1);

/// The log is folded into the database at so many pages (4 MB), and cut to this size if it was longer.
const LOG_PAGES: i64 = 1_000;
const LOG_BYTES: i64 = 16 << 20;

/// What a database consists of: the number of the steps that were taken is its version.
///
/// A step that has been released is never changed; what it lacks is another step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema {
    /// Says whose the database is.
    pub(super) application: i64,
    /// Every step, the first one first.
    pub(super) steps: &'static [&'static str],
    /// Set before there is any table.
    pub(super) pragmas: &'static [(&'static str, &'static str)],
}

impl Schema {
    /// Makes the database beside its place if it is not there, and puts it there when it is whole.
    pub(super) fn provide(&self, dir: &Path, file: &Path) -> Result<(), OpenError> {
        match fs::metadata(file) {
            // A new database gets its name when it is whole, so this one was cut off since.
            Ok(found) if found.len() == 0 => {
                let problem = "it is empty".to_owned();
                Err(OpenError::Damaged { file: file.to_owned(), problem })
            }
            Ok(_) => Ok(()),
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => self.create(dir, file),
            Err(problem) => Err(OpenError::Unusable { path: file.to_owned(), problem }),
        }
    }

    fn create(&self, dir: &Path, file: &Path) -> Result<(), OpenError> {
        let new = file.with_extension("new");
        // What a process left that was killed here; and the log of a database that was taken away,
        // which would be taken for the new one's.
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
            for (name, value) in self.pragmas {
                connection.pragma_update(None, name, value)?;
            }
            connection.pragma_update(None, "journal_mode", "WAL")?;
            let transaction = connection.transaction()?;
            self.bring_to(&transaction, self.steps.len())?;
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

    /// A connection to the database, if it is one of ours and not of a later version.
    pub(super) fn connect(&self, file: &Path) -> Result<Connection, OpenError> {
        let failed = |problem| OpenError::database(file, problem);
        let connection = connect(file).map_err(failed)?;
        let found = version(&connection).map_err(failed)?;
        let application: i64 = connection
            .pragma_query_value(None, "application_id", |row| row.get(0))
            .map_err(failed)?;
        if application != self.application || found < 1 {
            let problem = "it is not a database of this program's".to_owned();
            return Err(OpenError::Damaged { file: file.to_owned(), problem });
        }
        if usize::try_from(found).is_ok_and(|found| found > self.steps.len()) {
            let known = self.steps.len();
            return Err(OpenError::Newer { file: file.to_owned(), found, known });
        }
        Ok(connection)
    }

    /// Takes the steps up to `version` that have not been taken, and says so in the database.
    pub(super) fn bring_to(
        &self,
        transaction: &Transaction<'_>,
        version: usize,
    ) -> rusqlite::Result<()> {
        let taken = usize::try_from(self::version(transaction)?).unwrap_or(usize::MAX);
        for step in self.steps.iter().take(version).skip(taken) {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", self.application)?;
        transaction.pragma_update(None, "user_version", version.max(taken) as i64)
    }
}

/// The version of a database.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Makes a directory that is nobody else's to read.
pub(super) fn private_directory(dir: &Path) -> Result<(), OpenError> {
    let unusable = |problem| OpenError::Unusable { path: dir.to_owned(), problem };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Sets what has to be set anew for each connection.
pub(super) fn configure(connection: &Connection, sync: Durability) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let sync = match sync {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", sync)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// What is wrong, if anything is, by one of SQLite's quick checks.
pub(super) fn quick_check(
    connection: &Connection,
    pragma: &str,
) -> rusqlite::Result<Option<String>> {
    let said: String = connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}
