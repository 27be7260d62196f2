//! The history on disk: one table each for minutes, hours and days.
//!
//! What is added is added to all three in the same transaction, so that each is right at any moment,
//! and none has to be made from another later. Old rows are thrown away piece by piece.

use std::sync::Arc;

use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, Row, Transaction, params, params_from_iter};

use super::question::{Group, MOST_ROWS, Question, Step};
use super::{Counts, Keep};
use crate::time::Timestamp;

/// Rows of one table, some 100 bytes each, whatever was configured to be kept.
const MOST_KEPT: i64 = 1_000_000;

/// Whether there may be more to throw away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::store) enum Swept {
    /// Nothing is left that is too old or too much.
    All,
    /// A piece was thrown away; there may be another.
    Some,
}

/// The tables: name, seconds of a row, seconds thrown away at once.
const TABLES: [(&str, u64, u64); 3] = [
    ("usage_minute", 60, 3_600),
    ("usage_hour", 3_600, 86_400),
    ("usage_day", 86_400, 30 * 86_400),
];

/// The columns that are added up; beside them stands the longest wait.
const SUMS: [&str; 8] =
    ["completed", "failed", "refused", "gone", "prompt", "completion", "cached", "waited"];

/// The most that a row's sum can be: what is exact as a decimal number too.
const MOST: u64 = 1 << 53;

/// Adds sums of minutes: time, tenant, model, sums.
///
/// # Errors
///
/// What the database says; nothing is added then, once the transaction is dropped.
pub(in crate::store) fn add<'a>(
    transaction: &Transaction<'_>,
    rows: impl Iterator<Item = (u64, &'a str, &'a str, &'a Counts)>,
) -> rusqlite::Result<()> {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let sums = SUMS.map(|it| format!("{it} = min({MOST}, {it} + excluded.{it})")).join(", ");
    let mut adding = Vec::new();
    for (table, seconds, _) in TABLES {
        let text = format!(
            "INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (at, tenant, model) DO UPDATE SET {sums},
             longest_wait = max(longest_wait, excluded.longest_wait)"
        );
        adding.push((transaction.prepare_cached(&text)?, seconds));
    }
    for (at, tenant, model, counts) in rows {
        for (statement, seconds) in &mut adding {
            statement.execute(params![
                integer(at - at % *seconds),
                tenant,
                model,
                integer(counts.completed),
                integer(counts.failed),
                integer(counts.refused),
                integer(counts.gone),
                integer(counts.prompt),
                integer(counts.completion),
                integer(counts.cached),
                integer(counts.waited),
                integer(counts.longest_wait),
            ])?;
        }
    }
    Ok(())
}

/// Throws a piece of what is too old or too much away, in each table.
///
/// # Errors
///
/// What the database says; nothing is thrown away then.
pub(in crate::store) fn sweep(
    connection: &mut Connection,
    now: Timestamp,
    keep: Keep,
) -> rusqlite::Result<Swept> {
    let now = now.as_nanos() / 1_000_000_000;
    let transaction = connection.transaction()?;
    let mut swept = Swept::All;
    for ((table, seconds, piece), keep) in
        TABLES.into_iter().zip([keep.minutes, keep.hours, keep.days])
    {
        let one = |text: &str, argument: i64| -> rusqlite::Result<Option<i64>> {
            let found = transaction.query_row(text, [argument], |row| row.get(0));
            match found {
                Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
                found => found,
            }
        };
        // By age, when all of a row is too old; and by number, that many from the latest.
        let old = integer(now.saturating_sub(keep.as_secs() + seconds));
        let over = format!("SELECT at FROM {table} ORDER BY at DESC LIMIT 1 OFFSET ?");
        let before = one(&over, MOST_KEPT)?.map_or(old, |at| old.max(at + 1));
        let oldest = format!("SELECT min(at) FROM {table} WHERE at < ?");
        if let Some(oldest) = one(&oldest, before)? {
            let end = oldest.saturating_add(integer(piece)).min(before);
            transaction.execute(&format!("DELETE FROM {table} WHERE at < ?"), [end])?;
            swept = Swept::Some;
        }
    }
    transaction.commit()?;
    Ok(swept)
}

/// The rows that answer a question, and whether there are more than are given.
pub(super) fn select(
    connection: &Connection,
    question: &Question,
) -> rusqlite::Result<(Vec<Group>, bool)> {
    let table = match question.of {
        Step::Minute | Step::Total => "usage_minute",
        Step::Hour => "usage_hour",
        Step::Day => "usage_day",
    };
    let mut keys = Vec::new();
    for (key, wanted) in [
        ("at", question.step != Step::Total),
        ("tenant", question.by.tenant),
        ("model", question.by.model),
    ] {
        if wanted {
            keys.push(key);
        }
    }
    // As decimal numbers, which do not overflow; they are exact as far as a row's sums go.
    let sums = SUMS.map(|it| format!("CAST(total({it}) AS INTEGER) AS {it}")).join(", ");
    let listed = keys.join(", ");
    let (first, groups, order) = if keys.is_empty() {
        // Without a group, no rows would be a row of nothing.
        ("NULL".to_owned(), "HAVING count(*) > 0".to_owned(), String::new())
    } else {
        (listed.clone(), format!("GROUP BY {listed}"), format!("ORDER BY {listed}"))
    };
    let text = format!(
        "SELECT {first}, {sums}, max(longest_wait) AS longest_wait
         FROM {table} WHERE at >= ? AND at < ? {groups} {order} LIMIT ?"
    );
    let (since, until) = question.span();
    let limit = i64::try_from(MOST_ROWS + 1).unwrap_or(i64::MAX);
    let arguments = [integer(since), integer(until), limit].map(Value::from);
    let mut statement = connection.prepare(&text)?;
    let rows = statement.query_map(
        params_from_iter(arguments.iter().map(|it| it as &dyn ToSql)),
        |row| {
            let name = |wanted: bool, column: &str| -> rusqlite::Result<Option<Arc<str>>> {
                if wanted {
                    row.get::<_, String>(column).map(|name| Some(name.into()))
                } else {
                    Ok(None)
                }
            };
            let at = if question.step == Step::Total { since } else { number(row, "at")? };
            let (tenant, model) =
                (name(question.by.tenant, "tenant")?, name(question.by.model, "model")?);
            Ok(Group { at, tenant, model, counts: counts(row)? })
        },
    )?;
    let mut rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    let truncated = rows.len() > MOST_ROWS;
    rows.truncate(MOST_ROWS);
    Ok((rows, truncated))
}

fn counts(row: &Row<'_>) -> rusqlite::Result<Counts> {
    Ok(Counts {
        completed: number(row, "completed")?,
        failed: number(row, "failed")?,
        refused: number(row, "refused")?,
        gone: number(row, "gone")?,
        prompt: number(row, "prompt")?,
        completion: number(row, "completion")?,
        cached: number(row, "cached")?,
        waited: number(row, "waited")?,
        longest_wait: number(row, "longest_wait")?,
    })
}

fn number(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0))
}

/// As SQLite keeps it.
fn integer(value: u64) -> i64 {
    i64::try_from(value.min(MOST)).unwrap_or(i64::MAX)
}
