//! One process takes over from another: its listening sockets, its state, and at last what becomes of
//! the requests that it still has.
//!
//! ```text
//! new                              old
//! asks                 ----------> hands its sockets over; goes on as before, but that every answer is
//!                                  the last one of its connection; lets its batches end
//!                                  stops accepting: who connects waits in the kernel
//! loads the state      <---------- writes it and lets go of it
//! accepts                          serves whom it has let in
//! settles              <---------- says what becomes of them, and what they used
//!                      <---------- ends
//! ```
//!
//! # Invariants
//!
//! - A listening socket is never closed by the last process that has it: nobody is refused or reset.
//! - What the old process has at the upstream, or may still send, is held in the new one's ledger until it
//!   says what became of it: together they are never ahead of the upstream.
//! - Only the same user may take over, or root: who asks says so by the kernel's word, wherever the
//!   directory with the socket lies.

mod wire;

use std::fs::Permissions;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::wire::{Frame, Row, VERSION};
use super::connection::Http;
use super::drain;
use super::state::{self, Heirs, SetAside};
use crate::admission::PoolKey;
use crate::proxy::Gateway;
use crate::store::local::Running;

/// The name of the socket in the directory of the state.
const FILE: &str = "handover";

/// How long a process that asks may take to say so.
const ASKING: Duration = Duration::from_secs(5);

/// How long the new process waits for the state: longer than batches may take to end, which is what it
/// waits for.
const LONGEST: Duration = Duration::from_secs(3_600);

/// For so long every answer of the old process is the last one of its connection before those that stand
/// idle are closed: whoever uses a connection all the time has gone to another by then.
const LINGER: Duration = Duration::from_secs(1);

/// How often the old process says what becomes of its requests: as often as it wrote it down before.
const TURN: Duration = Duration::from_millis(100);

/// How long the new process may take to read what is said, before it counts as gone.
const READING: Duration = Duration::from_secs(5);

/// Where another process can ask to take over.
#[derive(Debug)]
pub(super) struct Offer {
    path: PathBuf,
    door: UnixListener,
    sockets: [TcpListener; 2],
}

impl Offer {
    /// Opens the door in `dir`, which is this process's own, with sockets to be handed over.
    pub(super) fn open(dir: &Path, sockets: [TcpListener; 2]) -> io::Result<Self> {
        let path = dir.join(FILE);
        // What is there was left by a process that has ended: this one has the directory.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let door = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { path, door, sockets })
    }

    /// Waits for another process to ask, and hands the sockets over to it.
    pub(super) async fn asked(&self) -> Heir {
        loop {
            let stream = match self.door.accept().await {
                Ok((stream, _)) => own(stream),
                Err(error) => Err(error),
            };
            let sockets = [self.sockets[0].try_clone(), self.sockets[1].try_clone()];
            let given = async {
                let [api, admin] = sockets;
                let (stream, sockets) = (stream?, [api?, admin?]);
                tokio::task::spawn_blocking(move || give(stream, &sockets)).await?
            };
            match given.await {
                Ok(heir) => return heir,
                Err(problem) => {
                    tracing::warn!(%problem, "a process that asked to take over could not");
                    // Out of descriptors, or a peer that has gone: neither is cured by trying at once.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // Before the state is let go of: from then on the name is another process's.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The stream, if whoever is at its other end may do to this process what it likes anyway.
fn own(stream: tokio::net::UnixStream) -> io::Result<UnixStream> {
    let (peer, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if peer != own && peer != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {peer} is not this process's own ({own})"),
        ));
    }
    stream.into_std()
}

fn give(stream: UnixStream, sockets: &[TcpListener; 2]) -> io::Result<Heir> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ASKING))?;
    stream.set_write_timeout(Some(ASKING))?;
    match wire::receive(&stream)? {
        Frame::TakeOver { version: VERSION } => {}
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    wire::send_sockets(&stream, sockets)?;
    stream.set_nonblocking(true)?;
    Ok(Heir { stream: Some(tokio::net::UnixStream::from_std(stream)?) })
}

/// Waits until another process takes over, or this one has to stop: then there is none.
pub(super) async fn asked(
    offer: Option<&Offer>,
    stop: &CancellationToken,
    leaving: &CancellationToken,
) -> Option<Heir> {
    let asked = async {
        let Some(offer) = offer else { return std::future::pending().await };
        loop {
            let mut heir = offer.asked().await;
            tracing::info!("another process takes over");
            leaving.cancel();
            tokio::time::sleep(LINGER).await;
            if heir.is_there() {
                return heir;
            }
            tracing::warn!("the process that was to take over has gone: all goes on as before");
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        heir = asked => Some(heir),
    }
}

/// Lets go of the state; the heir is told what becomes of the requests that are left, until the token is
/// cancelled. Who connects meanwhile waits.
pub(super) async fn hand_over(
    mut heir: Heir,
    (gateway, store): (Arc<Gateway>, Option<Running>),
    http: &Http,
) -> (CancellationToken, JoinHandle<()>) {
    let began = Instant::now();
    drain::let_in(&http.fresh, http.last_call).await;
    let set_aside = close_pools(&gateway);
    if let Some(store) = store {
        state::stop(store).await;
    }
    heir.yours(set_aside).await;
    let took_ms = began.elapsed().as_millis();
    tracing::info!(took_ms, "another process goes on; what is under way ends here");
    let done = CancellationToken::new();
    (done.clone(), tokio::spawn(heir.follow(gateway, done)))
}

/// The process that takes over, as the old one sees it.
#[derive(Debug)]
pub(super) struct Heir {
    /// None once it has gone.
    stream: Option<tokio::net::UnixStream>,
}

impl Heir {
    /// Whether it has not gone: it says nothing until it is told something.
    fn is_there(&mut self) -> bool {
        let stream = self.stream.as_ref();
        let quiet = |stream: &tokio::net::UnixStream| {
            let read = stream.try_read(&mut [0]);
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        stream.is_some_and(quiet)
    }

    async fn tell(&mut self, frame: &Frame) {
        let Some(stream) = &mut self.stream else { return };
        let said = async { stream.write_all(&wire::bytes(frame)?).await };
        let said = tokio::time::timeout(READING, said).await;
        if let Err(problem) = said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::warn!(%problem, "the process that took over cannot be told more");
            self.stream = None;
        }
    }

    /// The state is free; `set_aside` is for those that wait here.
    pub(super) async fn yours(&mut self, set_aside: SetAside) {
        let set_aside = set_aside.into_iter().map(|(key, (cost, count))| (key.0, cost, count));
        self.tell(&Frame::Yours { set_aside: set_aside.collect() }).await;
    }

    /// Says what becomes of the requests that are left, until `done`; then that none is.
    async fn follow(mut self, gateway: Arc<Gateway>, done: CancellationToken) {
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(TURN) => false,
                () = done.cancelled() => true,
            };
            if let Some(frame) = said(&gateway) {
                self.tell(&frame).await;
            }
            if last {
                return self.tell(&Frame::Bye).await;
            }
        }
    }
}

