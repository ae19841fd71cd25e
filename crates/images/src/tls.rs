//! TLS towards registries: roots from the system's files (and `SSL_CERT_FILE`,
//! `SSL_CERT_DIR`), those of a `hosts.toml` beside them, or none checked where a
//! `hosts.toml` says so.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates cannot be used.
    #[error("failed to read certificates from {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The library refused its settings.
    #[error("failed to choose TLS versions")]
    Library(#[source] rustls::Error),
}

/// What a connection to one host trusts, beside the system's roots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// Files of further roots, in PEM.
    pub ca: Vec<PathBuf>,
    /// What is shown of us.
    pub client: Option<ClientCertificate>,
    /// Whether anyone is trusted.
    pub skip_verify: bool,
}

impl Trust {
    /// All files that it is read from.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let client = self.client.iter().flat_map(|c| [&c.certificate, &c.key]);
        self.ca.iter().chain(client)
    }
}

/// A certificate of our own, and its key: files in PEM, which may be one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The system's roots.
#[derive(Debug, Clone)]
pub(crate) struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Reads the system's roots. That there are none is logged, not an error:
    /// registries on loopback need none.
    pub fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a file of the system's certificates cannot be used");
        }
        let mut store = RootCertStore::empty();
        let (taken, ignored) = store.add_parsable_certificates(found.certs);
        if taken == 0 {
            tracing::warn!("the system has no certificates: no registry can be reached by HTTPS");
        } else {
            tracing::debug!(taken, ignored, "loaded the system's certificates");
        }
        Self(Arc::new(store))
    }

    /// Makes the settings of connections that trust `trust`.
    pub fn client_config(&self, trust: &Trust) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Library)?;
        let builder = if trust.skip_verify {
            let verifier = Arc::new(NoVerifier(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(self.with(&trust.ca)?)
        };
        let Some(client) = &trust.client else { return Ok(builder.with_no_client_auth()) };
        let (chain, key) = own_certificate(client)?;
        builder.with_client_auth_cert(chain, key).map_err(TlsError::Library)
    }

    fn with(&self, files: &[PathBuf]) -> Result<Arc<RootCertStore>, TlsError> {
        if files.is_empty() {
            return Ok(self.0.clone());
        }
        let mut store = RootCertStore::clone(&self.0);
        for path in files {
            add_file(&mut store, path)
                .map_err(|source| TlsError::Certificates { path: path.clone(), source })?;
        }
        Ok(Arc::new(store))
    }
}

type OwnCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own_certificate(client: &ClientCertificate) -> Result<OwnCertificate, TlsError> {
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source: io::Error| TlsError::Certificates { path, source }
    };
    let read = |path: &PathBuf| std::fs::read(path).map_err(failed(path));
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read(&client.certificate)?).collect();
    let chain = chain.map_err(io::Error::other).map_err(failed(&client.certificate))?;
    if chain.is_empty() {
        let none = io::Error::new(io::ErrorKind::InvalidData, "no certificate in it");
        return Err(failed(&client.certificate)(none));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&client.key)?)
        .map_err(io::Error::other)
        .map_err(failed(&client.key))?;
    Ok((chain, key))
}

fn add_file(store: &mut RootCertStore, path: &std::path::Path) -> io::Result<()> {
    let bytes = std::fs::read(path)?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(io::Error::other)?;
        store.add(certificate).map_err(io::Error::other)?;
        count += 1;
    }
    if count == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it"));
    }
    Ok(())
}

/// Trusts any certificate, but still has the peer prove that it holds its key.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
