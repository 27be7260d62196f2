//! Accepts connections and serves them, HTTP/1.1 or HTTP/2 without TLS, until told to stop.
//!
//! The connection's own faults live here: a handler marks its answer with [`Sever`], or its
//! connection's [`Link`], and the socket ends without a byte or with a reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::state::State;

/// In the extensions of an answer that must not be sent: its connection ends instead (under
/// HTTP/2 its stream is reset).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sever;

/// What a handler may do to its connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Link(Arc<AtomicU8>);

/// What a link's number says; 0 leaves the connection alone.
const RESET_ON_BYTES: u8 = 1;
const RESET: u8 = 2;

impl Link {
    /// Resets the connection at once: the peer sees a reset instead of an orderly end.
    pub(super) fn reset(&self) {
        self.0.store(RESET, Ordering::Release);
    }

    /// Resets the connection as soon as the next request's bytes arrive.
    pub(super) fn reset_on_next_request(&self) {
        self.0.store(RESET_ON_BYTES, Ordering::Release);
    }

    fn is(&self, mode: u8) -> bool {
        self.0.load(Ordering::Acquire) == mode
    }

    fn check(&self) -> io::Result<()> {
        if self.is(RESET) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

/// The simulator was told to answer nothing.
#[derive(Debug, thiserror::Error)]
#[error("the simulator was told to end this connection")]
struct Severed;

/// Serves until the state's token stops it, then drops every connection.
pub(super) async fn run(listener: TcpListener, state: Arc<State>, router: Router) {
    loop {
        let accepted = tokio::select! {
            () = state.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // What fails here is the peer's doing, or a lack of descriptors, which others free.
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        // A refusal only costs latency.
        let _ = stream.set_nodelay(true);
        state.board.update(|stats| {
            stats.connections += 1;
            stats.open_connections += 1;
        });
        let (shared, router) = (Arc::clone(&state), router.clone());
        state.tasks.spawn(async move {
            shared.stop.run_until_cancelled(connection(stream, Arc::clone(&shared), router)).await;
            shared.board.update(|stats| stats.open_connections -= 1);
        });
    }
}

async fn connection(stream: TcpStream, state: Arc<State>, router: Router) {
    let link = Link::default();
    let socket = TokioIo::new(Socket { stream, link: link.clone() });
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, router, link) = (Arc::clone(&state), router.clone(), link.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(link);
            let Ok(mut response) = router.oneshot(request).await;
            if response.extensions().get::<Sever>().is_some() {
                return Err(Severed);
            }
            if let Ok(id) = HeaderValue::from_str(&state.request_id()) {
                response.headers_mut().insert("x-request-id", id);
            }
            Ok::<Response, _>(response)
        }
    });
    // How a connection ends is told by the statistics of its requests.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(socket, service).await;
}

/// A socket that can be told to reset.
struct Socket {
    stream: TcpStream,
    link: Link,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.link.is(RESET) {
            // Closing without lingering is what makes the kernel send a reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.link.check()?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.link.is(RESET_ON_BYTES) {
            self.link.reset();
            return Poll::Ready(self.link.check());
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.link.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.link.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
