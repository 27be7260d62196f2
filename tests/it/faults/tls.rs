//! TLS in front of a relay, and what can be wrong with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::table::Entry;
use crate::support::ANY;

/// An authority, known to whoever reads its file.
pub(super) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The file with its certificate.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's side of TLS with a certificate of this authority's, or what is wrong with it.
    fn accept(&self, wrong: Option<Entry>, protocol: &str) -> TlsAcceptor {
        let name = if wrong == Some(Entry::OtherName) { "other.example" } else { "127.0.0.1" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        if wrong == Some(Entry::Expired) {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 2);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a key that fits");
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// TLS on a port of its own; dropping it ends it.
pub(super) struct Front {
    pub(super) addr: SocketAddr,
    task: AbortHandle,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    /// In front of `relay`, with something wrong with its first `count` connections.
    pub(super) async fn start(
        authority: &Authority,
        relay: SocketAddr,
        protocol: &str,
        (wrong, count): (Option<Entry>, usize),
    ) -> Self {
        let stranger = Authority::new();
        let by = if wrong == Some(Entry::UnknownAuthority) { &stranger } else { authority };
        let (bad, good) = (by.accept(wrong, protocol), authority.accept(None, protocol));
        let listener = TcpListener::bind(ANY).await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (socket, _) = listener.accept().await.expect("a connection");
                let wrong = wrong.filter(|_| number < count);
                let tls = if wrong.is_some() { bad.clone() } else { good.clone() };
                connections.spawn(serve(socket, tls, wrong, relay));
            }
        });
        Self { addr, task: task.abort_handle() }
    }
}

async fn serve(mut socket: TcpStream, tls: TlsAcceptor, wrong: Option<Entry>, relay: SocketAddr) {
    let mut rest = Vec::new();
    match wrong {
        Some(Entry::TlsStalls) => {
            let _ = socket.read_to_end(&mut rest).await;
            return;
        }
        Some(Entry::TlsCloses) => {
            // After the first bytes: the handshake has begun.
            let _ = socket.read_buf(&mut rest).await;
            return;
        }
        Some(Entry::NoTls) => {
            let _ = socket.read_buf(&mut rest).await;
            let _ =
                socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            return;
        }
        _ => {}
    }
    // A caller that does not like the certificate ends it here.
    let Ok(mut socket) = tls.accept(socket).await else { return };
    let mut inner = TcpStream::connect(relay).await.expect("it listens");
    inner.set_nodelay(true).expect("an open socket");
    // However it ends, both ends know.
    let _ = copy_bidirectional(&mut socket, &mut inner).await;
}
