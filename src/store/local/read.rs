//! Reads what the last process wrote.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::write::{MOST_LEARNED, Mark, seal};
use super::{Learned, Saved, SavedPool, Stamp};
use crate::admission::PoolKey;
use crate::time::Timestamp;

/// Everything there is. It is bounded by what is written: pools are, and the journal.
pub(super) fn saved(connection: &Connection) -> rusqlite::Result<Saved> {
    let mark = connection.query_row("SELECT * FROM mark", [], mark).optional()?;
    let (last, clean, quiet) = match mark {
        Some((stamp, clean, quiet)) => (Some(stamp), clean, quiet),
        None => (None, false, false),
    };
    Ok(Saved { last, clean, quiet, pools: pools(connection)?, learned: learned(connection)? })
}

fn mark(row: &Row<'_>) -> rusqlite::Result<(Stamp, bool, bool)> {
    let stamp = Stamp {
        boot: row.get("boot")?,
        boot_nanos: unsigned(row, "boot_nanos")?,
        wall_nanos: unsigned(row, "wall_nanos")?,
        timeline: Timestamp::from_nanos(unsigned(row, "timeline_nanos")?),
    };
    let (clean, quiet) = (row.get("clean")?, row.get("quiet")?);
    if row.get::<_, i64>("seal")? != (Mark { stamp, clean, quiet }).seal() {
        return Err(changed("what is kept of the last commit"));
    }
    Ok((stamp, clean, quiet))
}

fn pools(connection: &Connection) -> rusqlite::Result<Vec<SavedPool>> {
    let text = "SELECT events, seal FROM journal WHERE pool = ? ORDER BY id";
    let mut parts = connection.prepare(text)?;
    let text = "SELECT snapshot, seal, key, model FROM pools ORDER BY key";
    let mut pools = connection.prepare(text)?;
    let rows = pools.query_map([], |row| {
        let key = PoolKey(row.get("key")?);
        let mut joined = Vec::new();
        for part in parts.query_map([key.0], |row| sealed(row, key))? {
            joined.extend_from_slice(&part?);
        }
        let model: String = row.get("model")?;
        Ok(SavedPool { key, model: model.into(), snapshot: sealed(row, key)?, events: joined })
    })?;
    rows.collect()
}

fn learned(connection: &Connection) -> rusqlite::Result<Vec<Learned>> {
    let text = "SELECT blob, seal, pool, tenant FROM
        (SELECT * FROM learned ORDER BY written DESC LIMIT ?) ORDER BY written";
    let mut statement = connection.prepare(text)?;
    let rows = statement.query_map([MOST_LEARNED], |row| {
        let pool = PoolKey(row.get("pool")?);
        let tenant: String = row.get("tenant")?;
        Ok(Learned { pool, tenant: tenant.into(), blob: sealed(row, pool)? })
    })?;
    rows.collect()
}

/// The bytes in the first column, if the seal in the second is theirs.
fn sealed(row: &Row<'_>, pool: PoolKey) -> rusqlite::Result<Vec<u8>> {
    let bytes: Vec<u8> = row.get(0)?;
    if row.get::<_, i64>(1)? == seal(pool, &bytes) {
        return Ok(bytes);
    }
    Err(changed(&format!("what is kept of the pool {pool}")))
}

/// The database is whole, but this is not what was put into it.
fn changed(what: &str) -> rusqlite::Error {
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(damaged, Some(format!("{what} is not what was written")))
}

fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, Box::new(error))
    })
}
