//! TLS on accepted connections, by certificates that may be replaced while connections are open.
//!
//! # Invariants
//!
//! - A handshake gets the time of a request's head, and ends with the process like one.
//! - Certificates change as a whole or not at all: with files that do not fit each other, those that were
//!   read before are served on. What is open stays open.
//! - What peers do wrong is counted, and logged for debugging only: anybody can do it any number of times.

mod expiry;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::{Certified, Tls};
use crate::metrics::{ServerMetrics, Shook};

/// How often it is looked whether the files have changed: they do every few weeks, and whoever replaces
/// them likes to see it happen.
const LOOK: Duration = Duration::from_secs(2);

/// The first byte of every TLS connection: a record of the handshake.
const HANDSHAKE: u8 = 22;

/// What a browser or an SDK that was given the wrong scheme is told, in its own protocol.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 45\r\nconnection: close\r\n\r\nthis port speaks TLS: the URL is https://...\n";
/// Bytes of a plain request that are taken in, so that the answer is not lost for those that were not read.
const MOST_PLAIN: usize = 64 << 10;

/// The certificates of the process, as they are now.
#[derive(Debug)]
pub(super) struct Encryption {
    /// Held while they are looked at.
    files: Mutex<Files>,
    /// Whether the admin port has them as well.
    admin: bool,
    now: RwLock<Certified>,
    metrics: ServerMetrics,
}

/// Where certificates are, and what these files were before they were read last.
#[derive(Debug)]
struct Files {
    places: Tls,
    stamps: [Stamp; 3],
}

/// What says whether a file is still the one that was read.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

impl Encryption {
    /// Reads the files.
    pub(super) fn read(places: &Tls, metrics: ServerMetrics) -> io::Result<Arc<Self>> {
        let files = Files { places: places.clone(), stamps: stamps(places) };
        let certified = places.read().map_err(io::Error::other)?;
        metrics.certificate_expiry.set(expiry::of(&certified.leaf));
        let (files, now) = (Mutex::new(files), RwLock::new(certified));
        Ok(Arc::new(Self { files, admin: places.admin, now, metrics }))
    }

    /// How connections to the API are encrypted.
    pub(super) fn api(self: &Arc<Self>) -> Doorway {
        Doorway { encryption: Arc::clone(self), pick: |certified| &certified.api }
    }

    /// How connections to the admin port are, if they are.
    pub(super) fn admin(self: &Arc<Self>) -> Option<Doorway> {
        let encryption = Arc::clone(self);
        self.admin.then(|| Doorway { encryption, pick: |certified| &certified.admin })
    }

    /// Reads the files again when they change, until `stop`.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut every = tokio::time::interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => self.look().await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the files if they are others than those that were read.
    async fn look(&self) {
        let mut files = self.files.lock().await;
        let now = files.look().await;
        if now != files.stamps {
            // As of before the files were read: what changes meanwhile is read once more.
            files.stamps = now;
            self.reload(&files.places).await;
        }
    }

    /// Reads the files in these places, now and from now on.
    pub(super) async fn read_again(&self, places: &Tls) {
        let mut files = self.files.lock().await;
        files.places = places.clone();
        files.stamps = files.look().await;
        self.reload(places).await;
    }

    async fn reload(&self, places: &Tls) {
        let files = places.clone();
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        let Ok(read) = read else { return };
        self.metrics.count_reload(read.is_ok());
        match read {
            Ok(certified) => {
                self.metrics.certificate_expiry.set(expiry::of(&certified.leaf));
                *self.now.write() = certified;
                tracing::info!(cert = %places.cert.display(), "certificates were read again");
            }
            // Half of them may be there already: they are looked at again when the rest comes.
            Err(problem) => tracing::warn!(%problem, "the certificates stay as they were"),
        }
    }
}

impl Files {
    /// What they are now.
    async fn look(&self) -> [Stamp; 3] {
        let places = self.places.clone();
        let look = tokio::task::spawn_blocking(move || stamps(&places)).await;
        look.unwrap_or(self.stamps)
    }
}

fn stamps(files: &Tls) -> [Stamp; 3] {
    let Tls { cert, key, client_ca, .. } = files;
    [stamp(Some(cert)), stamp(Some(key)), stamp(client_ca.as_deref())]
}

fn stamp(path: Option<&Path>) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    // Of what a link leads to: that is what orchestrators replace.
    let found = path?.metadata().ok()?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Some((found.dev(), found.ino(), found.len(), times))
}

/// The certificates of one listener.
#[derive(Clone, Debug)]
pub(super) struct Doorway {
    encryption: Arc<Encryption>,
    pick: fn(&Certified) -> &Arc<ServerConfig>,
}

impl Doorway {
    /// Shakes hands within `limit`, unless it is `over` first; `None` if nothing came of it.
    pub(super) async fn enter(
        &self,
        stream: TcpStream,
        limit: Duration,
        over: impl Future<Output = ()>,
    ) -> Option<TlsStream<TcpStream>> {
        let shaking = tokio::time::timeout(limit, self.shake(stream));
        let (shook, stream) = tokio::select! {
            shaken = shaking => shaken.unwrap_or((Shook::TimedOut, None)),
            () = over => return None,
        };
        self.encryption.metrics.count_handshake(shook);
        stream
    }

    async fn shake(&self, mut stream: TcpStream) -> (Shook, Option<TlsStream<TcpStream>>) {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first == [HANDSHAKE] => {}
            Ok(1) => {
                if first[0].is_ascii_uppercase() {
                    explain(&mut stream).await;
                }
                return (Shook::Plain, None);
            }
            _ => return (Shook::Failed, None),
        }
        let config = Arc::clone((self.pick)(&self.encryption.now.read()));
        match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => (Shook::Completed, Some(stream)),
            Err(error) => {
                tracing::debug!(%error, "no TLS");
                (Shook::Failed, None)
            }
        }
    }
}

/// Answers a request that came without encryption, as far as its sender listens.
async fn explain(stream: &mut TcpStream) {
    if stream.write_all(PLAIN).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let (mut sink, mut taken) = ([0; 1_024], 0);
    while let Ok(read @ 1..) = stream.read(&mut sink).await {
        taken += read;
        if taken > MOST_PLAIN {
            break;
        }
    }
}
