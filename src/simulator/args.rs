//! The simulator's options as command-line flags.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::fault::Fault;
use super::options::{
    AcceptedKey, HeaderStyle, Latency, Options, OutputModel, Reservation, UsagePlacement,
};
use super::quota::{Limit, ParseError, Semantics};

/// Flags of `simulate`; every one defaults to what [`Options::default`] says.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// How windows give units back: `bucket`, `fixed[:PHASE]` or `sliding`
    #[arg(long, default_value = "bucket")]
    pub semantics: Semantics,
    /// How many times faster than the clock; at 20 a minute lasts three seconds
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub time_scale: f64,
    /// A limit in place of the built-in ones: `UNIT/WINDOW=N[@LENGTH]`, as in
    /// requests/minute=120; without =N the built-in number. Repeatable
    #[arg(long, value_name = "LIMIT", value_parser = limit)]
    pub limit: Vec<Limit>,
    /// Charge refused requests to the request limits
    #[arg(long)]
    pub charge_rejected: bool,
    /// Rate-limit headers: six, matrix or none
    #[arg(long, value_name = "STYLE", default_value = "six")]
    pub headers: HeaderStyle,
    /// Send an integer retry-after with each 429 for quota
    #[arg(long)]
    pub retry_after: bool,
    /// Time to the first token
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    pub latency: Duration,
    /// Tokens generated per second; 0 takes no time
    #[arg(long, value_name = "TOKENS", default_value_t = 1_500)]
    pub rate: u64,
    /// How far latency and rate vary, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    pub jitter: u32,
    /// How long requests travel before admission, at most
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub arrival: Duration,
    /// Tokens per answer: N, A..B or median:N
    #[arg(long, value_name = "MODEL", default_value = "median:400")]
    pub output: OutputModel,
    /// Tokens in one streamed chunk
    #[arg(long, value_name = "TOKENS", default_value_t = 24)]
    pub chunk_tokens: u64,
    /// Where streams tell their usage: last, own or never
    #[arg(long, value_name = "WHERE", default_value = "last")]
    pub usage: UsagePlacement,
    /// Output tokens reserved where a request names no limit
    #[arg(long, value_name = "TOKENS", default_value_t = 16_384)]
    pub reserve: u64,
    /// The most output tokens reserved for one choice
    #[arg(long, value_name = "TOKENS")]
    pub reserve_cap: Option<u64>,
    /// Settle requests whose client goes away instead of keeping their reservation
    #[arg(long)]
    pub refund_on_abort: bool,
    /// How long after an answer its reservation gives way to its usage
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub refund_delay: Duration,
    /// Requests answered at once; more are told that traffic is high
    #[arg(long, value_name = "N")]
    pub max_in_flight: Option<u64>,
    /// A fault and the share of requests it hits, as in 503=0.01. Repeatable
    #[arg(long, value_name = "FAULT=SHARE", value_parser = fault_rate)]
    pub fault: Vec<(Fault, f64)>,
    /// Keys accepted, KEY or KEY=ACCOUNT, separated by commas; without this flag any
    #[arg(long, value_name = "KEYS", value_delimiter = ',', value_parser = key)]
    pub keys: Vec<AcceptedKey>,
    /// Models served, separated by commas; without this flag any
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Makes lengths, texts, jitter and faults reproducible
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl SimulateArgs {
    /// The options these flags stand for; `listen` goes to [`Simulator::start`] beside them.
    ///
    /// [`Simulator::start`]: super::Simulator::start
    pub fn into_options(self) -> Options {
        let defaults = Options::default();
        Options {
            limits: if self.limit.is_empty() { defaults.limits } else { self.limit },
            semantics: self.semantics,
            charge_rejected: self.charge_rejected,
            time_scale: self.time_scale,
            seed: self.seed,
            keys: self.keys,
            models: self.models,
            headers: self.headers,
            retry_after: self.retry_after,
            reservation: Reservation {
                default: self.reserve,
                cap: self.reserve_cap,
                ..defaults.reservation
            },
            output: self.output,
            latency: Latency {
                arrival: self.arrival,
                first_token: self.latency,
                tokens_per_second: self.rate,
                jitter_percent: self.jitter,
            },
            chunk_tokens: self.chunk_tokens,
            usage: self.usage,
            refund_on_abort: self.refund_on_abort,
            refund_delay: self.refund_delay,
            max_in_flight: self.max_in_flight,
            fault_rates: self.fault,
            start_unix_ns: None,
            max_body_bytes: defaults.max_body_bytes,
        }
    }
}

fn limit(text: &str) -> Result<Limit, ParseError> {
    if text.contains('=') {
        return text.parse();
    }
    let (what, length) = match text.split_once('@') {
        Some((what, length)) => (what, Some(length)),
        None => (text, None),
    };
    let written = |limit: &Limit| format!("{}/{}", limit.unit.as_str(), limit.name.as_str());
    let limits = Options::default().limits;
    let known = limits.iter().find(|limit| written(limit) == what);
    let known = known.ok_or_else(|| ParseError::new("no built-in limit, so want =N", text))?;
    match length {
        Some(length) => format!("{what}={}@{length}", known.limit).parse(),
        None => Ok(*known),
    }
}

fn fault_rate(text: &str) -> Result<(Fault, f64), ParseError> {
    let bad = || ParseError::new("want FAULT=SHARE with a share within 0 and 1", text);
    let (fault, share) = text.split_once('=').ok_or_else(bad)?;
    let share: f64 = share.parse().map_err(|_| bad())?;
    if !(0.0..=1.0).contains(&share) {
        return Err(bad());
    }
    Ok((fault.parse()?, share))
}

#[expect(clippy::unnecessary_wraps, reason = "clap's value parsers return results")]
fn key(text: &str) -> Result<AcceptedKey, ParseError> {
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::simulator::quota::{Name, Unit};

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn options(flags: &[&str]) -> Options {
        let words = std::iter::once("simulate").chain(flags.iter().copied());
        Command::try_parse_from(words).expect("well formed").args.into_options()
    }

    #[test]
    fn no_flags_are_the_default_options() {
        assert_eq!(format!("{:?}", options(&[])), format!("{:?}", Options::default()));
    }

    #[test]
    fn limits_replace_the_built_in_ones() {
        let given = options(&["--limit", "requests/minute", "--limit", "tokens/minute=9@3s"]);
        let minute = Limit::per(Unit::Requests, Name::Minute, 120);
        let short = Limit { window_ns: 3_000_000_000, ..Limit::per(Unit::Tokens, Name::Minute, 9) };
        assert_eq!(given.limits, [minute, short]);
        for bad in ["requests/second", "tokens", "tokens/minute=x"] {
            let parsed = Command::try_parse_from(["simulate", "--limit", bad]);
            assert!(parsed.is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_and_faults_are_read() {
        let given = options(&["--keys", "a=team,b", "--fault", "503=0.25", "--fault", "cut:2=0.5"]);
        assert_eq!(given.keys[0], AcceptedKey { key: "a".into(), account: "team".into() });
        assert!(!format!("{given:?}").contains("\"a\""), "keys are not shown");
        assert_eq!(given.fault_rates, [(Fault::Status(503), 0.25), (Fault::Cut(2), 0.5)]);
        assert!(Command::try_parse_from(["simulate", "--fault", "503=2"]).is_err());
    }
}
