//! Right-sizing: an output limit for requests that name none, or one that is far too high.
//!
//! What a request asks for at most is set aside at the upstream from its first to its last token. A
//! limit near what answers really need frees that quota for others, at the price of now and then
//! cutting an answer short: so it is asked for in the configuration, and never silent.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use super::calibration::Calibration;
use super::demand::{Demand, OutputLimit};

/// What is added to the 99th percentile, in hundredths: the next hundred answers may be longer.
const MARGIN_PERCENT: u64 = 25;

/// No learned limit is below this: it could save next to nothing.
const LEAST: u64 = 256;

/// Which limit is put on a request's output.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OutputCap {
    /// None.
    #[default]
    None,
    /// So many tokens for each choice.
    Clamp(NonZeroU64),
    /// What 99 of a hundred of the caller's last answers stayed within, and a quarter more; none
    /// before a hundred have been seen.
    LearnedP99,
}

/// What is done about requests that ask for too much.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OutputPolicy {
    /// The limit.
    pub cap: OutputCap,
    /// Whether an answer that it cut, and that the caller has seen nothing of, is asked for again
    /// without it.
    pub retry: bool,
}

/// Text that names no [`OutputCap`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("\"none\", \"clamp:N\" with N tokens above zero, or \"learned:p99\" is expected")]
pub struct NoOutputCap;

impl OutputCap {
    /// The limit to put on `demand`; `None` if it is to be left as it is.
    #[must_use]
    pub fn of(self, demand: &Demand, calibration: Option<&Calibration>) -> Option<u64> {
        let cap = match self {
            Self::None => return None,
            Self::Clamp(tokens) => tokens.get(),
            Self::LearnedP99 => {
                let p99 = calibration?.output_p99()?;
                p99.saturating_add(p99.saturating_mul(MARGIN_PERCENT).div_ceil(100)).max(LEAST)
            }
        };
        match demand.output_limit {
            OutputLimit::Tokens(asked) if asked <= cap => None,
            OutputLimit::Tokens(_) | OutputLimit::Unlimited => Some(cap),
        }
    }
}

impl FromStr for OutputCap {
    type Err = NoOutputCap;

    fn from_str(text: &str) -> Result<Self, NoOutputCap> {
        match (text, text.strip_prefix("clamp:")) {
            ("none", _) => Ok(Self::None),
            ("learned:p99", _) => Ok(Self::LearnedP99),
            (_, Some(tokens)) => {
                tokens.replace('_', "").parse().map(Self::Clamp).map_err(|_| NoOutputCap)
            }
            _ => Err(NoOutputCap),
        }
    }
}

impl fmt::Display for OutputCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Clamp(tokens) => write!(f, "clamp:{tokens}"),
            Self::LearnedP99 => f.write_str("learned:p99"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::calibration::Lesson;
    use super::super::encoding::BodyKind;
    use super::super::report::Usage;
    use super::*;

    fn demand(limit: OutputLimit) -> Demand {
        let kind = BodyKind::from_headers(None, None).unwrap();
        let demand = Demand::read(kind, br#"{"model":"m","messages":[]}"#, 100).unwrap();
        Demand { output_limit: limit, ..demand }
    }

    #[test]
    fn a_cap_is_read_as_it_is_written() {
        for text in ["none", "clamp:1", "clamp:16384", "learned:p99"] {
            assert_eq!(text.parse::<OutputCap>().unwrap().to_string(), text);
        }
        assert_eq!("clamp:4_096".parse::<OutputCap>(), "clamp:4096".parse());
        for wrong in
            ["", "clamp", "clamp:", "clamp:0", "clamp:-1", "clamp:x", "learned:p50", "None"]
        {
            assert_eq!(wrong.parse::<OutputCap>(), Err(NoOutputCap), "{wrong}");
        }
    }

    #[test]
    fn only_what_asks_for_more_is_capped() {
        let clamp: OutputCap = "clamp:1000".parse().unwrap();
        for (asked, capped) in [
            (OutputLimit::Unlimited, Some(1_000)),
            (OutputLimit::Tokens(1_001), Some(1_000)),
            (OutputLimit::Tokens(1_000), None),
            (OutputLimit::Tokens(0), None),
        ] {
            assert_eq!(clamp.of(&demand(asked), None), capped, "{asked:?}");
            assert_eq!(OutputCap::None.of(&demand(asked), None), None);
        }
    }

    #[test]
    fn a_learned_cap_waits_for_a_hundred_answers_and_leaves_room() {
        let request = demand(OutputLimit::Unlimited);
        let mut calibration = Calibration::default();
        let cap = |calibration: &Calibration| OutputCap::LearnedP99.of(&request, Some(calibration));
        for answer in 1..=150 {
            assert_eq!(cap(&calibration).is_some(), answer > 100);
            let usage = Usage { prompt: 5, completion: 1_000 + answer, total: 0, cached: 0 };
            calibration.learn(&request, Lesson { usage, counted: None, cut: false });
        }
        // 99 of a hundred are 149 of 150; the longest of those, and a quarter more.
        assert_eq!(cap(&calibration), Some(1_149 + 288));
        assert_eq!(OutputCap::LearnedP99.of(&request, None), None);
    }
}
