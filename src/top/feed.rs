//! Asks a gateway's admin port.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Client, Url};

use super::Snapshot;

/// An answer that takes longer is none: the next question is due.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the gateway is asked.
#[derive(Clone, Debug)]
pub struct Feed {
    client: Client,
    status: Url,
    shown: String,
    headers: HeaderMap,
}

/// Why an address cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not the address of an admin port: http://HOST:PORT is expected")]
pub struct BadUrl {
    url: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// Nothing answers, or not in time.
    #[error("no answer from {url}: {reason}")]
    Silent {
        /// Who was asked.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// It answers to those who have its token.
    #[error("{url} asks for a token: set TIDEGATE_ADMIN_TOKEN, or name it with --token")]
    Locked {
        /// Who was asked.
        url: String,
    },
    /// What answers is something else.
    #[error("{url} answers {status}, which is not a gateway's status")]
    Other {
        /// Who was asked.
        url: String,
        /// The answer's status line, or what is wrong with its content.
        status: String,
    },
}

impl Feed {
    /// One that asks the admin port at `url`.
    ///
    /// # Errors
    ///
    /// If it is no such address.
    pub fn new(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl { url: url.to_owned() };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let base = Url::parse(&full).map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(bad());
        }
        let status = base.join("/status").map_err(|_| bad())?;
        let client = Client::builder().timeout(PATIENCE).no_proxy().build().map_err(|_| bad())?;
        let shown = status.as_str().trim_end_matches("/status").to_owned();
        Ok(Self { client, status, shown, headers: HeaderMap::new() })
    }

    /// The same, presenting this `Authorization`.
    #[must_use]
    pub fn with_bearer(mut self, bearer: Option<HeaderValue>) -> Self {
        self.headers = bearer.map(|it| (AUTHORIZATION, it)).into_iter().collect();
        self
    }

    /// The address, for people.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// What the gateway says of itself now.
    ///
    /// # Errors
    ///
    /// If it does not answer, or something else does.
    pub async fn ask(&self) -> Result<Snapshot, Unreachable> {
        let url = || self.shown.clone();
        let silent = |error: reqwest::Error| {
            let reason =
                if error.is_timeout() { "it took too long".to_owned() } else { cause(&error) };
            Unreachable::Silent { url: url(), reason }
        };
        let request = self.client.get(self.status.clone()).headers(self.headers.clone());
        let answer = request.send().await.map_err(silent)?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(Unreachable::Locked { url: url() });
        }
        if !status.is_success() {
            return Err(Unreachable::Other { url: url(), status: status.to_string() });
        }
        let text = answer.bytes().await.map_err(silent)?;
        serde_json::from_slice(&text).map_err(|error| {
            let status = format!("something else at column {}", error.column());
            Unreachable::Other { url: url(), status }
        })
    }
}

/// The innermost reason: "Connection refused" rather than "error sending request".
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
