//! What can go wrong, by name, and who it happens to.
//!
//! A request's faults are, in this order: those its `x-sim-fault` header names; else the next
//! entry of the script; else at most one drawn from the rates by the seed and the request's ordinal.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use parking_lot::Mutex;

use super::quota::{Name, ParseError, Unit};

/// One way to fail. Written `NAME[:ARG]`, several joined by commas.
///
/// Whatever refuses or breaks a request before its head ([`Fault::Quota`], [`Fault::Queue`],
/// [`Fault::Status`], [`Fault::Blocked`], [`Fault::Reset`], [`Fault::Close`], [`Fault::Upgrade`])
/// does so before admission: nothing is charged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// `quota:tokens-minute`: 429 in the words of that limit, whatever its level.
    Quota(Unit, Name),
    /// `queue[:503]`: overload, as 429 unless another status is named.
    Queue(u16),
    /// `status:500`, or the number alone: that error.
    Status(u16),
    /// `blocked`: the content network's 403, which is not JSON.
    Blocked,
    /// `reset`: the connection is reset before the head.
    Reset,
    /// `close`: the connection ends before the head.
    Close,
    /// `upgrade`: a `101` nobody asked for.
    Upgrade,
    /// `idle-close`: this request is answered; the connection is reset on receiving the next.
    IdleClose,
    /// `late:MS`: reaches admission that much later, in real milliseconds.
    Late(Duration),
    /// `slow-head:MS`: admitted at once, its head that much later, in real milliseconds.
    SlowHead(Duration),
    /// `hang`: admitted, never answered.
    Hang,
    /// `cut[:N]`: the body breaks off after N content chunks (a plain one after half its bytes).
    Cut(u64),
    /// `error-event[:N]`: a stream ends with an error after N content chunks; a plain answer is
    /// a 500 instead.
    ErrorEvent(u64),
    /// `gzip`: the answer is compressed.
    Gzip,
    /// `tiny-frames`: the body comes in frames of three bytes.
    TinyFrames,
    /// `no-usage`: the answer does not tell its usage.
    NoUsage,
}

impl Fault {
    /// Reads faults joined by commas; blanks around them and empty entries are ignored.
    ///
    /// # Errors
    ///
    /// The first that is not a fault.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ParseError> {
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for Fault {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("not a fault", text);
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let number = |default: Option<u64>| match argument {
            Some(digits) => digits.parse::<u64>().map_err(|_| bad()),
            None => default.ok_or_else(bad),
        };
        let millis = || number(None).map(Duration::from_millis);
        let status = |default| {
            let status = u16::try_from(number(default)?).map_err(|_| bad())?;
            if (400..600).contains(&status) { Ok(status) } else { Err(bad()) }
        };
        let fault = match name {
            "quota" => {
                let (unit, window) = argument.and_then(|a| a.split_once('-')).ok_or_else(bad)?;
                Self::Quota(unit.parse()?, window.parse()?)
            }
            "queue" => Self::Queue(status(Some(429))?),
            "status" => Self::Status(status(None)?),
            "blocked" => Self::Blocked,
            "reset" => Self::Reset,
            "close" => Self::Close,
            "upgrade" => Self::Upgrade,
            "idle-close" => Self::IdleClose,
            "late" => Self::Late(millis()?),
            "slow-head" => Self::SlowHead(millis()?),
            "hang" => Self::Hang,
            "cut" => Self::Cut(number(Some(1))?),
            "error-event" => Self::ErrorEvent(number(Some(1))?),
            "gzip" => Self::Gzip,
            "tiny-frames" => Self::TinyFrames,
            "no-usage" => Self::NoUsage,
            code if argument.is_none() => {
                Self::Status(status(Some(code.parse().map_err(|_| bad())?))?)
            }
            _ => return Err(bad()),
        };
        Ok(fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota(unit, name) => write!(f, "quota:{}-{}", unit.as_str(), name.as_str()),
            Self::Queue(status) => write!(f, "queue:{status}"),
            Self::Status(status) => write!(f, "status:{status}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Reset => f.write_str("reset"),
            Self::Close => f.write_str("close"),
            Self::Upgrade => f.write_str("upgrade"),
            Self::IdleClose => f.write_str("idle-close"),
            Self::Late(by) => write!(f, "late:{}", by.as_millis()),
            Self::SlowHead(by) => write!(f, "slow-head:{}", by.as_millis()),
            Self::Hang => f.write_str("hang"),
            Self::Cut(after) => write!(f, "cut:{after}"),
            Self::ErrorEvent(after) => write!(f, "error-event:{after}"),
            Self::Gzip => f.write_str("gzip"),
            Self::TinyFrames => f.write_str("tiny-frames"),
            Self::NoUsage => f.write_str("no-usage"),
        }
    }
}

/// The faults of the requests to come.
#[derive(Debug)]
pub(super) struct Faults {
    seed: u64,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    script: VecDeque<Vec<Fault>>,
    rates: Vec<(Fault, f64)>,
}

impl Faults {
    pub(super) fn new(seed: u64, rates: Vec<(Fault, f64)>) -> Self {
        Self { seed, plan: Mutex::new(Plan { script: VecDeque::new(), rates }) }
    }

