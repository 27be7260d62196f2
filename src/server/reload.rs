//! Has a running gateway go on with its configuration as it is at its origin now.
//!
//! # Invariants
//!
//! - Whole or not at all: what cannot be read, or needs a restart, changes nothing.
//! - Certificates are not part of the whole: those that are served stay until others can be read.
//! - One at a time, and each is counted and logged: what it changed by path, never a secret.

mod watch;

use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::watch::Watch;
use super::tls::Encryption;
use crate::config::{Change, Config, Origin, Problems, ReloadOn, changes};
use crate::proxy::Current;
use crate::telemetry::Levels;

/// Reads the configuration again when told to.
#[derive(Debug)]
pub struct Reloader {
    current: Current,
    origin: Arc<Origin>,
    levels: Option<Levels>,
    /// The certificates, if connections are encrypted.
    encryption: Option<Arc<Encryption>>,
    /// Held while one is at it.
    turn: Mutex<()>,
}

/// What became of reading the configuration again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reloaded {
    /// This has changed.
    Applied(Vec<Change>),
    /// Nothing has.
    Unchanged,
    /// It cannot be taken up, and nothing has changed; this is why.
    Refused(String),
}

/// Why a configuration cannot be taken up.
enum Refused {
    /// It is wrong.
    Problems(Problems),
    /// A running gateway cannot change these.
    Restart(Vec<Change>),
    /// Something else than the configuration itself.
    Failed(String),
}

impl Reloader {
    pub(super) fn new(
        current: Current,
        origin: Origin,
        encryption: Option<Arc<Encryption>>,
    ) -> Self {
        Self { current, origin: Arc::new(origin), levels: None, encryption, turn: Mutex::new(()) }
    }

    /// The same, which sets what is logged as well.
    #[must_use]
    pub fn logging(mut self, levels: Levels) -> Self {
        self.levels = Some(levels);
        self
    }

    /// Reads the configuration, and goes on with it if it is whole and right. Certificates are read again
    /// if they are in other files than before.
    pub async fn reload(&self) -> Reloaded {
        let _turn = self.turn.lock().await;
        let reloaded = self.read_configuration().await;
        if moves_certificates(&reloaded) {
            self.read_certificates().await;
        }
        reloaded
    }

    /// Reads the configuration and the certificates, whatever has changed: what SIGHUP asks for.
    pub async fn reload_all(&self) -> Reloaded {
        let _turn = self.turn.lock().await;
        let reloaded = self.read_configuration().await;
        self.read_certificates().await;
        reloaded
    }

    async fn read_certificates(&self) {
        let running = self.current.get();
        if let (Some(encryption), Some(tls)) = (&self.encryption, &running.config().server.tls) {
            encryption.read_again(tls).await;
        }
    }

    async fn read_configuration(&self) -> Reloaded {
        let running = self.current.get();
        let (origin, before) = (Arc::clone(&self.origin), Arc::clone(running.config()));
        // Files are read, and a tokenizer's takes a while.
        let reading = move || read(&origin, &before);
        let read = tokio::task::spawn_blocking(reading).await;
        let read = read.unwrap_or_else(|error| Err(Refused::Failed(error.to_string())));
        let taken = read.and_then(|(config, changed)| {
            if !changed.is_empty() {
                self.current.replace(config).map_err(|error| Refused::Failed(failed(&error)))?;
            }
            Ok(changed)
        });
        let (reloads, now) = (running.reloads(), running.pools().epoch().now());
        match taken {
            Ok(changed) if changed.is_empty() => {
                reloads.unchanged();
                tracing::info!("configuration read again: nothing has changed");
                Reloaded::Unchanged
            }
            Ok(changed) => {
                let generation = reloads.applied(now);
                let paths = paths(&changed);
                if let Some(levels) = &self.levels {
                    levels.set(&self.current.get().config().log.level);
                }
                tracing::info!(generation, changed = paths, "configuration taken up");
                Reloaded::Applied(changed)
            }
            Err(refused) => {
                refused.log();
                let why = refused.to_string();
                reloads.refused(why.clone(), now);
                Reloaded::Refused(why)
            }
        }
    }

    /// Reads it again whenever one of its files has changed, until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let Some(mut watch) = Watch::start(&self.current.get().config().files) else { return };
        // Between the first reading and now nobody looked.
        let mut changed = self.differs().await;
        loop {
            if changed && self.current.get().config().server.reload == ReloadOn::Auto {
                self.reload().await;
            }
            // It may consist of other files now.
            watch.look_at(&self.current.get().config().files);
            tokio::select! {
                () = watch.changed() => changed = true,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether there is something else to be read than what is in force.
    async fn differs(&self) -> bool {
        let running = self.current.get();
        let (origin, before) = (Arc::clone(&self.origin), Arc::clone(running.config()));
        let read = tokio::task::spawn_blocking(move || read(&origin, &before)).await;
        !matches!(read, Ok(Ok((_, changed))) if changed.is_empty())
    }
}

/// Reads what is to be taken up, and what that changes.
fn read(origin: &Origin, running: &Config) -> Result<(Config, Vec<Change>), Refused> {
    let config = origin.read_again(running).map_err(Refused::Problems)?;
    let changed = changes(running, &config);
    let fixed: Vec<_> = changed.iter().filter(|change| change.restart).cloned().collect();
    if fixed.is_empty() { Ok((config, changed)) } else { Err(Refused::Restart(fixed)) }
}

/// Whether certificates are in other files now.
fn moves_certificates(reloaded: &Reloaded) -> bool {
    let Reloaded::Applied(changed) = reloaded else { return false };
    changed.iter().any(|change| change.path.starts_with("server.tls."))
}

fn failed(error: &io::Error) -> String {
    format!("the upstream cannot be used: {error}")
}

/// The paths of changes, in one line.
fn paths(changed: &[Change]) -> String {
    changed.iter().map(|change| change.path.as_str()).collect::<Vec<_>>().join(", ")
}

impl Refused {
    /// A line for all of it, and one for each problem.
    fn log(&self) {
        tracing::error!(why = %self, "configuration not taken up: the one before stays in force");
        if let Self::Problems(problems) = self {
            for problem in problems.list() {
                tracing::error!(%problem, "wrong in the configuration");
            }
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Problems(problems) => {
                // In one line, of which a few say enough.
                let list = problems.list();
                let shown = list.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>();
                write!(f, "{}", shown.join("; "))?;
                match list.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
            Self::Restart(changed) => write!(f, "needs a restart: {}", paths(changed)),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Problems that the status shows; the log has all of them.
const SHOWN: usize = 5;
