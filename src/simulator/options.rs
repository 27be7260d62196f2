//! Everything a simulated upstream can be told to be.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::fault::Fault;
use super::quota::{Limit, Name, ParseError, Semantics, Unit};

/// How the simulated upstream behaves. Any value of any field is safe; see [`Options::check`].
///
/// Durations and windows are *nominal*: [`Options::time_scale`] divides them all.
#[derive(Clone, Debug)]
pub struct Options {
    /// The limits of every pool (account and model).
    pub limits: Vec<Limit>,
    /// How the limits' windows give units back. A phase is real time, not divided by the scale.
    pub semantics: Semantics,
    /// Whether a refused request costs a request unit.
    pub charge_rejected: bool,
    /// How many times faster than the clock: at 20 a minute lasts three seconds. Windows, latencies
    /// and rates follow it; `reset` and `retry-after` headers tell the real seconds that result.
    pub time_scale: f64,
    /// The Unix time in nanoseconds at which the simulated clock starts; the wall clock's if `None`.
    pub start_unix_ns: Option<u64>,
    /// Makes lengths, texts, jitter and faults reproducible.
    pub seed: u64,
    /// The keys accepted; empty accepts any key, or none.
    pub keys: Vec<AcceptedKey>,
    /// The models served; empty serves any.
    pub models: Vec<String>,
    /// Which rate-limit headers metered answers carry.
    pub headers: HeaderStyle,
    /// Whether a 429 for quota carries an integer `retry-after` (to the window's end).
    pub retry_after: bool,
    /// What admission assumes a request will cost.
    pub reservation: Reservation,
    /// How long answers are.
    pub output: OutputModel,
    /// How long answers take.
    pub latency: Latency,
    /// Tokens in one streamed chunk.
    pub chunk_tokens: u64,
    /// Where a stream tells its usage.
    pub usage: UsagePlacement,
    /// Whether a request whose client goes away is settled with what it had used; else its
    /// reservation is kept.
    pub refund_on_abort: bool,
    /// How long after an answer's end its reservation is replaced by the usage.
    pub refund_delay: Duration,
    /// Requests answered at once; more get `queue_exceeded`.
    pub max_in_flight: Option<u64>,
    /// The largest body taken, in bytes, before and after decompression.
    pub max_body_bytes: usize,
    /// Faults with the share of metered requests (0 to 1) that each of them hits.
    pub fault_rates: Vec<(Fault, f64)>,
}

/// A key callers may use, and the account it draws on.
#[derive(Clone, Eq, PartialEq)]
pub struct AcceptedKey {
    /// The bearer token.
    pub key: String,
    /// The account: keys with one account share one quota per model.
    pub account: String,
}

/// Which rate-limit headers an answer carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HeaderStyle {
    /// `limit`, `remaining` and `reset` of requests per day and tokens per minute.
    #[default]
    Six,
    /// `limit` and `remaining` of every limit; no `reset`.
    Matrix,
    /// None at all.
    Omit,
}

/// What admission reserves for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// Output tokens assumed where a request names no limit, or -1.
    pub default: u64,
    /// The most output tokens reserved whatever a request names.
    pub cap: Option<u64>,
    /// By how many per cent the estimated prompt exceeds the counted one, rounded up.
    pub prompt_slack_percent: u64,
}

/// How many tokens an answer has, before the request's own limit cuts it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutputModel {
    /// Always as many.
    Fixed(u64),
    /// Evenly spread, both ends included.
    Uniform(u64, u64),
    /// Log-normal with this median: half as long to twice as long in two cases of three.
    Median(u64),
}

/// How long an answer takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Latency {
    /// Up to how long a request travels before it is admitted, evenly spread.
    pub arrival: Duration,
    /// From admission to the first token, which is when the head is sent too.
    pub first_token: Duration,
    /// Tokens generated per second; zero takes no time.
    pub tokens_per_second: u64,
    /// How far `first_token` and the rate vary in either direction, in per cent.
    pub jitter_percent: u32,
}

/// Where a stream tells its usage.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UsagePlacement {
    /// In the last chunk, beside the finish reason.
    #[default]
    LastChunk,
    /// In a chunk of its own with empty `choices`.
    OwnChunk,
    /// Nowhere.
    Never,
}

impl Latency {
    /// No time at all.
    pub const ZERO: Self = Self {
        arrival: Duration::ZERO,
        first_token: Duration::ZERO,
        tokens_per_second: 0,
        jitter_percent: 0,
    };
}

