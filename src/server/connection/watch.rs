//! What a connection's requests say about its peer.
//!
//! hyper speaks the protocol; what it leaves open is seen here, where every request and answer of a
//! connection passes: that a body was left unread, that nothing moves any more, that requests are
//! made only to be given up.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::Service as TowerService;

use super::{App, Fresh};
use crate::server::room::{Busy, Occupant};

/// Requests of a connection that may be given up before they are answered, beyond as many as were
/// answered. An SDK gives one up when its caller does; a rapid reset (CVE-2023-44487) gives up all.
const MAY_ABANDON: u32 = 128;

/// What is known of the peer of one connection.
#[derive(Debug, Default)]
pub(super) struct Peer {
    fresh: Fresh,
    /// The gateway is going to end.
    leaving: CancellationToken,
    /// It speaks HTTP/2.
    multiplexes: AtomicBool,
    /// The last that was read has been answered, and belonged to that answer's request.
    said_all: AtomicBool,
    /// The body of the request under way, over HTTP/1, has not been read to its end.
    unread: AtomicBool,
    /// Requests that wait for the gateway: for an answer, or for more of one.
    active: AtomicU32,
    /// Goes up whenever something moves.
    moved: AtomicU32,
    answered: AtomicU32,
    abandoned: AtomicU32,
    /// It gives up too much.
    pub(super) hostile: Notify,
}

impl Peer {
    pub(super) fn new(fresh: Fresh, leaving: CancellationToken) -> Self {
        Self { fresh, leaving, ..Self::default() }
    }

    /// Whether a request has come.
    pub(super) fn has_begun(&self) -> bool {
        self.fresh.has_begun()
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn multiplexes(&self) -> bool {
        self.multiplexes.load(Ordering::Relaxed)
    }

    /// Notes that bytes have come.
    pub(super) fn is_talking(&self) {
        self.said_all.store(false, Ordering::Relaxed);
    }

    /// Whether nothing has come since the last request was read to its end and answered.
    pub(super) fn has_said_all(&self) -> bool {
        self.said_all.load(Ordering::Relaxed)
    }

    /// How much has moved, unless something is to be done by the gateway. The same number twice: in
    /// between the peer asked for nothing, and took nothing of what it had asked for.
    pub(super) fn at_rest(&self) -> Option<u32> {
        let rests = self.active.load(Ordering::Acquire) == 0;
        rests.then(|| self.moved.load(Ordering::Relaxed))
    }

    fn moves(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn waits(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    fn waits_no_more(&self) {
        self.moves();
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    fn abandons(&self) {
        let abandoned = self.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        let answered = self.answered.load(Ordering::Relaxed);
        if abandoned > answered.saturating_add(MAY_ABANDON) {
            self.hostile.notify_one();
        }
    }
}

/// An app whose requests are watched.
#[derive(Clone, Debug)]
pub(super) struct Watched<A> {
    app: A,
    peer: Arc<Peer>,
    occupant: Arc<Occupant>,
}

impl<A> Watched<A> {
    pub(super) const fn new(app: A, peer: Arc<Peer>, occupant: Arc<Occupant>) -> Self {
        Self { app, peer, occupant }
    }
}

impl<A: App> Service<Request<Incoming>> for Watched<A> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering<A>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let peer = Arc::clone(&self.peer);
        let multiplexed = request.version() == Version::HTTP_2;
        peer.fresh.begin();
        peer.multiplexes.store(multiplexed, Ordering::Relaxed);
        peer.waits();
        // After a CONNECT its client speaks another protocol, whatever it was answered.
        let unread = !request.body().is_end_stream() || request.method() == Method::CONNECT;
        peer.unread.store(unread, Ordering::Relaxed);
        let request = if multiplexed || !unread {
            request.map(Body::new)
        } else {
            request.map(|body| Body::new(Asked { inner: body, peer: Arc::clone(&peer) }))
        };
        // It is always ready, so that nothing keeps the request until it is.
        let inner = self.app.clone().call(request);
        let busy = Some(self.occupant.begin());
        Answering { inner, watch: Unanswered { peer, multiplexed, answered: false }, busy }
    }
}

/// A request until it is answered.
struct Unanswered {
    peer: Arc<Peer>,
    multiplexed: bool,
    answered: bool,
}

impl Unanswered {
    /// Over HTTP/1 a body that was not read is not read by the next request either: the connection
    /// ends, and says so, or its client would send the next request into the void. So it does when the
    /// gateway is going to end, for which HTTP/2 has a frame.
    fn answer(&mut self, response: Response) -> Response {
        self.answered = true;
        self.peer.answered.fetch_add(1, Ordering::Relaxed);
        if self.multiplexed {
            let peer = Arc::clone(&self.peer);
            return response.map(|inner| Body::new(Taken { inner, peer, waits: false }));
        }
        let unread = self.peer.unread.load(Ordering::Relaxed);
        self.peer.said_all.store(!unread, Ordering::Relaxed);
        let mut response = response;
        if unread || self.peer.leaving.is_cancelled() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Drop for Unanswered {
    /// Dropped without an answer, the peer has given the request up.
    fn drop(&mut self) {
        self.peer.waits_no_more();
        if !self.answered {
            self.peer.abandons();
        }
    }
}

pin_project! {
    /// The answer to a watched request.
    pub(super) struct Answering<A: App> {
        #[pin]
        inner: <A as TowerService<Request<Body>>>::Future,
        watch: Unanswered,
        // The connection is not at rest before the answer is gone.
        busy: Option<Busy>,
    }
}

impl<A: App> Future for Answering<A> {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let busy = this.busy.take();
        Poll::Ready(Ok(this.watch.answer(response).map(|inner| Answer { inner, _busy: busy })))
    }
}

pin_project! {
    /// The body of an answer, whose connection is busy until it is gone.
    pub(super) struct Answer {
        #[pin]
        inner: Body,
        _busy: Option<Busy>,
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a request over HTTP/1, noting when it has been read to its end.
struct Asked {
    inner: Incoming,
    peer: Arc<Peer>,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.inner.is_end_stream() {
            self.peer.unread.store(false, Ordering::Relaxed);
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

/// The body of an answer over HTTP/2, where a peer that takes nothing is only seen by that: hyper
/// does not ask for what there is no window for.
struct Taken {
    inner: Body,
    peer: Arc<Peer>,
    waits: bool,
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        match (frame.is_pending(), self.waits) {
            (true, false) => self.peer.waits(),
            (false, true) => self.peer.waits_no_more(),
            (false, false) => self.peer.moves(),
            (true, true) => {}
        }
        self.waits = frame.is_pending();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.waits {
            self.peer.waits_no_more();
        }
    }
}
