//! What can go wrong, in words for the person who reads them.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};

use crate::dial::DialError;
use crate::endpoint::Endpoint;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why connecting or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint was named.
    #[error("the runtime endpoint is empty, give it as unix:///path/to/the.sock")]
    EmptyEndpoint,
    /// The endpoint is not a unix socket.
    #[error("endpoint {endpoint} has the scheme `{scheme}`, only unix sockets are supported")]
    Scheme {
        /// As it was given.
        endpoint: String,
        /// What stands before the colon.
        scheme: String,
    },
    /// The endpoint's path cannot be a socket's.
    #[error("endpoint {endpoint} is not an absolute path, give it as unix:///path/to/the.sock")]
    EndpointPath {
        /// As it was given.
        endpoint: String,
    },
    /// The endpoint's path does not fit into a socket address.
    #[error("endpoint {endpoint} is longer than {limit} bytes, the most that a socket's path has")]
    EndpointLength {
        /// As it was given.
        endpoint: String,
        /// The most bytes.
        limit: usize,
    },
    /// The socket could not be dialled.
    #[error("failed to connect to {endpoint}: {}", dial_advice(*kind, message))]
    Dial {
        /// What was dialled.
        endpoint: Endpoint,
        /// The kind of failure.
        kind: io::ErrorKind,
        /// What the kernel said.
        message: String,
    },
    /// The runtime serves the service in no version that we speak.
    #[error("{endpoint} serves {service} neither as v1 nor as v1alpha2: is it a CRI runtime?")]
    NoCommonVersion {
        /// Who was asked.
        endpoint: Endpoint,
        /// `RuntimeService` or `ImageService`.
        service: &'static str,
    },
    /// The answer did not come within the call's own time limit.
    #[error("{rpc} on {endpoint} did not answer within {}", show(*limit))]
    Timeout {
        /// Who was asked.
        endpoint: Endpoint,
        /// The call.
        rpc: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The runtime answered with an error.
    #[error("{rpc} on {endpoint} failed: {message} ({code:?})")]
    Rpc {
        /// Who was asked.
        endpoint: Endpoint,
        /// The call.
        rpc: &'static str,
        /// The gRPC code.
        code: Code,
        /// The runtime's words.
        message: String,
    },
}

impl Error {
    /// The gRPC code that this error is for a caller who thinks in codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::EmptyEndpoint
            | Self::Scheme { .. }
            | Self::EndpointPath { .. }
            | Self::EndpointLength { .. } => Code::InvalidArgument,
            Self::Dial { .. } => Code::Unavailable,
            Self::NoCommonVersion { .. } => Code::Unimplemented,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::Rpc { code, .. } => *code,
        }
    }

    /// Whether the runtime said that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// Turns what tonic says into what happened: a failed dial, our own time
    /// limit, or the runtime's answer.
    pub(crate) fn from_status(
        endpoint: &Endpoint,
        rpc: &'static str,
        limit: Option<Duration>,
        status: &Status,
    ) -> Self {
        let endpoint = endpoint.clone();
        if let Some(dial) = find::<DialError>(status) {
            return Self::Dial { endpoint, kind: dial.kind, message: dial.message.clone() };
        }
        if let (Some(limit), Some(_)) = (limit, find::<tonic::TimeoutExpired>(status)) {
            return Self::Timeout { endpoint, rpc, limit };
        }
        let message = match status.message() {
            // The connection broke: the cause says how, the message only that.
            "transport error" | "" => innermost(status),
            message => message.to_owned(),
        };
        Self::Rpc { endpoint, rpc, code: status.code(), message }
    }
}

/// The first error of type `E` among the causes of `status`.
fn find<E: StdError + 'static>(status: &Status) -> Option<&E> {
    let mut next = StdError::source(status);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The text of the last cause, or the status' own.
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = StdError::source(status);
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    if text.is_empty() { "no message".to_owned() } else { text }
}

/// What to check when a socket cannot be dialled.
fn dial_advice(kind: io::ErrorKind, message: &str) -> String {
    match kind {
        io::ErrorKind::NotFound => {
            "no such socket: is the runtime running, and is this its endpoint?".to_owned()
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens on the socket: is the runtime running?".to_owned()
        }
        io::ErrorKind::PermissionDenied => "permission denied: run this as root".to_owned(),
        _ => message.to_owned(),
    }
}

/// A time limit as a person writes it.
fn show(limit: Duration) -> String {
    if limit.subsec_nanos() == 0 {
        format!("{}s", limit.as_secs())
    } else {
        format!("{}ms", limit.as_millis())
    }
}
