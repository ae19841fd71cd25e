//! Errors to gRPC codes: the one place where that is decided.
//!
//! The codes are those that the kubelet relies on; a `match` without `_` makes a
//! new error choose its own.

use images::{PullError, PullErrorKind};
use pods::Error;
use telemetry::chain;
use tonic::{Code, Status};

/// The code of an error of a pod's operation.
fn code(error: &Error) -> Code {
    match error {
        Error::NoSandbox(_) | Error::NoContainer(_) | Error::NoImage(_) => Code::NotFound,
        Error::Ambiguous(_)
        | Error::Invalid(_)
        | Error::RecursiveReadOnly(_)
        | Error::NoHandler(_) => Code::InvalidArgument,
        Error::NameTaken(_) => Code::AlreadyExists,
        Error::WrongState(_) => Code::FailedPrecondition,
        Error::Timeout { .. } | Error::ExecTimeout { .. } => Code::DeadlineExceeded,
        Error::Start { .. } | Error::Network { .. } => Code::Unknown,
        Error::Monitor { source, .. } if source.is_deadline() => Code::DeadlineExceeded,
        Error::Monitor { .. } => Code::Unknown,
        Error::Spec { .. } => Code::InvalidArgument,
        Error::Cgroup { .. } => Code::Unknown,
        Error::Snapshot { source, .. } if source.is_exhausted() => Code::ResourceExhausted,
        Error::Snapshot { .. } => Code::Unknown,
        Error::Record { .. } => Code::Unknown,
        Error::File { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Code::ResourceExhausted
            }
            _ => Code::Unknown,
        },
        Error::Joined(other) => code(other),
        Error::Stopping => Code::Unavailable,
    }
}

/// Makes the answer of a failed operation: one line, the failed step first.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error), chain(error))
}

/// Makes the answer of a failed pull. The kubelet looks for the prefix of the
/// message, and strips the code only where it is `Unknown`.
pub(crate) fn pull_status(error: &PullError) -> Status {
    let text = chain(error);
    match error.kind() {
        PullErrorKind::InvalidArgument => Status::invalid_argument(text),
        PullErrorKind::RegistryUnavailable => {
            Status::unknown(format!("RegistryUnavailable: {text}"))
        }
        PullErrorKind::NotFound => Status::not_found(text),
        PullErrorKind::Exhausted => Status::resource_exhausted(text),
        PullErrorKind::Unauthorized
        | PullErrorKind::Refused
        | PullErrorKind::InvalidImage
        | PullErrorKind::Mismatch
        | PullErrorKind::Internal => Status::unknown(text),
    }
}
