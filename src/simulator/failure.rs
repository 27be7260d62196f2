//! The answers that faults give in place of the real one.

use axum::BoxError;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{StatusCode, header};

use super::error::ApiError;
use super::fault::Fault;
use super::serve::{Link, Sever};

/// What ends a request before it is admitted, and whether that answer is a metered one, which
/// carries rate-limit headers. Payment errors and what never reached the vendor carry none.
pub(super) fn before_admission(faults: &[Fault], link: &Link) -> Option<(Response, bool)> {
    faults.iter().find_map(|fault| {
        Some(match fault {
            Fault::Quota(unit, name) => (ApiError::quota(*unit, *name).into_response(), true),
            Fault::Queue(status) => (ApiError::queue(*status).into_response(), true),
            Fault::Status(status) => (ApiError::status(*status).into_response(), *status != 402),
            Fault::Blocked => {
                let plain = [(header::CONTENT_TYPE, "text/plain; charset=UTF-8")];
                ((StatusCode::FORBIDDEN, plain, "error code: 1010").into_response(), false)
            }
            Fault::Reset => {
                link.reset();
                (severed(), false)
            }
            Fault::Close => (severed(), false),
            Fault::Upgrade => {
                let upgrade = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")];
                ((StatusCode::SWITCHING_PROTOCOLS, upgrade).into_response(), false)
            }
            Fault::IdleClose
            | Fault::Late(_)
            | Fault::SlowHead(_)
            | Fault::Hang
            | Fault::Cut(_)
            | Fault::ErrorEvent(_)
            | Fault::Gzip
            | Fault::TinyFrames
            | Fault::NoUsage => return None,
        })
    })
}

fn severed() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Sever);
    response
}

/// A plain answer that promises its whole length and breaks off half-way.
pub(super) fn half(body: &Bytes) -> Response {
    let length = body.len();
    let first = stream::iter([Ok(body.slice(..length / 2))]);
    let broken = stream::once(async {
        // As for streams: what was written is sent before the connection breaks.
        tokio::task::yield_now().await;
        Err::<Bytes, BoxError>("the simulator was told to cut this answer".into())
    });
    let head = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    (head, Body::from_stream(first.chain(broken))).into_response()
}
