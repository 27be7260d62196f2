//! An ordered log for each pool in one Redis or Valkey, which several replicas append to and follow.
//!
//! What the entries mean is not known here: they are bytes. Whoever applies all of a log's entries
//! in their order has the same state as everybody else who does. A [`Log`] appends an entry on the
//! condition that its writer has seen everything before it, or without one; it [follows](Log::follow)
//! what others append; it keeps a snapshot, so that the log stays short.
//!
//! # Invariants
//!
//! - One order: whatever two replicas have seen of an epoch, one's is the beginning of the other's.
//! - Nothing twice: a call whose reply was lost is repeated under its number, and not done again.
//! - Nobody waits longer for a call than the configured time, and nobody at all while the server is
//!   known not to answer.
//! - What the server lost comes back with a new epoch, from the replica that has seen the most.
//! - The log's time does not run backwards, and a step of the server's clock does not move it.
//!
//! `log.lua` is the other half: everything that has to happen at one moment.

mod bounds;
mod breaker;
mod calls;
mod follow;
mod keeper;
mod link;
mod log;
mod outbox;
mod position;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Script};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::breaker::Breaker;
pub use self::follow::{Event, Events};
use self::link::Link;
pub use self::log::{Log, Outcome, Peer, State};
pub use self::outbox::Full;
pub use self::position::{Entry, EntryKind, Epoch, Position, ReplicaId, Step};
use self::wire::Reply;
use crate::admission::PoolKey;
use crate::config::Shared as SharedConfig;
use crate::metrics::SharedMetrics;

/// The script, and the layout of the keys that it keeps to.
const SCRIPT: &str = include_str!("shared/log.lua");
const FORMAT: &str = "1";

/// Why a call came to nothing. It may have been carried out nevertheless, unless it says otherwise.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unavailable {
    /// Calls failed before, so this one was not made.
    #[error("the shared store did not answer before")]
    Open,
    /// No reply came in time.
    #[error("the shared store did not answer in time")]
    Timeout,
    /// There is no connection, or it broke.
    #[error("no connection to the shared store")]
    Disconnected,
    /// The server refused, with this code.
    #[error("the shared store refused: {0}")]
    Refused(String),
    /// The server's data, or another replica's script, is of a version that does not go with ours.
    #[error("the shared log has format {theirs}, this gateway's is {ours}")]
    Format {
        /// What this gateway writes.
        ours: String,
        /// What is there.
        theirs: String,
    },
    /// The log is as long as it may get, and nobody has saved a snapshot. Nothing was appended.
    #[error("the shared log is full, it needs a snapshot")]
    Full,
    /// The reply makes no sense.
    #[error("the shared store's reply is malformed")]
    Malformed,
}

impl Unavailable {
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::Refused(_) | Self::Full => "refused",
            Self::Format { .. } => "format",
            Self::Malformed => "malformed",
        }
    }
}

/// The connection to the server, and all logs of this process. Dropping it ends both.
pub struct Shared {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("replica", &self.inner.replica).finish_non_exhaustive()
    }
}

impl Shared {
    /// Begins to connect, and goes on trying for as long as it takes; does not wait for it.
    pub fn connect(config: SharedConfig, metrics: SharedMetrics, tasks: &TaskTracker) -> Self {
        Self::connect_scripted(config, metrics, tasks, SCRIPT)
    }

    /// [`Self::connect`] with another script: for tests in which the server's clock is set.
    #[doc(hidden)]
    pub fn connect_scripted(
        config: SharedConfig,
        metrics: SharedMetrics,
        tasks: &TaskTracker,
        script: &str,
    ) -> Self {
        // Zero would look like a clock that says nothing.
        let started = Instant::now() - Duration::from_micros(1);
        let inner = Arc::new(Inner {
            config,
            metrics,
            started,
            replica: ReplicaId(fastrand::u64(1..)),
            script: Script::new(script),
            text: script.to_owned(),
            link: watch::Sender::new(None),
            breaker: Mutex::default(),
            broken: AtomicU64::new(0),
            wake: Notify::new(),
            logs: Mutex::default(),
            made: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: tasks.clone(),
        });
        tasks.spawn(keeper::run(Arc::clone(&inner)));
        let stop = inner.stop.clone().drop_guard();
        Self { inner, _stop: stop }
    }

    /// The script that the server runs.
    #[doc(hidden)]
    pub const fn script() -> &'static str {
        SCRIPT
    }

    /// Who this process is to the others.
    pub fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    /// Whether calls are made at all just now.
    pub fn is_up(&self) -> bool {
        self.inner.is_up()
    }

    /// Ends the connection and every following, for good. Calls fail from now on.
    pub fn close(&self) {
        self.inner.stop.cancel();
    }

    /// The log of a pool. Two of the same pool must not be used at once.
    pub fn log(&self, pool: PoolKey) -> Log {
        Log::new(Arc::clone(&self.inner), pool)
    }
}

