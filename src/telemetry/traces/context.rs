//! Where a request stands in a trace, as W3C's Trace Context has it in headers.
//!
//! `traceparent` is read more strictly than the propagator of the OpenTelemetry crates does, which
//! takes ids of any length: what the standard calls malformed is as if it were not there, and then
//! `tracestate` is not either.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TraceState;
pub use opentelemetry::trace::{SpanId, TraceId};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00; later ones begin like it.
const LENGTH: usize = 55;

/// The longest `tracestate` that is repeated in spans: what the standard asks everybody to pass on.
const LONGEST_STATE: usize = 512;

/// The span that a request was sent in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parent {
    /// Its trace.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// Whether its trace is kept by whoever sent it.
    pub sampled: bool,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Its trace.
    pub trace: TraceId,
    /// Its own span.
    pub span: SpanId,
    /// The span that it was sent in, if its caller said.
    pub parent: Option<Parent>,
    /// Whether spans are made of it.
    pub sampled: bool,
}

impl Parent {
    /// The span that a request was sent in, by its headers.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        // Of two, nobody knows which.
        if values.next().is_some() { None } else { Self::parse(value.as_bytes()) }
    }

    /// Reads `VERSION-TRACE-SPAN-FLAGS`, all of them lower-case hexadecimal digits.
    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut fields = known.split('-');
        let mut field = |length: usize| {
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            fields.next().filter(|text| text.len() == length && text.bytes().all(digit))
        };
        let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let good = match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let valid = good && trace != TraceId::INVALID && span != SpanId::INVALID;
        // All flags but the first are unknown, and whoever does not know them ignores them.
        let flags = u8::from_str_radix(flags, 16).ok()?;
        valid.then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

impl Context {
    /// Makes the headers of a request those that it is passed on with: what it causes is within its own
    /// span, if spans are made of it, else within its caller's.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        if self.parent.is_none() {
            // It belongs to a trace that there is not.
            headers.remove(TRACESTATE);
        }
        let span = match self.parent {
            Some(parent) if !self.sampled => parent.span,
            _ => self.span,
        };
        headers.insert(TRACEPARENT, traceparent(self.trace, span, self.sampled));
    }
}

/// The value of `traceparent` for what is sent within a span.
pub fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    digits(&mut text[3..35], &trace.to_bytes());
    digits(&mut text[36..52], &span.to_bytes());
    text[54] += u8::from(sampled);
    // Digits and dashes.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The `tracestate` of a request whose `traceparent` is good, if it can be read: one list, whatever
/// the number of headers.
pub fn state(headers: &HeaderMap) -> String {
    let values = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok());
    let text = values.collect::<Vec<_>>().join(",");
    let readable = text.len() <= LONGEST_STATE;
    let state = readable.then(|| TraceState::from_str(&text).ok()).flatten();
    state.map(|state| state.header()).unwrap_or_default()
}

fn digits(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TraceContextExt;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parse(text: &str) -> Option<(String, String, bool)> {
        let parent = Parent::parse(text.as_bytes())?;
        Some((parent.trace.to_string(), parent.span.to_string(), parent.sampled))
    }

    #[test]
    fn a_parent_is_read_as_the_standard_says() {
        let good = |sampled| Some((TRACE.to_owned(), SPAN.to_owned(), sampled));
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), good(true)),
            (format!("00-{TRACE}-{SPAN}-00"), good(false)),
            (format!("00-{TRACE}-{SPAN}-ff"), good(true)),
            (format!("00-{TRACE}-{SPAN}-02"), good(false)),
            (format!("cc-{TRACE}-{SPAN}-01"), good(true)),
            (format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), good(true)),
            (format!("cc-{TRACE}-{SPAN}-01.what"), None),
            (format!("00-{TRACE}-{SPAN}-01-what"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-+{}-{SPAN}-01", &TRACE[1..]), None),
            (format!("00-{TRACE}{SPAN}--01"), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            ("00-1-2-03".to_owned(), None),
            (format!("00-{}é-{SPAN}-01", &TRACE[2..]), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(&text), expected, "{text}");
        }
    }

    #[test]
    fn of_two_parents_neither_counts_and_states_are_one_list() {
        let mut headers = HeaderMap::new();
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        headers.append(TRACEPARENT, value(&format!("00-{TRACE}-{SPAN}-01")));
        assert!(Parent::of(&headers).is_some());
        headers.append(TRACESTATE, value("a=1, b=2"));
        headers.append(TRACESTATE, value("c@d=3"));
        assert_eq!(state(&headers), "a=1,b=2,c@d=3");
        headers.append(TRACEPARENT, value(&format!("00-{TRACE}-{SPAN}-01")));
        assert_eq!(Parent::of(&headers), None);
        for unreadable in ["nothing", &format!("a={}", "x".repeat(600))] {
            headers.insert(TRACESTATE, value(unreadable));
            assert_eq!(state(&headers), "");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_not(
            value in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                "[0-9a-fA-F+ -]{50,60}".prop_map(String::into_bytes),
                "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,5})?".prop_map(String::into_bytes),
            ],
        ) {
            let Some(parent) = Parent::parse(&value) else { return Ok(()) };
            // What is taken, the library takes for the same.
            let carrier = HashMap::from([(
                "traceparent".to_owned(),
                String::from_utf8(value).unwrap(),
            )]);
            let context = TraceContextPropagator::new().extract(&carrier);
            let theirs = context.span().span_context().clone();
            prop_assert_eq!(theirs.trace_id(), parent.trace);
            prop_assert_eq!(theirs.span_id(), parent.span);
            prop_assert_eq!(theirs.is_sampled(), parent.sampled);
        }

        #[test]
        fn what_is_written_is_read_back(trace in 1..=u128::MAX, span in 1..=u64::MAX, sampled: bool) {
            let (trace, span) = (TraceId::from(trace), SpanId::from(span));
            let value = traceparent(trace, span, sampled);
            prop_assert_eq!(Parent::parse(value.as_bytes()), Some(Parent { trace, span, sampled }));
        }
    }
}
