//! Errors to gRPC codes: the one place where that is decided.
//!
//! The codes are those that the kubelet relies on; a `match` without `_` makes a
//! new error choose its own.

use std::io::ErrorKind;

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
        Error::ImageVolume { .. } => Code::Unknown,
        Error::NameTaken(_) => Code::AlreadyExists,
        Error::WrongState(_) => Code::FailedPrecondition,
        Error::Overrun(_) | Error::TooManyListeners(_) => Code::ResourceExhausted,
        Error::Timeout { .. } | Error::ExecTimeout { .. } => Code::DeadlineExceeded,
        Error::Start { .. } | Error::ImageDenied(_) | Error::Port { .. } => Code::Unknown,
        Error::Monitor { source, .. } if source.is_deadline() => Code::DeadlineExceeded,
        Error::Spec { .. } => Code::InvalidArgument,
        Error::Monitor { .. }
        | Error::Network { .. }
        | Error::Namespaces { .. }
        | Error::NetDevices { .. }
        | Error::Cgroup { .. }
        | Error::Snapshot { .. }
        | Error::Record { .. }
        | Error::File { .. } => {
            if is_exhausted(error) {
                Code::ResourceExhausted
            } else {
                Code::Unknown
            }
        }
        Error::Joined(other) => code(other),
        Error::Stopping => Code::Unavailable,
    }
}

/// Whether the machine lacks something: space, descriptors, memory.
fn is_exhausted(error: &(dyn std::error::Error + 'static)) -> bool {
    let lacks = |error: &std::io::Error| {
        matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory
        ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    };
    std::iter::successors(Some(error), |error| error.source())
        .any(|cause| cause.downcast_ref().is_some_and(lacks))
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
        PullErrorKind::Denied => Status::unknown(format!("SignatureValidationFailed: {text}")),
        PullErrorKind::NotFound => Status::not_found(text),
        PullErrorKind::Exhausted => Status::resource_exhausted(text),
        PullErrorKind::Unauthorized
        | PullErrorKind::Refused
        | PullErrorKind::InvalidImage
        | PullErrorKind::Mismatch
        | PullErrorKind::Internal => Status::unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_the_machine_lacks_is_told_with_its_cause() {
        let full = Error::File {
            what: "write",
            path: "/x".into(),
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        let status = status(&Error::Joined(Arc::new(full)));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "failed to write /x: No space left on device (os error 28)");
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let denied = Error::File { what: "write", path: "/x".into(), source: denied };
        assert_eq!(code(&denied), Code::Unknown);
    }
}
