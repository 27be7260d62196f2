//! What surrounds every request, outermost first. The order is the design, so each line says why it
//! stands where it does.
//!
//! It is one service rather than a tower of layers: every layer is a boxed future and a copy of the
//! request's head, and these three do little more than that would cost.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderMap, Request, Version, header};
use tower::Service;

use super::headers;
use super::record::Record;
use super::routes::metered_path;
use super::verdict::retry_after;
use super::{Gateway, ProxyError, metered};
use crate::metrics::Outcome;

/// The routes with what surrounds them.
#[derive(Clone, Debug)]
pub struct App {
    gateway: Arc<Gateway>,
    routes: Router,
}

impl App {
    pub(super) const fn new(gateway: Arc<Gateway>, routes: Router) -> Self {
        Self { gateway, routes }
    }

    /// Answers a request, whatever happens.
    pub async fn answer(self, mut request: Request<Body>) -> Response {
        let Self { gateway, mut routes } = self;
        // First, so that every refusal below has a name and is counted.
        let endpoint = endpoint(request.uri().path());
        let record = Record::new(&gateway, endpoint, &mut request);
        let mut response = if has_one_host(&request) {
            let known = Arc::clone(&record);
            let answering = async move {
                if let Some(path) = metered_path(&request) {
                    return metered(gateway, known, path, request).await.into_response();
                }
                request.extensions_mut().insert(known);
                match routes.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            };
            // A panic is an outcome, not a lost connection.
            AssertUnwindSafe(answering).catch_unwind().await.unwrap_or_else(|_| panicked())
        } else {
            // Before any route: what two proxies could route to two places is nobody's.
            ProxyError::Host.into_response()
        };
        let (status, outcome) = (response.status(), response.extensions().get::<Outcome>());
        record.note(|facts| {
            facts.status = Some(status);
            facts.outcome = facts.outcome.or_else(|| outcome.copied());
            if status.is_client_error() || status.is_server_error() {
                facts.retry_after = retry_after(response.headers());
            }
        });
        headers::name(&mut response, record.id().as_str());
        response
    }
}

impl Service<Request<Body>> for App {
    type Response = Response;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().answer(request).map(Ok))
    }
}

/// The endpoint's name in logs: a closed set, whatever the path.
fn endpoint(path: &str) -> &'static str {
    let path = path.trim_start_matches("/v1");
    match path {
        "/chat/completions" => "chat",
        "/completions" => "completions",
        "/tcp_warming" => "tcp_warming",
        _ if path.starts_with("/models") => "models",
        _ if path.starts_with("/files") => "files",
        _ if path.starts_with("/batches") => "batches",
        _ => "other",
    }
}

/// HTTP/1.1 asks for exactly one `Host`; HTTP/2 may say it in `:authority`.
fn has_one_host(request: &Request<Body>) -> bool {
    let headers: &HeaderMap = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next().is_some(), hosts.next().is_some());
    let authority = request.uri().authority().is_some();
    match request.version() {
        Version::HTTP_11 => first && !second,
        Version::HTTP_2 | Version::HTTP_3 => (first || authority) && !second,
        _ => !second,
    }
}

fn panicked() -> Response {
    // What it says may quote a request; the hook that prints it is not ours to repeat.
    tracing::error!("a request handler panicked");
    ProxyError::Internal.into_response()
}
