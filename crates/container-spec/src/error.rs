//! What can be wrong with what is asked for.

use std::{io, path::PathBuf};

use crate::UserError;

/// Why a container's spec cannot be made.
///
/// All variants but [`SpecError::HostDevices`] mean that the request, or the image that it
/// names, cannot be served as it is: an invalid argument.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither the request nor the image names a program.
    #[error("no command specified")]
    NoCommand,
    /// A text with bytes that cannot be passed on, or that would be read as two lines.
    #[error("{what} \"{text}\" has characters that are not allowed")]
    Characters {
        /// Which text.
        what: &'static str,
        /// The text, cut and escaped.
        text: String,
    },
    /// A text that must not be empty.
    #[error("{what} is empty")]
    Empty {
        /// Which text.
        what: &'static str,
    },
    /// More, or longer, than is possible.
    #[error("{what}: {count} is more than {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The value of an environment variable that is not text.
    #[error("environment variable {name} is not UTF-8, which an OCI spec cannot hold")]
    EnvNotText {
        /// The variable.
        name: String,
    },
    /// A path that must begin with a slash.
    #[error("{what} \"{path}\" is not an absolute path")]
    NotAbsolute {
        /// Which path.
        what: &'static str,
        /// The path, cut and escaped.
        path: String,
    },
    /// A mount over the container's root.
    #[error("mount of {host_path} on / of the container is not possible")]
    MountOnRoot {
        /// What was to be mounted.
        host_path: String,
    },
    /// A mount's option that is not known.
    #[error("mount on {container_path} has the unknown option \"{option}\"")]
    MountOption {
        /// Where it was to be mounted.
        container_path: String,
        /// The option, cut and escaped.
        option: String,
    },
    /// A recursive read-only mount that is writable.
    #[error("recursive read-only mount on {container_path} must be read-only too")]
    RecursiveReadOnlyWritable {
        /// Where it was to be mounted.
        container_path: String,
    },
    /// A recursive read-only mount that spreads.
    #[error("recursive read-only mount on {container_path} must have private propagation")]
    RecursiveReadOnlyPropagation {
        /// Where it was to be mounted.
        container_path: String,
    },
    /// Ids of a user namespace that cannot be.
    #[error("the {what} ids of the user namespace are not right: {why}")]
    UserNamespace {
        /// `user` or `group`.
        what: &'static str,
        /// What is wrong with them.
        why: String,
    },
    /// A container with another user namespace than its sandbox.
    #[error("the user namespace of the container is not that of its sandbox")]
    OtherUserNamespace,
    /// A user or group that the pod's user namespace does not have.
    #[error("{what} {id} is not in the user namespace of the pod")]
    NotInUserNamespace {
        /// `user` or `group`.
        what: &'static str,
        /// Its number.
        id: u32,
    },
    /// A mount that spreads out of a user namespace.
    #[error("mount on {container_path} cannot spread to the host from a user namespace")]
    PropagationFromUserNamespace {
        /// Where it was to be mounted.
        container_path: String,
    },
    /// Owners of a mount that cannot be mapped so.
    #[error("mount on {container_path} cannot map owners so: {why}")]
    MountOwners {
        /// Where it was to be mounted.
        container_path: String,
        /// What is wrong.
        why: String,
    },
    /// A capability that is not known.
    #[error("unknown capability \"{name}\"")]
    UnknownCapability {
        /// What the request has, cut and escaped.
        name: String,
    },
    /// A capability that the node's own bounding set lacks.
    #[error("capability {name} is not available on this node")]
    CapabilityUnavailable {
        /// Its name.
        name: String,
    },
    /// A privileged container in a sandbox that is not for one.
    #[error("no privileged container allowed in a sandbox that is not privileged")]
    PrivilegedInUnprivilegedSandbox,
    /// A Localhost seccomp profile that nobody read.
    #[error("seccomp profile \"{name}\" was not found")]
    NoSeccompProfile {
        /// Its name, cut and escaped.
        name: String,
    },
    /// Permissions of a device that are not of `r`, `w` and `m`.
    #[error("permissions \"{permissions}\" of device {host_path} are not of r, w and m")]
    DevicePermissions {
        /// The device.
        host_path: String,
        /// What the request has, cut and escaped.
        permissions: String,
    },
    /// A path with no device on it.
    #[error("{host_path} is not a device and has none below it")]
    NoDevice {
        /// The path.
        host_path: String,
    },
    /// The node's devices could not be listed.
    #[error("failed to look at the devices of {path}")]
    HostDevices {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something of a CDI device that this handler does not do.
    #[error("a CDI device has {what}, which this runtime handler does not support")]
    CdiUnsupported {
        /// What.
        what: &'static str,
    },
    /// A network device for a container that has the node's network.
    #[error("network device \"{name}\" cannot move into a container that has the node's network")]
    NetDeviceOfNode {
        /// What the node calls it.
        name: String,
    },
    /// A resource limit that is none.
    #[error("resource limit \"{text}\" is not NAME=SOFT:HARD of a known name")]
    Rlimit {
        /// What there is, cut and escaped.
        text: String,
    },
    /// A limit that is out of range.
    #[error("{what} {value} is not from {low} to {high}")]
    Range {
        /// Which limit.
        what: &'static str,
        /// What the request has.
        value: i64,
        /// The lowest that is possible.
        low: i64,
        /// The highest that is possible.
        high: i64,
    },
    /// cgroup v2 files on a node with cgroup v1.
    #[error("unified resources need cgroup v2, this node has v1")]
    UnifiedOnV1,
    /// A kernel setting that belongs to no namespace of the sandbox's own.
    #[error("sysctl {name} is not one of a namespace that the sandbox owns")]
    Sysctl {
        /// Its name, cut and escaped.
        name: String,
    },
    /// A name server that is not an address.
    #[error("name server \"{text}\" is not an address")]
    NameServer {
        /// What the request has, cut and escaped.
        text: String,
    },
    /// The user cannot be settled.
    #[error(transparent)]
    User(#[from] UserError),
}

impl SpecError {
    /// Whether the request is at fault, rather than the node.
    pub fn is_invalid_argument(&self) -> bool {
        !matches!(self, Self::HostDevices { .. })
    }
}
