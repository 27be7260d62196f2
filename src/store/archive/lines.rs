//! The results of a batch's lines.

use std::ops::Range;

use rusqlite::{Connection, params};

use super::files::{signed, unsigned};
use super::{Archive, Done, Trouble};

/// Bits of a line's number in its key.
const LINE_BITS: u32 = 24;

/// Lines deleted in one transaction, and pages given back after it: a few milliseconds.
const DELETED_AT_ONCE: u32 = 1_000;
const PAGES_AT_ONCE: u32 = 2_000;

/// The keys of a batch's lines.
const fn keys(number: i64) -> Range<i64> {
    (number << LINE_BITS)..((number + 1) << LINE_BITS)
}

impl Archive {
    /// Keeps the result of a line, if it has none yet.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub async fn finish_line(&self, number: i64, done: Done) -> Result<(), Trouble> {
        let bytes = done.text.len() as u64;
        let keep = move |connection: &Connection| {
            let Done { line, good, text, counts } = done;
            let key = keys(number).start + i64::from(line);
            let mut insert = connection.prepare_cached(
                "INSERT OR IGNORE INTO lines (key, good, text) VALUES (?1, ?2, ?3)",
            )?;
            if insert.execute(params![key, good, &text[..]])? == 0 {
                return Ok(false);
            }
            let mut count = connection.prepare_cached(
                "UPDATE batches SET completed = completed + ?2, failed = failed + ?3,
                 prompt = prompt + ?4, completion = completion + ?5, cached = cached + ?6,
                 reasoning = reasoning + ?7 WHERE number = ?1",
            )?;
            count.execute(params![
                number,
                signed(counts.completed),
                signed(counts.failed),
                signed(counts.prompt),
                signed(counts.completion),
                signed(counts.cached),
                signed(counts.reasoning)
            ])?;
            Ok(true)
        };
        if self.thread.call(keep).await? {
            self.grow(bytes);
        }
        Ok(())
    }

    /// The numbers of the lines of a batch that have a result, from 0, in order.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn finished_lines(&self, number: i64) -> Result<Vec<u32>, Trouble> {
        let list = move |connection: &Connection| {
            let Range { start, end } = keys(number);
            let mut statement = connection.prepare_cached(
                "SELECT key FROM lines WHERE key >= ?1 AND key < ?2 ORDER BY key",
            )?;
            let rows = statement.query_map([start, end], |row| row.get::<_, i64>(0))?;
            rows.map(|key| key.map(|key| u32::try_from(key - start).unwrap_or(u32::MAX))).collect()
        };
        self.thread.call(list).await
    }

    /// The results of a batch from line `from` on, of those that are `good` or not: some `bytes` of
    /// them, and at least one if there is any.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn results(
        &self,
        number: i64,
        good: bool,
        from: u32,
        bytes: usize,
    ) -> Result<Vec<(u32, Vec<u8>)>, Trouble> {
        let list = move |connection: &Connection| {
            let Range { start, end } = keys(number);
            let mut statement = connection.prepare_cached(
                "SELECT key, text FROM lines WHERE key >= ?1 AND key < ?2 AND good = ?3 ORDER BY key",
            )?;
            let mut rows = statement.query(params![start + i64::from(from), end, good])?;
            let (mut found, mut size) = (Vec::new(), 0);
            while size < bytes {
                let Some(row) = rows.next()? else { break };
                let (key, text): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
                size += text.len();
                found.push((u32::try_from(key - start).unwrap_or(u32::MAX), text));
            }
            Ok(found)
        };
        self.thread.call(list).await
    }

    /// Deletes the results of a batch that has ended, some at a time, and gives their room back.
    pub(super) async fn forget_lines(&self, number: i64) -> Result<(), Trouble> {
        loop {
            let delete = move |connection: &Connection| {
                let Range { start, end } = keys(number);
                let mut statement = connection.prepare_cached(
                    "DELETE FROM lines WHERE key IN
                     (SELECT key FROM lines WHERE key >= ?1 AND key < ?2 LIMIT ?3)
                     RETURNING length(text)",
                )?;
                let rows =
                    statement.query_map(params![start, end, DELETED_AT_ONCE], |row| row.get(0))?;
                let sizes = rows.collect::<rusqlite::Result<Vec<i64>>>()?;
                Ok((sizes.len(), unsigned(sizes.iter().sum())))
            };
            let (lines, bytes) = self.thread.call(delete).await?;
            self.shrink(bytes);
            if lines == 0 {
                break;
            }
        }
        let give_back = move |connection: &Connection| {
            let mut statement =
                connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES_AT_ONCE})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            let left = "PRAGMA freelist_count";
            connection.query_row(left, [], |row| row.get::<_, i64>(0))
        };
        let mut before = i64::MAX;
        loop {
            let left = self.thread.call(give_back).await?;
            // Nothing more to give back, or nothing that goes.
            if left == 0 || left >= before {
                return Ok(());
            }
            before = left;
        }
    }

    /// Deletes the results of batches that have ended, which a process left that was killed meanwhile.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub async fn forget_ended(&self) -> Result<(), Trouble> {
        let list = |connection: &Connection| {
            let mut statement = connection.prepare(
                "SELECT number FROM batches WHERE ended IS NOT NULL AND EXISTS
                 (SELECT 1 FROM lines WHERE key >= number << ?1 AND key < (number + 1) << ?1)",
            )?;
            let rows = statement.query_map([LINE_BITS], |row| row.get::<_, i64>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        for number in self.thread.call(list).await? {
            self.forget_lines(number).await?;
        }
        Ok(())
    }
}
