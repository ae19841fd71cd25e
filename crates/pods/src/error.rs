//! Why an operation on a pod failed. Each variant tells the API layer which code it is.

use std::{io, path::PathBuf, time::Duration};

/// Why an operation on a pod failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No sandbox has this id.
    #[error("no sandbox has the id \"{0}\"")]
    NoSandbox(String),
    /// No container has this id.
    #[error("no container has the id \"{0}\"")]
    NoContainer(String),
    /// Several ids start so.
    #[error("the id \"{0}\" is short for several: give more of it")]
    Ambiguous(String),
    /// The image is not there.
    #[error("the image \"{0}\" is not here: pull it first")]
    NoImage(String),
    /// The policy for images does not let this one be used.
    #[error("SignatureValidationFailed: {0}")]
    ImageDenied(String),
    /// The request contradicts itself, or asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A recursively read-only mount that cannot be.
    #[error("RROUnsupported: {0}")]
    RecursiveReadOnly(String),
    /// An image that is to be mounted in a container cannot be. The kubelet looks for the first
    /// word.
    #[error("ImageVolumeMountFailed: mount on {target}: {why}")]
    ImageVolume {
        /// Where in the container.
        target: String,
        /// The cause.
        why: String,
    },
    /// No handler has this name.
    #[error("no runtime handler is named \"{0}\"")]
    NoHandler(String),
    /// Another object has the name.
    #[error("{0}")]
    NameTaken(String),
    /// The object is in a state in which this cannot be done.
    #[error("{0}")]
    WrongState(String),
    /// Someone who listens to events did not take them in time.
    #[error("{0} events were not taken in time, later ones are lost: list anew, then listen again")]
    Overrun(usize),
    /// Too many listen to events.
    #[error("{0} clients listen to events already")]
    TooManyListeners(usize),
    /// A step did not end in its time.
    #[error("{what} did not end within {} s", .within.as_secs())]
    Timeout {
        /// The step, and on what.
        what: String,
        /// Its time.
        within: Duration,
    },
    /// A command that ran for longer than its client allowed was killed.
    #[error("command \"{command}\" timed out after {} s and was killed", .within.as_secs())]
    ExecTimeout {
        /// The command's first words.
        command: String,
        /// Its time.
        within: Duration,
    },
    /// The container's process could not be started.
    #[error("failed to start container {id}: {message}")]
    Start {
        /// The container.
        id: String,
        /// The step and the cause.
        message: String,
    },
    /// The network could not be set up or taken back.
    #[error("failed to {what} the network of sandbox {id}")]
    Network {
        /// `set up` or `tear down`.
        what: &'static str,
        /// The sandbox.
        id: String,
        /// The cause.
        #[source]
        source: Box<network::NetworkError>,
    },
    /// The namespaces could not be made.
    #[error("failed to make the namespaces of sandbox {id}")]
    Namespaces {
        /// The sandbox.
        id: String,
        /// The cause.
        #[source]
        source: Box<launch::LaunchError>,
    },
    /// A container's network devices could not be had.
    #[error("failed to give container {id} its network devices")]
    NetDevices {
        /// The container.
        id: String,
        /// The cause.
        #[source]
        source: Box<network::NetworkError>,
    },
    /// A port of a sandbox could not be connected to.
    #[error("failed to connect to port {port} of sandbox {sandbox}")]
    Port {
        /// The port.
        port: u16,
        /// The sandbox.
        sandbox: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The monitor failed, or refused.
    #[error("failed to {what}")]
    Monitor {
        /// The step, and on what.
        what: String,
        /// The cause.
        #[source]
        source: Box<monitor_client::MonitorError>,
    },
    /// The container's specification could not be built.
    #[error("failed to build the specification of container {id}")]
    Spec {
        /// The container.
        id: String,
        /// The cause.
        #[source]
        source: container_spec::SpecError,
    },
    /// Its cgroup could not be made or removed.
    #[error("failed to {what}")]
    Cgroup {
        /// The step, and on what.
        what: String,
        /// The cause.
        #[source]
        source: cgroups::CgroupError,
    },
    /// Its root file system could not be made or removed.
    #[error("failed to {what}")]
    Snapshot {
        /// The step, and on what.
        what: String,
        /// The cause.
        #[source]
        source: snapshots::SnapshotError,
    },
    /// A record could not be written or removed.
    #[error("failed to record {what}")]
    Record {
        /// What.
        what: String,
        /// The cause.
        #[source]
        source: state::StoreError,
    },
    /// A file, directory or mount of the pod could not be made or removed.
    #[error("failed to {what} {path}")]
    File {
        /// The step.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The same operation ran already and failed; its error is told again.
    #[error(transparent)]
    Joined(std::sync::Arc<Error>),
    /// The daemon stops.
    #[error("the daemon is stopping: ask again")]
    Stopping,
}

/// The result of an operation on a pod.
pub type Result<T> = std::result::Result<T, Error>;
