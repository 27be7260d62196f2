//! Looks into a body and passes it on whole all the same.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

use crate::proxy::body::{BREAK_AFTER, Broken};

/// The first part of a body.
pub(super) struct Seen {
    pub(super) bytes: Bytes,
    then: Then,
}

/// What comes after it.
enum Then {
    /// Nothing: the body has ended.
    End,
    /// The same broken end, once what came before has had time to reach the caller.
    Broken(Option<Broken>, Option<Pin<Box<Sleep>>>),
    /// More of it.
    More,
}

/// Reads up to about `most` bytes of a body, or for about as long as `patience`.
pub(super) async fn peek<B>(body: &mut B, most: usize, patience: Duration) -> Seen
where
    B: HttpBody<Data = Bytes, Error = Broken> + Unpin,
{
    let began = Instant::now();
    // Most bodies come in one piece, which need not be copied.
    let (mut first, mut seen) = (Bytes::new(), BytesMut::new());
    let then = loop {
        if first.len().max(seen.len()) > most {
            break Then::More;
        }
        match body.frame().await {
            None => break Then::End,
            Some(Err(error)) => break Then::Broken(Some(error), None),
            Some(Ok(frame)) => {
                // Trailers of an answer that is not streamed are left out.
                let Ok(data) = frame.into_data() else { continue };
                if first.is_empty() && seen.is_empty() {
                    first = data;
                } else {
                    if seen.is_empty() {
                        let rest = body.size_hint().exact().unwrap_or(0).min(most as u64);
                        let rest = usize::try_from(rest).unwrap_or(0);
                        seen.reserve(first.len() + data.len() + rest);
                        seen.extend_from_slice(&first);
                    }
                    seen.extend_from_slice(&data);
                }
                if began.elapsed() > patience {
                    break Then::More;
                }
            }
        }
    };
    Seen { bytes: if seen.is_empty() { first } else { seen.freeze() }, then }
}

impl Seen {
    /// Whether it is all of the body, which ended as it should.
    pub(super) const fn is_whole(&self) -> bool {
        matches!(self.then, Then::End)
    }

    /// The body as it was: this part and then `rest`, which it was read from.
    pub(super) const fn before<B>(self, rest: B) -> Peeked<B> {
        Peeked { seen: self, rest }
    }

    /// [`Self::before`], as what an answer takes.
    pub(super) fn and_rest<B>(self, rest: B) -> Body
    where
        B: HttpBody<Data = Bytes, Error = Broken> + Send + Unpin + 'static,
    {
        if self.is_whole() { Body::from(self.bytes) } else { Body::new(self.before(rest)) }
    }
}

/// A body of which the first part has been read; as a body it is what it was before.
pub(super) struct Peeked<B> {
    seen: Seen,
    rest: B,
}

impl<B: HttpBody<Data = Bytes, Error = Broken> + Unpin> HttpBody for Peeked<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Self { seen, rest } = &mut *self;
        if !seen.bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut seen.bytes)))));
        }
        match &mut seen.then {
            Then::End => Poll::Ready(None),
            Then::Broken(error, sleep) => {
                let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(BREAK_AFTER)));
                ready!(sleep.as_mut().poll(cx));
                Poll::Ready(error.take().map(Err))
            }
            Then::More => Pin::new(rest).poll_frame(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match &self.seen.then {
            Then::End => SizeHint::with_exact(0),
            Then::Broken(..) => return SizeHint::default(),
            Then::More => self.rest.size_hint(),
        };
        let seen = self.seen.bytes.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(seen));
        }
        hint.set_lower(hint.lower().saturating_add(seen));
        hint
    }
}
