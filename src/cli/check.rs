//! `tidegate check`: whether a configuration is right, and what it would change of another.
//!
//! Exit codes beside the usual ones: 3 if a running gateway would have to be restarted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::access::Access;
use super::flags::Flags;
use super::{block_on, failed, misused, say};
use crate::admin::Address;
use crate::config::{Change, Config, Origin, changes, changes_to};

/// What does not answer for so long is not running.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running gateway would refuse to take it up.
const NEEDS_RESTART: u8 = 3;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Configuration file; without one, the built-in one is checked with the environment.
    #[arg(value_name = "FILE")]
    config: Option<PathBuf>,
    /// The same, as `serve` takes it.
    #[arg(long = "config", value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Tell what would change for the gateway with this admin port, instead of the configuration: exit
    /// code 0 if it would take that up, 3 if it would have to be restarted.
    #[arg(long, value_name = "URL", conflicts_with = "against")]
    running: Option<String>,
    /// Tell what would change for a gateway that runs with this file.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let file = args.config.as_deref().or(args.file.as_deref());
    let compares = args.running.is_some() || args.against.is_some();
    let read = |file: Option<&Path>| {
        let origin = Origin::new(file, std::env::vars(), args.flags.overrides());
        // As `serve` would: what it compares with has a directory.
        if compares { origin.keeping_state() } else { origin }.read()
    };
    let config = match read(file) {
        Ok(config) => config,
        Err(problems) => return misused(problems),
    };
    if let Some(url) = &args.running {
        return against_running(url, &args.access, &config);
    }
    match args.against.as_deref().map(|other| read(Some(other))) {
        None => {
            say(config.to_toml());
            ExitCode::SUCCESS
        }
        Some(Ok(other)) => tell(&changes(&other, &config)),
        Some(Err(problems)) => misused(problems),
    }
}

fn against_running(url: &str, access: &Access, config: &Config) -> ExitCode {
    let address = match Address::parse(url) {
        Ok(address) => address,
        Err(error) => return misused(error),
    };
    let client = match access.client(PATIENCE) {
        Ok(client) => client,
        Err(message) => return misused(message),
    };
    block_on(async {
        let running = match client.page(&address, "/config").await {
            Ok(running) => running,
            Err(error) => return failed(format_args!("the gateway was not asked: {error}")),
        };
        match changes_to(&String::from_utf8_lossy(&running), config) {
            Ok(changed) => tell(&changed),
            Err(_) => failed(format_args!("{address} is not the admin port of a gateway")),
        }
    })
}

/// Tells what would change.
fn tell(changed: &[Change]) -> ExitCode {
    for change in changed {
        let note = if change.restart { "   (needs a restart)" } else { "" };
        say(format_args!("{change}{note}"));
    }
    let fixed = changed.iter().filter(|change| change.restart).count();
    match (changed.len(), fixed) {
        (0, _) => say("nothing would change"),
        (_, 0) => say("a running gateway takes all of it up"),
        (all, fixed) => {
            say(format_args!("{fixed} of {all} need a restart: until then none of it is taken up"));
        }
    }
    if fixed > 0 { ExitCode::from(NEEDS_RESTART) } else { ExitCode::SUCCESS }
}
