//! Where the load goes: a base URL as people write it, made that of the chat endpoint.

use http::Uri;

/// The chat endpoint below a base URL.
const CHAT: &str = "/chat/completions";

/// A chat endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    /// The URL as it was given, for reports.
    pub(crate) name: String,
    /// Where requests go.
    pub(crate) chat: Uri,
}

/// Why a text is no target.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadTarget(String);

impl std::str::FromStr for Target {
    type Err = BadTarget;

    /// Reads a base URL with or without a scheme, `/v1`, a closing slash or the endpoint's own path.
    fn from_str(text: &str) -> Result<Self, BadTarget> {
        // Not quoted before it is known to hold no password.
        if text.split(['/', '?', '#']).any(|part| part.contains('@')) {
            return Err(BadTarget(
                "the URL may not hold a user or password: see --api-key-env".to_owned(),
            ));
        }
        let bad = |what: &str| BadTarget(format!("{text:?}: {what}"));
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| bad("not a URL"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err(bad("want http:// or https://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("the URL names no host"))?;
        if uri.query().is_some() || full.contains('#') {
            return Err(bad("a base URL has no query and no fragment"));
        }
        let base = uri.path().trim_end_matches('/');
        let base = base.strip_suffix(CHAT).unwrap_or(base);
        let versioned = base.rsplit('/').next().is_some_and(is_version);
        let version = if versioned { "" } else { "/v1" };
        let chat = format!("{scheme}://{authority}{base}{version}{CHAT}");
        let chat = chat.parse().map_err(|_| bad("not a URL"))?;
        Ok(Self { name: format!("{scheme}://{authority}{base}{version}"), chat })
    }
}

/// `v1`, `v4`: the last part of a base URL that needs nothing added.
fn is_version(part: &str) -> bool {
    part.strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_taken_however_it_is_written() {
        for (text, chat) in [
            ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1/chat/completions"),
            ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080/v1/chat/completions"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/chat/completions"),
            ("http://127.0.0.1:8080//", "http://127.0.0.1:8080/v1/chat/completions"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080/v1/chat/completions"),
            ("localhost/v1/chat/completions", "http://localhost/v1/chat/completions"),
            ("https://example.com/api", "https://example.com/api/v1/chat/completions"),
            ("https://example.com/paas/v4", "https://example.com/paas/v4/chat/completions"),
            ("http://[::1]:8080", "http://[::1]:8080/v1/chat/completions"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.chat.to_string(), chat, "{text}");
        }
    }

    #[test]
    fn what_is_no_base_url_says_why_and_gives_no_password_away() {
        for (text, why) in [
            ("", "not a URL"),
            ("ftp://host", "http:// or https://"),
            ("http://host?key=1", "no query"),
            ("http://user:secret@host", "--api-key-env"),
            ("user:secret@host", "--api-key-env"),
            ("http://ho st", "not a URL"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
