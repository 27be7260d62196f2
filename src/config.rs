//! The configuration: valid by construction, or every problem at once.
//!
//! A file, the environment and the command line become one tree of values (`source`); reading it
//! (`read`) yields a [`Config`] whose fields need no further check, or the list of all problems,
//! each with its path and line. After that only the typed form travels.
//!
//! # Invariants
//!
//! - A key that is not known is a problem, never ignored.
//! - There is no way to say "no limit": a model without limits is a problem.
//! - A [`Secret`] does not show itself in any output.

mod access;
mod batch;
mod breaker;
mod change;
mod classes;
mod env;
mod fallback;
mod keys;
mod metrics;
mod model;
mod origin;
mod print;
mod read;
mod section;
mod shared;
mod sizing;
mod source;
mod state;
mod tls;
mod tokenizers;
mod traces;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::access::AdminAccess;
pub use self::batch::Batch;
pub use self::change::{Change, changes, changes_to};
pub use self::classes::{Class, Classes};
pub use self::fallback::{Cause, Causes, Fallback, OtherAccount, place};
pub use self::keys::{Identity, KeysContext};
pub use self::metrics::Metrics;
pub use self::model::{Models, Profile, window_name};
pub use self::origin::Origin;
pub use self::read::certificates as authorities;
pub use self::shared::{Servers, Shared, Topology};
pub use self::sizing::OutputChoice;
pub use self::source::{Problem, Problems};
pub use self::state::{Durability, NoDirectory, State};
pub use self::tls::{BadFile, Certified, Tls};
pub use self::traces::{Root, Sampler, Traces};
pub use self::value::Secret;
use rustls::pki_types::CertificateDer;

use crate::admission::circuit;
use crate::identity::VirtualKey;
use crate::limit::ColdStart;

/// What `serve` runs with when no file is given.
pub const DEFAULT_FILE: &str = include_str!("../config/tidegate.toml");

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listeners.
    pub server: Server,
    /// Where requests go.
    pub upstream: Upstream,
    /// Who may wait, and how long.
    pub admission: Admission,
    /// Who goes before whom.
    pub classes: Classes,
    /// What is tried again.
    pub retry: Retry,
    /// When the upstream counts as away.
    pub breaker: circuit::Rule,
    /// Where requests go that their own account and model cannot serve, in this order.
    pub fallbacks: Vec<Fallback>,
    /// What is logged.
    pub log: Log,
    /// What is measured.
    pub metrics: Metrics,
    /// What outlives the process.
    pub state: State,
    /// Files and batches of requests.
    pub batch: Batch,
    /// Where callers' keys are besides.
    pub identity: Identity,
    /// The callers' keys, wherever they stand; see [`Self::lets_everybody_in`].
    pub keys: Vec<VirtualKey>,
    /// What is done about the output limits of some keys' callers, by the key's name.
    pub output_choices: BTreeMap<Arc<str>, OutputChoice>,
    /// Limits and costs by model.
    pub models: Models,
    /// The server through which replicas share their quota; `None` to keep it to oneself.
    pub shared: Option<Shared>,
    /// Where spans are sent to; `None` for no traces.
    pub traces: Option<Traces>,
    /// Every file that this was read from: what it depends on beside the environment and the flags.
    pub files: Vec<PathBuf>,
}

/// The listeners and what they put up with.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Address of the API.
    pub listen: SocketAddr,
    /// Address of metrics, health and status.
    pub admin: SocketAddr,
    /// Who may use that, and under which names.
    pub admin_access: AdminAccess,
    /// Encryption; `None` for none.
    pub tls: Option<Tls>,
    /// Connections to the API at once; more wait to be accepted.
    pub max_connections: NonZeroU32,
    /// Connections to the API at once from one address other than loopback; more are closed.
    pub max_connections_per_ip: NonZeroU32,
    /// Bytes of a request body, as sent and decoded.
    pub max_body_bytes: NonZeroU64,
    /// Time for the head of a request, and for the next request on a kept connection.
    pub header_timeout: Duration,
    /// Time between two pieces of a request body, and beyond what a slow one takes in all.
    pub body_timeout: Duration,
    /// Time for which a caller may take nothing of its answer.
    pub write_timeout: Duration,
    /// Whether other processes may listen on the same addresses.
    pub reuse_port: bool,
    /// Time between SIGTERM, when it is no longer ready, and the end of accepting connections.
    pub drain_delay: Duration,
    /// Time for waiting requests and running answers to finish after that.
    pub drain_timeout: Duration,
    /// What makes the gateway read its configuration again.
    pub reload: ReloadOn,
}

/// What makes a running gateway read its configuration again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReloadOn {
    /// SIGHUP, and a change of any of its files.
    Auto,
    /// SIGHUP.
    Signal,
}

