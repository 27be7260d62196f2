//! `tidegate batch run`: a file of requests in, a file of answers out, for people without an SDK.
//!
//! Beside the output lies a directory, `OUT.tidegate`, until the output is complete: what was answered
//! so far, and which input it belongs to. The same command again goes on from there.

mod local;
mod place;
mod progress;
mod remote;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use self::place::Place;
use self::progress::View;
use super::{block_on, complain, failed, misused, on_signals, say};
use crate::store::archive::LineProblem;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send every request of a file, as fast as the quota allows, and write the answers to another.
    ///
    /// Each line of the input is a request as in OpenAI's Batch API: `{"custom_id": "…",
    /// "method": "POST", "url": "/v1/chat/completions", "body": {…}}`. Interrupted with Ctrl-C, or killed, the same
    /// command goes on where it was.
    Run(Box<Run>),
}

#[derive(clap::Args, Debug)]
struct Run {
    /// File of requests, one on each line.
    input: PathBuf,
    /// File of the answers, one on each line; it must not be there yet.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// File of the requests that failed [default: the output's name with .errors.jsonl].
    #[arg(long, short, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// A running gateway that works the file off (its /v1/batches); without it, this program does.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "upstream", "state_dir", "stateless"])]
    gateway: Option<String>,
    /// Environment variable with the key for that gateway; by default `OPENAI_API_KEY`, if it is set.
    #[arg(long, value_name = "NAME", requires = "gateway")]
    api_key_env: Option<String>,
    /// Configuration file; without one, the limits of config/tidegate.toml for every model.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Base URL of the upstream [default: `https://api.cerebras.ai`].
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Directory of the quota used so far, as for serve.
    #[arg(long, value_name = "DIR", conflicts_with = "stateless")]
    state_dir: Option<String>,
    /// Begin with quotas as if they were unused, and keep nothing of them.
    #[arg(long)]
    stateless: bool,
    /// The endpoint of the requests.
    #[arg(long, value_name = "PATH", default_value = "/v1/chat/completions")]
    endpoint: String,
    /// The time after which what is not answered counts as failed.
    #[arg(long, value_name = "DURATION", default_value = "30days", value_parser = window)]
    completion_window: Duration,
}

/// How it ended.
#[derive(Debug)]
enum Ended {
    /// All there is has been written.
    Done(View),
    /// The input is wrong.
    Invalid(Vec<LineProblem>),
    /// It was interrupted; what to say of that.
    Interrupted(View, String),
}

/// Why it could not be done.
#[derive(Debug)]
enum Failure {
    /// The command cannot be carried out as it stands.
    Usage(String),
    /// Something went wrong.
    Failed(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

fn window(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let good = span >= Duration::from_secs(1) && span <= LONGEST;
    if good { Ok(span) } else { Err("1s to 365days is expected".to_owned()) }
}

pub(super) fn run(args: Args) -> ExitCode {
    let Command::Run(run) = args.command;
    let place = match Place::of(&run.input, &run.output, run.errors.as_deref()) {
        Ok(place) => place,
        Err(Failure::Usage(problem)) => return misused(problem),
        Err(Failure::Failed(problem)) => return failed(problem),
    };
    block_on(async move {
        let (stop, abort) = match on_signals() {
            Ok(tokens) => tokens,
            Err(error) => return failed(error),
        };
        let ended = match &run.gateway {
            Some(url) => remote::run(&run, url, &place, &stop).await,
            None => local::run(&run, &place, stop, abort).await,
        };
        match ended {
            Ok(Ended::Done(view)) => finished(&view, &place),
            Ok(Ended::Invalid(problems)) => invalid(&problems, &place),
            Ok(Ended::Interrupted(view, what)) => {
                say(format_args!("stopped at {} of {}: {what}", view.done(), view.total));
                ExitCode::from(1)
            }
            Err(Failure::Usage(problem)) => misused(problem),
            Err(Failure::Failed(problem)) => failed(problem),
        }
    })
}

/// What came of it; a request that failed is a failure of the command.
fn finished(view: &View, place: &Place) -> ExitCode {
    say(format_args!(
        "{} answered, {} failed; tokens: {} prompt, {} completion",
        view.completed, view.failed, view.prompt, view.completion
    ));
    if view.completed > 0 {
        say(format_args!("answers: {}", place.output.display()));
    }
    if view.failed > 0 {
        say(format_args!("errors: {}", place.errors.display()));
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

fn invalid(problems: &[LineProblem], place: &Place) -> ExitCode {
    for LineProblem { code, message, line, .. } in problems {
        let line = line.map_or_else(String::new, |line| format!(":{line}"));
        complain(format_args!("{}{line}: {message} ({code})", place.input.display()));
    }
    complain("nothing was sent");
    ExitCode::from(2)
}
