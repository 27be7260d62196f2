//! The end of the gateway: it says that it ends, lets nobody start who could not finish in time, and
//! at last gives up those that it has no answer for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admission::Pool;
use crate::proxy::Gateway;
use crate::time::Timestamp;

/// How far the end has come, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Drain {
    /// It is known that it ends; everything is as before.
    leaving: CancellationToken,
    /// Those that cannot finish in time are refused.
    closing: CancellationToken,
    /// Who has no answer yet gets none.
    ending: CancellationToken,
}

impl Gateway {
    /// Says that it is going to end, and changes nothing else yet.
    pub fn leave(&self) {
        self.drain.leaving.cancel();
    }

    /// Everything is to be over within `limit`, `spare` of it for telling those who cannot be served:
    /// whoever can be goes on waiting, and may come.
    pub fn drain(&self, limit: Duration, spare: Duration) {
        self.leave();
        let end = self.pools.epoch().now().after(limit);
        self.tenants.drain(end, spare);
        self.pools.drain(end, spare);
        // After the pools know their end: who looks at this looks at that.
        self.drain.closing.cancel();
    }

    /// Answers those that have no answer yet: there is none.
    pub fn give_up(&self) {
        self.drain.ending.cancel();
    }

    /// Whether it is going to end.
    pub fn is_draining(&self) -> bool {
        self.drain.leaving.is_cancelled()
    }

    /// Waits for [`Self::give_up`].
    pub(super) async fn given_up(&self) {
        self.drain.ending.cancelled().await;
    }
}

impl Drain {
    /// Waits until `at`, unless the pool ends before that: then until that is known.
    pub(super) async fn pause(&self, pool: &Pool, at: Timestamp, span: Duration) {
        let in_vain = async {
            self.closing.cancelled().await;
            if pool.last_start().is_none_or(|last| at < last) {
                self.ending.cancelled().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = in_vain => {}
        }
    }
}
