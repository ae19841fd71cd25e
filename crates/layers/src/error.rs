//! What can go wrong with a layer.

use std::io;

use rustix::io::Errno;

/// A layer that was not unpacked, or a tree that was not walked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream failed: the download, the decompression, or a cancelled caller.
    #[error("failed to read the layer's stream")]
    Read(#[source] io::Error),
    /// The stream ends in the middle of an entry.
    #[error("the layer's tar stream ends early, in {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The stream is no tar stream, or one that programs read differently.
    #[error("bad tar entry {entry}: {reason}")]
    Malformed {
        /// The entry's number, from 1.
        entry: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An entry has a name or a target that no layer may have.
    #[error("tar entry {entry}, \"{path}\": {reason}")]
    Entry {
        /// The entry's number, from 1.
        entry: u64,
        /// Its name, cut and escaped for logs.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A limit was reached.
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// Entries, bytes, …
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The kernel refused a step.
    #[error("failed to {action} \"{path}\" of the layer")]
    Apply {
        /// The step.
        action: &'static str,
        /// The entry's name, cut and escaped for logs.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The class of an [`UnpackError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackErrorKind {
    /// The stream's source failed; trying again may help.
    Source,
    /// The layer is bad; trying again does not help.
    Invalid,
    /// The layer is too large for the limits, or the disk is full.
    Exhausted,
    /// The machine failed.
    Machine,
}

impl UnpackError {
    /// Returns the error's class.
    pub fn kind(&self) -> UnpackErrorKind {
        match self {
            Self::Read(_) => UnpackErrorKind::Source,
            Self::Truncated { .. } | Self::Malformed { .. } | Self::Entry { .. } => {
                UnpackErrorKind::Invalid
            }
            Self::Limit { .. } => UnpackErrorKind::Exhausted,
            Self::Apply { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => UnpackErrorKind::Exhausted,
                // Names and links are the layer's own.
                Some(Errno::LOOP | Errno::NAMETOOLONG) => UnpackErrorKind::Invalid,
                _ => UnpackErrorKind::Machine,
            },
        }
    }
}
