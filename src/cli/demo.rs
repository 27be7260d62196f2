//! `tidegate demo`: the gateway in front of a simulated upstream, with nothing to configure.

use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{block_on, failed, misused, on_signals, raise_descriptor_limit, say};
use crate::config::{Config, DEFAULT_FILE, Overrides};
use crate::proxy::Gateway;
use crate::server::{Ended, Server};
use crate::simulator::{self, Simulator};
use crate::telemetry;

/// How often the summary is looked at; on a terminal it is rewritten in place.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Address of the API; if it is taken, a free port is used instead.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of metrics, health and status; if it is taken, a free port is used instead.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    admin: SocketAddr,
    /// How many times faster than the clock the quota's windows pass, both upstream's and ours.
    #[arg(long, value_name = "N", default_value_t = 1)]
    time_scale: u32,
}

pub(super) fn run(args: &Args) -> ExitCode {
    if args.time_scale == 0 || args.time_scale > 1_000 {
        return misused("--time-scale must be between 1 and 1000");
    }
    block_on(demo(args))
}

async fn demo(args: &Args) -> ExitCode {
    let options =
        simulator::Options { time_scale: f64::from(args.time_scale), ..Default::default() };
    let upstream = match Simulator::start(options, (Ipv4Addr::LOCALHOST, 0).into()).await {
        Ok(simulator) => simulator,
        Err(error) => return failed(error),
    };
    // What is simulated is over when it ends: files and batches are removed with it.
    let batches = match tempfile::Builder::new().prefix("tidegate-demo-").tempdir() {
        Ok(directory) => directory,
        Err(error) => return failed(error),
    };
    let server = match bind(args, &upstream.base_url(), batches.path()) {
        Ok(server) => server,
        Err(exit) => return exit,
    };
    let _flush = telemetry::start(&server.gateway().config().log);
    raise_descriptor_limit();
    let (stop, abort) = match on_signals() {
        Ok(tokens) => tokens,
        Err(error) => return failed(error),
    };
    if let (Ok(api), Ok(admin)) = (server.api_addr(), server.admin_addr()) {
        say(welcome(api, admin));
    }
    let gateway = server.gateway();
    let summary = tokio::spawn(summarise(gateway, stop.clone()));
    let ended = server.run(stop, abort).await;
    // It ends with `stop`, which has come.
    let _ = summary.await;
    upstream.shutdown().await;
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::Aborted => failed("stopped before every answer was finished"),
    }
}

/// Binds at the wanted addresses, or where there is room.
fn bind(args: &Args, upstream: &str, batches: &Path) -> Result<Server, ExitCode> {
    let (mut listen, mut admin) = (args.listen, args.admin);
    let text = scaled(DEFAULT_FILE, args.time_scale);
    loop {
        let overrides = Overrides {
            listen: Some(listen.to_string()),
            admin: Some(admin.to_string()),
            upstream: Some(upstream.to_owned()),
            stateless: true,
            batch_dir: Some(batches.display().to_string()),
            ..Overrides::default()
        };
        // Nothing of the simulated account is a secret, wherever it is shown.
        let environment = [("TIDEGATE_LOG_LEVEL", "warn"), ("TIDEGATE_SERVER_ADMIN_OPEN", "true")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::parse(&text, environment, &overrides).map_err(misused)?;
        let error = match Server::bind(Arc::new(config)) {
            Ok(server) => return Ok(server),
            Err(error) => error,
        };
        let taken = error.to_string();
        let mut wanted = [&mut listen, &mut admin].into_iter();
        let which = wanted.find(|it| it.port() != 0 && taken.starts_with(&it.to_string()));
        match which {
            Some(addr) if error.kind() == io::ErrorKind::AddrInUse => {
                say(format_args!("{addr} is taken: using a free port"));
                addr.set_port(0);
            }
            _ => return Err(failed(error)),
        }
    }
}

/// The shipped limits with windows that pass `scale` times as fast under the same names.
fn scaled(text: &str, scale: u32) -> String {
    let mut text = text.to_owned();
    for (per, millis, name) in
        [("1m", 60_000, "minute"), ("1h", 3_600_000, "hour"), ("1d", 86_400_000, "day")]
    {
        let faster = format!("per = \"{}ms\", name = \"{name}\"", millis / scale);
        text = text.replace(&format!("per = \"{per}\""), &faster);
    }
    text
}

fn welcome(api: SocketAddr, admin: SocketAddr) -> String {
    let base = format!("http://{api}/v1");
    format!(
        r#"Tidegate is ready. Its upstream is simulated, with the limits of config/tidegate.toml.

  base URL   {base}
  live page  http://{admin}/
  status     http://{admin}/status
  metrics    http://{admin}/metrics

Try:

  curl {base}/chat/completions -H 'content-type: application/json' \
    -d '{{"model":"demo","messages":[{{"role":"user","content":"Hello!"}}],"max_completion_tokens":50}}'

Or with the rate-limit headers to be seen, as the API's own documentation shows them:

  curl --location '{base}/chat/completions' \
  --header 'Content-Type: application/json' \
  --header "Authorization: Bearer ${{CEREBRAS_API_KEY}}" \
  --data '{{
    "model": "llama3.1-8b",
    "stream": false,
    "messages": [{{"content": "Hello!", "role": "user"}}],
    "temperature": 0,
    "max_completion_tokens": -1,
    "seed": 0,
    "top_p": 1
  }}' \
  --verbose

Ctrl-C ends it.
"#
    )
}

/// Shows the busiest pool's quota and queue: in place on a terminal, else whenever it has changed.
async fn summarise(gateway: Arc<Gateway>, stop: CancellationToken) {
    let terminal = io::stdout().is_terminal();
    let mut last = String::new();
    let mut every = tokio::time::interval(SUMMARY_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => break,
        }
        let line = summary(&gateway);
        if line == last {
            continue;
        }
        if terminal {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
        } else {
            say(&line);
        }
        last = line;
    }
    if terminal {
        say("");
    }
}

fn summary(gateway: &Gateway) -> String {
    let pools = gateway.pools().all();
    let busiest = pools.iter().max_by_key(|(_, named)| {
        let snapshot = named.pool.snapshot();
        (snapshot.queued, snapshot.in_flight)
    });
    let Some((_, named)) = busiest else { return "no request yet".to_owned() };
    let mut parts = vec![named.model.to_string()];
    named.pool.levels(|level| {
        if level.quota.name() == "minute" {
            let (left, limit) = (level.available.max(0), level.quota.limit());
            parts.push(format!("{}: {left} of {limit} left", level.quota));
        }
    });
    let snapshot = named.pool.snapshot();
    parts.push(format!("waiting: {}", snapshot.queued));
    parts.push(format!("at the upstream: {}", snapshot.in_flight));
    if let Some(bound) = snapshot.bound {
        parts.push(format!("limited by {}", named.pool.name_of(bound)));
    }
    parts.join(" · ")
}
