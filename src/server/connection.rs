//! One connection: HTTP/1.1 or HTTP/2, with a limit on everything a peer could let us wait for.

mod again;
mod patient;
mod rarely;
mod watch;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::Service as TowerService;

use self::again::Again;
use self::patient::Patient;
use self::rarely::Rarely;
use self::watch::{Peer, Watched};
use super::room::Occupant;

/// Bytes of a request's head. SDKs stay below 4 KiB; proxies in front commonly allow 32 or 64.
const MAX_HEAD: usize = 64 << 10;
/// Fields of a head over HTTP/1. SDKs send 20; more than this is refused (431).
const MAX_FIELDS: usize = 100;
/// Requests on one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 256;
/// What a peer may send ahead on one HTTP/2 stream, and on all together: a large body in few round
/// trips. It is memory of ours only until it is read, which is at once.
const WINDOW: u32 = 1 << 20;
/// What is kept of an answer for a peer of HTTP/2 whose socket is full, for each stream.
const MAX_UNSENT: usize = 64 << 10;
/// Bytes in one frame of HTTP/2: the least that the protocol allows to ask for.
const MAX_FRAME: u32 = 16 << 10;
/// Streams of HTTP/2 that were reset before they were looked at, and that break the rules of the
/// protocol: beyond that the connection ends (`ENHANCE_YOUR_CALM`). Nobody does either by accident.
const MAX_RESETS: usize = 20;
const MAX_FAULTS: usize = 128;
/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(30);

/// How connections are treated.
#[derive(Clone, Debug)]
pub(super) struct Http {
    /// Time for the head of a request, and to begin the next; over HTTP/2 twice that, at the most.
    pub(super) header_timeout: Duration,
    /// Time for which the peer may take nothing.
    pub(super) write_timeout: Duration,
    /// After `stop`: time for the first request of a connection that has had none, which may be on
    /// its way.
    pub(super) last_call: Duration,
    /// Connections that have had no request yet.
    pub(super) fresh: Arc<AtomicUsize>,
    /// It is going to end: every answer is the last one of its connection.
    pub(super) leaving: CancellationToken,
    /// Finish what is running and close.
    pub(super) stop: CancellationToken,
    /// Whoever connects now is another process's.
    pub(super) handed: CancellationToken,
    /// Close.
    pub(super) abort: CancellationToken,
}

impl Http {
    /// The same for connections that are closed when the token is cancelled.
    pub(super) fn until(&self, closed: &CancellationToken) -> Self {
        let (leaving, stop, abort) = (closed.clone(), closed.clone(), closed.clone());
        Self { fresh: Arc::default(), leaving, stop, abort, ..self.clone() }
    }
}

/// Counts a connection for as long as it has had no request.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    count: Arc<AtomicUsize>,
    begun: AtomicBool,
}

impl Fresh {
    pub(super) fn new(http: &Http) -> Self {
        http.fresh.fetch_add(1, Ordering::AcqRel);
        Self { count: Arc::clone(&http.fresh), begun: AtomicBool::new(false) }
    }

    /// Notes that a request has come.
    fn begin(&self) {
        // Most requests are not the first.
        if !self.has_begun() && !self.begun.swap(true, Ordering::AcqRel) {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.begin();
    }
}

/// Serves a connection to its end.
pub(super) async fn serve<S: Stream, A: App>(
    stream: S,
    app: A,
    http: Http,
    (occupant, fresh): (Arc<Occupant>, Fresh),
) {
    let peer = Arc::new(Peer::new(fresh, http.leaving.clone()));
    let builder = builder(&http);
    let io = TokioIo::new(Patient::new(stream, http.write_timeout, Arc::clone(&peer)));
    let service = Watched::new(app, Arc::clone(&peer), occupant);
    let connection = pin!(builder.serve_connection(io, service));
    let mut connection = Again::new(connection);
    let shut = AtomicBool::new(false);
    let guarding = pin!(guard(&peer, &http, &shut));
    let mut guard = Rarely::new(guarding);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(context) {
                if let Err(error) = result {
                    tracing::debug!(error, "connection ended");
                }
                return Poll::Ready(());
            }
            if Pin::new(&mut guard).poll(context).is_ready() {
                return Poll::Ready(());
            }
            if !shut.swap(false, Ordering::Relaxed) {
                return Poll::Pending;
            }
            connection.inner().as_mut().graceful_shutdown();
        }
    })
    .await;
}

/// Sees to it that a connection ends when it has to: asks for it by `shut` where what is running may be
/// finished, and returns where it is to be cut.
async fn guard(peer: &Peer, http: &Http, shut: &AtomicBool) {
    // hyper limits the time for a head once it knows that the protocol is HTTP/1, and not before.
    let mut look = pin!(sleep_until(Instant::now() + http.header_timeout));
    let (mut rested, mut stopping, mut stopped, mut closing) = (None, false, false, false);
    let mut last_call = pin!(sleep_until(Instant::now() + http.header_timeout));
    loop {
        tokio::select! {
            () = look.as_mut() => {
                if !peer.has_begun() || closing {
                    return;
                }
                let before = std::mem::replace(&mut rested, peer.at_rest());
                // An idle connection over HTTP/1 is hyper's to close, a stuck one its socket's.
                if peer.multiplexes() && rested.is_some() && rested == before {
                    closing = true;
                    shut.store(true, Ordering::Relaxed);
                }
                look.as_mut().reset(Instant::now() + http.header_timeout);
            }
            () = peer.hostile.notified() => {
                tracing::debug!("connection cut: its requests are made to be given up");
                return;
            }
            () = http.stop.cancelled(), if !stopping => {
                stopping = true;
                let wait = if peer.has_begun() { Duration::ZERO } else { http.last_call };
                last_call.as_mut().reset(Instant::now() + wait);
            }
            () = last_call.as_mut(), if stopping && !stopped => {
                stopped = true;
                if !peer.has_begun() {
                    return;
                }
                shut.store(true, Ordering::Relaxed);
            }
            // Nothing is aborted that was not asked to stop before.
            () = http.abort.cancelled(), if stopping => return,
        }
    }
}

/// How both protocols are spoken: every limit is set here, whatever a library's default is.
fn builder(http: &Http) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(MAX_UNSENT)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_FAULTS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// What bytes come and go by, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// What answers requests, on any number of connections at once, and is always ready to: the gateway, or a
/// router of pages.
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
