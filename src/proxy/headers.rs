//! What happens to headers on the way through.
//!
//! End-to-end headers pass unchanged, in both directions. Hop-by-hop ones stay on their hop
//! (RFC 9110, 7.6.1): those named there, those that `Connection` names, and what frames the message.

use axum::response::Response;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HeaderMap,
    TRANSFER_ENCODING,
};
use http::{HeaderName, HeaderValue};

use crate::admission::Pool;
use crate::limit::Unit;
use crate::proxy::ambiguous::options;
use crate::proxy::error::UsedUp;
use crate::proxy::record::Facts;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const WAIT_MS: HeaderName = HeaderName::from_static("x-tidegate-wait-ms");
const ESTIMATED: HeaderName = HeaderName::from_static("x-tidegate-estimated-tokens");
const OUTPUT_CAP: HeaderName = HeaderName::from_static("x-tidegate-output-cap");
const LIMITED_BY: HeaderName = HeaderName::from_static("x-tidegate-limited-by");
const FALLBACK: HeaderName = HeaderName::from_static("x-tidegate-fallback");
const USED: HeaderName = HeaderName::from_static("x-tidegate-used-tokens");
const LIMIT: HeaderName = HeaderName::from_static("x-tidegate-limit");
const LIMIT_USED: HeaderName = HeaderName::from_static("x-tidegate-limit-used");
const LIMIT_HELD: HeaderName = HeaderName::from_static("x-tidegate-limit-held");
const SOURCE: HeaderName = HeaderName::from_static("x-tidegate-source");

/// Whether a header belongs to one hop by its name.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Headers of callers to the gateway itself start like this; the upstream has no use for them.
const OWN_PREFIX: &str = "x-tidegate-";

/// Removes what belongs to one hop only, and what `other` names.
fn strip_hop_by_hop(headers: &mut HeaderMap, other: impl Fn(&HeaderName) -> bool) {
    let stays_here = |name: &HeaderName| is_hop_by_hop(name) || other(name);
    // Most messages have none or two of them: one pass finds out, and has room for those.
    let (mut few, mut more): ([Option<HeaderName>; 4], _) = (Default::default(), Vec::new());
    for name in headers.keys().filter(|name| stays_here(name)) {
        match few.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(name.clone()),
            None => more.push(name.clone()),
        }
    }
    let names = || few.iter().flatten().chain(&more);
    if names().any(|name| *name == CONNECTION) {
        more = names().cloned().chain(options(headers)).collect();
        few = Default::default();
    }
    for name in few.iter().flatten().chain(&more) {
        headers.remove(name);
    }
}

/// Makes a caller's headers those of the request to the upstream.
pub(super) fn for_upstream(headers: &mut HeaderMap, authorization: Option<&HeaderValue>) {
    strip_hop_by_hop(headers, |name| {
        matches!(name.as_str(), "host" | "expect" | "content-length")
            || name.as_str().starts_with(OWN_PREFIX)
            || poses_as_another(name)
    });
    if let Some(key) = authorization {
        headers.insert(AUTHORIZATION, key.clone());
    }
    narrow_encodings(headers);
    join_cookies(headers);
}

/// Whether a name becomes that of a header which the gateway sets, reads or removes, once somebody
/// behind it reads `_` as `-`: servers with the conventions of CGI do.
fn poses_as_another(name: &HeaderName) -> bool {
    if !name.as_str().contains('_') {
        return false;
    }
    let read = name.as_str().replace('_', "-");
    let ours = [
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "transfer-encoding",
        "proxy-authorization",
        "proxy-connection",
        "keep-alive",
    ];
    ours.contains(&read.as_str()) || read.starts_with(OWN_PREFIX)
}

/// One field of all cookies: HTTP/2 may send them one by one, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut all = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(cookie.as_bytes());
    }
    // What was valid in pieces is valid joined.
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, value);
    }
}

