//! Goes between the pools and the logs that replicas share: one task for each pool.
//!
//! A task makes one call after the other. What it prepares is decided by all entries that were
//! applied before; what a call brings is applied before the next one is prepared. What is pushed
//! meanwhile waits its turn.
//!
//! # Invariants
//!
//! - Nothing is polled: a call is made when there is something to ask or to tell, and one each second
//!   to say that this replica is alive, while it has anything to do with the quota.
//! - Before anything is asked the others know that this replica exists, so that its end is noticed.

mod between;
mod stage;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::between::Between;
use crate::admission::{Pool, PoolKey, Sharer};
use crate::config;
use crate::limit::Sharing;
use crate::metrics::SharedMetrics;
use crate::store::shared::Shared;

/// For the last words, all in all.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Shares the quotas of all pools.
pub(super) struct Replicas {
    shared: Shared,
    config: config::Shared,
    metrics: SharedMetrics,
    /// The tasks between pools and logs.
    between: TaskTracker,
    closing: CancellationToken,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Replicas {
    pub(super) fn connect(
        config: config::Shared,
        metrics: SharedMetrics,
        tasks: &TaskTracker,
        script: &str,
    ) -> Self {
        let shared = Shared::connect_scripted(config.clone(), metrics.clone(), tasks, script);
        let (between, closing) = (TaskTracker::new(), CancellationToken::new());
        Self { shared, config, metrics, between, closing }
    }

    /// Tells the others what they do not know yet, and says good-bye.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.between.close();
        if timeout(LAST_WORDS, self.between.wait()).await.is_err() {
            tracing::warn!("the other replicas were not told everything: it counts as spent");
        }
        self.shared.close();
    }
}

impl Sharer for Replicas {
    fn sharing(&self) -> Sharing {
        let config::Shared { float, replicas, .. } = self.config;
        Sharing { own: self.shared.replica().0, float, replicas: replicas.get() }
    }

    fn serve(&self, key: PoolKey, pool: &Arc<Pool>) {
        let own = self.shared.replica().0;
        let (log, name) = (self.shared.log(key), key.to_string());
        let between = Between::new(log, (own, name), pool, self.config.grace, self.metrics.clone());
        self.between.spawn(between.run(pool.work(), self.closing.clone()));
    }
}
