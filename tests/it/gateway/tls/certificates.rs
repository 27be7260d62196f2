//! Certificates of the tests' own authorities, and clients that go by them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;

/// Somebody who signs certificates.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(super) struct Issued {
    pub(super) cert: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new([]).expect("no names");
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    /// A certificate for a name, up to the first of January of a year.
    pub(super) fn issue(&self, name: &str, ends: i32) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(ends, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }
}

/// A gateway's files.
pub(super) struct Files(TempDir);

impl Files {
    /// Those of a new certificate for a name, and whoever signed it.
    pub(super) fn fresh(name: &str) -> (Authority, Self) {
        let (authority, files) = (Authority::new(), Self(tempfile::tempdir().expect("room")));
        files.write(&authority.issue(name, 2099));
        (authority, files)
    }

    pub(super) fn write(&self, issued: &Issued) {
        fs::write(self.cert(), &issued.cert).expect("room");
        fs::write(self.key(), &issued.key).expect("room");
    }

    pub(super) fn cert(&self) -> PathBuf {
        self.0.path().join("cert.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    /// The configuration by which they are served, and `more`.
    pub(super) fn config(&self, more: &str) -> String {
        let (cert, key) = (self.cert(), self.key());
        format!("server.tls.cert = {cert:?}\nserver.tls.key = {key:?}\n{more}")
    }

    /// The configuration by which callers need certificates of this authority.
    pub(super) fn client_ca(&self, authority: &Authority) -> String {
        let path: &Path = &self.0.path().join("clients.pem");
        fs::write(path, authority.pem()).expect("room");
        format!("server.tls.client_ca = {path:?}")
    }
}

/// A client that trusts these authorities, and shows a certificate if it has one.
pub(super) fn client(trusted: &[&Authority], own: Option<&Issued>) -> ClientConfig {
    client_of(rustls::ALL_VERSIONS, trusted, own)
}

/// The same, of these versions of TLS.
pub(super) fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    trusted: &[&Authority],
    own: Option<&Issued>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        roots.add(authority.issuer.der().clone()).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("they are known")
        .with_root_certificates(roots);
    match own {
        None => config.with_no_client_auth(),
        Some(Issued { cert, key }) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            config.with_client_auth_cert(vec![cert], key).expect("they fit")
        }
    }
}
