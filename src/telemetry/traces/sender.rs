//! One message to the collector: OTLP over HTTP, in protobuf.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use crate::config;

/// An answer is empty, or a number and a sentence.
const LONGEST_ANSWER: usize = 64 << 10;

/// What the collector is reached by.
#[derive(Debug)]
pub(super) struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The collector was not reached, or broke off.
    #[error("the collector cannot be reached: {0}")]
    Away(String),
    /// It took too long.
    #[error("the collector did not answer in time")]
    Slow,
    /// It answered with something else than success.
    #[error("the collector answered {0}")]
    Refused(StatusCode, Option<Duration>),
}

impl Failure {
    /// Whether the same message may be taken later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Away(_) | Self::Slow => true,
            // As the protocol has it: all others are for good.
            Self::Refused(status, _) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }

    /// How long the collector asks to be left alone.
    pub(super) const fn pause(&self) -> Option<Duration> {
        match self {
            Self::Refused(_, pause) => *pause,
            Self::Away(_) | Self::Slow => None,
        }
    }
}

impl Sender {
    /// One for the configured collector; it connects when it is used.
    pub(super) fn new(config: &config::Traces) -> io::Result<Self> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(config.timeout));
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(https);
        let mut headers = config.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let name = concat!("tidegate/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(name));
        Ok(Self { client, endpoint: config.endpoint.clone(), headers, timeout: config.timeout })
    }

    /// Sends a message once; returns how many of its spans the collector says that it did not take.
    pub(super) async fn send(&self, message: Bytes) -> Result<u64, Failure> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let answering = async {
            let answer = self.client.request(request).await;
            read(answer.map_err(|error| Failure::Away(reason(&error)))?).await
        };
        tokio::time::timeout(self.timeout, answering).await.unwrap_or(Err(Failure::Slow))
    }
}

async fn read(answer: Response<Incoming>) -> Result<u64, Failure> {
    let (head, body) = answer.into_parts();
    // Read to its end in any case, or the connection would not be used again.
    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
    if !head.status.is_success() {
        let pause = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let pause = pause.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        return Err(Failure::Refused(head.status, pause));
    }
    // It took them, whatever it says of it.
    let said = body.ok().and_then(|body| ExportTraceServiceResponse::decode(body.to_bytes()).ok());
    let rejected = said.and_then(|said| said.partial_success).map_or(0, |it| it.rejected_spans);
    Ok(u64::try_from(rejected).unwrap_or(0))
}

/// What went wrong, to its cause: "…: tcp connect error: Connection refused".
fn reason(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