    /// Appends to the script: one entry for each request to come, an empty one leaving it alone.
    pub(super) fn script(&self, entries: impl IntoIterator<Item = Vec<Fault>>) {
        self.plan.lock().script.extend(entries);
    }

    pub(super) fn set_rates(&self, rates: Vec<(Fault, f64)>) {
        self.plan.lock().rates = rates;
    }

    /// Forgets the script and the rates.
    pub(super) fn clear(&self) {
        *self.plan.lock() = Plan { script: VecDeque::new(), rates: Vec::new() };
    }

    /// The faults of request number `ordinal`, which named none itself.
    pub(super) fn draw(&self, ordinal: u64) -> Vec<Fault> {
        let mut plan = self.plan.lock();
        if let Some(entry) = plan.script.pop_front() {
            return entry;
        }
        if plan.rates.is_empty() {
            return Vec::new();
        }
        let mut share = super::output::rng(self.seed, ordinal).f64();
        let hit = plan.rates.iter().find(|(_, rate)| {
            share -= rate;
            share < 0.0
        });
        hit.map(|(fault, _)| *fault).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_back_as_they_are_written() {
        let all = "quota:tokens-minute,queue:503,status:402,blocked,reset,close,upgrade,idle-close,\
                   late:5,slow-head:7,hang,cut:2,error-event:0,gzip,tiny-frames,no-usage";
        let faults = Fault::parse_all(all).expect("well formed");
        let written: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(written.join(","), all);
        assert_eq!(
            Fault::parse_all(" 500 ,, queue,cut"),
            Ok(vec![Fault::Status(500), Fault::Queue(429), Fault::Cut(1)])
        );
        for text in ["200", "status", "status:99", "late", "quota:tokens", "nonsense", "500:1"] {
            assert!(Fault::parse_all(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_script_comes_before_the_rates_and_a_seed_repeats_them() {
        let rates = vec![(Fault::Reset, 0.25), (Fault::Hang, 0.25)];
        let faults = Faults::new(7, rates.clone());
        faults.script([vec![], vec![Fault::Gzip, Fault::Cut(3)]]);
        assert_eq!(faults.draw(0), []);
        assert_eq!(faults.draw(1), [Fault::Gzip, Fault::Cut(3)]);
        let drawn: Vec<_> = (0..4_000).map(|ordinal| faults.draw(ordinal)).collect();
        let again = Faults::new(7, rates);
        assert!(drawn.iter().zip(0..).all(|(faults, ordinal)| *faults == again.draw(ordinal)));
        for fault in [Fault::Reset, Fault::Hang] {
            let hit = drawn.iter().filter(|faults| **faults == [fault]).count();
            // A quarter of 4,000 within six standard deviations (27 each).
            assert!((836..=1_164).contains(&hit), "{fault}: {hit}");
        }
    }
}
