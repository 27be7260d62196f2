//! `tidegate plan`: what a quota is good for.
//!
//! Values are read here and not by the parser of arguments, so that whatever is wrong is told at once.

mod ask;
mod words;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::ask::{Asked, Source};
use super::{complain, failed, misused, say};
use crate::config::{Config, Overrides};
use crate::plan::{self, Answer, Measured, Profile, Question, Rehearsal};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Configuration file; without one, the built-in one and the environment hold.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The model whose limits and costs hold; without one, those of models without a profile.
    #[arg(long, short, default_value = "*")]
    model: String,
    /// A limit, as in requests=120/1m or `tokens=1_500_000/1m:fixed`. Repeatable; instead of those
    /// configured.
    #[arg(long, value_name = "UNIT=N/TIME[:MODE]")]
    limit: Vec<String>,
    /// Tokens of a job's prompt.
    #[arg(long, value_name = "TOKENS")]
    input_tokens: Option<String>,
    /// Tokens of its answer; with --profile, instead of what is asked for or was used there.
    #[arg(long, value_name = "TOKENS")]
    output_tokens: Option<String>,
    /// Time from its request to the end of its answer, as in 10s; with --profile, instead of what
    /// was measured there.
    #[arg(long, value_name = "TIME")]
    latency: Option<String>,
    /// Jobs to measure, one JSON object a line: requests, a batch, or the gateway's own log. - for
    /// standard input.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// The part of each limit to use in practice, as in 0.8, 80% or 5/6.
    #[arg(long, value_name = "PART", default_value = "0.8")]
    margin: String,
    /// How many jobs there are to be done.
    #[arg(long, value_name = "N")]
    jobs: Option<String>,
    /// Price of a million tokens of prompts.
    #[arg(long, value_name = "PRICE")]
    price_input: Option<String>,
    /// Price of a million tokens of answers.
    #[arg(long, value_name = "PRICE")]
    price_output: Option<String>,
    /// Rehearse it in virtual time: how long jobs wait, and what each limit doubled would buy.
    #[arg(long)]
    simulate: bool,
    /// With --simulate: jobs a second that come at random. Without it, all --jobs come at once; or,
    /// without those, as many come as can be sustained in practice.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<String>,
    /// With --simulate: how long it is watched [default: the longest window, or until all is done].
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<String>,
    /// With --simulate: what everything random follows from [default: 1].
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
    /// Draw a picture of it, too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Why there is no answer.
enum Trouble {
    /// It was not asked as it should be.
    Misused(String),
    /// It could not be done.
    Failed(String),
}

pub(super) fn run(args: &Args) -> ExitCode {
    match answer(args) {
        Ok(code) => code,
        Err(Trouble::Misused(problems)) => misused(problems),
        Err(Trouble::Failed(problem)) => failed(problem),
    }
}

fn answer(args: &Args) -> Result<ExitCode, Trouble> {
    let config = Config::load(args.config.as_deref(), std::env::vars(), &Overrides::default());
    let asked = Asked::read(args, config.as_ref().ok());
    let (config, asked) = match (config, asked) {
        (Ok(config), Ok(asked)) => (config, asked),
        (Ok(_), Err(problems)) => return Err(Trouble::Misused(problems)),
        (Err(problems), Ok(_)) => return Err(Trouble::Misused(problems.to_string())),
        (Err(first), Err(second)) => return Err(Trouble::Misused(format!("{first}\n{second}"))),
    };
    let (profile, measured) = match &asked.source {
        Source::Given(example) => (Profile::of(*example), None),
        Source::File(path) => {
            let measured = measure(path, &asked, &config)?;
            (measured.profile.clone(), Some(measured))
        }
    };
    let job = profile.job(asked.output, asked.latency);
    let job = job.map_err(|error| Trouble::Misused(error.to_string()))?;
    let question = Question { job, ..asked.question };
    let plan = question.plan();
    let rehearsal = match asked.rehearsal {
        None => None,
        Some(wanted) => {
            let scenario = wanted.scenario(&question, &plan, &profile, &config);
            let scenario = scenario.map_err(Trouble::Misused)?;
            Some(Rehearsal::run(&question, &scenario))
        }
    };
    let answer = Answer { question, plan, measured, rehearsal };
    if let Some(path) = &args.svg {
        std::fs::write(path, answer.svg()).map_err(|error| trouble(path, &error))?;
    }
    if args.json {
        say(answer.json().map_err(|error| Trouble::Failed(error.to_string()))?);
    } else {
        say(answer.to_string().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the file of jobs; tells of lines that are none.
fn measure(path: &Path, asked: &Asked, config: &Config) -> Result<Measured, Trouble> {
    let most = usize::try_from(config.server.max_body_bytes.get()).unwrap_or(usize::MAX);
    let measured = if path == Path::new("-") {
        plan::measure(io::stdin().lock(), &asked.profile, most)
    } else {
        let file = File::open(path).map_err(|error| trouble(path, &error))?;
        plan::measure(BufReader::new(file), &asked.profile, most)
    };
    let measured = measured.map_err(|error| trouble(path, &error))?;
    let shown = path.display();
    for (number, reason) in &measured.bad {
        complain(format_args!("{shown}:{number}: {reason}"));
    }
    let named = u64::try_from(measured.bad.len()).unwrap_or(u64::MAX);
    if measured.bad_lines > named {
        complain(format_args!("{shown}: and {} more bad lines", measured.bad_lines - named));
    }
    if measured.profile.jobs() == 0 {
        return Err(Trouble::Failed(format!("{shown}: no line tells what a job uses")));
    }
    Ok(measured)
}

fn trouble(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Failed(format!("{}: {error}", path.display()))
}
