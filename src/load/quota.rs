//! What the target's `x-ratelimit-*` headers say of its quota while the load runs.

use http::HeaderMap;

/// The most limits that are kept, and the longest name: what a target sends is not ours to trust.
const MOST_LIMITS: usize = 16;
const LONGEST_NAME: usize = 40;

/// One limit, as answers have shown it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    /// Unit and window as the header has them: `tokens-minute`.
    pub(crate) name: String,
    pub(crate) limit: Option<u64>,
    /// What was left by the first answer that said so, by the last, and by the lowest.
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    pub(crate) lowest: Option<u64>,
}

/// Every limit shown so far, in the order of their first showing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quota {
    seen: Vec<Seen>,
}

impl Quota {
    /// Reads the headers of an answer.
    pub(crate) fn note(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let Some(rest) = name.as_str().strip_prefix("x-ratelimit-") else { continue };
            let Some(number) = value.to_str().ok().and_then(units) else { continue };
            if let Some(name) = rest.strip_prefix("limit-") {
                if let Some(seen) = self.entry(name) {
                    seen.limit = Some(number);
                }
            } else if let Some(name) = rest.strip_prefix("remaining-")
                && let Some(seen) = self.entry(name)
            {
                seen.first = seen.first.or(Some(number));
                seen.last = Some(number);
                seen.lowest = Some(seen.lowest.map_or(number, |lowest| lowest.min(number)));
            }
        }
    }

    /// What was seen.
    pub(crate) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    fn entry(&mut self, name: &str) -> Option<&mut Seen> {
        if let Some(place) = self.seen.iter().position(|seen| seen.name == name) {
            return self.seen.get_mut(place);
        }
        if self.seen.len() >= MOST_LIMITS || name.len() > LONGEST_NAME {
            return None;
        }
        let name = name.to_owned();
        self.seen.push(Seen { name, limit: None, first: None, last: None, lowest: None });
        self.seen.last_mut()
    }
}

/// Units as a header writes them: a fraction is cut off, and less than none is none.
fn units(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(below) = text.strip_prefix('-') {
        return below.parse::<f64>().ok().map(|_| 0);
    }
    text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok()
}

/// The length in seconds of the window that a limit's name ends with.
pub(crate) fn window_seconds(name: &str) -> Option<f64> {
    let seconds = match name.rsplit('-').next()? {
        "second" => 1.0,
        "minute" => 60.0,
        "hour" => 3_600.0,
        "day" => 86_400.0,
        _ => return None,
    };
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::from_str(value).expect("a value"),
            )
        };
        all.iter().map(pair).collect()
    }

    #[test]
    fn first_last_and_lowest_are_kept() {
        let mut quota = Quota::default();
        for left in ["900.5", "-3", "400"] {
            quota.note(&headers(&[
                ("x-ratelimit-limit-tokens-minute", "1000"),
                ("x-ratelimit-remaining-tokens-minute", left),
                ("x-ratelimit-reset-tokens-minute", "12.5"),
                ("x-ratelimit-remaining-requests", "many"),
                ("content-type", "application/json"),
            ]));
        }
        let expected = Seen {
            name: "tokens-minute".to_owned(),
            limit: Some(1_000),
            first: Some(900),
            last: Some(400),
            lowest: Some(0),
        };
        assert_eq!(quota.seen(), [expected]);
    }

    #[test]
    fn a_target_that_makes_up_limits_fills_no_memory() {
        let mut quota = Quota::default();
        for number in 0..1_000 {
            quota.note(&headers(&[(&format!("x-ratelimit-limit-{number}"), "1")]));
        }
        quota.note(&headers(&[(&format!("x-ratelimit-limit-{}", "x".repeat(100)), "1")]));
        assert_eq!(quota.seen().len(), MOST_LIMITS);
    }
}
