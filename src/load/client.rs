//! Sends requests over HTTP/1.1 or HTTP/2 and looks at what comes back.
//!
//! The same pooled client as on the gateway's way to its upstream: it costs a third less CPU for each
//! request than `reqwest`, and what a load generator costs is missing from what it can show.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::drive::Backend;
use super::observation::{Failure, Observation};
use super::target::Target;
use super::workload::Job;
use crate::usage::Meter;

/// Names of headers that the gateway reads.
pub(crate) const CLASS: HeaderName = HeaderName::from_static("x-tidegate-class");

/// Keeps connections as long as a gateway that closes idle ones after a minute may.
const IDLE: Duration = Duration::from_secs(50);

/// A chat endpoint as it is asked.
#[derive(Debug)]
pub(crate) struct HttpBackend {
    chat: Uri,
    headers: HeaderMap,
    timeout: Duration,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpBackend {
    /// Connects when it is used; a request may take as long as `timeout` from when it is sent.
    pub(crate) fn new(target: &Target, headers: &HeaderMap, timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(usize::MAX)
            .http2_adaptive_window(true)
            .build(connector);
        let mut headers = headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let name = concat!("tidegate-load/", env!("CARGO_PKG_VERSION"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(name));
        Self { chat: target.chat.clone(), headers, timeout, client }
    }

    /// Fills in what is seen as it is seen, so that a request that takes too long shows what it had.
    async fn exchange(&self, job: Job, observed: &mut Observation) {
        let mut request = Request::new(Full::new(job.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.chat.clone();
        *request.headers_mut() = self.headers.clone();
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => {
                let kind = if error.is_connect() { Failure::Connect } else { Failure::Broken };
                observed.failure = Some(kind);
                return;
            }
        };
        let (head, body) = response.into_parts();
        observed.status = Some(head.status.as_u16());
        observed.headers = head.headers;
        let meter = read(body, job.streamed, observed).await;
        judge(meter, observed);
    }
}

impl Backend for HttpBackend {
    async fn call(&self, job: Job) -> Observation {
        let mut observed = Observation::default();
        let exchange = self.exchange(job, &mut observed);
        if tokio::time::timeout(self.timeout, exchange).await.is_err() {
            observed.failure = Some(Failure::Timeout);
        }
        observed
    }
}

/// Reads a body to its end; `None` if it broke off.
async fn read(mut body: Incoming, streamed: bool, observed: &mut Observation) -> Option<Meter> {
    let text = |name| observed.headers.get(name).and_then(|value| value.to_str().ok());
    let mut meter = Meter::new(text(CONTENT_TYPE), text(CONTENT_ENCODING));
    while let Some(frame) = body.frame().await {
        let frame = frame.ok()?;
        let Some(data) = frame.data_ref() else { continue };
        meter.feed(data);
        if streamed && observed.first_token.is_none() && meter.seen().first_content {
            observed.first_token = Some(Instant::now());
        }
    }
    meter.finish();
    Some(meter)
}

/// Says what a whole body, or one that broke off, makes of the request.
fn judge(meter: Option<Meter>, observed: &mut Observation) {
    let Some(meter) = meter else {
        observed.failure = Some(Failure::Cut);
        return;
    };
    if !observed.status.is_some_and(|status| (200..300).contains(&status)) {
        return;
    }
    let seen = meter.seen();
    observed.usage = seen.usage;
    observed.event_status = seen.error.as_ref().and_then(|error| error.status);
    let stream = seen.events > 0;
    observed.failure = match seen.error {
        Some(_) if stream => Some(Failure::ErrorEvent),
        Some(_) => Some(Failure::BadAnswer),
        None if stream && !seen.done => Some(Failure::Cut),
        None if !seen.done || !seen.first_content => Some(Failure::BadAnswer),
        None => None,
    };
}