/// The upstream and what is expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Scheme, host and port, without a path.
    pub base_url: http::Uri,
    /// The account's key; `None` passes the callers' own on.
    pub api_key: Option<Secret>,
    /// Where [`Self::ca`] was read from; empty for the well-known authorities.
    pub ca_file: String,
    /// Certificates that are trusted instead of the well-known ones; none if empty.
    pub ca: Vec<CertificateDer<'static>>,
    /// Time to connect, name resolution and TLS included.
    pub connect_timeout: Duration,
    /// Time from the request to the head of its answer.
    pub head_timeout: Duration,
    /// Time between two pieces of an answer.
    pub idle_timeout: Duration,
    /// Time for which a connection is kept unused.
    pub pool_idle_timeout: Duration,
}

/// Bounds on waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// Requests that may wait in each pool.
    pub max_queued: NonZeroU32,
    /// Bytes of all request bodies kept at once.
    pub max_queued_bytes: NonZeroU64,
    /// Requests of one tenant that may wait in each pool.
    pub max_queued_per_tenant: NonZeroU32,
    /// Bytes of the bodies of one tenant's requests that may wait in each pool.
    pub max_queued_bytes_per_tenant: NonZeroU64,
    /// A header whose value tells tenants apart, because whoever sets it is trusted.
    pub tenant_header: Option<http::HeaderName>,
    /// The longest wait.
    pub max_wait: Duration,
    /// What is assumed of an account of which nothing is known.
    pub cold_start: ColdStart,
    /// How long after an answer its refund is counted.
    pub settle_delay: Duration,
    /// Pools at once.
    pub max_pools: NonZeroU32,
    /// How long a streamed request waits before its caller is sent signs of life; zero for never.
    pub heartbeat_after: Duration,
    /// Time between two of them.
    pub heartbeat_every: Duration,
    /// How long a request that was refused for waiting too long may come back to its place.
    pub keep_place: Duration,
}

/// What is tried again, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Times that one request is sent at most; 1 for no retries.
    pub max_attempts: NonZeroU32,
    /// Whether a request is sent again of which nobody knows what the upstream did with it.
    pub lost_answers: bool,
    /// The backoff before the second attempt at most; doubles with each.
    pub backoff: Duration,
    /// The longest backoff.
    pub max_backoff: Duration,
    /// Retries for each hundred requests.
    pub budget_percent: u32,
    /// Retries a second allowed whatever the number of requests.
    pub budget_per_second: u32,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least level, as a filter directive ("info", "tidegate=debug").
    pub level: String,
    /// The shape of a line.
    pub format: LogFormat,
    /// Whether each request is logged, on one line.
    pub requests: bool,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Values that the command line sets; they win over the environment and the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `server.listen`.
    pub listen: Option<String>,
    /// `server.admin`.
    pub admin: Option<String>,
    /// `upstream.base_url`.
    pub upstream: Option<String>,
    /// `state.dir`; state is kept then, whatever else was said.
    pub state_dir: Option<String>,
    /// `state.stateless`: keeps no state.
    pub stateless: bool,
    /// `batch.dir`.
    pub batch_dir: Option<String>,
}

impl Config {
    /// Reads the file at `path` ([`DEFAULT_FILE`] if `None`), then lets the environment and the
    /// command line have their say.
    ///
    /// # Errors
    ///
    /// Every problem found, with its path in the configuration.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, Problems> {
        Self::load_after(None, path, environment, overrides)
    }

    /// [`Self::load`]; where one `running` is to be replaced, its classes keep their indexes.
    fn load_after(
        running: Option<&Self>,
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, Problems> {
        let Some(path) = path else {
            return Self::read(running, DEFAULT_FILE, Path::new(""), environment, overrides);
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Problems::one(&path.display().to_string(), &error))?;
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        let mut config = Self::read(running, &text, directory, environment, overrides)?;
        config.files.insert(0, path.to_owned());
        Ok(config)
    }

    /// [`Self::load`] with the text of the file, as if it stood in the current directory.
    ///
    /// # Errors
    ///
    /// Every problem found, with its path in the configuration.
    pub fn parse(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, Problems> {
        Self::read(None, text, Path::new(""), environment, overrides)
    }

    /// Reads the text of a file in `directory`.
    fn read(
        running: Option<&Self>,
        text: &str,
        directory: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, Problems> {
        let environment: Vec<_> = environment.into_iter().collect();
        let mut problems = Vec::new();
        let mut tree = source::parse(text, &mut problems);
        env::overlay(&mut tree, &environment, &mut problems);
        source::overlay_flags(&mut tree, overrides);
        let place = (directory, running.map(|it| &it.classes));
        match read::config(tree, &environment, place, &mut problems) {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Problems::from(problems)),
        }
    }

    /// The effective configuration as a file, without its secrets.
    pub fn to_toml(&self) -> String {
        print::to_table(self).to_string()
    }
}

#[cfg(test)]
mod tests;
