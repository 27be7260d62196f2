//! `tidegate tokens`: whether the tokenizer in the configuration is the model's.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{failed, misused, say};
use crate::config::{Config, Overrides};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Configuration file; without one, the built-in one and the environment hold.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The model whose tokenizer counts; without one, that of models without a profile.
    #[arg(long, short, default_value = "*")]
    model: String,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let config = Config::load(args.config.as_deref(), std::env::vars(), &Overrides::default());
    let config = match config {
        Ok(config) => config,
        Err(problems) => return misused(problems),
    };
    let Some(profile) = config.models.profile(&args.model) else {
        return misused(format_args!("{:?} has no profile, and there is no \"*\"", args.model));
    };
    let Some(tokenizer) = &profile.tokenizer else {
        return misused(format_args!("the prompts of {:?} are not counted", args.model));
    };
    let mut text = String::new();
    match io::stdin().lock().read_to_string(&mut text) {
        Ok(_) => {
            say(tokenizer.count(&text));
            ExitCode::SUCCESS
        }
        Err(error) => failed(error),
    }
}
