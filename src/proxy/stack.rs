//! What surrounds every request, outermost first. The order is the design, so each line says why it
//! stands where it does.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Request, Version, header};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::headers;
use super::record::Record;
use super::{Gateway, ProxyError};
use crate::metrics::Outcome;

/// Puts the stack around the routes.
pub(super) fn wrap(router: Router, gateway: Arc<Gateway>) -> Router {
    router.layer(
        ServiceBuilder::new()
            // First, so that every refusal below has a name and is counted.
            .layer(from_fn_with_state(gateway, observe))
            // A panic is an outcome, not a lost connection.
            .layer(CatchPanicLayer::custom(panicked))
            // Before any route: a request that two proxies could route to two places is nobody's.
            .layer(from_fn(check_host)),
    )
}

/// Opens the request's record, and completes it from the answer's head.
async fn observe(
    State(gateway): State<Arc<Gateway>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let endpoint = endpoint(request.uri().path());
    let record = Record::new(Arc::clone(&gateway.metrics), gateway.config.log.requests, endpoint);
    request.extensions_mut().insert(Arc::clone(&record));
    let mut response = next.run(request).await;
    let status = response.status();
    record.note(|facts| facts.status = Some(status));
    if let Some(outcome) = response.extensions().get::<Outcome>() {
        record.end(*outcome);
    }
    headers::name(&mut response, record.id().as_str());
    response
}

/// The endpoint's name in logs: a closed set, whatever the path.
fn endpoint(path: &str) -> &'static str {
    let path = path.trim_start_matches("/v1");
    match path {
        "/chat/completions" => "chat",
        "/completions" => "completions",
        "/tcp_warming" => "tcp_warming",
        _ if path.starts_with("/models") => "models",
        _ => "other",
    }
}

async fn check_host(request: Request<Body>, next: Next) -> Response {
    if has_one_host(request.version(), request.headers(), request.uri().authority().is_some()) {
        next.run(request).await
    } else {
        ProxyError::Host.into_response()
    }
}

/// HTTP/1.1 asks for exactly one `Host`; HTTP/2 may say it in `:authority`.
fn has_one_host(version: Version, headers: &HeaderMap, authority: bool) -> bool {
    let hosts = headers.get_all(header::HOST).iter().count();
    match version {
        Version::HTTP_11 => hosts == 1,
        Version::HTTP_2 | Version::HTTP_3 => hosts + usize::from(authority) >= 1 && hosts <= 1,
        _ => hosts <= 1,
    }
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    // What it says may quote a request; the hook that prints it is not ours to repeat.
    tracing::error!("a request handler panicked");
    ProxyError::Internal.into_response()
}
