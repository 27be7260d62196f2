//! What an answer's rate-limit headers show. Pure.

use http::{HeaderMap, HeaderValue};

use crate::limit::{Reading, Unit};

/// The quotas that an answer's rate-limit headers show, with the header's name cut at the window's.
#[derive(Debug, Default)]
pub(super) struct Readings<'a> {
    list: [Option<Reading<'a>>; MOST_READINGS],
}

/// Three units in five windows, and one to spare; more than any answer of the upstream has shown.
const MOST_READINGS: usize = 16;

impl<'a> Readings<'a> {
    /// Reads `x-ratelimit-{limit,remaining}-{unit}-{window}`; what is not a number is not there.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut readings = Self::default();
        for (name, value) in headers {
            let Some(rest) = name.as_str().strip_prefix("x-ratelimit-") else { continue };
            let (is_limit, rest) =
                match (rest.strip_prefix("limit-"), rest.strip_prefix("remaining-")) {
                    (Some(rest), _) => (true, rest),
                    (None, Some(rest)) => (false, rest),
                    (None, None) => continue,
                };
            let unit = Unit::ALL.into_iter().find_map(|unit| {
                let window = rest.strip_prefix(unit.as_str())?.strip_prefix('-')?;
                Some((unit, window))
            });
            let Some((unit, window)) = unit else { continue };
            let Some(number) = number(value) else { continue };
            let Some(reading) = readings.entry(unit, window) else { continue };
            if is_limit { reading.limit = Some(number) } else { reading.remaining = Some(number) }
        }
        readings
    }

    /// What was read.
    pub(super) fn iter(&self) -> impl Iterator<Item = Reading<'a>> {
        self.list.iter().map_while(|reading| *reading)
    }

    fn entry(&mut self, unit: Unit, window: &'a str) -> Option<&mut Reading<'a>> {
        let is = |it: &Reading<'_>| it.unit == unit && it.window == window;
        let place = self.list.iter_mut().find(|it| it.as_ref().is_none_or(is))?;
        Some(place.get_or_insert(Reading { unit, window, limit: None, remaining: None }))
    }
}

/// A number of units; fractions are cut off, and what is below zero is nothing.
fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    if let Some(below) = text.strip_prefix('-') {
        return below.parse::<u64>().ok().map(|_| 0);
    }
    text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_the_headers_show_is_read_and_nothing_else() {
        let headers = map(&[
            ("x-ratelimit-limit-tokens-minute", "60000"),
            ("x-ratelimit-remaining-tokens-minute", "59000.5"),
            ("x-ratelimit-reset-tokens-minute", "11.38"),
            ("x-ratelimit-remaining-requests-day", " -3 "),
            ("x-ratelimit-remaining-uncached_tokens-hour", "7"),
            ("x-ratelimit-limit-requests-minute", "many"),
            ("x-ratelimit-limit-images-minute", "1"),
            ("x-ratelimit-remaining-tokens", "1"),
            ("x-ratelimit-remaining-tokens-second", "99999999999999999999999"),
        ]);
        let seen: Vec<_> = Readings::of(&headers).iter().collect();
        let reading = |unit, window, limit, remaining| Reading { unit, window, limit, remaining };
        for expected in [
            reading(Unit::Tokens, "minute", Some(60_000), Some(59_000)),
            reading(Unit::Requests, "day", None, Some(0)),
            reading(Unit::UncachedTokens, "hour", None, Some(7)),
        ] {
            assert!(seen.contains(&expected), "{seen:?}");
        }
        assert_eq!(seen.len(), 3);
    }
}
