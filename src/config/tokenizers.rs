//! The tokenizers that models name, each file read once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::usage::Tokenizer;

/// The most bytes of a file: those of the largest vocabularies in use take 35 MB.
const MOST_BYTES: u64 = 128 << 20;

/// Finds tokenizers by what the configuration calls them.
pub(super) struct Tokenizers<'a> {
    /// Where relative paths begin: the configuration file's directory.
    directory: &'a Path,
    /// What came of the files that were read. Models take what they leave out from the fallback,
    /// but each may name the same file itself.
    read: RefCell<BTreeMap<PathBuf, Result<Tokenizer, String>>>,
}

impl<'a> Tokenizers<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, read: RefCell::default() }
    }

    /// The tokenizer called `name`, `None` for `"none"`, or what is wrong with it.
    pub(super) fn find(&self, name: &str) -> Result<Option<Tokenizer>, String> {
        match (name, name.strip_prefix("file:")) {
            ("none", _) => Ok(None),
            ("o200k", _) => Ok(Some(Tokenizer::O200k)),
            (_, Some(path)) if !path.is_empty() => {
                let path = self.directory.join(path);
                // The effective configuration is to be of use wherever it is written to.
                let path = std::path::absolute(&path).unwrap_or(path);
                let mut read = self.read.borrow_mut();
                read.entry(path).or_insert_with_key(|path| load(path)).clone().map(Some)
            }
            _ => {
                let expected =
                    "\"o200k\", \"file:PATH\" of a tokenizer.json or \"none\" is expected";
                Err(format!("{expected}, got {name:?}"))
            }
        }
    }
}

fn load(path: &Path) -> Result<Tokenizer, String> {
    let shown = path.display();
    let bytes = bytes(path).map_err(|error| format!("{shown}: {error}"))?;
    Tokenizer::from_json(&format!("file:{shown}"), &bytes).map_err(|e| format!("{shown}: {e}"))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(bytes)
}
