//! The heads of requests and answers: numbers are bounded, names are short, and a key is in none.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::state::NOW;
use super::take;
use crate::config::{Config, DEFAULT_FILE, Overrides};
use crate::identity::{Access, Keys, VirtualKey};
use crate::proxy::{judge, readings};
use crate::telemetry::traces::context::{Parent, state, traceparent};
use crate::usage::{BodyKind, Meter};

/// The one key that is configured.
const KEY: &[u8] = b"key-of-a-caller";

/// It, as the configuration names it.
static KEYS: LazyLock<Vec<VirtualKey>> = LazyLock::new(|| {
    let hash: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{DEFAULT_FILE}\n[[keys]]\nname = \"team\"\nhash = \"sha256:{hash}\"\n");
    let account = ("CEREBRAS_API_KEY".to_owned(), "key".to_owned());
    let config = Config::parse(&text, [account], &Overrides::default());
    config.expect("it is valid").keys
});

pub fn check(mut data: &[u8]) {
    let status = u16::from_le_bytes(take(&mut data)) % 500 + 100;
    let status = StatusCode::from_u16(status).expect("from 100 to 599");
    let (headers, body) = split(data);
    quotas(&headers);
    let (retry_after, code) = judge(status, &headers, body);
    // Times are added to this one.
    assert!(retry_after.is_none_or(|wait| wait <= Duration::MAX));
    assert!(
        code.is_none_or(|code| code.len() <= 64 && code.bytes().all(|it| it.is_ascii_graphic()))
    );
    trace(&headers);
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (kind, coding) = (text(&CONTENT_TYPE), text(&CONTENT_ENCODING));
    let named = BodyKind::from_headers(kind, coding);
    assert_eq!(named, BodyKind::from_headers(upper(kind).as_deref(), upper(coding).as_deref()));
    let mut meter = Meter::new(kind, coding);
    meter.feed(body);
    meter.finish();
    caller(headers.get(AUTHORIZATION).map(HeaderValue::as_bytes), headers.get("x-team"));
}

/// A head as lines, and what follows the empty one.
fn split(data: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    let mut rest = data;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        let pair = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value));
        if let (Ok(name), Ok(value)) = pair {
            headers.append(name, value);
        }
    }
    (headers, rest)
}

fn upper(value: Option<&str>) -> Option<String> {
    value.map(str::to_ascii_uppercase)
}

/// Each quota once, no more than there is room for, and each number as it stands in its header.
fn quotas(headers: &HeaderMap) {
    let seen = readings(headers);
    let names: HashSet<_> = seen.iter().map(|it| (it.unit, it.window)).collect();
    assert!(names.len() == seen.len() && seen.len() <= 16);
    for reading in &seen {
        assert!(reading.limit.is_some() || reading.remaining.is_some());
        for (part, number) in [("limit", reading.limit), ("remaining", reading.remaining)] {
            let Some(number) = number else { continue };
            let name = format!("x-ratelimit-{part}-{}-{}", reading.unit.as_str(), reading.window);
            // The last of several that can be read.
            let said = headers.get_all(&name).iter().filter_map(|it| it.to_str().ok());
            assert!(said.into_iter().any(|text| means(text.trim(), number)), "{name}: {number}");
        }
    }
}

/// Whether a text, by its digits, means this number.
fn means(text: &str, number: u64) -> bool {
    if let Some(below) = text.strip_prefix('-') {
        return number == 0 && below.parse::<u64>().is_ok();
    }
    let whole = text.split('.').next().unwrap_or_default();
    let digits = whole.strip_prefix('+').unwrap_or(whole).trim_start_matches('0');
    (number == 0 && digits.is_empty()) || digits == number.to_string()
}

/// A parent is what is written down of it, and a state is never long.
fn trace(headers: &HeaderMap) {
    if let Some(parent) = Parent::of(headers) {
        let written = traceparent(parent.trace, parent.span, parent.sampled);
        let again = HeaderMap::from_iter([(HeaderName::from_static("traceparent"), written)]);
        assert_eq!(Parent::of(&again), Some(parent));
    }
    let state = state(headers);
    assert!(state.len() <= 512, "{state}");
    assert!(HeaderValue::from_str(&state).is_ok(), "{state:?}");
}

/// Who a caller is depends on the key alone, and its name says nothing of that.
fn caller(authorization: Option<&[u8]>, told: Option<&HeaderValue>) {
    let told = told.map(HeaderValue::as_bytes);
    for access in [Access::PassThrough, Access::Open, Access::Keys(Keys::new(KEYS.clone()))] {
        let found = access.identify(authorization, told, NOW);
        let bearer = authorization.and_then(|it| it.split_at_checked(7));
        let token = match bearer {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => authorization.unwrap_or_default(),
        };
        if matches!(&access, Access::Keys(_)) {
            assert_eq!(found.is_ok(), token == KEY);
        }
        let Ok(caller) = found else { continue };
        let plain = caller.tenant.bytes().all(|byte| byte.is_ascii_alphanumeric());
        assert!(plain && caller.tenant.len() <= 9, "{}", caller.tenant);
        let again =
            access.identify(Some(&[b"BEARER ", token].concat()), told, NOW).expect("it was known");
        if authorization.is_some() {
            assert_eq!((&again.tenant, again.id), (&caller.tenant, caller.id));
            assert!(again.account == caller.account);
        }
    }
}
