//! The pod network: CNI by the specification, the common chain of plugins also in this
//! process, and a default network where no CNI configuration exists.
//!
//! ```text
//!  configuration list ──► every plugin and key known? ──yes──► native: netlink, nftables
//!  (a file, or the                     │no, or switched off
//!   default network's)                 └──► cni: the plugin programs
//! ```
//!
//! Owns what a pod has on the network: interfaces, addresses, routes, rules, and the
//! record of each that is owed back. A sandbox's record is there before the first step
//! and goes after the last undo, so that whatever dies in between is settled by
//! [`Network::detach`] or [`Network::recover`].
//!
//! What must never happen: a thread of the daemon left in a pod's namespace; a plugin
//! that delays another pod; an address or rule that outlives its pod's record.
//!
//! The core (`pods`) calls it: `recover` at start, `attach` once a sandbox's namespace is
//! pinned, `detach` before the pin goes or after.
#![forbid(unsafe_code)]

mod cni;
mod devices;
mod error;
mod figures;
mod files;
mod namespace;
mod native;
mod netlink;
mod network;
mod options;
mod ready;
mod records;
mod request;
mod subnet;
mod usage;

pub use cni::PluginFailure;
pub use devices::NodeDevice;
pub use error::NetworkError;
pub use figures::NetworkFigures;
pub use network::Network;
pub use options::{
    BuiltinOptions, DEFAULT_ADD_DEADLINE, DEFAULT_DEL_DEADLINE, DEFAULT_STATUS_GRACE,
    DEFAULT_SUBNET, NetworkOptions,
};
pub use request::{AttachRequest, Attachment, DetachRequest, NetworkStatus, RecoverReport};
pub use subnet::{InvalidSubnet, Subnet};
pub use usage::{InterfaceUsage, NamespaceUsage, interface_usage};

/// The pod's interface, as Kubernetes expects it.
pub const INTERFACE: &str = "eth0";
