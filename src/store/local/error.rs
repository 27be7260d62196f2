//! Why a directory cannot be used, and what to do about it.

use std::io;
use std::path::PathBuf;

/// The state cannot be kept where it was to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made, read or written.
    #[error(
        "{}: {problem}: state cannot be kept there; name another directory with --state-dir, or \
         none with --stateless", .path.display()
    )]
    Unusable {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system says.
        #[source]
        problem: io::Error,
    },
    /// Another process has it.
    #[error(
        "{} is in use by {}: two gateways cannot keep their state in one directory; give this one \
         its own with --state-dir, or none with --stateless", .dir.display(), owner(.pid)
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that has it, if it said so.
        pid: Option<u32>,
    },
    /// It was written by a later version of the program.
    #[error(
        "{} has version {found} and this program knows versions up to {known}: use the program that \
         wrote it, or another directory", .file.display()
    )]
    Newer {
        /// The database.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// The last version that is known here.
        known: usize,
    },
    /// It cannot be read as it should be.
    #[error(
        "{} is damaged ({problem}): nothing was changed. Put a backup in its place; or, if the quota \
         used so far may be forgotten, move the file away together with those named like it", .file.display()
    )]
    Damaged {
        /// The database.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The database cannot be used for another reason, such as a full disk.
    #[error(
        "{}: {problem}: state cannot be kept there; name another directory with --state-dir, or none \
         with --stateless", .file.display()
    )]
    Database {
        /// The database.
        file: PathBuf,
        /// What SQLite says.
        #[source]
        problem: rusqlite::Error,
    },
}

fn owner(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl OpenError {
    /// What went wrong with the database `file`.
    pub(in crate::store) fn database(file: &std::path::Path, problem: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let file = file.to_owned();
        match problem.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => {
                Self::Damaged { file, problem: problem.to_string() }
            }
            _ => Self::Database { file, problem },
        }
    }
}
