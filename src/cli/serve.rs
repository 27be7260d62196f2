//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::{block_on, failed, misused, on_signals, raise_descriptor_limit, say};
use crate::config::{Config, Overrides};
use crate::server::{Ended, Server};
use crate::telemetry;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Configuration file; without one, the limits of config/tidegate.toml for every model.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of metrics, health and status [default: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Base URL of the upstream [default: `https://api.cerebras.ai`].
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Directory for what is to outlive the process: quota used, usage
    /// [default: `$XDG_STATE_HOME/tidegate` or `~/.local/state/tidegate`].
    #[arg(long, value_name = "DIR", conflicts_with = "stateless")]
    state_dir: Option<String>,
    /// Keep nothing: every start begins with quotas as if they were unused.
    #[arg(long)]
    stateless: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let overrides = Overrides {
        listen: args.listen.clone(),
        admin: args.admin.clone(),
        upstream: args.upstream.clone(),
        state_dir: args.state_dir.clone(),
        stateless: args.stateless,
        ..Overrides::default()
    };
    let mut config = match Config::load(args.config.as_deref(), std::env::vars(), &overrides) {
        Ok(config) => config,
        Err(problems) => return misused(problems),
    };
    match config.state.choose(|name| std::env::var(name).ok()) {
        Ok(()) => block_on(serve(config)),
        Err(problem) => misused(problem),
    }
}

async fn serve(config: Config) -> ExitCode {
    let _flush = match telemetry::start(&config.log) {
        Ok(flush) => flush,
        Err(error) => return failed(error),
    };
    raise_descriptor_limit();
    warn_if_open(&config);
    let upstream = config.upstream.base_url.clone();
    let server = match Server::bind(Arc::new(config)) {
        Ok(server) => server,
        Err(error) => return failed(error),
    };
    let (stop, abort) = match on_signals() {
        Ok(tokens) => tokens,
        Err(error) => return failed(error),
    };
    if let (Ok(api), Ok(admin)) = (server.api_addr(), server.admin_addr()) {
        // The sockets listen: what connects from now on is answered.
        say(format_args!(
            "tidegate ready: http://{}/v1 -> {upstream} (metrics and status: http://{})",
            reachable(api),
            reachable(admin)
        ));
    }
    match server.run(stop, abort).await {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::Aborted => failed("stopped before every answer was finished"),
    }
}

/// A key that anybody can spend is a mistake worth a line.
fn warn_if_open(config: &Config) {
    let open = !config.server.listen.ip().is_loopback() && config.keys.is_empty();
    if open && config.upstream.api_key.is_some() {
        tracing::warn!(
            listen = %config.server.listen,
            "everybody who can reach this address can use the account's key; see `keys` in \
             config/full.toml"
        );
    }
}

/// The address as a caller on this machine would write it.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    addr
}
