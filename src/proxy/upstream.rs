//! The connection to the upstream: a pooled client over HTTP/1.1 or HTTP/2.
//!
//! A kept connection may be closed by the upstream at the very moment it is used again. Where nothing
//! of the request had been written, the client takes another connection by itself. Where something
//! had, it is told from a failing upstream by what the connection itself saw ([`Trace`]): it had served
//! before, and not one byte came back for what was written last. Such a request is likely to do better
//! on a connection of its own, but not certain to be unprocessed ([`Failure`]).

mod connect;
mod failure;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use self::connect::{Timed, Trace};
pub(super) use self::failure::Failure;
use crate::{config, cores};

type Connector = Timed<HttpsConnector<HttpConnector>>;
type Pooled = Client<Connector, Full<Bytes>>;

/// Pools of connections; whoever has more cores has machines of another kind.
const MOST_POOLS: usize = 64;

/// TCP keep-alive finds peers that vanished without a word.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A peer that had closed a connection before a request came answers it with a reset: within one
/// round trip, and there is none on earth that takes longer.
const STALE_WITHIN: Duration = Duration::from_millis(300);

/// The upstream, as the gateway reaches it.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    scheme: Scheme,
    authority: Authority,
    authorization: Option<HeaderValue>,
    head_timeout: Duration,
    make: Make,
    /// A pool of connections for each core, made when it is used: whoever waits for an answer is on the
    /// same thread as whoever reads it. With more cores than this some share one.
    pooled: Arc<[OnceLock<Pooled>; MOST_POOLS]>,
}

/// What clients are made of.
#[derive(Clone, Debug)]
struct Make {
    connector: Connector,
    idle_timeout: Duration,
}

impl Make {
    /// A client that keeps so many idle connections.
    fn client(&self, idle: usize) -> Pooled {
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.idle_timeout)
            .pool_max_idle_per_host(idle)
            .http2_adaptive_window(true)
            .build(self.connector.clone())
    }
}

/// A request as it is sent, and sent again.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// Its method.
    pub(super) method: Method,
    /// Path and query at the upstream.
    pub(super) path: PathAndQuery,
    /// Its headers, end-to-end ones only.
    pub(super) headers: HeaderMap,
    /// Its body, as it came.
    pub(super) body: Bytes,
}

impl Upstream {
    /// A client of the configured upstream; it connects when it is used.
    ///
    /// # Errors
    ///
    /// If the address has no host, or the key cannot be sent as a header.
    pub(super) fn new(config: &config::Upstream) -> io::Result<Self> {
        let authorization = match &config.api_key {
            None => None,
            Some(secret) => {
                let mut value = HeaderValue::try_from(format!("Bearer {}", secret.expose()))
                    .map_err(|_| io::Error::other("the key cannot be sent as a header"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        let https = match trusting(&config.ca)? {
            None => HttpsConnectorBuilder::new().with_webpki_roots(),
            Some(tls) => HttpsConnectorBuilder::new().with_tls_config(tls),
        };
        let https = https.https_or_http().enable_http1().enable_http2().wrap_connector(http);
        let connector = Timed::new(https, config.connect_timeout);
        let make = Make { connector, idle_timeout: config.pool_idle_timeout };
        let uri = config.base_url.clone().into_parts();
        Ok(Self {
            scheme: uri.scheme.unwrap_or(Scheme::HTTPS),
            authority: uri.authority.ok_or_else(|| io::Error::other("the upstream has no host"))?,
            authorization,
            head_timeout: config.head_timeout,
            make,
            pooled: Arc::new([const { OnceLock::new() }; MOST_POOLS]),
        })
    }

    /// The connections of the core that this thread is of.
    fn pool(&self) -> &Pooled {
        self.pooled[cores::here() % MOST_POOLS].get_or_init(|| self.make.client(usize::MAX))
    }

    /// The gateway's own credential, if it has one.
    pub(super) const fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Sends a request, within a span if there is one, and waits for the head of the answer; dropping
    /// the future cuts the request.
    ///
    /// # Errors
    ///
    /// [`Failure`] if there is none.
    pub(super) async fn send(
        &self,
        outgoing: &Outgoing,
        fresh: bool,
        traceparent: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(outgoing.path.clone());
        let uri = Uri::from_parts(parts).map_err(|error| Failure::Connect(error.into()))?;
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = outgoing.headers.clone();
        if let Some(traceparent) = traceparent {
            request.headers_mut().insert("traceparent", traceparent);
        }
        let started = Instant::now();
        // One that keeps no connection gives every request a new one; it is rarely needed.
        let unpooled = fresh.then(|| self.make.client(0));
        let client = unpooled.as_ref().unwrap_or_else(|| self.pool());
        match tokio::time::timeout(self.head_timeout, client.request(request)).await {
            Err(_) => Err(Failure::Timeout),
            Ok(Ok(response)) => {
                if let Some(trace) = response.extensions().get::<Trace>() {
                    trace.answered();
                }
                Ok(response)
            }
            Ok(Err(error)) => Err(Failure::of(error, started.elapsed() < STALE_WITHIN)),
        }
    }
}

/// TLS that trusts these authorities and no others; `None` if there are none.
pub(crate) fn trusting(
    authorities: &[CertificateDer<'static>],
) -> io::Result<Option<ClientConfig>> {
    if authorities.is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(tls))
}
