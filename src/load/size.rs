//! How many tokens a prompt or an answer has: a number, or a distribution to draw it from.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest prompt or answer that can be asked for: longer than any model's context, and short
/// enough that a body of so many words (6 MB) is no surprise to the machine.
pub(crate) const MOST_TOKENS: u64 = 1_000_000;

/// A number of tokens, or where to draw it from; never below 1 or above [`MOST_TOKENS`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Size {
    /// Always as many.
    Fixed(u64),
    /// Evenly spread, both ends included.
    Uniform(u64, u64),
    /// Log-normal: half of the draws below the median, cut off at `most`.
    LogNormal {
        median: u64,
        /// Standard deviation of the logarithm.
        sigma: f64,
        most: u64,
    },
    /// One of these, each as likely as it is often there.
    Listed(Arc<[u64]>),
}

impl Size {
    /// Draws a number of tokens.
    pub(crate) fn sample(&self, rng: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Fixed(tokens) => *tokens,
            Self::Uniform(from, to) => rng.u64(from..=to),
            Self::LogNormal { median, sigma, most } => {
                let factor = (sigma * normal(rng)).exp();
                scaled(*median, factor).clamp(1, *most)
            }
            Self::Listed(sizes) => sizes[rng.usize(..sizes.len())],
        }
    }
}

/// A draw from the standard normal distribution (Box and Muller's polar form needs no table).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    // Within (0, 1]: the logarithm of zero is not a number that helps.
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn scaled(units: u64, factor: f64) -> u64 {
    (units as f64 * factor).round() as u64
}

