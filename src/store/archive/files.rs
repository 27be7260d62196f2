//! Files: what the database knows of them, and what lies in the directory.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Archive, InUse, PARTIAL, Page, Purpose, StoredFile, Trouble};

const COLUMNS: &str = "id, tenant, name, purpose, bytes, created, expires";

/// Numbers of SQLite's have a sign; which of two numbers is which stays the same.
pub(super) const fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) const fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

fn file(row: &Row<'_>) -> rusqlite::Result<StoredFile> {
    let purpose: String = row.get(3)?;
    Ok(StoredFile {
        id: row.get(0)?,
        tenant: unsigned(row.get(1)?),
        name: row.get(2)?,
        purpose: Purpose::parse(&purpose).unwrap_or(Purpose::Batch),
        bytes: unsigned(row.get(4)?),
        created: unsigned(row.get(5)?),
        expires: unsigned(row.get(6)?),
    })
}

pub(super) fn insert(connection: &Connection, file: &StoredFile) -> rusqlite::Result<()> {
    let StoredFile { id, tenant, name, purpose, bytes, created, expires } = file;
    let mut statement = connection.prepare_cached(
        "INSERT INTO files (id, tenant, name, purpose, bytes, created, expires)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    statement.execute(params![
        id,
        signed(*tenant),
        name,
        purpose.as_str(),
        signed(*bytes),
        signed(*created),
        signed(*expires)
    ])?;
    Ok(())
}

/// Removes what lies in the directory and is no file: what a process left that was killed while it
/// wrote one, or before it had deleted one.
pub(super) fn tidy(connection: &Connection, dir: &Path) -> rusqlite::Result<io::Result<()>> {
    let mut known = connection.prepare("SELECT 1 FROM files WHERE id = ?1")?;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(problem) => return Ok(Err(problem)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(problem) => return Ok(Err(problem)),
        };
        let (path, name) = (entry.path(), entry.file_name());
        let partial = path.extension().is_some_and(|it| it == PARTIAL);
        let name = name.to_string_lossy();
        if (partial || !known.exists([name.as_ref()])?)
            && let Err(problem) = fs::remove_file(&path)
        {
            return Ok(Err(problem));
        }
    }
    Ok(Ok(()))
}

impl Archive {
    /// Enters a file whose content is at [`Archive::partial_path`], complete and on disk.
    ///
    /// # Errors
    ///
    /// If it cannot be: nothing is left of it then.
    pub async fn add_file(&self, new: StoredFile) -> Result<(), Trouble> {
        self.place(&new.id).await?;
        let (bytes, id) = (new.bytes, new.id.clone());
        let added = self.thread.call(move |connection| insert(connection, &new)).await;
        match &added {
            Ok(()) => self.grow(bytes),
            Err(_) => self.unlink(&id).await,
        }
        added
    }

    /// Gives a complete file its name.
    pub(super) async fn place(&self, id: &str) -> Result<(), Trouble> {
        let (from, to) = (self.partial_path(id), self.path(id));
        tokio::fs::rename(&from, &to).await.map_err(|problem| Trouble::file(&problem))
    }

