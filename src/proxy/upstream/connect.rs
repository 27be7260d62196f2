//! A connector with a time limit, whose connections know whether they were ever answered.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

type BoxError = Box<dyn StdError + Send + Sync>;

/// What a connection has seen; shared by the connection and whoever asks about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// It has carried a whole head before.
    served: AtomicBool,
    /// Nothing was read since something was written.
    unanswered: AtomicBool,
}

impl Trace {
    pub(super) fn answered(&self) {
        self.0.served.store(true, Ordering::Relaxed);
    }

    /// Whether the connection served before and not a byte came back for what was written last.
    pub(super) fn is_stale(&self) -> bool {
        self.0.served.load(Ordering::Relaxed) && self.0.unanswered.load(Ordering::Relaxed)
    }
}

/// A connector that gives up after a time, TLS included.
#[derive(Clone, Debug)]
pub(super) struct Timed<C> {
    inner: C,
    limit: Duration,
}

impl<C> Timed<C> {
    pub(super) const fn new(inner: C, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl<C> Service<Uri> for Timed<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
    C::Response: Send,
{
    type Response = TokioIo<Traced<C::Response>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move {
            match connecting.await {
                Ok(connected) => {
                    let io = TokioIo::new(connected.map_err(Into::into)?);
                    Ok(TokioIo::new(Traced { io, trace: Trace::default() }))
                }
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// A connection that keeps its [`Trace`].
#[derive(Debug)]
pub(super) struct Traced<I> {
    io: TokioIo<I>,
    trace: Trace,
}

impl<I: Connection> Connection for Traced<I> {
    fn connected(&self) -> Connected {
        self.io.inner().connected().extra(self.trace.clone())
    }
}

impl<I: Read + Unpin> AsyncRead for Traced<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.trace.0.unanswered.store(false, Ordering::Relaxed);
        }
        result
    }
}

impl<I: Write + Unpin> AsyncWrite for Traced<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.trace.0.unanswered.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.trace.0.unanswered.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }
}
