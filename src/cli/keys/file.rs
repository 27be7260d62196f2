//! The file of keys: read, changed where it has to be, and put in its place whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};

use super::entry::{Entry, instant};
use super::{Failure, listed};
use crate::config::KeysContext;
use crate::identity::VirtualKey;
use crate::time::Timestamp;

/// What stands above the entries of a new file.
const HEADER: &str = "\
# Callers' keys, written by `tidegate keys`. What you write here by hand stays as it is.
# The keys themselves are not here: a hash is `printf %s \"$KEY\" | sha256sum`.
";

/// Owner only: digests are no secret as such, but nobody else's business either.
const MODE: u32 = 0o600;

/// The file, which nobody else changes meanwhile.
#[derive(Debug)]
pub(super) struct KeysFile<'a> {
    context: &'a KeysContext,
    path: PathBuf,
    document: DocumentMut,
    _lock: Lock,
}

/// A directory in which nobody else writes keys. The lock is on the directory, since the file is
/// another one after each change, and a file of its own would have to stay for ever.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    /// Waits until nobody else has it.
    fn take(directory: &Path) -> io::Result<Self> {
        let file = File::open(directory)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    /// Lets go of it now: a child that is being started has a copy of the directory until it runs.
    fn drop(&mut self) {
        // If it fails, the end of the process does it.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// The file's text and tenants; nothing if there is no file.
pub(super) fn read(context: &KeysContext) -> Result<(DocumentMut, Vec<VirtualKey>), Failure> {
    let path = context.file.as_deref().unwrap_or_else(|| Path::new(""));
    let text = fs::read_to_string(path).map_err(|error| at(path, &error))?;
    parse(context, path, &text)
}

fn parse(
    context: &KeysContext,
    path: &Path,
    text: &str,
) -> Result<(DocumentMut, Vec<VirtualKey>), Failure> {
    let shown = path.display();
    let keys = context.check(text).map_err(|it| Failure::Usage(format!("{shown}: {it}")))?;
    let document: DocumentMut =
        text.parse().map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
    match document.get("keys") {
        None | Some(Item::ArrayOfTables(_)) => Ok((document, keys)),
        Some(_) => Err(Failure::Usage(format!(
            "{shown}: the entries are expected as tables under [[keys]], not as a list"
        ))),
    }
}

/// The tenants' tables, in the order of the file.
pub(super) fn tenants(document: &DocumentMut) -> impl Iterator<Item = &Table> {
    document.get("keys").and_then(Item::as_array_of_tables).into_iter().flatten()
}

impl<'a> KeysFile<'a> {
    /// Opens the file, or begins one.
    pub(super) fn open(context: &'a KeysContext) -> Result<Self, Failure> {
        let named = context.file.clone().unwrap_or_default();
        // A link stays one: what it leads to is replaced.
        let path = fs::canonicalize(&named).unwrap_or(named);
        let lock = Lock::take(directory(&path)).map_err(|error| at(directory(&path), &error))?;
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEADER.to_owned(),
            text => text.map_err(|error| at(&path, &error))?,
        };
        let (document, _) = parse(context, &path, &text)?;
        Ok(Self { context, path, document, _lock: lock })
    }

    /// Adds a tenant.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), Failure> {
        if self.index(&entry.name).is_some() {
            return Err(Failure::Failed(format!("{} is there already", entry.name)));
        }
        // Comments alone stand at the end of what there is: they are meant to stand above.
        let is_first = tenants(&self.document).next().is_none();
        let comments = self.document.trailing().as_str().filter(|_| is_first);
        let above = format!("{}\n", comments.unwrap_or_default());
        if is_first {
            self.document.set_trailing("");
        }
        let none = Item::ArrayOfTables(ArrayOfTables::new());
        let keys = self.document.entry("keys").or_insert(none);
        if let Some(keys) = keys.as_array_of_tables_mut() {
            let mut table = entry.table();
            table.decor_mut().set_prefix(above);
            keys.push(table);
        }
        Ok(())
    }

    /// Makes a tenant's keys good for nothing.
    pub(super) fn revoke(&mut self, name: &str) -> Result<(), Failure> {
        self.tenant(name)?.insert("revoked", value(true));
        Ok(())
    }

    /// Gives a tenant another key. The one before is good `until` then, if at all.
    pub(super) fn rotate(
        &mut self,
        name: &str,
        hash: &str,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let tenant = self.tenant(name)?;
        let before = tenant.get("hash").and_then(Item::as_str).unwrap_or_default().to_owned();
        let mut previous = still_good(tenant.get("previous"), now);
        if let Some(until) = until {
            let mut entry = InlineTable::new();
            entry.insert("hash", before.as_str().into());
            entry.insert("expires", instant(until).into());
            previous.push(entry);
        }
        // In its place, so that what is written beside it stays there.
        match tenant.get_mut("hash").and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = hash.into();
                *old.decor_mut() = decor;
            }
            None => {
                tenant.insert("hash", value(hash));
            }
        }
        if previous.is_empty() {
            tenant.remove("previous");
        } else {
            tenant.insert("previous", value(previous));
        }
        Ok(())
    }

    /// Takes a tenant out.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Failure> {
        let index = self.index(name).ok_or_else(|| self.unknown(name))?;
        if let Some(keys) = self.document.get_mut("keys").and_then(Item::as_array_of_tables_mut) {
            keys.remove(index);
        }
        Ok(())
    }

    /// Puts the changed file in the place of the one before.
    pub(super) fn save(self) -> Result<(), Failure> {
        let text = self.document.to_string();
        // What the gateway would not read is not written: a class that there is not, a wrong name.
        self.context.check(&text).map_err(|problems| Failure::Usage(problems.to_string()))?;
        replace(&self.path, &text).map_err(|error| at(&self.path, &error))
    }

    fn index(&self, name: &str) -> Option<usize> {
        tenants(&self.document).position(|it| it.get("name").and_then(Item::as_str) == Some(name))
    }

    fn tenant(&mut self, name: &str) -> Result<&mut Table, Failure> {
        let unknown = self.unknown(name);
        let index = self.index(name);
        let keys = self.document.get_mut("keys").and_then(Item::as_array_of_tables_mut);
        index.and_then(|index| keys?.get_mut(index)).ok_or(unknown)
    }

    fn unknown(&self, name: &str) -> Failure {
        let names = tenants(&self.document).filter_map(|it| it.get("name")?.as_str());
        let names = names.map(str::to_owned).collect();
        if self.context.names.contains(name) {
            return Failure::Failed(format!("{name} stands in the configuration itself, not here"));
        }
        Failure::Failed(format!(
            "there is no {name:?} in {}; {}",
            self.path.display(),
            listed(&names)
        ))
    }
}

