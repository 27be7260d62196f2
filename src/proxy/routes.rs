//! The paths that exist. Each is matched whole, so there is no prefix that `..` or `%2e%2e` could
//! lead out of; what reaches the upstream is the path written here, not the one that was sent.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, header};

use super::record::Record;
use super::stack::App;
use super::unmetered::unmetered;
use super::{Current, Gateway, ProxyError};
use crate::metrics::Outcome;

/// A prefix that SDKs put before the path: the base URL may end in `/v1` or not, and some add it
/// twice.
const PREFIXES: [&str; 3] = ["/v1", "/v1/v1", ""];

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const MODELS: &str = "/v1/models";

/// The prefix of every path that the API is reachable at.
pub const fn prefixes() -> [&'static str; 3] {
    PREFIXES
}

/// The whole API as a service, with `more` routes that stand beside those to the upstream.
pub fn app(current: Current, more: Router) -> App {
    let mut router = Router::new();
    for prefix in PREFIXES {
        router = router
            .route(&format!("{prefix}/chat/completions"), only(MethodRouter::new(), "POST"))
            .route(&format!("{prefix}/completions"), only(MethodRouter::new(), "POST"))
            .route(&format!("{prefix}/models"), only(get(models), "GET"))
            .route(&format!("{prefix}/models/{{*id}}"), only(get(model), "GET"))
            .route(&format!("{prefix}/tcp_warming"), only(get(tcp_warming), "GET"));
    }
    let routes = router.merge(more).fallback(|| async { ProxyError::NotFound });
    App::new(current, routes)
}

/// The upstream's path for a request that costs quota, if it is one. The router knows these paths
/// only to refuse other methods: what it does for each request it hands on (a future in a box, a
/// table of what it matched) costs more than all else that happens to one that need not wait.
pub(super) fn metered_path(request: &Request<Body>) -> Option<&'static str> {
    if request.method() != Method::POST {
        return None;
    }
    let path = request.uri().path();
    PREFIXES.iter().find_map(|prefix| match path.strip_prefix(prefix)? {
        "/chat/completions" => Some(CHAT),
        "/completions" => Some(TEXT),
        _ => None,
    })
}

/// Refuses every other method in the usual shape.
pub fn only<S>(route: MethodRouter<S>, allow: &'static str) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    route.fallback(move || async move { ProxyError::MethodNotAllowed { allow } })
}

async fn models(
    Extension(gateway): Extension<Arc<Gateway>>,
    Extension(record): Extension<Arc<Record>>,
    request: Request<Body>,
) -> Result<Response, ProxyError> {
    unmetered(gateway, record, PathAndQuery::from_static(MODELS), request).await
}

async fn model(
    Extension(gateway): Extension<Arc<Gateway>>,
    Extension(record): Extension<Arc<Record>>,
    id: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<Response, ProxyError> {
    let Ok(Path(id)) = id else { return Err(ProxyError::NotFound) };
    let path = model_path(&id).and_then(|path| path.parse().ok()).ok_or(ProxyError::NotFound)?;
    unmetered(gateway, record, path, request).await
}

/// Every client of the Cerebras SDKs calls this when it is made, to warm a connection up: that to
/// the gateway is warm now, and the gateway keeps its own to the upstream.
async fn tcp_warming(Extension(record): Extension<Arc<Record>>) -> Response {
    record.end(Outcome::Local);
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([json], "{}").into_response()
}

/// The path of a model by its decoded id: names with slashes are fine, tricks with dots are not.
fn model_path(id: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:~@".contains(c);
    let good = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
    (id.len() <= 256 && id.split('/').all(good)).then(|| format!("{MODELS}/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_id_cannot_lead_anywhere_else() {
        for (id, path) in [
            ("gpt-oss-120b", Some("/v1/models/gpt-oss-120b")),
            ("org/model:v1.2", Some("/v1/models/org/model:v1.2")),
            ("..", None),
            ("a/../../admin", None),
            ("a//b", None),
            ("", None),
            ("a b", None),
            ("a?x=1", None),
            ("a%2e", None),
            ("modèle", None),
        ] {
            assert_eq!(model_path(id).as_deref(), path, "{id}");
        }
    }
}