/// Leaves only those encodings of an answer in which its usage can be read.
fn narrow_encodings(headers: &mut HeaderMap) {
    let readable = |coding: &str| {
        let name = coding.split(';').next().unwrap_or_default().trim();
        ["gzip", "x-gzip", "deflate", "identity"].iter().any(|it| name.eq_ignore_ascii_case(it))
    };
    let mut codings = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .peekable();
    if codings.peek().is_none() {
        return;
    }
    let all: Vec<&str> = codings.collect();
    if all.iter().copied().all(readable) {
        return;
    }
    let left: Vec<&str> = all.into_iter().filter(|coding| readable(coding)).collect();
    let left = if left.is_empty() { "identity".to_owned() } else { left.join(", ") };
    if let Ok(value) = HeaderValue::from_str(&left) {
        headers.insert(ACCEPT_ENCODING, value);
    }
}

/// Whether nothing but the connection's end says where the body of an answer ends.
pub(super) fn is_open(head: &http::response::Parts) -> bool {
    let framed = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|it| head.headers.contains_key(it));
    head.version < http::Version::HTTP_2 && !framed
}

/// Makes the upstream's head that of the answer to the caller, whose connection has a version and a
/// framing of its own.
pub(super) fn for_caller(head: &mut http::response::Parts) {
    // An answer of HTTP/1.0 would end with the caller's connection, whether it came whole or not.
    head.version = http::Version::default();
    let headers = &mut head.headers;
    // A length beside chunks says nothing (RFC 9112, 6.3), and one said twice says it once. On the way to
    // the caller, where the chunks are gone, it would be believed.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = headers.get(CONTENT_LENGTH).cloned() {
        headers.insert(CONTENT_LENGTH, length);
    }
    strip_hop_by_hop(headers, |_| false);
}

/// Names the request, unless the upstream has named it.
pub(super) fn name(response: &mut Response, id: &str) {
    if !response.headers().contains_key(X_REQUEST_ID)
        && let Ok(value) = HeaderValue::from_str(id)
    {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
}

/// Says what the gateway did with the request, as far as that is known when the head goes out.
pub(super) fn explain(headers: &mut HeaderMap, facts: &Facts) {
    let wait_ms = u64::try_from(facts.waited.as_millis()).unwrap_or(u64::MAX);
    headers.insert(WAIT_MS, digits(wait_ms));
    headers.insert(ESTIMATED, digits(facts.estimated));
    if let Some(cap) = facts.output_cap {
        headers.insert(OUTPUT_CAP, digits(cap));
    }
    let limited_by = facts.limited_by.as_deref();
    if let Some(value) = limited_by.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(LIMITED_BY, value);
    }
    let fallback = facts.fallback.as_deref();
    if let Some(value) = fallback.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(FALLBACK, value);
    }
    if let Some(usage) = facts.usage {
        headers.insert(USED, digits(usage.total));
    }
}

/// A number as a header has it; `HeaderValue::from` would allocate twice.
fn digits(number: u64) -> HeaderValue {
    let mut buffer = itoa::Buffer::new();
    HeaderValue::from_str(buffer.format(number)).unwrap_or(HeaderValue::from_static("0"))
}

/// Says how far the limit is used up that a refused request would have waited for.
pub(super) fn explain_level(headers: &mut HeaderMap, level: &UsedUp) {
    headers.insert(LIMIT, digits(level.limit));
    headers.insert(LIMIT_USED, digits(level.used));
    headers.insert(LIMIT_HELD, digits(level.held));
}

/// Says that a refusal or failure is the gateway's own.
pub(super) fn blame_gateway(headers: &mut HeaderMap) {
    headers.insert(SOURCE, HeaderValue::from_static("gateway"));
}

/// Says that it is the upstream's.
pub(super) fn blame_upstream(headers: &mut HeaderMap) {
    headers.insert(SOURCE, HeaderValue::from_static("upstream"));
}

