//! The tables, as a list of steps.

use crate::store::database::Schema;

/// The database; its application is "Tidb". Results that were written to a file leave pages behind,
/// which are given back to the system bit by bit.
pub(super) const SCHEMA: Schema =
    Schema { application: 0x5469_6462, steps: STEPS, pragmas: &[("auto_vacuum", "INCREMENTAL")] };

/// Every step, the first one first. Times are seconds since the Unix epoch. A tenant is the number by
/// which the queue knows it; `record` is JSON (`Record`). The key of a line is its batch's number times
/// 2^24, plus its own from 0.
const STEPS: &[&str] = &["CREATE TABLE files (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        tenant INTEGER NOT NULL,
        name TEXT NOT NULL,
        purpose TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX files_tenant ON files (tenant, number);
    CREATE INDEX files_expires ON files (expires);
    CREATE TABLE batches (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        tenant INTEGER NOT NULL,
        tenant_name TEXT NOT NULL,
        account BLOB NOT NULL,
        input TEXT NOT NULL,
        ended INTEGER,
        completed INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        prompt INTEGER NOT NULL DEFAULT 0,
        completion INTEGER NOT NULL DEFAULT 0,
        cached INTEGER NOT NULL DEFAULT 0,
        reasoning INTEGER NOT NULL DEFAULT 0,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX batches_tenant ON batches (tenant, number);
    CREATE INDEX batches_ended ON batches (ended);
    CREATE TABLE lines (
        key INTEGER PRIMARY KEY,
        good INTEGER NOT NULL,
        text BLOB NOT NULL
    ) STRICT;"];
