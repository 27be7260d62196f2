//! Asks the admin port of a gateway, for this program's own commands.
//!
//! # Invariants
//!
//! - Certificates are checked always: there is no way to leave that out.
//! - The token goes to the address that was given and nowhere else: no proxy is used, no redirect followed.
//! - An answer is bounded in time and size.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, InvalidMessage};

use crate::proxy::trusting;

/// The most bytes of an answer: a status of everything there can be takes a few hundred KB.
const MOST_BYTES: usize = 64 << 20;

/// What a port that speaks TLS tells those who do not, in part.
const SPEAKS_TLS: &[u8] = b"this port speaks TLS";

/// Characters of an answer that an error quotes.
const QUOTED: usize = 120;

/// Asks admin ports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pooled: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    bearer: Option<HeaderValue>,
    patience: Duration,
}

/// Where an admin port is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    scheme: Scheme,
    authority: Authority,
    given: PathAndQuery,
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error)]
#[error(
    "{url:?} is not the address of an admin port: http://HOST:PORT or https://HOST:PORT is expected"
)]
pub struct BadUrl {
    url: String,
}

/// Why there is no answer that could be used.
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
    /// It shows a certificate that nobody vouches for who is trusted here.
    #[error(
        "the certificate of {url} is not trusted ({reason}): name the file of its authority's \
         certificate with --ca or TIDEGATE_ADMIN_CA"
    )]
    Untrusted {
        /// Who was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It shows a certificate that does not hold for it, or not now, whoever vouches for it.
    #[error("the certificate of {url} is not valid: {reason}")]
    Invalid {
        /// Who was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was asked in one protocol and speaks the other.
    #[error("{url} is of the wrong kind: this port speaks {speaks}")]
    Scheme {
        /// Who was asked.
        url: String,
        /// What it speaks, and the beginning of its address.
        speaks: &'static str,
    },
    /// It answers to those who have its token.
    #[error("{url} asks for a token: set TIDEGATE_ADMIN_TOKEN, or name it with --token")]
    Locked {
        /// Who was asked.
        url: String,
    },
    /// It was shown another token than its own.
    #[error("wrong token: {url} has another than that of --token or TIDEGATE_ADMIN_TOKEN")]
    WrongToken {
        /// Who was asked.
        url: String,
    },
    /// What answers is something else.
    #[error("{url} answers {status}, which is not a gateway's status")]
    Other {
        /// Who was asked.
        url: String,
        /// The answer's status and beginning, or what is wrong with its content.
        status: String,
    },
}

impl Address {
    /// Of `http://HOST:PORT` or `https://HOST:PORT`; without the scheme it is the first.
    ///
    /// # Errors
    ///
    /// If it is no such address.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl { url: url.to_owned() };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parts = full.parse::<Uri>().map_err(|_| bad())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(bad());
        };
        if ![Scheme::HTTP, Scheme::HTTPS].contains(&scheme) || authority.host().is_empty() {
            return Err(bad());
        }
        let given = parts.path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        Ok(Self { scheme, authority, given })
    }

    /// The address with the path that it was given.
    pub fn as_given(&self) -> Uri {
        self.uri(self.given.clone())
    }

    /// The address of one of the port's pages.
    pub fn page(&self, path: &'static str) -> Uri {
        self.uri(PathAndQuery::from_static(path))
    }

    fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        // All three are there, which is all that there can be wrong with them.
        Uri::from_parts(parts).unwrap_or_default()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Client {
    /// One that trusts these authorities, or the public ones where there are none; shows `bearer` as its
    /// `Authorization`; and waits for a whole answer as long as `patience`.
    ///
    /// # Errors
    ///
    /// If an authority's certificate is none.
    pub fn new(
        authorities: &[CertificateDer<'static>],
        bearer: Option<HeaderValue>,
        patience: Duration,
    ) -> io::Result<Self> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let https = match trusting(authorities)? {
            None => HttpsConnectorBuilder::new().with_webpki_roots(),
            Some(tls) => HttpsConnectorBuilder::new().with_tls_config(tls),
        };
        let https = https.https_or_http().enable_http1().enable_http2().wrap_connector(http);
        let pooled = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self { pooled, bearer, patience })
    }

    /// Status and content of a page.
    ///
    /// # Errors
    ///
    /// If there is no answer, or one that says that something is wrong with the question: the scheme of the
    /// address, the token.
    pub async fn get(&self, url: Uri) -> Result<(StatusCode, Bytes), Unreachable> {
        let shown = || {
            let (scheme, authority) = (url.scheme_str(), url.authority().map(Authority::as_str));
            format!("{}://{}", scheme.unwrap_or_default(), authority.unwrap_or_default())
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.clone();
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let asked = async {
            let answer = self.pooled.request(request).await.map_err(|it| why(&it, shown()))?;
            let (head, body) = answer.into_parts();
            let text = Limited::new(body, MOST_BYTES).collect().await;
            let text = text.map_err(|error| why(error.as_ref(), shown()))?.to_bytes();
            Ok((head.status, text))
        };
        let slow = || Unreachable::Silent { url: shown(), reason: "it took too long".to_owned() };
        let (status, text) =
            tokio::time::timeout(self.patience, asked).await.map_err(|_| slow())??;
        match status {
            StatusCode::UNAUTHORIZED if self.bearer.is_some() => {
                Err(Unreachable::WrongToken { url: shown() })
            }
            StatusCode::UNAUTHORIZED => Err(Unreachable::Locked { url: shown() }),
            StatusCode::BAD_REQUEST if text.starts_with(SPEAKS_TLS) => {
                Err(Unreachable::Scheme { url: shown(), speaks: "TLS, https://" })
            }
            status => Ok((status, text)),
        }
    }

    /// The content of a page that is there.
    ///
    /// # Errors
    ///
    /// As [`Self::get`], and for any status that is no success.
    pub async fn page(&self, at: &Address, path: &'static str) -> Result<Bytes, Unreachable> {
        let (status, text) = self.get(at.page(path)).await?;
        if status.is_success() {
            return Ok(text);
        }
        let text = String::from_utf8_lossy(&text);
        let line: String = text.chars().take(QUOTED).take_while(|c| !c.is_control()).collect();
        let status =
            if line.is_empty() { status.to_string() } else { format!("{status} ({line})") };
        Err(Unreachable::Other { url: at.to_string(), status })
    }
}

/// Why a request was not answered.
fn why(error: &(dyn Error + 'static), url: String) -> Unreachable {
    let reason = innermost(error).to_string();
    match of_tls(error) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            Unreachable::Scheme { url, speaks: "no TLS, http://" }
        }
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer => {
                Unreachable::Untrusted { url, reason: "its issuer is unknown".to_owned() }
            }
            // Whoever signed it, another authority would not help.
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. } => {
                Unreachable::Invalid { url, reason: wrong.to_string() }
            }
            wrong => Unreachable::Untrusted { url, reason: wrong.to_string() },
        },
        _ => Unreachable::Silent { url, reason },
    }
}

/// The innermost reason: "Connection refused" rather than "error sending request".
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}

/// What TLS said, if that is why.
fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an I/O error is made of is not among its sources.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match within {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
