//! Sessions of browsers, which cannot send a token with every request: a cookie stands for it.
//!
//! # Invariants
//!
//! - Nothing is kept: a session is the time of its end, signed with the token. So there are as many as
//!   there are people, they outlive a restart, and every gateway that has the same token knows them; with
//!   another token all of them end.
//! - No script can read the cookie, and no other site can have it sent.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use ring::hmac;

use crate::time::Timestamp;

/// How long a session lasts: a day's work.
const LIFE: Duration = Duration::from_secs(12 * 3_600);

const NAME: &str = "tidegate_session";

/// What is signed is this and the time of the end: a signature means nothing elsewhere.
const PURPOSE: &str = "tidegate admin session until ";

/// Opens sessions, and knows them again.
#[derive(Debug)]
pub(super) struct Sessions {
    key: hmac::Key,
    /// Whether browsers are to send the cookie over TLS only.
    encrypted: bool,
}

impl Sessions {
    pub(super) fn new(token: &str, encrypted: bool) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), encrypted }
    }

    /// The `Set-Cookie` of a new session.
    pub(super) fn open(&self, now: Timestamp) -> HeaderValue {
        let until = seconds(now) + LIFE.as_secs();
        let signature = hmac::sign(&self.key, message(until).as_bytes());
        let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.cookie(&format!("{until}.{hex}"), LIFE)
    }

    /// The `Set-Cookie` that has a browser forget its session.
    pub(super) fn close(&self) -> HeaderValue {
        self.cookie("", Duration::ZERO)
    }

    /// Whether a request belongs to a session.
    pub(super) fn are_open(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
        let cookies =
            cookies.flat_map(|it| it.split(';')).filter_map(|it| it.trim().split_once('='));
        cookies.filter(|(name, _)| *name == NAME).any(|(_, value)| self.is_open(value, now))
    }

    fn is_open(&self, value: &str, now: Timestamp) -> bool {
        let signed = || {
            let (until, hex) = value.split_once('.')?;
            let until: u64 = until.parse().ok()?;
            let signature = bytes(hex)?;
            hmac::verify(&self.key, message(until).as_bytes(), &signature).ok()?;
            Some(until)
        };
        signed().is_some_and(|until| seconds(now) < until)
    }

    fn cookie(&self, value: &str, life: Duration) -> HeaderValue {
        let secure = if self.encrypted { "; Secure" } else { "" };
        let life = life.as_secs();
        let text =
            format!("{NAME}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}");
        // Digits, a point and hexadecimal digits.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

fn message(until: u64) -> String {
    format!("{PURPOSE}{until}")
}

const fn seconds(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000_000_000
}

/// Bytes from hexadecimal digits: of a signature, not more.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let pairs = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok());
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-some-length";

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    /// The request of a browser that was sent this `Set-Cookie`.
    fn back(set: &HeaderValue) -> HeaderMap {
        let text = set.to_str().expect("text");
        let pair = text.split(';').next().expect("a pair");
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "theme=dark".parse().expect("a value"));
        let both = format!("other=1; {pair}; last=2");
        headers.append(header::COOKIE, both.parse().expect("a value"));
        headers
    }

    #[test]
    fn a_session_lasts_as_long_as_it_says_and_is_known_by_whoever_has_the_token() {
        let set = Sessions::new(TOKEN, false).open(at(1_000));
        let text = set.to_str().expect("text");
        for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("Secure") && !text.contains(TOKEN), "{text}");
        let encrypted = Sessions::new(TOKEN, true);
        assert!(encrypted.open(at(0)).to_str().expect("text").ends_with("; Secure"));
        let end = 1_000 + 43_200;
        for (now, open) in [(1_000, true), (end - 1, true), (end, false), (end + 1_000, false)] {
            assert_eq!(encrypted.are_open(&back(&set), at(now)), open, "at {now}");
        }
        let other = Sessions::new("another-token-as-long", false);
        assert!(!other.are_open(&back(&set), at(1_000)), "a new token ends them all");
        assert!(!other.are_open(&back(&other.close()), at(1_000)));
        assert!(!other.are_open(&HeaderMap::new(), at(1_000)));
    }

    #[test]
    fn nobody_makes_or_prolongs_a_session_without_the_token() {
        let sessions = Sessions::new(TOKEN, false);
        let set = sessions.open(at(0));
        let text = set.to_str().expect("text");
        let (until, rest) = text["tidegate_session=".len()..].split_once('.').expect("two parts");
        let signature = &rest[..64];
        assert!(sessions.is_open(&format!("{until}.{signature}"), at(0)));
        let flipped = if signature.starts_with('0') { "1" } else { "0" };
        for forged in [
            format!("99999999999.{signature}"),
            format!("{until}.{flipped}{}", &signature[1..]),
            format!("{until}.{}", &signature[..62]),
            format!("{until}.{signature}00"),
            format!("{until}."),
            format!("-1.{signature}"),
            until.to_owned(),
            format!("{until}.{}", "é".repeat(32)),
            String::new(),
        ] {
            assert!(!sessions.is_open(&forged, at(0)), "{forged}");
        }
    }
}
