//! The admin port: what the gateway knows of itself, read-only, as pages for machines and one for
//! people.
//!
//! # Invariants
//!
//! - Nothing here changes anything, and nothing here is a key, a prompt or an answer. Who may look at it
//!   is said in `access`.
//! - What is watched is worked out once for all who watch, and not at all while nobody does; only the
//!   last hour is sampled always.

mod access;
mod client;
mod events;
mod history;
mod page;
mod status;
mod usage;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::client::{Address, BadUrl, Client, Unreachable};
use self::events::Feed;
use self::history::LastHour;
pub use self::status::Status;
use crate::admission::Pools;
use crate::batch::Batches;
use crate::proxy::{Current, Gateway};

/// The admin port's pages. What runs beside them runs on `tasks`, until `closed`.
pub fn app(
    current: Current,
    batches: Option<Arc<Batches>>,
    closed: CancellationToken,
    tasks: &TaskTracker,
) -> Router {
    let watched = Watched { current: current.clone(), batches };
    let told = watched.clone();
    let compute = move || {
        let told = told.clone();
        async move { serde_json::to_string(&told.status().await).unwrap_or_default() }
    };
    let feed = Feed::start(compute, closed.clone(), tasks);
    let hour = LastHour::start(current, closed, tasks);
    pages(watched, feed, hour)
}

/// What the pages of an admin port are made of.
#[derive(Clone)]
struct Watched {
    current: Current,
    batches: Option<Arc<Batches>>,
}

fn pages(watched: Watched, feed: Feed, hour: Arc<LastHour>) -> Router {
    let current = watched.current.clone();
    let asked = current.clone();
    let told = move || async move { fresh(Json(watched.status().await)) };
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(told))
        .route("/events", get(move || async move { feed.listen() }))
        .route("/history", get(move |part: history::Wanted| async move { fresh(hour.tell(part)) }))
        .route("/config", get(config))
        .route("/usage", get(usage::usage))
        .with_state(current)
        .merge(page::routes());
    access::guarded(asked, pages).layer(axum::middleware::map_response(harmless))
}

/// No answer is to be taken for something else than it says it is: names in it are chosen by callers.
async fn harmless(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// An answer that is worth nothing a moment later.
fn fresh(answer: impl IntoResponse) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    ([(header::CACHE_CONTROL, no_store)], answer).into_response()
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let text = gateway.metrics().render(gateway.pools(), gateway.tenants());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, format)], text).into_response()
}

/// Ready to be sent requests: not while draining, nor when a pool's timer has died.
async fn readyz(State(gateway): State<Arc<Gateway>>) -> (StatusCode, &'static str) {
    let stalled = |pools: &Pools| pools.all().iter().any(|(_, named)| named.pool.glance().stalled);
    if gateway.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if stalled(gateway.pools()) || stalled(gateway.tenants()) {
        (StatusCode::SERVICE_UNAVAILABLE, "dispatch has stalled\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn config(State(gateway): State<Arc<Gateway>>) -> String {
    gateway.config().to_toml()
}

impl Watched {
    /// The status now, with the batches if they can be read.
    async fn status(&self) -> Status {
        let mut status = Status::of(&self.current.get());
        if let Some(batches) = &self.batches {
            match batches.status().await {
                Ok(batches) => status.batches = batches,
                Err(problem) => tracing::warn!(%problem, "the status lacks the batches"),
            }
        }
        status
    }
}

#[cfg(test)]
mod tests;
