//! Who keeps what is done to the pools beyond the end of the process.

use std::fmt;

use super::PoolKey;
use crate::limit::{ColdStart, Constraint, Heritage};
use crate::time::Timestamp;
use crate::usage::OutputLearner;

/// Keeps the journals of the pools, so that a pool can go on where it ended.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// A journal is no longer empty. Called for requests: it must cost next to nothing.
    fn wake(&self);

    /// So much is in a journal that it has to be kept at once.
    fn hurry(&self);

    /// The ledger that a pool is to go on with, if one of that key was kept; and how many requests may
    /// still go by it elsewhere.
    fn inherit(
        &self,
        key: PoolKey,
        configured: &[Constraint],
        start: ColdStart,
        now: Timestamp,
    ) -> Option<(Heritage, u32)>;

    /// What was learned before of what the upstream of a pool reserves.
    fn reserved(&self, key: PoolKey) -> Option<OutputLearner>;
}
