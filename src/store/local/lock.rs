//! One process for one directory.
//!
//! The lock is advisory and the system's: it goes when the process does, however that ends. Its file
//! stays, for a lock on a file that was deleted meanwhile is nobody's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::OpenError;

/// The name of the file that is locked; it says which process has it.
const FILE: &str = "lock";

/// A directory that no other process has.
#[derive(Debug)]
pub(in crate::store) struct Lock {
    file: File,
}

impl Lock {
    /// Takes `dir`, or says who has it.
    pub(in crate::store) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let unusable = |problem| OpenError::Unusable { path: path.clone(), problem };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = owner(&mut file);
                return Err(OpenError::InUse { dir: dir.to_owned(), pid });
            }
            Err(problem) => return Err(unusable(problem.into())),
        }
        let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        // Who has it is a courtesy to whoever comes second; a full disk is found out by what matters.
        match named {
            Err(problem) if problem.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Err(unusable(problem))
            }
            _ => Ok(Self { file }),
        }
    }
}

impl Drop for Lock {
    /// Lets go of it now: a child that is being started has a copy of the file until it runs.
    fn drop(&mut self) {
        // If it fails, the end of the process does it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The process that wrote its number into the file.
fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
