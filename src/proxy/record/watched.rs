//! Answers that cost nothing, or no more: their one end is still to come while they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::Record;
use crate::metrics::Outcome;
use crate::proxy::body::Broken;

/// A body whose break is its request's end.
struct Watched {
    inner: Body,
    record: Arc<Record>,
}

impl Record {
    /// The same answer; its request ends with `outcome`, or as the body breaks off.
    pub(in crate::proxy) fn watch(
        self: &Arc<Self>,
        answer: Response,
        outcome: Outcome,
    ) -> Response {
        self.note(|facts| facts.unbroken = Some(outcome));
        let whole = HttpBody::size_hint(answer.body()).exact() == Some(0);
        if whole {
            return answer;
        }
        let record = Arc::clone(self);
        answer.map(|inner| Body::new(Watched { inner, record }))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Err(error)) = &frame {
            let cause = std::error::Error::source(error);
            self.record.end(match cause.and_then(|it| it.downcast_ref()) {
                Some(Broken::Idle) => Outcome::UpstreamTimeout,
                Some(Broken::NotTaken) => Outcome::ClientGone,
                Some(Broken::Cut(_) | Broken::Unfinished) | None => Outcome::UpstreamCut,
            });
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
