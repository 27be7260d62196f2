//! Batches: made, looked at, moved on.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::files::{cut, insert, signed, unsigned};
use super::{Archive, Batch, Counts, Page, Record, StoredFile, Trouble};
use crate::identity::{Account, Owner};

const COLUMNS: &str = "number, id, tenant, tenant_name, account, input,
    completed, failed, prompt, completion, cached, reasoning, record";

/// Problems of each batch in a list: a page of batches of nothing but bad lines would take a gigabyte.
const LISTED_PROBLEMS: usize = 100;

fn batch(row: &Row<'_>) -> rusqlite::Result<Batch> {
    let record: String = row.get(12)?;
    let record = serde_json::from_str(&record).map_err(|problem| {
        rusqlite::Error::FromSqlConversionFailure(12, Type::Text, Box::new(problem))
    })?;
    let name: String = row.get(3)?;
    let account: [u8; 32] = row.get(4)?;
    let count = |index: usize| row.get(index).map(unsigned);
    Ok(Batch {
        number: row.get(0)?,
        id: row.get(1)?,
        owner: Owner {
            tenant: name.into(),
            id: unsigned(row.get(2)?),
            account: Account::from_bytes(account),
        },
        input: row.get(5)?,
        counts: Counts {
            completed: count(6)?,
            failed: count(7)?,
            prompt: count(8)?,
            completion: count(9)?,
            cached: count(10)?,
            reasoning: count(11)?,
        },
        record,
    })
}

/// A batch as a list shows it.
fn listed(row: &Row<'_>) -> rusqlite::Result<Batch> {
    let mut batch = batch(row)?;
    batch.record.problems.truncate(LISTED_PROBLEMS);
    batch.record.problems.shrink_to_fit();
    Ok(batch)
}

fn text(record: &Record) -> rusqlite::Result<String> {
    serde_json::to_string(record)
        .map_err(|problem| rusqlite::Error::ToSqlConversionFailure(Box::new(problem)))
}

/// When a batch ended, if it has.
fn ended(record: &Record) -> Option<i64> {
    let Record { completed, failed, expired, cancelled, .. } = record;
    completed.or(*failed).or(*expired).or(*cancelled).map(signed)
}

fn update(connection: &Connection, number: i64, record: &Record) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare_cached("UPDATE batches SET record = ?2, ended = ?3 WHERE number = ?1")?;
    statement.execute(params![number, text(record)?, ended(record)])?;
    Ok(())
}

fn find(connection: &Connection, tenant: u64, id: &str) -> rusqlite::Result<Option<Batch>> {
    let sql = format!("SELECT {COLUMNS} FROM batches WHERE id = ?1 AND tenant = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_row(params![id, signed(tenant)], batch).optional()
}

impl Archive {
    /// Makes a batch, unless `most` are running already; `None` then.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub async fn add_batch(
        &self,
        id: String,
        owner: Owner,
        input: String,
        record: Record,
        most: u32,
    ) -> Result<Option<Batch>, Trouble> {
        let add = move |connection: &Connection| {
            let running = "SELECT count(*) FROM batches WHERE ended IS NULL";
            let running: i64 = connection.query_row(running, [], |row| row.get(0))?;
            if running >= i64::from(most) {
                return Ok(None);
            }
            connection.execute(
                "INSERT INTO batches (id, tenant, tenant_name, account, input, record)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    id,
                    signed(owner.id),
                    &*owner.tenant,
                    owner.account.to_bytes(),
                    input,
                    text(&record)?
                ],
            )?;
            find(connection, owner.id, &id)
        };
        self.thread.call(add).await
    }

    /// The tenant's batch of this name, if there is one.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn batch(&self, tenant: u64, id: &str) -> Result<Option<Batch>, Trouble> {
        let id = id.to_owned();
        self.thread.call(move |connection| find(connection, tenant, &id)).await
    }

    /// A page of the tenant's batches, each with its first hundred problems, and whether there are
    /// more.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn batches(&self, tenant: u64, page: Page) -> Result<(Vec<Batch>, bool), Trouble> {
        let list = move |connection: &Connection| {
            let (order, beyond) = if page.ascending { ("ASC", '>') } else { ("DESC", '<') };
            let sql = format!(
                "SELECT {COLUMNS} FROM batches WHERE tenant = ?1
                 AND (?2 IS NULL OR number {beyond} (SELECT number FROM batches
                                                     WHERE id = ?2 AND tenant = ?1))
                 ORDER BY number {order} LIMIT ?3"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let one_more = u64::from(page.limit) + 1;
            let rows = statement
                .query_map(params![signed(tenant), page.after, signed(one_more)], listed)?;
            rows.collect::<rusqlite::Result<Vec<_>>>().map(|rows| cut(rows, page.limit))
        };
        self.thread.call(list).await
    }

    /// All callers' batches that have not ended, the oldest first.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<Batch>, Trouble> {
        let list = |connection: &Connection| {
            let sql = format!("SELECT {COLUMNS} FROM batches WHERE ended IS NULL ORDER BY number");
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map([], batch)?;
            rows.collect()
        };
        self.thread.call(list).await
    }

    /// Moves a batch on: `change` is given what is known of it and may change it; what it is then.
    /// It is not asked if the batch has ended.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub async fn change(
        &self,
        tenant: u64,
        id: &str,
        change: impl FnOnce(&mut Record) + Send + 'static,
    ) -> Result<Option<Batch>, Trouble> {
        let id = id.to_owned();
        let act = move |connection: &Connection| {
            let Some(mut batch) = find(connection, tenant, &id)? else { return Ok(None) };
            if !batch.record.state.is_final() {
                change(&mut batch.record);
                update(connection, batch.number, &batch.record)?;
            }
            Ok(Some(batch))
        };
        self.thread.call(act).await
    }

    /// Ends a batch: enters its files, whose content is at [`Archive::partial_path`], complete and on
    /// disk, counts `unsent` lines as failed, and forgets its lines.
    ///
    /// # Errors
    ///
    /// If the database or a file's name cannot be written.
    pub async fn end(
        &self,
        batch: &Batch,
        new: Vec<StoredFile>,
        unsent: u64,
    ) -> Result<(), Trouble> {
        for file in &new {
            self.place(&file.id).await?;
        }
        let bytes = new.iter().map(|file| file.bytes).sum();
        let (number, record) = (batch.number, batch.record.clone());
        let end = move |connection: &Connection| {
            for file in &new {
                insert(connection, file)?;
            }
            let count = "UPDATE batches SET failed = failed + ?2 WHERE number = ?1";
            connection.execute(count, params![number, signed(unsent)])?;
            update(connection, number, &record)
        };
        self.thread.call(end).await?;
        self.grow(bytes);
        self.forget_lines(batch.number).await
    }
}
