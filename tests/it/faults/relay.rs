//! A relay between the gateway and the simulator that damages what comes back.
//!
//! Each request is read whole, passed to the simulator (or kept from it), and its answer is played back
//! to the gateway as a fault says. So the simulator has the true ledger, whatever the gateway is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate::simulator::Simulator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::h2;
use crate::support::upstream::{LAST_CHUNK, chunk, read_request};
use crate::support::wire::{Answer, Wire, chat};
use crate::support::{ANY, eventually};

/// The simulator's answer to a request, as a fault may want to use it.
pub(super) struct Real {
    pub(super) streamed: bool,
    pub(super) body: Vec<u8>,
}

/// What follows what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The connection is kept for the next request.
    Keep,
    /// It is closed in order.
    Close,
    /// It is reset.
    Reset,
    /// Nothing, until the gateway closes it.
    Stall,
}

/// What the gateway is sent in place of an answer.
pub(super) struct Play {
    /// Written one after the other, each in a packet of its own.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Between two pieces.
    pub(super) pause: Duration,
    pub(super) end: End,
    /// The body that the caller is to get of it, or the part of one that it may.
    pub(super) body: Vec<u8>,
}

impl Play {
    /// These bytes, with no body to expect.
    pub(super) fn of(bytes: impl Into<Vec<u8>>, end: End) -> Self {
        Self { pieces: vec![bytes.into()], pause: Duration::ZERO, end, body: Vec::new() }
    }

    /// The same, with this body for the caller.
    pub(super) fn with(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }
}

impl Real {
    pub(super) const fn kind(&self) -> &'static str {
        if self.streamed { "text/event-stream" } else { "application/json" }
    }

    /// A head with this status line and these headers (whole lines) besides the type.
    pub(super) fn head(&self, line: &str, headers: &str) -> Vec<u8> {
        format!("{line}\r\ncontent-type: {}\r\n{headers}\r\n", self.kind()).into()
    }

    /// A head that says how the body is framed: in chunks if it is a stream, else by its length.
    pub(super) fn framed(&self, line: &str, headers: &str) -> Vec<u8> {
        let framing = if self.streamed {
            "transfer-encoding: chunked\r\n".to_owned()
        } else {
            format!("content-length: {}\r\n", self.body.len())
        };
        self.head(line, &format!("{headers}{framing}"))
    }

    /// The body as it goes over the wire, in two halves, and the bytes of it that are in the first.
    pub(super) fn halves(&self) -> ([Vec<u8>; 2], Vec<u8>) {
        let text = String::from_utf8(self.body.clone()).expect("text");
        // A stream breaks between two events, in the middle.
        let half = if self.streamed {
            let blanks: Vec<_> = text.match_indices("\n\n").map(|(at, _)| at + 2).collect();
            blanks[blanks.len() / 2 - 1]
        } else {
            text.len() / 2
        };
        let (first, second) = self.body.split_at(half);
        let pieces = if self.streamed {
            [chunk(first), [&chunk(second), LAST_CHUNK].concat()]
        } else {
            [first.to_vec(), second.to_vec()]
        };
        (pieces, first.to_vec())
    }

    /// The answer as it should be, under this status line, with these headers on top.
    pub(super) fn whole(&self, line: &str, headers: &str) -> Play {
        let body = match (self.streamed, self.body.is_empty()) {
            (false, _) => self.body.clone(),
            (true, true) => LAST_CHUNK.to_vec(),
            (true, false) => [&chunk(&self.body), LAST_CHUNK].concat(),
        };
        let bytes = [self.framed(line, headers), body].concat();
        Play::of(bytes, End::Keep).with(self.body.clone())
    }

    /// The same with another body.
    pub(super) fn instead(&self, body: impl Into<Vec<u8>>) -> Self {
        Self { streamed: self.streamed, body: body.into() }
    }
}

/// What happens to a request that the relay has read.
#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// The simulator never sees it.
    Before(fn(&Real) -> Play),
    /// The simulator answers it; the gateway gets something else.
    After(fn(&Real) -> Play),
}

/// Which requests it happens to: so many from now on, the others are relayed as they are.
#[derive(Clone, Copy)]
struct Plan {
    fault: Fault,
    left: usize,
}

struct Shared {
    simulator: Simulator,
    plan: Mutex<Option<Plan>>,
    seen: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// The body that the caller is to get of the last answer.
    body: Mutex<Vec<u8>>,
    http2: bool,
}