impl Default for Latency {
    /// 200 ms to the first token and 1,500 tokens a second: inside the measured 1,000 to 3,000.
    fn default() -> Self {
        Self {
            arrival: Duration::ZERO,
            first_token: Duration::from_millis(200),
            tokens_per_second: 1_500,
            jitter_percent: 10,
        }
    }
}

impl Default for Reservation {
    /// 16,384 output tokens, as measured; no cap; a prompt over-estimated by two per cent.
    fn default() -> Self {
        Self { default: 16_384, cap: None, prompt_slack_percent: 2 }
    }
}

impl Default for Options {
    /// The published limits of GLM-4.7, any key, any model, token buckets at real speed.
    fn default() -> Self {
        Self {
            limits: vec![
                Limit::per(Unit::Requests, Name::Minute, 120),
                Limit::per(Unit::Requests, Name::Hour, 7_200),
                Limit::per(Unit::Requests, Name::Day, 172_800),
                Limit::per(Unit::Tokens, Name::Minute, 1_500_000),
                Limit::per(Unit::Tokens, Name::Hour, 120_000_000),
                Limit::per(Unit::Tokens, Name::Day, 120_000_000),
            ],
            semantics: Semantics::default(),
            charge_rejected: false,
            time_scale: 1.0,
            start_unix_ns: None,
            seed: 0,
            keys: Vec::new(),
            models: Vec::new(),
            headers: HeaderStyle::default(),
            retry_after: false,
            reservation: Reservation::default(),
            output: OutputModel::Median(400),
            latency: Latency::default(),
            chunk_tokens: 24,
            usage: UsagePlacement::default(),
            refund_on_abort: false,
            refund_delay: Duration::ZERO,
            max_in_flight: None,
            // As much as a request with a handful of images encoded in it.
            max_body_bytes: 32 << 20,
            fault_rates: Vec::new(),
        }
    }
}

impl Options {
    /// Whether the simulator can run so.
    ///
    /// # Errors
    ///
    /// A sentence on the first option that makes no sense.
    pub fn check(&self) -> Result<(), String> {
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            return Err(format!("time scale: must be above zero, got {}", self.time_scale));
        }
        let share: f64 = self.fault_rates.iter().map(|(_, rate)| rate).sum();
        let sane = |rate: f64| (0.0..=1.0).contains(&rate);
        if !self.fault_rates.iter().all(|(_, rate)| sane(*rate)) || !sane(share) {
            return Err("fault rates: each and their sum must be within 0 and 1".to_owned());
        }
        Ok(())
    }

    /// A nominal duration as it really lasts.
    pub(super) fn scaled(&self, nominal: Duration) -> Duration {
        // Beyond what a duration can hold it is "for ever"; a day serves as that.
        const FOR_EVER: Duration = Duration::from_secs(86_400);
        Duration::try_from_secs_f64(nominal.as_secs_f64() / self.time_scale).unwrap_or(FOR_EVER)
    }

    /// The limits with the windows they really have.
    pub(super) fn scaled_limits(&self) -> Vec<Limit> {
        let scaled = |limit: &Limit| {
            let window = self.scaled(Duration::from_nanos(limit.window_ns)).as_nanos();
            Limit { window_ns: u64::try_from(window).unwrap_or(u64::MAX).max(1), ..*limit }
        };
        self.limits.iter().map(scaled).collect()
    }
}

impl From<&str> for AcceptedKey {
    /// A key, or `KEY=ACCOUNT`; a key alone is an account of its own.
    fn from(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, account)) => Self { key: key.to_owned(), account: account.to_owned() },
            None => Self { key: text.to_owned(), account: super::pool::fingerprint(text) },
        }
    }
}

impl fmt::Debug for AcceptedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

impl FromStr for HeaderStyle {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "six" => Ok(Self::Six),
            "matrix" => Ok(Self::Matrix),
            "none" => Ok(Self::Omit),
            _ => Err(ParseError::new("want six, matrix or none", text)),
        }
    }
}

impl FromStr for UsagePlacement {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "last" => Ok(Self::LastChunk),
            "own" => Ok(Self::OwnChunk),
            "never" => Ok(Self::Never),
            _ => Err(ParseError::new("want last, own or never", text)),
        }
    }
}

/// `400`, `100..900` or `median:400`.
impl FromStr for OutputModel {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("want N, A..B or median:N", text);
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| bad());
        if let Some(median) = text.strip_prefix("median:") {
            return Ok(Self::Median(number(median)?));
        }
        match text.split_once("..") {
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                if from <= to { Ok(Self::Uniform(from, to)) } else { Err(bad()) }
            }
            None => Ok(Self::Fixed(number(text)?)),
        }
    }
}
