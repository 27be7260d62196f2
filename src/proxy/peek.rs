//! Looks into a body and passes it on whole all the same.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;

use crate::proxy::body::{BREAK_AFTER, Broken, Passed};

/// Reads up to about `most` bytes of a body; returns what was seen, and a body with all of it.
pub(super) async fn peek(mut body: Passed, most: usize) -> (Bytes, Body) {
    let mut seen = BytesMut::new();
    let end = loop {
        if seen.len() > most {
            break None;
        }
        match body.frame().await {
            None => break Some(Ok(())),
            Some(Err(error)) => break Some(Err(error)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    seen.extend_from_slice(data);
                }
            }
        }
    };
    let seen = seen.freeze();
    let first = stream::iter([Ok(seen.clone())]);
    let body = match end {
        Some(Ok(())) => Body::from(seen.clone()),
        // The caller gets the same broken end.
        Some(Err(error)) => Body::from_stream(first.chain(stream::once(fail(error)))),
        None => {
            let rest = body.into_data_stream();
            Body::from_stream(first.chain(rest))
        }
    };
    (seen, body)
}

/// The error, once what came before has had time to reach the caller.
async fn fail(error: Broken) -> Result<Bytes, Broken> {
    tokio::time::sleep(BREAK_AFTER).await;
    Err(error)
}