/// What has happened since the last time, if anything has.
fn said(gateway: &Gateway) -> Option<Frame> {
    let mut journals = Vec::new();
    for (key, named) in gateway.every_pool() {
        let mut journal = Vec::new();
        named.pool.take_journal(&mut journal);
        if !journal.is_empty() {
            journals.push((key.0, journal));
        }
    }
    let mut usage = Vec::new();
    gateway.history().collect(&mut usage);
    let usage: Vec<Row> = usage.into_iter().map(Row::from).collect();
    (!journals.is_empty() || !usage.is_empty()).then_some(Frame::Said { journals, usage })
}

/// Lets nobody in any more, since another process goes on; what it has to set aside for those who wait.
fn close_pools(gateway: &Gateway) -> SetAside {
    let pools = gateway.every_pool();
    pools.into_iter().filter_map(|(key, named)| Some((key, named.pool.hand_over()?))).collect()
}

/// What was taken over from a process that runs.
#[derive(Debug)]
pub struct Taken {
    pub(super) sockets: [TcpListener; 2],
    pub(super) set_aside: SetAside,
    pub(super) before: Before,
}

/// The process before, as the new one sees it.
#[derive(Debug)]
pub(super) struct Before(UnixStream);

/// Takes over from the process that has this directory for its state; `None` if none has, or it cannot
/// be asked. Returns when the state is free.
///
/// # Errors
///
/// If it was asked, and what it said is of no use.
pub async fn take_over(dir: &Path) -> io::Result<Option<Taken>> {
    let path = dir.join(FILE);
    tokio::task::spawn_blocking(move || ask(&path)).await?
}

fn ask(path: &Path) -> io::Result<Option<Taken>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let stream = match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => return Ok(None),
        stream => stream?,
    };
    stream.set_read_timeout(Some(LONGEST))?;
    wire::send(&stream, &Frame::TakeOver { version: VERSION })?;
    let sockets = wire::receive_sockets(&stream)?;
    let Frame::Yours { set_aside } = wire::receive(&stream)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    // From now on it is quiet when nothing happens; its end is told by the system.
    stream.set_read_timeout(None)?;
    let set_aside = set_aside.into_iter().map(|(key, cost, count)| (PoolKey(key), (cost, count)));
    let set_aside = set_aside.collect();
    Ok(Some(Taken { sockets, set_aside, before: Before(stream) }))
}

impl Before {
    /// Does what it says, in a thread of its own, until it ends.
    pub(super) fn follow(self, gateway: Arc<Gateway>, heirs: Arc<Heirs>) -> io::Result<()> {
        let runtime = tokio::runtime::Handle::current();
        let listen = move || {
            // The pools' clock is the runtime's.
            let _entered = runtime.enter();
            let in_order = self.listen(&gateway, &heirs);
            heirs.end_of_before(&gateway, in_order);
            if in_order {
                tracing::info!("the process before has ended");
            } else {
                tracing::warn!(
                    "the process before ended without a word: what it had counts as spent"
                );
            }
        };
        std::thread::Builder::new().name("before".to_owned()).spawn(listen).map(drop)
    }

    /// Whether it ended in order.
    fn listen(&self, gateway: &Gateway, heirs: &Heirs) -> bool {
        loop {
            match wire::receive(&self.0) {
                Ok(Frame::Said { journals, usage }) => {
                    gateway.history().take_up(usage.into_iter().map(Into::into).collect());
                    for (key, journal) in journals {
                        let key = PoolKey(key);
                        if let Err(problem) = heirs.hear(gateway, key, &journal) {
                            tracing::error!(pool = %key, %problem, "what the process before says is broken");
                        }
                    }
                }
                Ok(Frame::Bye) => return true,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}
