//! What outlives the process: quota that was spent, what was learned, and who used how much.
//!
//! [`local`] keeps it in a directory of this machine, [`history`] adds up usage by tenant, model and
//! minute. [`shared`] is a log that several processes append to and follow, in a Redis of theirs. A store never looks inside what it keeps of a pool: snapshots and events are bytes of the
//! ledger's own making.

pub mod archive;
mod database;
pub mod history;
pub mod local;
pub mod shared;
