//! Limits and semantics as written on a command line.

use std::fmt;
use std::str::FromStr;

use super::{Limit, Name, Semantics, Unit};

/// A word of the simulator's little languages that means nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{problem}, got `{got}`")]
pub struct ParseError {
    problem: &'static str,
    got: String,
}

impl ParseError {
    pub(in crate::simulator) fn new(problem: &'static str, got: &str) -> Self {
        Self { problem, got: got.to_owned() }
    }
}

impl FromStr for Unit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "requests" => Ok(Self::Requests),
            "tokens" => Ok(Self::Tokens),
            _ => Err(ParseError::new("want requests or tokens", text)),
        }
    }
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "second" => Ok(Self::Second),
            "minute" => Ok(Self::Minute),
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            _ => Err(ParseError::new("want second, minute, hour or day", text)),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, name, limit, window_ns } = self;
        write!(f, "{}/{}={limit}", unit.as_str(), name.as_str())?;
        if *window_ns != name.nominal_ns() {
            let window = std::time::Duration::from_nanos(*window_ns);
            write!(f, "@{}", humantime::format_duration(window))?;
        }
        Ok(())
    }
}

/// `requests/minute=120`, or with a window of another length `requests/minute=120@3s`.
impl FromStr for Limit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let shape = || ParseError::new("want UNIT/WINDOW=N[@LENGTH]", text);
        let (what, amount) = text.split_once('=').ok_or_else(shape)?;
        let (unit, name) = what.split_once('/').ok_or_else(shape)?;
        let (limit, length) = match amount.split_once('@') {
            Some((limit, length)) => (limit, Some(length)),
            None => (amount, None),
        };
        let limit = limit.replace('_', "").parse().map_err(|_| shape())?;
        let mut parsed = Self::per(unit.parse()?, name.parse()?, limit);
        if let Some(length) = length {
            let length = humantime::parse_duration(length).map_err(|_| shape())?;
            parsed.window_ns = u64::try_from(length.as_nanos()).map_err(|_| shape())?;
        }
        if parsed.window_ns == 0 {
            return Err(shape());
        }
        Ok(parsed)
    }
}

/// `bucket`, `fixed`, `fixed:PHASE` (a duration) or `sliding`.
impl FromStr for Semantics {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unknown = || ParseError::new("want bucket, fixed[:PHASE] or sliding", text);
        match text.split_once(':') {
            None => match text {
                "bucket" => Ok(Self::TokenBucket),
                "fixed" => Ok(Self::FixedWindow { phase_ns: 0 }),
                "sliding" => Ok(Self::SlidingLog),
                _ => Err(unknown()),
            },
            Some(("fixed", phase)) => {
                let phase = humantime::parse_duration(phase).map_err(|_| unknown())?;
                let phase_ns = u64::try_from(phase.as_nanos()).map_err(|_| unknown())?;
                Ok(Self::FixedWindow { phase_ns })
            }
            Some(_) => Err(unknown()),
        }
    }
}
