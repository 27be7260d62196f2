//! The tables, as a list of steps.

use crate::store::database::Schema;

/// The database; its application is "Tide".
pub(super) const SCHEMA: Schema = Schema { application: 0x5469_6465, steps: STEPS, pragmas: &[] };

/// Every step, the first one first. Times are integers: nanoseconds where the name says so, else
/// seconds since the Unix epoch.
const STEPS: &[&str] = &[
    // What a restart needs. `mark` has one row: when the last commit was, and what it says of the end.
    // A `seal` is a digest of the bytes beside it (`seal`): a disk may give back others.
    "CREATE TABLE mark (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        boot BLOB NOT NULL,
        boot_nanos INTEGER NOT NULL,
        wall_nanos INTEGER NOT NULL,
        timeline_nanos INTEGER NOT NULL,
        clean INTEGER NOT NULL,
        quiet INTEGER NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE pools (
        key BLOB PRIMARY KEY,
        model TEXT NOT NULL,
        snapshot BLOB NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pool BLOB NOT NULL,
        events BLOB NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX journal_pool ON journal (pool);
    CREATE TABLE learned (
        pool BLOB NOT NULL,
        tenant TEXT NOT NULL,
        written INTEGER NOT NULL,
        blob BLOB NOT NULL,
        seal INTEGER NOT NULL,
        PRIMARY KEY (pool, tenant)
    ) STRICT, WITHOUT ROWID;",
    // Usage by the minute, and the same sums by hour and day.
    "CREATE TABLE usage_minute (
        at INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL,
        completed INTEGER NOT NULL, failed INTEGER NOT NULL,
        refused INTEGER NOT NULL, gone INTEGER NOT NULL,
        prompt INTEGER NOT NULL, completion INTEGER NOT NULL, cached INTEGER NOT NULL,
        waited INTEGER NOT NULL, longest_wait INTEGER NOT NULL,
        PRIMARY KEY (at, tenant, model)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage_hour (
        at INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL,
        completed INTEGER NOT NULL, failed INTEGER NOT NULL,
        refused INTEGER NOT NULL, gone INTEGER NOT NULL,
        prompt INTEGER NOT NULL, completion INTEGER NOT NULL, cached INTEGER NOT NULL,
        waited INTEGER NOT NULL, longest_wait INTEGER NOT NULL,
        PRIMARY KEY (at, tenant, model)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage_day (
        at INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL,
        completed INTEGER NOT NULL, failed INTEGER NOT NULL,
        refused INTEGER NOT NULL, gone INTEGER NOT NULL,
        prompt INTEGER NOT NULL, completion INTEGER NOT NULL, cached INTEGER NOT NULL,
        waited INTEGER NOT NULL, longest_wait INTEGER NOT NULL,
        PRIMARY KEY (at, tenant, model)
    ) STRICT, WITHOUT ROWID;",
];
