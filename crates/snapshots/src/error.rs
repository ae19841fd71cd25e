//! What can go wrong in the store.

use std::{io, path::PathBuf};

use types::{ContainerId, DiffId};

/// A step of the snapshot store that failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A directory or file of the store.
    #[error("failed to {action} {path} of the snapshot store")]
    Store {
        /// The step.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A record of the store could not be read, written or removed.
    #[error(transparent)]
    Record(state::StoreError),
    /// A layer could not be written, synced or sealed.
    #[error("failed to {action} layer {layer}")]
    Layer {
        /// The step.
        action: &'static str,
        /// The layer.
        layer: DiffId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A layer is not there.
    #[error("layer {0} is not in the snapshot store")]
    MissingLayer(DiffId),
    /// More layers than overlayfs stacks.
    #[error("{count} layers are more than the {max} that one mount can have")]
    TooManyLayers {
        /// How many were asked for.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The container's snapshot is there, on other layers.
    #[error("container {0} has a snapshot on other layers")]
    Exists(ContainerId),
    /// The container has none.
    #[error("container {0} has no snapshot")]
    MissingActive(ContainerId),
    /// A container's snapshot could not be made, walked or removed.
    #[error("failed to {action} the snapshot of container {container}")]
    Active {
        /// The step.
        action: &'static str,
        /// The container.
        container: ContainerId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The view of an image could not be mounted or read.
    #[error("failed to {action} in the image's root")]
    View {
        /// The step.
        action: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Not a regular file.
    #[error("{path} of the image is not a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Too long.
    #[error("{path} of the image is longer than {max} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
}