/// Keys that were replaced before and are good still.
fn still_good(previous: Option<&Item>, now: Timestamp) -> Array {
    let entries = previous.and_then(Item::as_array).into_iter().flatten();
    let good = entries.filter(|entry| {
        let expires = entry.as_inline_table().and_then(|it| it.get("expires"));
        let expires = expires.and_then(|it| match it {
            Value::Datetime(at) => Some(at.value().to_string()),
            other => other.as_str().map(str::to_owned),
        });
        // What cannot be read stays: the check of the whole file says what is wrong with it.
        let at = expires.and_then(|text| Timestamp::parse_rfc3339(&text));
        at.is_none_or(|at| at > now)
    });
    good.cloned().collect()
}

fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new("."))
}

/// Writes beside the file, has the disk take it, and gives it the file's name. The new file is the
/// owner's and has the mode of the one before: the gateway may run as somebody else than who calls.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = directory(path);
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    let mode = match fs::metadata(path) {
        Ok(before) => {
            let mine = file.as_file().metadata()?;
            if (mine.uid(), mine.gid()) != (before.uid(), before.gid()) {
                let (user, group) = (Some(before.uid()), Some(before.gid()));
                std::os::unix::fs::fchown(file.as_file(), user, group)?;
            }
            before.mode() & 0o777
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => MODE,
        Err(error) => return Err(error),
    };
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
