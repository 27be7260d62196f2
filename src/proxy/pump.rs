//! Answers over HTTP/2: pumped, so that a caller that takes nothing is noticed.
//!
//! On a connection of its own a caller that takes nothing blocks the socket, and the socket has a
//! timer. A stream of HTTP/2 is blocked by its own window: nobody asks its body for more, and a body
//! that is not asked cannot notice. So a task asks, and has a timer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::proxy::body::Broken;

/// What the pump has let through so far.
pub(super) struct Pumped {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
    whole: Arc<AtomicBool>,
}

/// Pumps `body` on `tasks`; cut if one piece is not taken within `limit`.
pub(super) fn pump<B>(mut body: B, limit: Duration, tasks: &TaskTracker) -> Pumped
where
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static,
{
    let (sender, frames) = mpsc::channel(1);
    let whole = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&whole);
    tasks.spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                // The caller has gone; dropping the body says so.
                () = sender.closed() => return,
            };
            let Some(frame) = frame else {
                done.store(true, Ordering::Release);
                return;
            };
            let frame = frame.map_err(Into::into);
            if !matches!(tokio::time::timeout(limit, sender.send(frame)).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    Pumped { frames, whole }
}

impl Body for Pumped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.frames.poll_recv(cx));
        let cut = frame.is_none() && !self.whole.load(Ordering::Acquire);
        Poll::Ready(if cut { Some(Err(Broken::NotTaken.into())) } else { frame })
    }
}
