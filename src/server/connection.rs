//! One connection: HTTP/1.1 or HTTP/2, with a limit on everything a peer could let us wait for.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::Service as TowerService;
use tower::ServiceExt;

/// Bytes of a request's head. SDKs stay below 4 KiB; proxies in front commonly allow 32 or 64.
const MAX_HEAD: usize = 64 << 10;
/// Requests on one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 256;
/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(30);

/// How connections are treated.
#[derive(Clone, Debug)]
pub(super) struct Http {
    /// Time for the head of a request, and to begin the next.
    pub(super) header_timeout: Duration,
    /// Time for which the peer may take nothing.
    pub(super) write_timeout: Duration,
    /// Finish what is running and close.
    pub(super) stop: CancellationToken,
    /// Close.
    pub(super) abort: CancellationToken,
}

/// Serves a connection to its end.
pub(super) async fn serve<A: App>(stream: TcpStream, app: A, http: Http) {
    // A peer that has gone already is found out by the first read.
    let _ = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let io = TokioIo::new(Patient::new(stream, http.write_timeout));
    let begun = Arc::new(AtomicBool::new(false));
    let service = Begun { app, begun: Arc::clone(&begun) };
    let mut connection = pin!(builder.serve_connection(io, service));
    // hyper limits the time for a head once it knows the protocol, and not before.
    let mut silent = pin!(tokio::time::sleep(http.header_timeout));
    let (mut watch_silence, mut stopping) = (true, false);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(error, "connection ended");
                }
                return;
            }
            () = silent.as_mut(), if watch_silence => {
                if !begun.load(Ordering::Relaxed) {
                    return;
                }
                watch_silence = false;
            }
            () = http.stop.cancelled(), if !stopping => {
                stopping = true;
                if !begun.load(Ordering::Relaxed) {
                    return;
                }
                connection.as_mut().graceful_shutdown();
            }
            // Nothing is aborted that was not asked to stop before.
            () = http.abort.cancelled(), if stopping => return,
        }
    }
}

/// What answers requests, on any number of connections at once.
pub(super) trait App:
    TowerService<Request<Body>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<A> App for A where
    A: TowerService<Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// The app, noting that a first request has come through.
#[derive(Clone, Debug)]
struct Begun<A> {
    app: A,
    begun: Arc<AtomicBool>,
}

impl<A: App> Service<Request<Incoming>> for Begun<A> {
    type Response = Response;
    type Error = Infallible;
    type Future = tower::util::Oneshot<A, Request<Body>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.begun.store(true, Ordering::Relaxed);
        self.app.clone().oneshot(request.map(Body::new))
    }
}

/// A stream that gives up on a peer that takes nothing.
#[derive(Debug)]
struct Patient {
    stream: TcpStream,
    limit: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    const fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, stuck: None }
    }

    fn watch<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let due = Instant::now() + self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.watch(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.watch(written, cx)
    }
}