/// Why a text is no size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadSize(String);

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let bad = |what: &str| BadSize(format!("{text:?}: {what}"));
        let whole = |digits: &str| match digits.trim().replace('_', "").parse::<u64>() {
            Ok(tokens) if (1..=MOST_TOKENS).contains(&tokens) => Ok(tokens),
            _ => Err(bad(&format!("want whole numbers of tokens from 1 to {MOST_TOKENS}"))),
        };
        let Some((kind, rest)) = text.split_once(':') else { return Ok(Self::Fixed(whole(text)?)) };
        match kind {
            "uniform" => {
                let (from, to) =
                    rest.split_once("..").ok_or_else(|| bad("want uniform:FROM..TO"))?;
                let (from, to) = (whole(from)?, whole(to)?);
                if from > to { Err(bad("the range is empty")) } else { Ok(Self::Uniform(from, to)) }
            }
            "lognormal" => {
                let fields: Vec<&str> = rest.split(',').collect();
                let (median, sigma, most) = match fields[..] {
                    [median, sigma] => (median, sigma, None),
                    [median, sigma, most] => (median, sigma, Some(most)),
                    _ => {
                        return Err(bad(
                            "want lognormal:MEDIAN,SIGMA or lognormal:MEDIAN,SIGMA,MOST",
                        ));
                    }
                };
                let median = whole(median)?;
                let sigma: f64 = sigma.trim().parse().unwrap_or(f64::NAN);
                // Beyond 3, one draw in six is over twenty times the median: a mistake.
                if !(0.0..=3.0).contains(&sigma) {
                    return Err(bad("the standard deviation of the logarithm is from 0 to 3"));
                }
                let most = most.map_or(Ok(MOST_TOKENS), whole)?;
                if most < median {
                    return Err(bad("the most allowed is below the median"));
                }
                Ok(Self::LogNormal { median, sigma, most })
            }
            _ => Err(bad("want N, uniform:FROM..TO, lognormal:MEDIAN,SIGMA[,MOST] or file:PATH")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform(from, to) => write!(f, "uniform:{from}..{to}"),
            Self::LogNormal { median, sigma, most: MOST_TOKENS } => {
                write!(f, "lognormal:{median},{sigma}")
            }
            Self::LogNormal { median, sigma, most } => {
                write!(f, "lognormal:{median},{sigma},{most}")
            }
            Self::Listed(sizes) => write!(f, "{} sizes from a file", sizes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes() -> impl Strategy<Value = Size> {
        let uniform =
            (1..5_000_u64, 0..5_000_u64).prop_map(|(from, more)| Size::Uniform(from, from + more));
        let lognormal = (1..5_000_u64, 0..=30_u32, 1..50_u64).prop_map(|(median, sigma, times)| {
            Size::LogNormal { median, sigma: f64::from(sigma) / 10.0, most: median * times }
        });
        let listed =
            proptest::collection::vec(1..9_000_u64, 1..20).prop_map(|it| Size::Listed(it.into()));
        prop_oneof![(1..9_000_u64).prop_map(Size::Fixed), uniform, lognormal, listed]
    }

    fn bounds(size: &Size) -> (u64, u64) {
        match size {
            Size::Fixed(tokens) => (*tokens, *tokens),
            Size::Uniform(from, to) => (*from, *to),
            Size::LogNormal { most, .. } => (1, *most),
            Size::Listed(all) => {
                (*all.iter().min().expect("not empty"), *all.iter().max().expect("not empty"))
            }
        }
    }

    proptest! {
        /// A seed repeats its draws, and none of them is out of bounds.
        #[test]
        fn draws_repeat_and_keep_their_bounds(size in sizes(), seed: u64) {
            let draw = || {
                let mut rng = fastrand::Rng::with_seed(seed);
                (0..200).map(|_| size.sample(&mut rng)).collect::<Vec<_>>()
            };
            let (least, most) = bounds(&size);
            let drawn = draw();
            prop_assert_eq!(&drawn, &draw());
            prop_assert!(drawn.iter().all(|tokens| (least..=most).contains(tokens)), "{:?}", drawn);
        }

        /// What is written reads back as it was.
        #[test]
        fn sizes_read_back_as_they_are_written(size in sizes()) {
            if !matches!(size, Size::Listed(_)) {
                prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
            }
        }

        /// The mean of many draws is the distribution's, within six of its standard errors.
        #[test]
        fn the_mean_is_the_distributions(
            (from, width, sigma) in (1..1_000_u64, 0..1_000_u64, 1..8_u32), seed: u64
        ) {
            const DRAWS: u32 = 20_000;
            let sigma = f64::from(sigma) / 10.0;
            let median = (from + 100) as f64;
            // exp(sigma^2 / 2) times the median; its variance follows from the same formula.
            let grown = (sigma * sigma).exp();
            let (to, root) = (from + width, f64::from(DRAWS).sqrt());
            let uniform = Size::Uniform(from, to);
            let uniform_deviation = (((width + 1) as f64).powi(2) - 1.0).max(0.0).sqrt() / 12.0_f64.sqrt();
            let log_normal = Size::LogNormal { median: from + 100, sigma, most: MOST_TOKENS };
            let mean = median * grown.sqrt();
            for (size, mean, deviation) in [
                (uniform, (from + to) as f64 / 2.0, uniform_deviation),
                (log_normal, mean, mean * (grown - 1.0).sqrt()),
            ] {
                let mut rng = fastrand::Rng::with_seed(seed);
                let sum: u64 = (0..DRAWS).map(|_| size.sample(&mut rng)).sum();
                let seen = sum as f64 / f64::from(DRAWS);
                // Rounding to whole tokens may shift a mean by a little of one.
                let allowed = 6.0 * deviation / root + 0.01;
                prop_assert!((seen - mean).abs() <= allowed, "{size}: {seen} for {mean}");
            }
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        for (text, why) in [
            ("0", "whole numbers"),
            ("-5", "whole numbers"),
            ("1000001", "whole numbers"),
            ("many", "whole numbers"),
            ("uniform:5", "uniform:FROM..TO"),
            ("uniform:9..5", "empty"),
            ("lognormal:5", "lognormal:MEDIAN"),
            ("lognormal:5,x", "standard deviation"),
            ("lognormal:5,4", "standard deviation"),
            ("lognormal:50,1,5", "below the median"),
            ("zipf:3", "want N, uniform"),
        ] {
            let error = text.parse::<Size>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
        assert_eq!("16_384".parse(), Ok(Size::Fixed(16_384)));
    }
}
