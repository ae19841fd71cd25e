//! What can go wrong with images. A [`PullError`]'s text is one line that is whole
//! by itself: it becomes an event of a pod, and many callers may share one error.

use std::{fmt, io, path::PathBuf};

use types::Digest;

use crate::reference::InvalidReference;

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of the store.
    #[error("failed to {action} {path} of the image store")]
    Directory {
        /// The step.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The records could not be read.
    #[error("failed to read the image records")]
    Records(#[source] state::StoreError),
    /// The client for registries could not be set up.
    #[error("failed to set up TLS for registries")]
    Tls(#[source] crate::tls::TlsError),
}

/// An image could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Its record could not be removed; the image is still there.
    #[error("failed to remove the record of image {image}")]
    Record {
        /// The image.
        image: types::ImageId,
        /// The cause.
        #[source]
        source: state::StoreError,
    },
    /// The task that removes it died: a defect of ours.
    #[error("the removal of image \"{image}\" was aborted")]
    Aborted {
        /// As asked for.
        image: String,
    },
}

/// The class of a [`PullError`], for the door to choose a code and a prefix by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullErrorKind {
    /// The request is bad: the name, or the credentials' form.
    InvalidArgument,
    /// No answer from the registry that one could work with: refused, unknown host,
    /// TLS, time-out, 5xx, 429. Trying again later may help.
    RegistryUnavailable,
    /// The registry does not have it.
    NotFound,
    /// The registry does not let these credentials (or nobody) have it.
    Unauthorized,
    /// The registry refuses the request otherwise.
    Refused,
    /// What came is no image, or one that cannot be used here.
    InvalidImage,
    /// What came is not what its digest or size says.
    Mismatch,
    /// The policy does not let it be used.
    Denied,
    /// The image is larger than the limits, or the disk is full.
    Exhausted,
    /// The machine or the program failed.
    Internal,
}

/// An image could not be pulled or loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The name is none.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The credentials have no usable form.
    #[error("the credentials for {reference} are malformed: {reason}")]
    InvalidAuth {
        /// The image.
        reference: String,
        /// What is wrong. Never the credentials themselves.
        reason: &'static str,
    },
    /// A `hosts.toml` or `registries.conf` cannot be used.
    #[error("bad registry configuration {path}: {reason}")]
    HostsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The configuration forbids the registry.
    #[error("{reference} is blocked: {prefix} is not to be pulled from (registries.conf)")]
    Blocked {
        /// The image.
        reference: String,
        /// What is blocked.
        prefix: String,
    },
    /// The policy for images forbids it.
    #[error("{reference} is not allowed by {policy}: {reason}")]
    Denied {
        /// The image.
        reference: String,
        /// The policy's file.
        policy: PathBuf,
        /// What it asks for, and what is missing.
        reason: String,
    },
    /// The registry does not answer, or not usably.
    #[error("failed to {step} at {host}: {reason}")]
    RegistryUnavailable {
        /// `host:port`.
        host: String,
        /// The step.
        step: String,
        /// The cause.
        reason: String,
    },
    /// The registry does not have it.
    #[error("{what} not found at {host}: {message}")]
    NotFound {
        /// `host:port`.
        host: String,
        /// The manifest or blob.
        what: String,
        /// The registry's own words.
        message: String,
    },
    /// The registry refuses the credentials, or their absence.
    #[error("{host} denies access to {what} ({status}): {message}")]
    Unauthorized {
        /// `host:port`.
        host: String,
        /// The manifest or blob.
        what: String,
        /// 401 or 403.
        status: u16,
        /// The registry's own words.
        message: String,
    },
    /// The registry answers with another status, or against the protocol.
    #[error("failed to {step} at {host}: {message}")]
    Registry {
        /// `host:port`.
        host: String,
        /// The step.
        step: String,
        /// The status and the registry's own words, or what is wrong with the answer.
        message: String,
    },
    /// What came is no image, or not one that this version takes.
    #[error("{what} is not usable: {reason}")]
    InvalidImage {
        /// The manifest, configuration, layer or archive.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The image does not exist for this machine.
    #[error("{reference} has no image for {wanted}, only for {offered}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// `linux/amd64`.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// Bytes are not those that the digest names.
    #[error("{what} does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// The manifest, configuration or layer.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Bytes are more or fewer than announced.
    #[error("{what} does not match its size: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// The manifest, configuration or layer.
        what: String,
        /// What was announced.
        expected: u64,
        /// What came, or as far as it was read.
        actual: u64,
    },
    /// A limit was reached.
    #[error("{what} exceeds the limit of {limit}")]
    LimitExceeded {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// The disk is full, or would be.
    #[error("no space left for {what}: {reason}")]
    NoSpace {
        /// The image or layer.
        what: String,
        /// The figures, or the kernel's words.
        reason: String,
    },
    /// A file, directory or record of ours.
    #[error("failed to {step}: {reason}")]
    Store {
        /// The step, and on what.
        step: String,
        /// The cause.
        reason: String,
    },
    /// Nobody waited for the pull any more.
    #[error("the pull of {reference} was given up: nobody has waited for it for {seconds} s")]
    Abandoned {
        /// The image.
        reference: String,
        /// For how long.
        seconds: u64,
    },
    /// The task of the pull died: a defect of ours.
    #[error("the pull of {reference} was aborted")]
    Aborted {
        /// The image.
        reference: String,
    },
    /// No host had it; mirrors were asked before the last one.
    #[error("{error} (before that: {mirrors})")]
    AfterMirrors {
        /// What the last host's failure was.
        error: Box<PullError>,
        /// What the mirrors' were.
        mirrors: String,
    },
}

impl PullError {
    /// Returns the error's class.
    pub fn kind(&self) -> PullErrorKind {
        match self {
            Self::InvalidReference(_) | Self::InvalidAuth { .. } => PullErrorKind::InvalidArgument,
            Self::RegistryUnavailable { .. } => PullErrorKind::RegistryUnavailable,
            Self::NotFound { .. } => PullErrorKind::NotFound,
            Self::Unauthorized { .. } => PullErrorKind::Unauthorized,
            Self::Registry { .. } | Self::Blocked { .. } => PullErrorKind::Refused,
            Self::Denied { .. } => PullErrorKind::Denied,
            Self::InvalidImage { .. } | Self::NoPlatform { .. } => PullErrorKind::InvalidImage,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => PullErrorKind::Mismatch,
            Self::LimitExceeded { .. } | Self::NoSpace { .. } => PullErrorKind::Exhausted,
            Self::HostsFile { .. }
            | Self::Store { .. }
            | Self::Abandoned { .. }
            | Self::Aborted { .. } => PullErrorKind::Internal,
            Self::AfterMirrors { error, .. } => error.kind(),
        }
    }

    /// Makes the error of a step on our own files, telling a full disk apart.
    pub(crate) fn store(
        step: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let step = step.into();
        if is_full(error) {
            Self::NoSpace { what: step, reason: chain(error) }
        } else {
            Self::Store { step, reason: chain(error) }
        }
    }
}

/// Tells whether the cause, however deep, is a full disk.
pub(crate) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Writes an error and its causes in one line, what is repeated left out.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = one_line(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = one_line(&cause.to_string());
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The most that is quoted of foreign words in an error: enough for every real
/// message, and few enough for a pod's event.
const MAX_QUOTED_CHARS: usize = 512;

/// Makes foreign text fit for one line of an error: control characters become
/// spaces, and its length is bounded.
pub(crate) fn one_line(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_QUOTED_CHARS).collect();
    if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}
