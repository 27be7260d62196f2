//! Commits what waits.

use rusqlite::{Connection, Transaction, params};
use sha2::{Digest, Sha256};

use super::backlog::Backlog;
use super::{PoolBatch, Stamp};
use crate::admission::PoolKey;
use crate::store::history::table;

/// Callers whose habits are remembered: several times as many as are learned from at once.
pub(super) const MOST_LEARNED: i64 = 4_096;

/// Most bytes of events in one row; they are cut anywhere. SQLite copies a row twice, and what is larger than
/// this the C library has from the kernel each time, page by page.
const PART: usize = 64 << 10;

/// What a commit says of the moment at which it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) stamp: Stamp,
    /// Nothing will happen any more.
    pub(super) clean: bool,
    /// Nothing is happening.
    pub(super) quiet: bool,
}

/// Commits everything in one transaction; `known` are the pools that are there already.
pub(super) fn commit(
    connection: &mut Connection,
    known: impl Fn(PoolKey) -> bool,
    backlog: &Backlog,
    mark: &Mark,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    pools(&transaction, known, backlog)?;
    learned(&transaction, backlog, mark)?;
    let rows = backlog
        .usage
        .iter()
        .map(|((at, tenant, model), counts)| (*at, tenant.as_ref(), model.as_ref(), counts));
    table::add(&transaction, rows)?;
    write_mark(&transaction, mark)?;
    transaction.commit()
}

fn pools(
    transaction: &Transaction<'_>,
    known: impl Fn(PoolKey) -> bool,
    backlog: &Backlog,
) -> rusqlite::Result<()> {
    if backlog.replaces {
        transaction.execute_batch("DELETE FROM journal; DELETE FROM pools; DELETE FROM learned")?;
    }
    if backlog.dropped.is_empty() && backlog.pools.is_empty() {
        return Ok(());
    }
    let mut forget_events = transaction.prepare_cached("DELETE FROM journal WHERE pool = ?")?;
    let mut forget = transaction.prepare_cached("DELETE FROM pools WHERE key = ?")?;
    for key in &backlog.dropped {
        forget_events.execute([key.0])?;
        forget.execute([key.0])?;
    }
    let mut snapshot_of = transaction.prepare_cached(
        "INSERT INTO pools (key, model, snapshot, seal) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET model = ?2, snapshot = ?3, seal = ?4",
    )?;
    // A pool whose first events come before its first snapshot began with nothing.
    let mut begin = transaction.prepare_cached(
        "INSERT INTO pools (key, model, snapshot, seal) VALUES (?, ?, x'', ?) ON CONFLICT DO NOTHING",
    )?;
    let mut append =
        transaction.prepare_cached("INSERT INTO journal (pool, events, seal) VALUES (?, ?, ?)")?;
    for PoolBatch { key, model, snapshot, events } in backlog.pools.values() {
        if let Some(snapshot) = snapshot {
            snapshot_of.execute(params![key.0, model, snapshot, seal(*key, snapshot)])?;
            forget_events.execute([key.0])?;
        } else if !known(*key) || backlog.replaces || backlog.dropped.contains(key) {
            // Not asked of the database each time: to find out that the key is there it would read all
            // of the snapshot beside it.
            begin.execute(params![key.0, model, seal(*key, &[])])?;
        }
        for part in events.chunks(PART) {
            append.execute(params![key.0, part, seal(*key, part)])?;
        }
    }
    Ok(())
}

fn learned(transaction: &Transaction<'_>, backlog: &Backlog, mark: &Mark) -> rusqlite::Result<()> {
    if backlog.learned.is_empty() {
        return Ok(());
    }
    let mut forget =
        transaction.prepare_cached("DELETE FROM learned WHERE pool = ? AND tenant = ?")?;
    let mut keep = transaction.prepare_cached(
        "INSERT INTO learned (pool, tenant, written, blob, seal) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (pool, tenant) DO UPDATE SET written = ?3, blob = ?4, seal = ?5",
    )?;
    let now = integer(mark.stamp.timeline.as_nanos());
    for ((pool, tenant), blob) in &backlog.learned {
        if blob.is_empty() {
            forget.execute(params![pool.0, tenant])?;
        } else {
            keep.execute(params![pool.0, tenant, now, blob, seal(*pool, blob)])?;
        }
    }
    // Those that have been silent for longest make room.
    transaction.execute(
        "DELETE FROM learned WHERE written <
         (SELECT written FROM learned ORDER BY written DESC LIMIT 1 OFFSET ?)",
        [MOST_LEARNED],
    )?;
    Ok(())
}

/// Writes what a commit says of its moment.
pub(super) fn write_mark(transaction: &Transaction<'_>, mark: &Mark) -> rusqlite::Result<()> {
    let Mark { stamp, clean, quiet } = mark;
    let mut write = transaction.prepare_cached(
        "INSERT INTO mark VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET
         boot = ?1, boot_nanos = ?2, wall_nanos = ?3, timeline_nanos = ?4, clean = ?5, quiet = ?6,
         seal = ?7",
    )?;
    write.execute(params![
        stamp.boot,
        integer(stamp.boot_nanos),
        integer(stamp.wall_nanos),
        integer(stamp.timeline.as_nanos()),
        clean,
        quiet,
        mark.seal(),
    ])?;
    Ok(())
}

impl Mark {
    /// A digest of it, as it is kept.
    pub(super) fn seal(&self) -> i64 {
        let Self { stamp, clean, quiet } = self;
        let times = [stamp.boot_nanos, stamp.wall_nanos, stamp.timeline.as_nanos()];
        let digest =
            times.into_iter().fold(Sha256::new().chain_update(stamp.boot), |digest, time| {
                digest.chain_update(integer(time).to_be_bytes())
            });
        first_of(&digest.chain_update([u8::from(*clean), u8::from(*quiet)]))
    }
}

/// A digest of what is kept of a pool: the database has none of its own, and would give back what
/// the disk has made of it.
pub(super) fn seal(pool: PoolKey, bytes: &[u8]) -> i64 {
    first_of(&Sha256::new().chain_update(pool.0).chain_update(bytes))
}

/// The beginning of a digest.
fn first_of(digest: &Sha256) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest.clone().finalize()[..8]);
    i64::from_be_bytes(first)
}

/// As SQLite keeps it; what is above is 292 years from now, or was counted for ever.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
