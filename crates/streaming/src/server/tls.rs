//! The server's certificate, read again when its file has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

/// How often files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files of certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The roots of clients' certificates; without them any client is let in that has an address.
    pub client_roots: Option<PathBuf>,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("its certificates cannot be used: {path}: {reason}")]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Makes the settings of a server of HTTP/1.1. The roots of clients are read once, the rest as it
/// changes.
///
/// # Errors
/// Names the file that cannot be used.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let certificates = Certificates::load(files)?;
    let provider = Arc::new(ring::default_provider());
    let failed = |error: rustls::Error| error_of(&files.certificate, error);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match &files.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                    .build()
                    .map_err(|error| error_of(path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    // An upgrade needs HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Reads the certificates of a file into a store.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| error_of(path, error))?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| error_of(path, error))?;
    if found.is_empty() {
        return Err(error_of(path, "there is no certificate in it"));
    }
    Ok(found)
}

fn error_of(path: &Path, reason: impl std::fmt::Display) -> TlsError {
    TlsError { path: path.to_owned(), reason: reason.to_string() }
}

/// The pair in use, and what its files were when it was read.
#[derive(Debug)]
struct Certificates {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    pair: Arc<CertifiedKey>,
    stamp: Stamp,
    look_at: Instant,
}

/// What changes when a file is written or replaced.
type Stamp = [Option<(SystemTime, u64, u64)>; 2];

impl Certificates {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let stamp = stamp(files);
        let current = Current { pair: read(files)?, stamp, look_at: Instant::now() + LOOK_EVERY };
        Ok(Self { files: files.clone(), current: Mutex::new(current) })
    }

    fn get(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.look_at {
            current.look_at = now + LOOK_EVERY;
            let stamp = stamp(&self.files);
            if stamp != current.stamp {
                // Not set where it fails: a pair that is half written is tried again.
                match read(&self.files) {
                    Ok(pair) => (current.pair, current.stamp) = (pair, stamp),
                    Err(error) => tracing::warn!(%error, "the certificate before is kept"),
                }
            }
        }
        current.pair.clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get(Instant::now()))
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    [&files.certificate, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    })
}

fn read(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| error_of(&files.key, error))?;
    // Refuses a key that is another certificate's.
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(Arc::new)
        .map_err(|error| error_of(&files.key, error))
}
