//! Requests that cost no quota: they are passed on and their answers passed back.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use http::uri::PathAndQuery;

use crate::metrics::Outcome;
use crate::proxy::body::Passed;
use crate::proxy::error::ProxyError;
use crate::proxy::record::Record;
use crate::proxy::upstream::Failure;
use crate::proxy::{Gateway, headers};

/// A request that costs no quota: it is passed on and its answer passed back.
pub(super) async fn unmetered(
    gateway: Arc<Gateway>,
    record: Arc<Record>,
    path: PathAndQuery,
    request: Request<Body>,
) -> Result<Response, ProxyError> {
    let (head, _) = request.into_parts();
    let caller = gateway.identify(&head.headers)?;
    record.note(|facts| {
        facts.asked_by(&caller);
        facts.attempts = 1;
    });
    let outgoing = gateway.outgoing(head, path, Bytes::new());
    let mut answer = record.call(&gateway.upstream, &outgoing, false).await;
    // It changes nothing at the upstream (GET and HEAD only), so it may be sent twice.
    if let Err(Failure::Stale(_) | Failure::Unprocessed(_)) = answer {
        answer = record.call(&gateway.upstream, &outgoing, true).await;
    }
    gateway.note_health(&answer);
    let (mut head, body) = answer?.into_parts();
    record.trace(|trace| trace.end_call(None));
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(ProxyError::Upgrade);
    }
    headers::for_caller(&mut head);
    let good = head.status.is_success();
    let outcome = if good { Outcome::Completed } else { Outcome::UpstreamError };
    let idle = gateway.config.upstream.idle_timeout;
    let answer = Response::from_parts(head, Body::new(Passed::new(body, idle)));
    Ok(record.watch(answer, outcome))
}
