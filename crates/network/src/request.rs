//! What is asked of the network and what it answers.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use types::{DnsConfig, PortMapping, Protocol, SandboxId};

/// A pod that shall have a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// The pinned network namespace.
    pub netns: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Ports of the node that lead into the pod; those with host port 0 are left out.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's resolver settings, handed to plugins that ask for them.
    pub dns: Option<DnsConfig>,
    /// The pod's annotations, handed to plugins that ask for them.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup parent, handed to plugins that ask for it.
    pub cgroup_parent: String,
    /// The pod's host name.
    pub hostname: String,
    /// The pod's runtime handler, which may have configurations of its own.
    pub handler: String,
}

/// A pod whose network shall be taken away. What was attached, and how, is known from
/// the records: only the id is decisive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachRequest {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// The pinned network namespace, or `None` where it is gone.
    pub netns: Option<PathBuf>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's addresses, the first one being the pod's IP.
    pub ips: Vec<IpAddr>,
    /// The name of the network: the conflist's, or the built-in network's.
    pub network: String,
    /// Whether the built-in network served.
    pub builtin: bool,
    /// The CNI result: interfaces, addresses, routes, DNS.
    pub result: serde_json::Value,
}

/// Whether pods can be attached, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Whether pods can be attached.
    pub ready: bool,
    /// `NetworkPluginNotReady`, or empty where ready.
    pub reason: String,
    /// What is wrong in one line, or empty where ready.
    pub message: String,
    /// What is configured, for verbose answers.
    pub config: serde_json::Value,
}

/// What [`Network::recover`](crate::Network::recover) did.
#[derive(Debug, Default)]
pub struct RecoverReport {
    /// Sandboxes whose network was taken away.
    pub detached: Vec<SandboxId>,
    /// Sandboxes whose network is still owed back, and why.
    pub owed: Vec<(SandboxId, crate::NetworkError)>,
}

/// Returns the name of a protocol that plugins and messages use.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