/// The documented rate-limit headers: unit and window, then limit, remaining and reset.
static DOCUMENTED: [(Unit, &str, [HeaderName; 3]); 2] = [
    (
        Unit::Requests,
        "day",
        [
            HeaderName::from_static("x-ratelimit-limit-requests-day"),
            HeaderName::from_static("x-ratelimit-remaining-requests-day"),
            HeaderName::from_static("x-ratelimit-reset-requests-day"),
        ],
    ),
    (
        Unit::Tokens,
        "minute",
        [
            HeaderName::from_static("x-ratelimit-limit-tokens-minute"),
            HeaderName::from_static("x-ratelimit-remaining-tokens-minute"),
            HeaderName::from_static("x-ratelimit-reset-tokens-minute"),
        ],
    ),
];

/// Adds the documented rate-limit headers that are missing, from the pool's ledger.
pub(super) fn fill_rate_limits(headers: &mut HeaderMap, pool: &Pool) {
    // One walk over the names there are costs less than to look each of these up.
    let documented = || DOCUMENTED.iter().flat_map(|(.., names)| names);
    let limits = headers.keys().filter(|name| name.as_str().starts_with("x-ratelimit-"));
    if limits.filter(|name| documented().any(|it| it == *name)).count() == documented().count() {
        return;
    }
    let now = pool.now();
    pool.levels(|level| {
        let documented = DOCUMENTED
            .iter()
            .find(|(unit, name, _)| *unit == level.quota.unit() && *name == level.quota.name());
        let Some((.., [limit, remaining, reset])) = documented else { return };
        let left = u64::try_from(level.available).unwrap_or(0);
        headers.entry(limit).or_insert_with(|| digits(level.quota.limit()));
        headers.entry(remaining).or_insert_with(|| digits(left));
        let wait = level.resets_at.since(now);
        let text = format!("{}.{:09}", wait.as_secs(), wait.subsec_nanos());
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.entry(reset).or_insert(value);
        }
    });
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

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn only_what_is_end_to_end_reaches_the_upstream() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "1"),
            ("proxy-authorization", "Basic abc"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "localhost"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("x-tidegate-max-wait", "1s"),
            ("authorization", "Bearer callers"),
            ("user-agent", "sdk"),
            ("queue_threshold", "5"),
            ("x-unknown", "kept"),
            ("content_length", "4"),
            ("transfer_encoding", "chunked"),
            ("x_tidegate_priority", "high"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        for_upstream(&mut headers, Some(&HeaderValue::from_static("Bearer ours")));
        assert_eq!(
            names(&headers),
            ["authorization", "cookie", "queue_threshold", "user-agent", "x-unknown"]
        );
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers["authorization"], "Bearer ours");
    }

    #[test]
    fn a_callers_answer_has_one_length_at_most_and_none_beside_chunks() {
        let passed = |headers: &[(&'static str, &'static str)]| {
            let mut head = Response::new(axum::body::Body::empty()).into_parts().0;
            (head.headers, head.version) = (map(headers), http::Version::HTTP_10);
            for_caller(&mut head);
            assert_eq!(head.version, http::Version::HTTP_11);
            head.headers
        };
        let chunked =
            passed(&[("content-length", "5"), ("transfer-encoding", "chunked"), ("x-one", "1")]);
        assert_eq!(names(&chunked), ["x-one"]);
        let twice = passed(&[("content-length", "5"), ("content-length", "5")]);
        assert_eq!(twice.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
    }

    #[test]
    fn answers_are_asked_for_in_encodings_that_can_be_metered() {
        for (sent, forwarded) in [
            (Some("gzip, deflate"), Some("gzip, deflate")),
            (Some("gzip, deflate, br, zstd"), Some("gzip, deflate")),
            (Some("br;q=1.0, gzip;q=0.8, *;q=0.1"), Some("gzip;q=0.8")),
            (Some("br"), Some("identity")),
            (None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = sent {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            for_upstream(&mut headers, None);
            let seen = headers.get(ACCEPT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!(seen, forwarded);
        }
    }
}
