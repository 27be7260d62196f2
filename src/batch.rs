//! Batches of requests, which the gateway works off by itself, in the shape of OpenAI's Batch API:
//! a file of requests comes in, a file of answers goes out.
//!
//! The requests go the way of all others (`proxy`), in a class that others go before. So they take
//! what nobody else wants of the quota, and yield to whoever comes.
//!
//! # Invariants
//!
//! - **Once.** A line has one result, committed before it is counted; it is sent again only if its
//!   result had not been.
//! - **Bounded.** A batch keeps a few lines in memory and one bit for each line, however large its
//!   file is.
//! - **Its owner's.** Nobody sees files and batches but the tenant who made them. Keys of callers who
//!   pay for themselves are kept in memory only: after a restart their batches go on when the key is
//!   seen again.

mod api;
mod files;
mod input;
mod job;
mod keys;
mod line;
mod object;
mod operator;
mod outcome;
mod results;
mod status;
mod upload;
mod validate;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::job::Job;
use self::keys::Keys;
pub use self::object::Progress;
pub use self::operator::View;
pub use self::status::BatchStatus;
use crate::config;
use crate::proxy::{self, App, Current, Gateway};
use crate::store::archive::{Archive, Batch, Trouble};
use crate::telemetry::traces::Parent;

/// Memory for lines that are in memory because they wait or are at the upstream, in KiB: 64 MiB.
const MEMORY_KIB: usize = 64 << 10;

/// How often files and batches whose time is over are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(600);

/// The gateway's batches.
#[derive(Debug)]
pub struct Batches {
    current: Current,
    app: App,
    archive: Archive,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    keys: Keys,
    in_flight: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Batches {
    /// The batches in `archive`, whose requests go through the gateway of then.
    pub fn new(current: Current, archive: Archive) -> Arc<Self> {
        let most = usize::try_from(current.get().config().batch.max_in_flight.get());
        let most = most.unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            app: proxy::app(current.clone(), Router::new()),
            current,
            archive,
            jobs: Mutex::default(),
            keys: Keys::default(),
            in_flight: Arc::new(Semaphore::new(most)),
            memory: Arc::new(Semaphore::new(MEMORY_KIB)),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// The routes of the API.
    pub fn routes(self: &Arc<Self>) -> Router {
        api::routes(Some(self))
    }

    /// Goes on with the batches of the process before, and deletes what is too old from time to time.
    ///
    /// # Errors
    ///
    /// If the archive cannot be read.
    pub async fn resume(self: &Arc<Self>) -> Result<(), Trouble> {
        for batch in self.archive.unfinished().await? {
            self.start(batch, None);
        }
        self.tasks.spawn(Arc::clone(self).housekeeping());
        Ok(())
    }

    /// Ends all work on batches: what waits is left for the next start, what is at the upstream is
    /// waited for, until `abort` is cancelled.
    pub async fn close(&self, abort: &CancellationToken) {
        self.stop.cancel();
        self.tasks.close();
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = abort.cancelled() => {
                self.abort.cancel();
                self.tasks.wait().await;
            }
        }
        self.archive.close().await;
    }

    /// The gateway of now.
    fn gateway(&self) -> Arc<Gateway> {
        self.current.get()
    }

    fn config(&self) -> config::Batch {
        self.gateway().config().batch.clone()
    }

    /// Seconds since the Unix epoch.
    fn now(&self) -> u64 {
        self.gateway().pools().epoch().now().as_nanos() / 1_000_000_000
    }

    /// Goes on with a batch, which a request made in a span, if that is known.
    fn start(self: &Arc<Self>, batch: Batch, made_in: Option<Parent>) {
        let job = Arc::new(Job::new(batch, made_in));
        match self.jobs.lock().entry(job.id().to_owned()) {
            // It was made before those of the process before were gone on with.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(Arc::clone(&job)),
        };
        self.gateway().metrics().batch.running.inc();
        self.tasks.spawn(Arc::clone(self).run(job));
    }

    async fn housekeeping(self: Arc<Self>) {
        loop {
            let now = self.now();
            let ended_before = now.saturating_sub(self.config().keep.as_secs());
            let purged = async {
                self.archive.forget_ended().await?;
                self.archive.purge(now, ended_before).await
            };
            match purged.await {
                Ok((0, 0)) => {}
                Ok((files, batches)) => tracing::info!(files, batches, "deleted what was too old"),
                Err(problem) => tracing::warn!(%problem, "what was too old is still there"),
            }
            self.show_stored();
            tokio::select! {
                () = tokio::time::sleep(PURGE_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn show_stored(&self) {
        let stored = i64::try_from(self.archive.stored()).unwrap_or(i64::MAX);
        self.gateway().metrics().batch.stored_bytes.set(stored);
    }
}

/// The routes of the API where no files and batches are kept: they say why.
pub fn no_routes() -> Router {
    api::routes(None)
}
