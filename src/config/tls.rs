//! The section `[server.tls]`: encryption on the API port, and on the admin port if that is asked for.
//!
//! # Invariants
//!
//! - What is read from the files is checked when the configuration is, by the same code that serves it
//!   later: a chain, the key that belongs to it, the authorities of clients. What is wrong names its file.
//! - TLS 1.2 and later, no early data (it could be sent twice by somebody else).
//! - A key is never part of a message or of `Debug`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::section::Section;

/// The most bytes of a file: a bundle of all public authorities takes 250 KB.
const MOST_BYTES: u64 = 4 << 20;

/// Where the certificates are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// PEM: the certificate, then those that lead from it to an authority.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: who may have signed callers' certificates; `None` to ask for none.
    pub client_ca: Option<PathBuf>,
    /// Whether the admin port speaks TLS as well (and asks for no certificates).
    pub admin: bool,
}

/// What the files hold, ready to be served.
#[derive(Clone, Debug)]
pub struct Certified {
    /// For the API.
    pub api: Arc<ServerConfig>,
    /// For the admin port: as above, but clients need no certificate.
    pub admin: Arc<ServerConfig>,
    /// The first certificate, as DER.
    pub leaf: CertificateDer<'static>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct BadFile {
    /// The key of `[server.tls]` that names it.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    message: String,
}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// The first that is not what it should be.
    pub fn read(&self) -> Result<Certified, BadFile> {
        let bad =
            |key, path: &Path, message: String| BadFile { key, path: path.to_owned(), message };
        let bad_cert = |message| bad("cert", &self.cert, message);
        let bad_key = |message| bad("key", &self.key, message);
        let chain = certificates(&self.cert).map_err(bad_cert)?;
        let leaf = chain.first().cloned().ok_or_else(|| bad_cert(no_certificate()))?;
        let key = pem(&self.key).map_err(bad_key)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| bad_key("holds no private key in PEM".to_owned()))?;
        let verifier = match &self.client_ca {
            None => None,
            Some(path) => {
                let found = certificates(path).and_then(authorities);
                Some(found.map_err(|message| bad("client_ca", path, message))?)
            }
        };
        let provider = Arc::new(ring::default_provider());
        let made = |verifier: Option<Arc<dyn ClientCertVerifier>>| {
            serve(&provider, verifier, chain.clone(), key.clone_key()).map_err(
                |error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        bad_key(format!("is not the key of {}", self.cert.display()))
                    }
                    rustls::Error::InvalidCertificate(_) => bad_cert(error.to_string()),
                    error => bad_key(error.to_string()),
                },
            )
        };
        Ok(Certified { api: made(verifier)?, admin: made(None)?, leaf })
    }
}

/// How connections are served with this certificate.
fn serve(
    provider: &Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match verifier {
        Some(verifier) => versions.with_client_cert_verifier(verifier),
        None => versions.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed by what clients bring along, and take no memory here.
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Whoever is signed by one of these may come in.
fn authorities(
    certificates: Vec<CertificateDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    if certificates.is_empty() {
        return Err(no_certificate());
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(&pem(path)?).collect::<Result<_, _>>();
    all.map_err(|_| "is no PEM".to_owned())
}

fn no_certificate() -> String {
    "holds no certificate in PEM".to_owned()
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let found = path.metadata()?;
        // Opening a pipe would wait for its other end.
        if !found.is_file() {
            return Err(io::Error::other("is no file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(io::Error::other(format!("is larger than {} MiB", MOST_BYTES >> 20)));
        }
        Ok(bytes)
    };
    read().map_err(|error| error.to_string())
}

/// Reads the section; `None` without a `cert`. Relative paths begin at `directory`.
pub(super) fn tls(mut section: Section<'_>, directory: &Path) -> Option<Tls> {
    let mut path = |key| {
        let text = section.get_or(key, String::new());
        let path = directory.join(&text);
        // The effective configuration is to be of use wherever it is written to.
        (!text.is_empty()).then(|| std::path::absolute(&path).unwrap_or(path))
    };
    let (cert, key, client_ca) = (path("cert"), path("key"), path("client_ca"));
    let admin = section.get_or("admin", false);
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(Tls { cert, key, client_ca, admin }),
        (None, None) if client_ca.is_none() && !admin => None,
        (cert, key) => {
            for (name, path) in [("cert", cert), ("key", key)] {
                if path.is_none() {
                    section.problem(name, "is missing: TLS needs a certificate and its key");
                }
            }
            None
        }
    };
    if let Some(Err(bad)) = tls.as_ref().map(Tls::read) {
        section.problem(bad.key, bad.to_string());
    }
    section.finish();
    tls
}

#[cfg(test)]
mod tests;
