//! `tidegate load`: puts an OpenAI-compatible endpoint under load and reports what it did.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{block_on, complain, failed, misused, on_signals, raise_descriptor_limit, say};
use crate::load::{self, CLASS, Options, Pace, Prompts, Rate, Size, Stretch, Target, Workload};

/// Where the key is looked for unless told otherwise: where OpenAI's clients look.
const USUAL_KEY: &str = "OPENAI_API_KEY";

/// Where neither pace nor length is given: two workers for ten seconds. Tokens cost money.
const FEW_WORKERS: usize = 2;
const SHORT: Duration = Duration::from_secs(10);

/// More connections than one address pair has ports for.
const MOST_AT_ONCE: usize = 60_000;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Base URL of the endpoint, with or without /v1
    #[arg(value_name = "URL")]
    url: String,
    /// Compare with this endpoint: both take turns with the same requests
    #[arg(long, value_name = "URL")]
    compare: Option<String>,
    /// The longest turn of one endpoint in a comparison
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    slice: Duration,
    /// The model to ask
    #[arg(long, short)]
    model: String,
    /// Environment variable with the API key; by default `OPENAI_API_KEY`, if it is set
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// The class of the requests at a Tidegate gateway
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// A header to send with every request, as NAME: VALUE. Repeatable
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// Requests under way at all times [default: 2, without --rate]
    #[arg(long, short, value_name = "N", conflicts_with = "rate", value_parser = at_once)]
    concurrency: Option<usize>,
    /// Requests sent at a fixed rate instead: 5, 0.5, 120/m or 7200/h
    #[arg(long, short, value_name = "RATE")]
    rate: Option<Rate>,
    /// With --rate, the most requests under way; later ones wait, which counts as their time
    #[arg(long, value_name = "N", default_value = "1000", value_parser = at_once)]
    max_in_flight: usize,
    /// How long requests are sent [default: 10s, without --requests]
    #[arg(long, short, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// How many requests are sent, the warm-up's not counted
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// How long requests are sent before anything is measured
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Ask for streams; with a share from 0 to 1, for so many of the requests
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true,
          default_value = "0", default_missing_value = "1", value_parser = share)]
    stream: f64,
    /// Tokens of a prompt, about: `N`, `uniform:A..B`, `lognormal:MEDIAN,SIGMA[,MOST]`, or `file:PATH`
    /// with prompts, one JSON text or request a line
    #[arg(long, value_name = "SIZE", default_value = "200", value_parser = prompts)]
    prompt_tokens: Prompts,
    /// The limit of an answer's tokens, written like --prompt-tokens (a file has a number a line), or
    /// none
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = output)]
    output_tokens: Output,
    /// Makes requests reproducible
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How long a request may take
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
    /// Write the report as JSON to this file; with - to standard output in place of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A limit of the output, or none.
#[derive(Clone, Debug)]
struct Output(Option<Size>);

pub(super) fn run(args: Args) -> ExitCode {
    let json = args.json.clone();
    let options = match options(args, |name| std::env::var(name).ok()) {
        Ok(options) => options,
        Err(problem) => return misused(problem),
    };
    // What cannot be written is found out before tokens are spent.
    let mut file =
        match json.as_deref().filter(|path| *path != Path::new("-")).map(std::fs::File::create) {
            Some(Err(error)) => return failed(format_args!("--json: {error}")),
            Some(Ok(file)) => Some(file),
            None => None,
        };
    block_on(async move {
        raise_descriptor_limit();
        let (stop, abort) = match on_signals() {
            Ok(tokens) => tokens,
            Err(error) => return failed(error),
        };
        let stopped = stop.clone();
        let watch = tokio::spawn(async move {
            stopped.cancelled().await;
            complain("stopping: waiting for what is under way; once more to abandon it");
        });
        let outcome = load::run(&options, &stop, &abort).await;
        watch.abort();
        let text = match serde_json::to_string_pretty(&outcome.report) {
            Ok(text) => text,
            Err(error) => return failed(error),
        };
        if let Some(file) = &mut file
            && let Err(error) = writeln!(file, "{text}").and_then(|()| file.flush())
        {
            return failed(format_args!("--json: {error}"));
        }
        if json.is_some() && file.is_none() {
            say(text);
        } else {
            say(outcome.report.to_string().trim_end());
        }
        match &outcome.unreached[..] {
            [] => ExitCode::SUCCESS,
            urls => failed(format_args!("no request was answered by {}", urls.join(" and "))),
        }
    })
}