    /// The tenant's file of this name, if there is one.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn file(&self, tenant: u64, id: &str) -> Result<Option<StoredFile>, Trouble> {
        let id = id.to_owned();
        let find = move |connection: &Connection| {
            let text = format!("SELECT {COLUMNS} FROM files WHERE id = ?1 AND tenant = ?2");
            let mut statement = connection.prepare_cached(&text)?;
            statement.query_row(params![id, signed(tenant)], file).optional()
        };
        self.thread.call(find).await
    }

    /// A page of the tenant's files, of one purpose or all, and whether there are more.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn files(
        &self,
        tenant: u64,
        purpose: Option<Purpose>,
        page: Page,
    ) -> Result<(Vec<StoredFile>, bool), Trouble> {
        let find = move |connection: &Connection| {
            let (order, beyond) = if page.ascending { ("ASC", '>') } else { ("DESC", '<') };
            let text = format!(
                "SELECT {COLUMNS} FROM files WHERE tenant = ?1 AND (?2 IS NULL OR purpose = ?2)
                 AND (?3 IS NULL OR number {beyond} (SELECT number FROM files
                                                     WHERE id = ?3 AND tenant = ?1))
                 ORDER BY number {order} LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&text)?;
            let purpose = purpose.map(Purpose::as_str);
            let one_more = u64::from(page.limit) + 1;
            let rows = statement
                .query_map(params![signed(tenant), purpose, page.after, signed(one_more)], file)?;
            rows.collect::<rusqlite::Result<Vec<_>>>().map(|rows| cut(rows, page.limit))
        };
        self.thread.call(find).await
    }

    /// Deletes the tenant's file of this name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the database cannot be written. The inner error: a batch needs it.
    pub async fn delete_file(
        &self,
        tenant: u64,
        id: &str,
    ) -> Result<Option<Result<(), InUse>>, Trouble> {
        let own = id.to_owned();
        let delete = move |connection: &Connection| {
            let find = "SELECT bytes FROM files WHERE id = ?1 AND tenant = ?2";
            let found: Option<i64> = connection
                .query_row(find, params![own, signed(tenant)], |row| row.get(0))
                .optional()?;
            let Some(bytes) = found else { return Ok(None) };
            let user = "SELECT id FROM batches WHERE input = ?1 AND ended IS NULL LIMIT 1";
            let user: Option<String> =
                connection.query_row(user, [&own], |row| row.get(0)).optional()?;
            if let Some(batch) = user {
                return Ok(Some(Err(InUse { batch })));
            }
            connection.execute("DELETE FROM files WHERE id = ?1", [&own])?;
            Ok(Some(Ok(unsigned(bytes))))
        };
        let Some(deleted) = self.thread.call(delete).await? else { return Ok(None) };
        let deleted = match deleted {
            Ok(bytes) => {
                self.unlink(id).await;
                self.shrink(bytes);
                Ok(())
            }
            Err(in_use) => Err(in_use),
        };
        Ok(Some(deleted))
    }

    /// Deletes files whose time is over, unless a batch needs them, and batches that ended before
    /// `ended_before`; how many of each.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub async fn purge(&self, now: u64, ended_before: u64) -> Result<(usize, usize), Trouble> {
        let purge = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "DELETE FROM files WHERE expires <= ?1
                 AND NOT EXISTS (SELECT 1 FROM batches WHERE input = files.id AND ended IS NULL)
                 RETURNING id, bytes",
            )?;
            let gone = statement.query_map([signed(now)], |row| {
                Ok((row.get::<_, String>(0)?, unsigned(row.get(1)?)))
            })?;
            let gone = gone.collect::<rusqlite::Result<Vec<_>>>()?;
            let batches = connection
                .execute("DELETE FROM batches WHERE ended < ?1", [signed(ended_before)])?;
            Ok((gone, batches))
        };
        let (gone, batches) = self.thread.call(purge).await?;
        for (id, bytes) in &gone {
            self.unlink(id).await;
            self.shrink(*bytes);
        }
        Ok((gone.len(), batches))
    }

    /// Removes the content of a file that the database does not know (any more).
    pub(super) async fn unlink(&self, id: &str) {
        if let Err(problem) = tokio::fs::remove_file(self.path(id)).await {
            // The next start removes it.
            tracing::warn!(file.id = id, %problem, "a deleted file's content is still there");
        }
    }
}

/// The first `limit` of the rows, and whether there was one more.
pub(super) fn cut<T>(mut rows: Vec<T>, limit: u32) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    (rows, more)
}

impl Trouble {
    /// A file could not be dealt with.
    pub fn file(problem: &io::Error) -> Self {
        Self::new(problem.to_string())
    }
}
