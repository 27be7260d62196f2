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
use http::{Request, Version};
use http_body::Body as _;
use tower::Service;

use super::pump::pump;
use super::record::Record;
use super::routes::metered_path;
use super::verdict::retry_after;
use super::{Current, Gateway, ProxyError, ambiguous, headers, metered};
use crate::metrics::Outcome;

/// The routes with what surrounds them.
#[derive(Clone, Debug)]
pub struct App {
    current: Current,
    routes: Router,
}

impl App {
    pub(super) const fn new(current: Current, routes: Router) -> Self {
        Self { current, routes }
    }

    /// Answers a request, whatever happens. It is taken; that it is only lent keeps the future from having
    /// room for it in each function that passes it on.
    pub async fn answer(self, request: &mut Request<Body>) -> Response {
        let Self { current, mut routes } = self;
        // One generation for all of the request, whatever is configured meanwhile.
        let gateway = current.get();
        // First, so that every refusal below has a name and is counted.
        let endpoint = endpoint(request.uri().path());
        let record = Record::new(&gateway, endpoint, request);
        // Before any route: what two readers could read as two requests is nobody's.
        let mut response = if let Err(refused) = ambiguous::check(request) {
            refused.into_response()
        } else {
            let answering = async {
                if let Some(path) = metered_path(request) {
                    return metered(&gateway, &record, path, request).await.into_response();
                }
                let multiplexed = request.version() == Version::HTTP_2;
                request.extensions_mut().insert(Arc::clone(&record));
                request.extensions_mut().insert(Arc::clone(&gateway));
                match routes.call(std::mem::take(request)).await {
                    Ok(response) if multiplexed => noticing(&gateway, response),
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            };
            // A panic is an outcome, not a lost connection.
            AssertUnwindSafe(answering).catch_unwind().await.unwrap_or_else(|_| panicked())
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let app = self.clone();
        Box::pin(async move { Ok(app.answer(&mut request).await) })
    }
}

/// The same answer, given up when its caller takes nothing; metered ones do so by themselves.
fn noticing(gateway: &Gateway, response: Response) -> Response {
    let limit = gateway.config.server.write_timeout;
    response.map(|body| {
        if body.is_end_stream() { body } else { Body::new(pump(body, limit, &gateway.tasks)) }
    })
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

fn panicked() -> Response {
    // What it says may quote a request; the hook that prints it is not ours to repeat.
    tracing::error!("a request handler panicked");
    ProxyError::Internal.into_response()
}