/// The relay; dropping it ends it and its connections.
pub(super) struct Relay {
    pub(super) addr: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Relays HTTP/1.1, or HTTP/2 without a preceding word, to this simulator.
    pub(super) async fn start(simulator: Simulator, http2: bool) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a free port");
        Self::on(listener, simulator, http2)
    }

    pub(super) fn on(listener: TcpListener, simulator: Simulator, http2: bool) -> Self {
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            simulator,
            plan: Mutex::default(),
            seen: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            body: Mutex::default(),
            http2,
        });
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(Arc::clone(&accepting), socket));
            }
        });
        Self { addr, shared, task: task.abort_handle() }
    }

    /// Has this happen to the next `count` requests.
    pub(super) fn plan(&self, fault: Fault, count: usize) {
        *self.shared.plan.lock() = Some(Plan { fault, left: count });
    }

    /// From now on all is well.
    pub(super) fn heal(&self) {
        *self.shared.plan.lock() = None;
    }

    pub(super) fn simulator(&self) -> &Simulator {
        &self.shared.simulator
    }

    /// Requests read so far.
    pub(super) fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The body that the caller is to get of the last answer.
    pub(super) fn body(&self) -> Vec<u8> {
        self.shared.body.lock().clone()
    }

    /// Waits until no connection is left in the middle of an answer.
    pub(super) async fn let_go(&self) {
        let none = async || (self.shared.open.load(Ordering::Relaxed) == 0).then_some(());
        eventually("the gateway lets go of every stalled answer", none).await;
    }
}

/// An address at which nobody listens yet; [`Silent::listen`] changes that.
pub(super) struct Silent(TcpSocket);

impl Silent {
    pub(super) fn bind() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(ANY).expect("a free port");
        Self(socket)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    pub(super) fn listen(self) -> TcpListener {
        self.0.listen(64).expect("it is bound")
    }
}

impl Silent {
    /// A listener whose line is full, and who stands in it.
    pub(super) async fn crowded() -> (TcpListener, Vec<TcpStream>) {
        let silent = Self::bind();
        let addr = silent.addr();
        let listener = silent.0.listen(1).expect("it is bound");
        let mut crowd = Vec::new();
        // The kernel lets one or two more in than it was told to; then it answers no more.
        while let Ok(socket) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await
        {
            crowd.push(socket.expect("a place in line"));
        }
        (listener, crowd)
    }
}

async fn serve(shared: Arc<Shared>, socket: TcpStream) {
    // Each write is a packet of its own.
    socket.set_nodelay(true).expect("an open socket");
    if shared.http2 {
        h2::serve(socket, async |body| shared.answer(body).await).await;
        return;
    }
    let mut socket = Some(socket);
    while let Some(mut open) = socket.take() {
        let Some((_, body)) = read_request(&mut open).await else { return };
        let play = shared.answer(body).await;
        shared.open.fetch_add(1, Ordering::Relaxed);
        socket = play_back(open, play).await;
        shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// What the gateway is sent for a request with this body.
    async fn answer(&self, body: Vec<u8>) -> Play {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let fault = {
            let mut plan = self.plan.lock();
            plan.as_mut().filter(|plan| plan.left > 0).map(|plan| {
                plan.left -= 1;
                plan.fault
            })
        };
        let streamed = body.windows(13).any(|it| it == b"\"stream\":true");
        let play = match fault {
            Some(Fault::Before(play)) => play(&Real { streamed, body: Vec::new() }),
            Some(Fault::After(play)) => {
                let real = self.ask(body).await;
                assert_eq!(real.status, 200, "the simulator has room: {}", real.text());
                play(&Real { streamed, body: real.body })
            }
            None => {
                let real = self.ask(body).await;
                let line = format!("HTTP/1.1 {} Said", real.status);
                let shown =
                    real.headers.iter().filter(|(name, _)| name.starts_with("x-ratelimit-"));
                let shown = shown.fold(String::new(), |all, (name, value)| {
                    all + &format!("{name}: {value}\r\n")
                });
                let real = Real { streamed: streamed && real.status == 200, body: real.body };
                if self.http2 { h2::whole(&real) } else { real.whole(&line, &shown) }
            }
        };
        self.body.lock().clone_from(&play.body);
        play
    }

    /// The simulator's own answer.
    async fn ask(&self, body: Vec<u8>) -> Answer {
        let mut wire = Wire::open(self.simulator.addr(), chat("", body)).await;
        wire.answer().await
    }
}

/// Writes what is to be written; returns the connection if it is kept.
async fn play_back(mut socket: TcpStream, play: Play) -> Option<TcpStream> {
    for (index, piece) in play.pieces.iter().enumerate() {
        if index > 0 && !play.pause.is_zero() {
            tokio::time::sleep(play.pause).await;
        }
        // The gateway may have had enough of it.
        socket.write_all(piece).await.ok()?;
    }
    match play.end {
        End::Keep => Some(socket),
        End::Close => None,
        End::Reset => {
            // A reset takes along what the peer has not read: it gets a moment for that.
            if !play.pieces.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            socket.set_zero_linger().expect("an open socket");
            None
        }
        End::Stall => {
            let mut rest = Vec::new();
            // The gateway's end is the end of it.
            let _ = socket.read_to_end(&mut rest).await;
            None
        }
    }
}
