//! Turns the tree of values into a [`Config`], section by section. The defaults stand here; each
//! has its reason in `config/full.toml`, which a test compares with them.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::access::admin_access;
use super::batch::batch;
use super::breaker::breaker;
use super::classes::{self, Classes};
use super::fallback::fallbacks;
use super::keys;
use super::metrics::metrics;
use super::model::models;
use super::section::Section;
use super::shared::shared;
use super::source::{Problem, Table};
use super::state;
use super::tls::tls;
use super::tokenizers::Tokenizers;
use super::traces::traces;
use super::value::{Bytes, Secret};
use super::{Admission, Config, Log, LogFormat, ReloadOn, Retry, Server, Upstream};
use crate::limit::ColdStart;

const KIB: u64 = 1 << 10;

/// A constant that is not zero, as its type says.
const fn nonzero(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).expect("a constant above zero")
}

const fn bytes(value: u64) -> Bytes {
    Bytes(std::num::NonZeroU64::new(value).expect("a constant above zero"))
}

const fn seconds(value: u64) -> Duration {
    Duration::from_secs(value)
}

/// Reads the whole tree, of a file in `directory`; the classes have the indexes that they had in
/// `order`, if there is one. The result is good only if no problem was added.
pub(super) fn config(
    tree: Table,
    environment: &[(String, String)],
    (directory, order): (&Path, Option<&Classes>),
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let found = RefCell::new(std::mem::take(problems));
    let mut root = Section::new("", tree, &found);
    let server = server(root.section("server"), environment, directory);
    let upstream = upstream(root.section("upstream"), environment);
    let mut classes = classes::classes(root.section("classes"), order);
    let admission = admission(root.section("admission"), &mut classes);
    let retry = retry(root.section("retry"));
    let breaker = breaker(root.section("breaker"));
    let log = log(root.section("log"));
    let metrics = metrics(root.section("metrics"));
    let state = state::state(root.section("state"));
    let batch = batch(root.section("batch"), &classes);
    let mut files = Vec::new();
    let keys::Said { identity, keys, output_choices } =
        keys::keys(&mut root, &classes, directory, &mut files);
    let tokenizers = Tokenizers::new(directory);
    let models = models(root.section("models"), &tokenizers);
    let nodes = root.list("fallback").unwrap_or_default();
    let fallbacks = fallbacks(nodes, upstream.as_ref(), &models, environment, &found);
    let shared = shared(root.section("shared"), environment);
    let traces = traces(root.section("traces"), environment);
    let callers = !keys.is_empty() || identity.keys_file.is_some();
    if callers && upstream.as_ref().is_some_and(|it| it.api_key.is_none()) {
        let message = "callers' keys need `upstream.api_key`: without it the callers' own \
                       Authorization goes to the upstream";
        root.problem("keys", message);
    }
    root.finish();
    *problems = found.into_inner();
    let (server, upstream) = (server?, upstream?);
    files.extend(tokenizers.files());
    let accounts = fallbacks.iter().filter_map(|it| Some(&it.account.as_ref()?.api_key));
    let secrets = upstream.api_key.iter().chain(accounts).chain(&server.admin_access.token);
    let secrets = secrets.map(Secret::reference);
    files.extend(secrets.filter_map(file));
    let references = shared.as_ref().map(|it| it.servers.references()).unwrap_or_default();
    files.extend(references.iter().filter_map(|it| file(it)));
    files.extend(traces.as_ref().and_then(|it| file(it.headers_from())));
    Some(Config {
        server,
        upstream,
        admission,
        classes,
        retry,
        breaker,
        fallbacks,
        log,
        metrics,
        state,
        batch,
        identity,
        keys,
        output_choices,
        models,
        shared,
        traces,
        files,
    })
}

/// The file that a reference names, if it names one.
fn file(reference: &str) -> Option<PathBuf> {
    reference.strip_prefix("file:").map(PathBuf::from)
}

fn server(
    mut section: Section<'_>,
    environment: &[(String, String)],
    directory: &Path,
) -> Option<Server> {
    let listen = section.get_or("listen", ([127, 0, 0, 1], 8080).into());
    let admin = section.get_or("admin", ([127, 0, 0, 1], 9464).into());
    let server = Server {
        listen,
        admin,
        admin_access: admin_access(&mut section, admin, environment),
        tls: tls(section.section("tls"), directory),
        max_connections: section.get_or("max_connections", nonzero(10_000)),
        max_connections_per_ip: section.get_or("max_connections_per_ip", nonzero(8_000)),
        max_body_bytes: section.get_or("max_body_bytes", bytes(32 * KIB * KIB)).0,
        header_timeout: positive(&mut section, "header_timeout", seconds(60)),
        body_timeout: positive(&mut section, "body_timeout", seconds(30)),
        write_timeout: positive(&mut section, "write_timeout", seconds(60)),
        reuse_port: section.get_or("reuse_port", false),
        drain_delay: section.get_or("drain_delay", Duration::ZERO),
        drain_timeout: section.get_or("drain_timeout", seconds(30)),
        reload: reload(&mut section),
    };
    if listen == admin && listen.port() != 0 {
        section.problem("admin", format!("{admin} is already `listen`: metrics need their own"));
        return None;
    }
    section.finish();
    Some(server)
}

