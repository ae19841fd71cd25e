//! From what is asked of a container to its OCI runtime spec.
//!
//! Pure: values in, values out. What must be known of the node (its devices, its
//! capabilities, a profile's text) comes in with [`SpecInput`]; what must be done on it
//! (directories of volumes) goes out with [`BuiltSpec`].
//!
//! What must never happen: a field of an image that steers the runtime beyond what the
//! image specification says; a text that becomes two lines of a file; a number that
//! becomes another user.
#![forbid(unsafe_code)]

mod build;
mod capabilities;
mod cdi_edits;
mod devices;
mod error;
pub mod files;
mod input;
mod mounts;
mod process;
mod resources;
mod rlimits;
mod sandbox;
mod selinux;
mod text;
mod user;

pub use build::{MAX_PATHS, build};
pub use capabilities::{MAX_CAPABILITY_NAMES, bounding_set};
pub use devices::{DeviceNode, HostDevices, MAX_DEVICES, NodeDevices};
pub use error::SpecError;
pub use input::{
    AppArmorInput, BuiltSpec, CgroupVersion, Namespaces, NetDevice, PidNamespace, SandboxFiles,
    SeccompInput, SpecInput, Volume,
};
pub use mounts::MAX_MOUNTS;
pub use process::{MAX_PROCESS_BYTES, exec_process, stop_signal};
pub use resources::{MAX_RESOURCE_BYTES, MAX_RESOURCE_ENTRIES, resources, validate_resources};
pub use rlimits::{RLIMITS_ANNOTATION, default_rlimits, parse_rlimits};
pub use sandbox::{MAX_NAME_BYTES, MAX_SYSCTL_BYTES, MAX_SYSCTLS, sysctls, validate_sandbox};
pub use user::{
    MAX_GROUPS, MAX_USER_FILE_BYTES, ResolvedUser, UserError, UserRequest, image_user_for_status,
    resolve_user,
};
