//! What is asked for, read from the flags: everything, or all that is wrong with them.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Args;
use super::words::{limit, micros, time, whole};
use crate::config::{self, Config};
use crate::limit::Constraint;
use crate::plan::{
    Arrivals, Decimal, Example, Job, MOST_JOBS, Margin, Plan, Prices, Profile, Question, Scenario,
};

/// Where the job comes from.
pub(super) enum Source {
    /// It is given.
    Given(Example),
    /// It is measured.
    File(PathBuf),
}

/// What is asked for.
pub(super) struct Asked {
    /// All but the job, which may have to be measured.
    pub(super) question: Question,
    pub(super) source: Source,
    /// What a measured job is given instead of what was measured.
    pub(super) output: Option<u64>,
    pub(super) latency: Option<Duration>,
    pub(super) rehearsal: Option<Wanted>,
    /// What the model costs.
    pub(super) profile: Arc<config::Profile>,
}

/// A rehearsal that is asked for.
pub(super) struct Wanted {
    /// Millionths of a job a second.
    rate: Option<u64>,
    lasts: Option<Duration>,
    seed: u64,
    output: Option<u64>,
    latency: Option<Duration>,
}

/// Values with the flags they come from, and what is wrong with them.
struct Reader<'a> {
    args: &'a Args,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, flag: &str, message: &str) {
        self.problems.push(format!("{flag}: {message}"));
    }

    /// Reads a value, if there is one.
    fn read<T>(
        &mut self,
        flag: &str,
        text: Option<&String>,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = text?;
        let value = parse(text);
        if value.is_none() {
            self.problem(flag, &format!("{expected} is expected, got {text:?}"));
        }
        value
    }

    fn tokens(&mut self, flag: &str, text: Option<&String>) -> Option<u64> {
        let expected = format!("a whole number of tokens, at most {},", Job::MOST_TOKENS);
        let most = |tokens: &u64| *tokens <= Job::MOST_TOKENS;
        self.read(flag, text, &expected, |text| whole(text).filter(most))
    }

    fn time(&mut self, flag: &str, text: Option<&String>) -> Option<Duration> {
        self.read(flag, text, "a time above zero with its unit, such as 10s or 1h 30m,", time)
    }

    fn price(&mut self, flag: &str, text: Option<&String>) -> Option<u64> {
        let expected = "a price with at most six digits behind the point";
        self.read(flag, text, expected, |text| micros(text, u64::from(u32::MAX)))
    }

    fn limits(&mut self) -> Vec<Constraint> {
        let mut limits: Vec<Constraint> = Vec::new();
        for text in &self.args.limit {
            match limit(text) {
                Ok(found) if limits.iter().any(|it| it.to_string() == found.to_string()) => {
                    self.problem("--limit", &format!("{found} is limited twice"));
                }
                Ok(found) => limits.push(found),
                Err(message) => self.problem("--limit", &message),
            }
        }
        limits
    }

    fn prices(&mut self) -> Option<Prices> {
        let input = self.price("--price-input", self.args.price_input.as_ref());
        let output = self.price("--price-output", self.args.price_output.as_ref());
        // One kind of tokens may be free; to say so is better than to forget it.
        let args = self.args;
        match (&args.price_input, &args.price_output) {
            (None, Some(_)) => self.problem("--price-input", "is missing beside --price-output"),
            (Some(_), None) => self.problem("--price-output", "is missing beside --price-input"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        Some(Prices { input_micros: input?, output_micros: output? })
    }

    /// Where the job comes from, with the output and the latency that it is given.
    fn source(&mut self) -> (Option<Source>, Option<u64>, Option<Duration>) {
        let args = self.args;
        let input = self.tokens("--input-tokens", args.input_tokens.as_ref());
        let output = self.tokens("--output-tokens", args.output_tokens.as_ref());
        let latency = self.time("--latency", args.latency.as_ref());
        let source = match (&args.profile, &args.input_tokens, &args.output_tokens) {
            (Some(_), Some(_), _) => {
                self.problem(
                    "--input-tokens",
                    "a job is measured by --profile, or given: not both",
                );
                None
            }
            (Some(path), None, _) => Some(Source::File(path.clone())),
            (None, Some(_), Some(_)) => input.zip(output).map(|(input, output)| {
                let held = input + output;
                Source::Given(Example { input, output, held, latency })
            }),
            (None, input, output) => {
                for (flag, _) in [("--input-tokens", input), ("--output-tokens", output)]
                    .iter()
                    .filter(|(_, given)| given.is_none())
                {
                    self.problem(flag, "is missing: what does a job use? Or give --profile");
                }
                None
            }
        };
        if args.profile.is_none() && (input, output) == (Some(0), Some(0)) {
            self.problem("--input-tokens", "a job must use at least one token");
        }
        (source, output, latency)
    }

    fn rehearsal(&mut self, output: Option<u64>, latency: Option<Duration>) -> Option<Wanted> {
        let args = self.args;
        let expected = "jobs a second, above zero and with at most six digits behind the point,";
        let rate = self.read("--rate", args.rate.as_ref(), expected, |text| {
            micros(text, 1_000_000).filter(|rate| *rate > 0)
        });
        let lasts = self.time("--for", args.lasts.as_ref());
        let seed = self.read("--seed", args.seed.as_ref(), "a whole number", whole);
        if !args.simulate {
            let flags = [("--rate", &args.rate), ("--for", &args.lasts), ("--seed", &args.seed)];
            for (flag, _) in flags.iter().filter(|(_, given)| given.is_some()) {
                self.problem(flag, "says how to rehearse: give --simulate");
            }
            return None;
        }
        if args.profile.is_none() && args.latency.is_none() {
            self.problem("--simulate", "needs the time that a job takes: give --latency");
        }
        Some(Wanted { rate, lasts, seed: seed.unwrap_or(1), output, latency })
    }
}

impl Asked {
    /// Reads what is asked for; `config` is missing if something is wrong with it.
    pub(super) fn read(args: &Args, config: Option<&Config>) -> Result<Self, String> {
        let mut reader = Reader { args, problems: Vec::new() };
        let limits = reader.limits();
        let (source, output, latency) = reader.source();
        let margin = args.margin.parse::<Margin>();
        if let Err(error) = margin {
            reader.problem("--margin", &format!("{error}, got {:?}", args.margin));
        }
        let jobs = reader.read("--jobs", args.jobs.as_ref(), "a number of jobs above zero", |it| {
            whole(it).and_then(NonZeroU64::new).map(NonZeroU64::get)
        });
        let prices = reader.prices();
        let rehearsal = reader.rehearsal(output, latency);
        let profile = config.and_then(|config| config.models.profile(&args.model));
        if config.is_some() && profile.is_none() {
            let message = format!("{:?} has no profile, and there is no \"*\"", args.model);
            reader.problem("--model", &message);
        }
        let (Some(source), Ok(margin), Some(profile), true) =
            (source, margin, profile, reader.problems.is_empty())
        else {
            return Err(reader.problems.join("\n"));
        };
        let is_own = limits.is_empty();
        let question = Question {
            limits: if is_own { profile.limits.clone() } else { limits },
            job: Job::ONE_TOKEN,
            margin,
            max_concurrent: profile.max_concurrent,
            min_gap: profile.min_gap,
            jobs,
            prices,
        };
        let profile = Arc::clone(profile);
        Ok(Self { question, source, output, latency, rehearsal, profile })
    }
}

impl Wanted {
    /// What is rehearsed, with what is worked out where nothing is said.
    pub(super) fn scenario(
        self,
        question: &Question,
        plan: &Plan,
        profile: &Profile,
        config: &Config,
    ) -> Result<Scenario, String> {
        if question.job.latency.is_none() {
            let message = "--simulate: needs the time that a job takes, and no line tells: give \
                           --latency";
            return Err(message.to_owned());
        }
        let longest = question.limits.iter().map(Constraint::window).max().unwrap_or_default();
        let (arrivals, expected, lasts) = match (self.rate, question.jobs) {
            (None, Some(jobs)) => (Arrivals::AtOnce(jobs), jobs, self.lasts.unwrap_or(FOR_EVER)),
            (rate, jobs) => {
                let sustained = || plan.sustained.practical.per(Duration::from_secs(1), 6);
                let rate = rate.map_or_else(sustained, |rate| Decimal::new(rate.into(), 6));
                let per_second_micros = u64::try_from(rate.scaled()).unwrap_or(u64::MAX).max(1);
                // Whoever says how many wants to see them all.
                let until_done = jobs.map(|_| FOR_EVER);
                let lasts = self.lasts.or(until_done).unwrap_or(longest);
                let come = u128::from(per_second_micros) * lasts.as_nanos() / 1_000_000_000_000_000;
                let come = u64::try_from(come).unwrap_or(u64::MAX);
                let most = jobs.unwrap_or(u64::MAX);
                (Arrivals::Random { per_second_micros, jobs: most }, come.min(most), lasts)
            }
        };
        if expected > MOST_JOBS {
            return Err(format!(
                "--simulate: {expected} jobs are too many to rehearse, {MOST_JOBS} are not: lower \
                 --jobs, --rate or --for"
            ));
        }
        let mut examples = profile.examples().to_vec();
        for example in &mut examples {
            example.output = self.output.unwrap_or(example.output);
            example.latency = self.latency.or(example.latency);
        }
        let settle_delay = config.admission.settle_delay;
        Ok(Scenario { examples, arrivals, lasts, settle_delay, seed: self.seed })
    }
}

/// Longer than any rehearsal of jobs that come to an end: ten years.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