fn reload(section: &mut Section<'_>) -> ReloadOn {
    match section.get_or("reload", "auto".to_owned()).as_str() {
        "auto" => ReloadOn::Auto,
        "signal" => ReloadOn::Signal,
        other => {
            let expected = "\"auto\" or \"signal\" is expected";
            section.problem("reload", format!("{expected}, got {other:?}"));
            ReloadOn::Auto
        }
    }
}

fn upstream(mut section: Section<'_>, environment: &[(String, String)]) -> Option<Upstream> {
    let base_url = section.require("base_url");
    let api_key = match section.get::<String>("api_key") {
        None => Some(None),
        Some(reference) if reference.is_empty() => Some(None),
        Some(reference) => match Secret::resolve(&reference, environment) {
            Ok(secret) => Some(Some(secret)),
            Err(message) => {
                section.problem("api_key", message);
                None
            }
        },
    };
    let ca_file = section.get_or("ca_file", String::new());
    let ca = match certificates(&ca_file) {
        Ok(ca) => ca,
        Err(problem) => {
            section.problem("ca_file", problem);
            Vec::new()
        }
    };
    let connect_timeout = positive(&mut section, "connect_timeout", seconds(5));
    let head_timeout = positive(&mut section, "head_timeout", seconds(300));
    let idle_timeout = positive(&mut section, "idle_timeout", seconds(60));
    let pool_idle_timeout = section.get_or("pool_idle_timeout", seconds(60));
    section.finish();
    Some(Upstream {
        base_url: base_url?,
        api_key: api_key?,
        ca_file,
        ca,
        connect_timeout,
        head_timeout,
        idle_timeout,
        pool_idle_timeout,
    })
}

/// The certificates in a file of PEM; none without a file.
///
/// # Errors
///
/// If the file cannot be read, or holds none.
pub fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let pem = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{path}: there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn admission(mut section: Section<'_>, classes: &mut Classes) -> Admission {
    let default_class = section.get_or("default_class", classes::DEFAULT.to_owned());
    if !classes.set_default(&default_class) {
        let message = format!("one of {} is expected, got {default_class:?}", classes.listed());
        section.problem("default_class", message);
    }
    let admission = Admission {
        max_queued: section.get_or("max_queued", nonzero(10_000)),
        max_queued_bytes: section.get_or("max_queued_bytes", bytes(KIB * KIB * KIB)).0,
        max_queued_per_tenant: section.get_or("max_queued_per_tenant", nonzero(8_000)),
        max_queued_bytes_per_tenant: section
            .get_or("max_queued_bytes_per_tenant", bytes(KIB * KIB * KIB / 2))
            .0,
        tenant_header: section.get_or("tenant_header", None),
        max_wait: positive(&mut section, "max_wait", seconds(600)),
        cold_start: cold_start(&mut section),
        settle_delay: section.get_or("settle_delay", Duration::from_millis(500)),
        max_pools: section.get_or("max_pools", nonzero(1_024)),
        heartbeat_after: section.get_or("heartbeat_after", seconds(10)),
        heartbeat_every: positive(&mut section, "heartbeat_every", seconds(5)),
        keep_place: section.get_or("keep_place", seconds(90)),
    };
    section.finish();
    admission
}

fn cold_start(section: &mut Section<'_>) -> ColdStart {
    match section.get_or("cold_start", "full".to_owned()).as_str() {
        "full" => ColdStart::Full,
        "empty" => ColdStart::Empty,
        "probe" => ColdStart::Probe,
        other => {
            let expected = "\"full\", \"empty\" or \"probe\" is expected";
            section.problem("cold_start", format!("{expected}, got {other:?}"));
            ColdStart::Full
        }
    }
}

fn retry(mut section: Section<'_>) -> Retry {
    let retry = Retry {
        max_attempts: section.get_or("max_attempts", nonzero(8)),
        lost_answers: section.get_or("lost_answers", true),
        backoff: positive(&mut section, "backoff", Duration::from_millis(500)),
        max_backoff: positive(&mut section, "max_backoff", seconds(30)),
        budget_percent: section.get_or("budget_percent", 20),
        budget_per_second: section.get_or("budget_per_second", 10),
    };
    if retry.max_backoff < retry.backoff {
        section.problem("max_backoff", "must not be below `backoff`");
    }
    if retry.budget_percent > 1_000 {
        section.problem("budget_percent", "at most 1000: ten retries for each request");
    }
    section.finish();
    retry
}

fn log(mut section: Section<'_>) -> Log {
    let level = section.get_or("level", "info".to_owned());
    if let Err(error) = level.parse::<tracing_subscriber::filter::Targets>() {
        section.problem("level", format!("{error}, got {level:?}"));
    }
    let format = match section.get_or("format", "text".to_owned()).as_str() {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            section.problem("format", format!("\"text\" or \"json\" is expected, got {other:?}"));
            LogFormat::Text
        }
    };
    let requests = section.get_or("requests", true);
    section.finish();
    Log { level, format, requests }
}

/// A duration above zero.
fn positive(section: &mut Section<'_>, key: &'static str, default: Duration) -> Duration {
    let value = section.get_or(key, default);
    if value.is_zero() {
        section.problem(key, "must be above zero");
    }
    value
}
