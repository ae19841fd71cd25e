//! The client's side, for the streaming server of any runtime.

mod dial;
mod ports;
mod remote_command;
mod tls;

use std::path::PathBuf;

pub use ports::Ports;
pub use remote_command::{Reader, RemoteCommand, Writer};

/// What carries the streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// SPDY/3.1, which every runtime serves.
    #[default]
    Spdy,
    /// WebSocket.
    WebSocket,
}

/// Whom to trust at `https` addresses, and who we are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// A file of roots in place of the system's.
    pub roots: Option<PathBuf>,
    /// The name that the server's certificate must have, in place of the address's host.
    pub server_name: Option<String>,
    /// What a server is shown that asks who we are.
    pub identity: Option<Identity>,
}

/// Files of a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The runtime's address is none.
    #[error("the runtime's streaming address {address} cannot be used: {reason}")]
    Address {
        /// As the runtime told it.
        address: String,
        /// Why.
        reason: String,
    },
    /// Nobody answers there.
    #[error("failed to connect to the streaming server at {host}")]
    Connect {
        /// Its host and port.
        host: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// TLS failed.
    #[error("the streaming server at {host} is not trusted")]
    Tls {
        /// Its host and port.
        host: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The server lets in only whom it knows.
    #[error("the streaming server at {host} asks for a client's certificate, and none was given")]
    Stranger {
        /// Its host and port.
        host: String,
    },
    /// The server does not take our certificate.
    #[error("the streaming server at {host} refuses the client's certificate: {reason}")]
    Identity {
        /// Its host and port.
        host: String,
        /// The server's word for it.
        reason: String,
    },
    /// A name that no certificate can have.
    #[error("{0} is no name that a server's certificate can have")]
    ServerName(String),
    /// A file of certificates or of a key cannot be used.
    #[error("the certificates in {path} cannot be used: {reason}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It speaks no HTTP.
    #[error("the streaming server at {host} does not answer as one: {reason}")]
    Http {
        /// Its host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// It refuses.
    #[error("the streaming server refuses: {text} ({status})")]
    Refused {
        /// The status.
        status: u16,
        /// Its words.
        text: String,
    },
    /// It chose a protocol that was not offered.
    #[error("the streaming server chose the protocol \"{0}\", which was not offered")]
    Protocol(String),
    /// A stream could not be opened.
    #[error("failed to open the stream {name}")]
    Stream {
        /// Which.
        name: &'static str,
        /// The cause.
        #[source]
        source: crate::spdy::ConnectionError,
    },
    /// A port could not be forwarded.
    #[error("{0}")]
    Forward(String),
}
