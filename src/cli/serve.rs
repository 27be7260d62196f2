//! `tidegate serve`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flags::Flags;
use super::{block_on_one_thread, failed, misused, on_signals, raise_descriptor_limit, say};
use crate::config::{Config, Origin};
use crate::cores::{self, Cores};
use crate::server::{self, Ended, Reloader, Server, Sockets};
use crate::telemetry;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Configuration file; without one, the limits of config/tidegate.toml for every model.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take over from the process that has the state now, if there is one: its listening sockets, its
    /// state, and what becomes of the requests it still has. Nobody is refused meanwhile.
    #[arg(long, conflicts_with = "stateless")]
    take_over: bool,
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(args: &Args) -> ExitCode {
    // Read once: what it says at the start wins whenever the file is read again.
    let origin = Origin::new(args.config.as_deref(), std::env::vars(), args.flags.overrides());
    let origin = origin.keeping_state();
    let config = match origin.read() {
        Ok(config) => config,
        Err(problems) => return misused(problems),
    };
    match Sockets::from_environment() {
        // Callers are served on threads of their own, and all else is little.
        Ok(sockets) => block_on_one_thread(serve(config, origin, sockets, args.take_over)),
        Err(problem) => failed(format_args!("LISTEN_FDS: {problem}")),
    }
}

async fn serve(config: Config, origin: Origin, sockets: Sockets, take_over: bool) -> ExitCode {
    let logging = match telemetry::start(&config.log) {
        Ok(logging) => logging,
        Err(error) => return failed(error),
    };
    let cores = match Cores::start(cores::count()) {
        Ok(cores) => cores,
        Err(error) => return failed(error),
    };
    raise_descriptor_limit();
    warn_if_open(&config);
    let upstream = config.upstream.base_url.clone();
    let scheme = |encrypted: bool| if encrypted { "https" } else { "http" };
    let api_scheme = scheme(config.server.tls.is_some());
    let admin_scheme = scheme(config.server.tls.as_ref().is_some_and(|tls| tls.admin));
    let (taken, since) = match config.state.place().filter(|_| take_over) {
        None => (None, None),
        Some(dir) => match server::take_over(dir).await {
            Ok(taken) => (taken, Some(Instant::now())),
            Err(error) => return failed(format_args!("cannot take over: {error}")),
        },
    };
    let handed = taken.is_some();
    let config = Arc::new(config);
    let server = match taken {
        Some(taken) => Server::go_on(config, taken),
        None => Server::bind_on(config, sockets),
    };
    let server = match server {
        Ok(server) => server.on(cores),
        Err(error) => return failed(error),
    };
    let (stop, abort) = match on_signals() {
        Ok(tokens) => tokens,
        Err(error) => return failed(error),
    };
    let reloader = server.reloader(origin).logging(logging.levels().clone());
    let reloading = match reload_on_changes(reloader, stop.clone()) {
        Ok(reloading) => reloading,
        Err(error) => return failed(error),
    };
    if let (Ok(api), Ok(admin)) = (server.api_addr(), server.admin_addr()) {
        // The sockets listen: what connects from now on is answered.
        say(format_args!(
            "tidegate ready: {api_scheme}://{}/v1 -> {upstream} (metrics and status: {admin_scheme}://{})",
            reachable(api),
            reachable(admin)
        ));
    }
    if let Some(since) = since.filter(|_| handed) {
        tracing::info!(loaded_ms = since.elapsed().as_millis(), "took over");
    }
    let ended = server.run(stop.clone(), abort).await;
    // What it has handed over it does not reload either.
    stop.cancel();
    let _ = reloading.await;
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::Aborted => failed("stopped before every answer was finished"),
    }
}

/// Has the configuration read again on SIGHUP, and when its files change, until `stop`.
fn reload_on_changes(
    reloader: Reloader,
    stop: CancellationToken,
) -> io::Result<tokio::task::JoinHandle<()>> {
    // Before anybody is told that it is ready: a signal that nobody takes ends the process.
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        let signals = async {
            while hangup.recv().await.is_some() {
                reloader.reload_all().await;
            }
        };
        tokio::select! {
            () = signals => {}
            () = async { tokio::join!(reloader.watch(stop.clone()), stop.cancelled()); } => {}
        }
    }))
}

/// A key that anybody can spend is a mistake worth a line.
fn warn_if_open(config: &Config) {
    let open = !config.server.listen.ip().is_loopback() && config.lets_everybody_in();
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
