//! What can fail, by step.

/// A step of the network that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No pod can be attached at present.
    #[error("{message}")]
    NotReady {
        /// What is missing.
        message: String,
    },
}