/// What the connection's keeper and the logs have in common.
struct Inner {
    config: SharedConfig,
    metrics: SharedMetrics,
    started: Instant,
    replica: ReplicaId,
    script: Script,
    text: String,
    /// The connection and its number; `None` while there is none.
    link: watch::Sender<Option<(u64, Link)>>,
    breaker: Mutex<Breaker>,
    /// Connections up to this number are of no use any more.
    broken: AtomicU64,
    /// Tells the keeper to look.
    wake: Notify,
    /// The logs that want to be told, by channel.
    logs: Mutex<BTreeMap<String, Weak<calls::Inner>>>,
    /// Logs made so far.
    made: AtomicU64,
    /// Ends every task.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Inner {
    fn is_up(&self) -> bool {
        self.link.borrow().is_some() && !self.breaker.lock().is_open()
    }

    /// Microseconds on the clock that bounds are given by.
    fn local(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.started);
        u64::try_from(passed.as_micros()).unwrap_or(u64::MAX)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// Runs the script by `deadline`. `arguments` is called for each attempt, just before it.
    async fn call(
        &self,
        operation: &'static str,
        deadline: Instant,
        keys: &[String],
        arguments: impl Fn(Instant) -> Vec<Vec<u8>>,
    ) -> Result<(Reply, Instant), Unavailable> {
        let began = Instant::now();
        let result = if self.breaker.lock().is_open() {
            self.metrics.refused.inc();
            return Err(Unavailable::Open);
        } else {
            let attempt = timeout_at(deadline, self.attempt(keys, arguments)).await;
            attempt.unwrap_or(Err(Unavailable::Timeout))
        };
        let outcome = result.as_ref().map_or_else(Unavailable::outcome, |_| "ok");
        self.metrics.called(operation, outcome, began.elapsed());
        match &result {
            Ok(_) => self.succeeded(),
            Err(error) => self.failed(error),
        }
        result
    }

    async fn attempt(
        &self,
        keys: &[String],
        arguments: impl Fn(Instant) -> Vec<Vec<u8>>,
    ) -> Result<(Reply, Instant), Unavailable> {
        let mut after = 0;
        loop {
            let (number, mut link) = self.link_after(after).await;
            let sent = Instant::now();
            let arguments = arguments(sent);
            let mut result = link.call(&self.command("EVALSHA", keys, &arguments)).await;
            if result.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT")) {
                // The server has forgotten it, or is another one.
                result = link.call(&self.command("EVAL", keys, &arguments)).await;
            }
            match result {
                Ok(value) => {
                    let reply = Reply::read(value).map_err(|_| Unavailable::Malformed)?;
                    let wrong = |(theirs, ours)| Unavailable::Format { ours, theirs };
                    return reply.map(|reply| (reply, sent)).map_err(wrong);
                }
                Err(error) if link::is_demoted(&error) => self.give_up(number),
                // The reply is lost with the connection: once more on the next, under its number.
                Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                    self.give_up(number);
                }
                Err(error) => {
                    return Err(Unavailable::Refused(error.code().unwrap_or("ERR").to_owned()));
                }
            }
            if after > 0 {
                return Err(Unavailable::Disconnected);
            }
            after = number;
        }
    }

    fn command(&self, name: &str, keys: &[String], arguments: &[Vec<u8>]) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(if name == "EVAL" { &self.text } else { self.script.get_hash() });
        command.arg(keys.len()).arg(keys).arg(FORMAT).arg(arguments);
        command
    }

    /// Waits for a connection later than that of this number.
    async fn link_after(&self, number: u64) -> (u64, Link) {
        let mut links = self.link.subscribe();
        loop {
            if let Some((own, link)) = &*links.borrow_and_update()
                && *own > number
            {
                return (*own, link.clone());
            }
            if links.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The connection of this number is of no use any more.
    fn give_up(&self, number: u64) {
        self.broken.fetch_max(number, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn succeeded(&self) {
        if self.breaker.lock().succeed() {
            tracing::info!("the shared store answers again");
            self.changed();
        }
    }

    fn failed(&self, error: &Unavailable) {
        if self.breaker.lock().fail() {
            tracing::warn!(%error, "the shared store does not answer: going on without it");
            self.changed();
            self.wake.notify_one();
        }
    }

    /// Tells everybody that calls are made again, or are not.
    fn changed(&self) {
        self.metrics.degraded.set(i64::from(!self.is_up()));
        for log in self.all() {
            log.poke();
        }
    }

    fn all(&self) -> Vec<Arc<calls::Inner>> {
        self.logs.lock().values().filter_map(Weak::upgrade).collect()
    }
}
