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
use tokio::signal::unix::{SignalKind, signal};
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
    files: Tls,
    /// What the files were before they were first read.
    first: [Stamp; 3],
    now: RwLock<Certified>,
    metrics: ServerMetrics,
}

/// What says whether a file is still the one that was read.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

impl Encryption {
    /// Reads the files.
    pub(super) fn read(files: &Tls, metrics: ServerMetrics) -> io::Result<Arc<Self>> {
        let first = stamps(files);
        let certified = files.read().map_err(io::Error::other)?;
        metrics.certificate_expiry.set(expiry::of(&certified.leaf));
        Ok(Arc::new(Self { files: files.clone(), first, now: RwLock::new(certified), metrics }))
    }

    /// How connections to the API are encrypted.
    pub(super) fn api(self: &Arc<Self>) -> Doorway {
        Doorway { encryption: Arc::clone(self), pick: |certified| &certified.api }
    }

    /// How connections to the admin port are, if they are.
    pub(super) fn admin(self: &Arc<Self>) -> Option<Doorway> {
        let encryption = Arc::clone(self);
        self.files.admin.then(|| Doorway { encryption, pick: |certified| &certified.admin })
    }

    /// Reads the files again when they change, and on SIGHUP.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut hangups = signal(SignalKind::hangup()).ok();
        let mut every = tokio::time::interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.first;
        loop {
            let told = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                _ = told => true,
                _ = every.tick() => false,
                () = stop.cancelled() => return,
            };
            let files = self.files.clone();
            let look = tokio::task::spawn_blocking(move || stamps(&files)).await;
            let now = look.unwrap_or(seen);
            if told || now != seen {
                // As of before the files were read: what changes meanwhile is read once more.
                seen = now;
                self.reload().await;
            }
        }
    }

    async fn reload(&self) {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        let Ok(read) = read else { return };
        self.metrics.count_reload(read.is_ok());
        match read {
            Ok(certified) => {
                self.metrics.certificate_expiry.set(expiry::of(&certified.leaf));
                *self.now.write() = certified;
                tracing::info!(cert = %self.files.cert.display(), "certificates were read again");
            }
            // Half of them may be there already: they are looked at again when the rest comes.
            Err(problem) => tracing::warn!(%problem, "the certificates stay as they were"),
        }
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
