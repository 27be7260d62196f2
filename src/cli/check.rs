//! `tidegate check`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{misused, say};
use crate::config::{Config, Overrides};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Configuration file; without one, the built-in one is checked with the environment.
    #[arg(value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match Config::load(args.config.as_deref(), std::env::vars(), &Overrides::default()) {
        Ok(config) => {
            say(config.to_toml());
            ExitCode::SUCCESS
        }
        Err(problems) => misused(problems),
    }
}
