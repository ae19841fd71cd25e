//! TLS as a client: whom we trust, what we show, and why a server sends us away.
//!
//! In TLS 1.3 the client has shaken hands before the server has looked at its certificate: that it
//! is refused comes in the place of an answer.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};

use super::{ClientError, Identity, Trust};

/// Makes the settings of a connection.
pub(super) fn config(trust: &Trust) -> Result<ClientConfig, ClientError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls { host: String::new(), source: io::Error::other(error) })?
        .with_root_certificates(roots(trust)?);
    let Some(Identity { certificate, key }) = &trust.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, secret)
        .map_err(|error| unusable(certificate, error))
}

/// The name that the server's certificate must have.
pub(super) fn name(trust: &Trust, host: &str) -> Result<ServerName<'static>, ClientError> {
    let name = trust.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName(name.to_owned()))
}

fn roots(trust: &Trust) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    match &trust.roots {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unusable(path, error))?;
    if found.is_empty() {
        return Err(unusable(path, "there is no certificate in it"));
    }
    Ok(found)
}

fn unusable(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    ClientError::Certificates { path: path.to_owned(), reason: reason.to_string() }
}

/// What an error means where the server has said by TLS that it does not want us.
pub(super) fn sent_away(
    error: &(dyn Error + 'static),
    trust: &Trust,
    host: &str,
) -> Option<ClientError> {
    use AlertDescription as Alert;
    let refused = match alert(error)? {
        Alert::CertificateRequired => true,
        // Up to TLS 1.2 also said of other disagreements.
        Alert::HandshakeFailure => trust.identity.is_none(),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => trust.identity.is_some(),
        _ => false,
    };
    let host = host.to_owned();
    match (refused, &trust.identity) {
        (false, _) => None,
        (true, None) => Some(ClientError::Stranger { host }),
        (true, Some(_)) => {
            let reason = alert(error).map(|alert| format!("{alert:?}")).unwrap_or_default();
            Some(ClientError::Identity { host, reason })
        }
    }
}

/// The alert of the server's that is at the bottom of an error.
fn alert(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref::<rustls::Error>() {
        return Some(*alert);
    }
    // An I/O error does not count what it wraps among its causes.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => alert(wrapped),
        None => alert(error.source()?),
    }
}