/// What the flags ask for, or what is wrong with them.
fn options(args: Args, environment: impl Fn(&str) -> Option<String>) -> Result<Options, String> {
    let mut headers: HeaderMap = HeaderMap::new();
    // Read here and not by clap, whose messages quote what they complain of.
    for text in &args.header {
        let (name, value) = header(text).map_err(|problem| format!("--header: {problem}"))?;
        headers.append(name, value);
    }
    if let Some(class) = &args.class {
        let value = HeaderValue::from_str(class).map_err(|_| "--class: not a name".to_owned())?;
        headers.insert(CLASS, value);
    }
    let key = match &args.api_key_env {
        Some(name) => {
            let key = environment(name).filter(|key| !key.is_empty());
            Some(key.ok_or_else(|| format!("--api-key-env: {name} is not set"))?)
        }
        None => environment(USUAL_KEY).filter(|key| !key.is_empty()),
    };
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| "the API key cannot be sent as a header".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let pace = match args.rate {
        Some(rate) => Pace::Open { rate, max_in_flight: args.max_in_flight },
        None => Pace::Closed { concurrency: args.concurrency.unwrap_or(FEW_WORKERS) },
    };
    let length = args.duration.or_else(|| args.requests.is_none().then_some(SHORT));
    Ok(Options {
        target: target(&args.url)?,
        other: args
            .compare
            .as_deref()
            .map(target)
            .transpose()
            .map_err(|it| format!("--compare: {it}"))?,
        headers,
        workload: Workload {
            model: args.model,
            prompts: args.prompt_tokens,
            output: args.output_tokens.0,
            streamed: args.stream,
            seed: args.seed,
        },
        pace,
        stretch: Stretch { warm_up: args.warm_up, length, requests: args.requests },
        slice: args.slice,
        timeout: args.timeout,
    })
}

fn target(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error: load::BadTarget| error.to_string())
}

/// A time that is one.
fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("want more than no time".to_owned()) } else { Ok(time) }
}

fn at_once(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST_AT_ONCE).contains(&number) => Ok(number),
        _ => Err(format!("want a number from 1 to {MOST_AT_ONCE}")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "want a share from 0 to 1".to_owned())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    // The value may be a secret: no message has it.
    let (name, value) = text.split_once(':').ok_or("want NAME: VALUE")?;
    let name: HeaderName = name.trim().parse().map_err(|_| "the name is not a header's")?;
    if name == AUTHORIZATION {
        return Err("a key on the command line can be seen by others: see --api-key-env".to_owned());
    }
    let framing = ["host", "content-length", "content-type", "transfer-encoding", "connection"];
    if framing.contains(&name.as_str()) {
        return Err(format!("{name} is not yours to set"));
    }
    let mut value: HeaderValue =
        value.trim().parse().map_err(|_| format!("the value of {name} cannot be sent"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn prompts(text: &str) -> Result<Prompts, String> {
    match text.strip_prefix("file:") {
        Some(path) => load::read_prompts(Path::new(path))
            .map(Prompts::Given)
            .map_err(|error| error.to_string()),
        None => text.parse().map(Prompts::Made).map_err(|error: load::BadSize| error.to_string()),
    }
}

fn output(text: &str) -> Result<Output, String> {
    let size = match (text, text.strip_prefix("file:")) {
        ("none", _) => return Ok(Output(None)),
        (_, Some(path)) => load::read_sizes(Path::new(path)).map_err(|error| error.to_string())?,
        (_, None) => text.parse().map_err(|error: load::BadSize| error.to_string())?,
    };
    Ok(Output(Some(size)))
}

#[cfg(test)]
mod tests;
