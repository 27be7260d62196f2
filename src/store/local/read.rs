//! Reads what the last process wrote.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::write::MOST_LEARNED;
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
    Ok((stamp, row.get("clean")?, row.get("quiet")?))
}

fn pools(connection: &Connection) -> rusqlite::Result<Vec<SavedPool>> {
    let mut events = connection.prepare("SELECT events FROM journal WHERE pool = ? ORDER BY id")?;
    let mut pools = connection.prepare("SELECT key, model, snapshot FROM pools ORDER BY key")?;
    let rows = pools.query_map([], |row| {
        let key: [u8; 16] = row.get(0)?;
        let batches = events.query_map([key], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let model: String = row.get(1)?;
        Ok(SavedPool { key: PoolKey(key), model: model.into(), snapshot: row.get(2)?, batches })
    })?;
    rows.collect()
}

fn learned(connection: &Connection) -> rusqlite::Result<Vec<Learned>> {
    let text = "SELECT pool, tenant, blob FROM
        (SELECT * FROM learned ORDER BY written DESC LIMIT ?) ORDER BY written";
    let mut statement = connection.prepare(text)?;
    let rows = statement.query_map([MOST_LEARNED], |row| {
        let tenant: String = row.get(1)?;
        Ok(Learned { pool: PoolKey(row.get(0)?), tenant: tenant.into(), blob: row.get(2)? })
    })?;
    rows.collect()
}

fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, Box::new(error))
    })
}
