//! Who goes between the pools and the other replicas that share their quota.

use std::fmt;
use std::sync::Arc;

use super::{Pool, PoolKey};
use crate::limit::Sharing;

/// Goes between pools and the logs that replicas share.
pub trait Sharer: fmt::Debug + Send + Sync {
    /// How the quota is shared.
    fn sharing(&self) -> Sharing;

    /// Goes between this pool and its log from now on, until the pool is dropped.
    fn serve(&self, key: PoolKey, pool: &Arc<Pool>);
}
