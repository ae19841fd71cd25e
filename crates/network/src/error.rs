//! What can fail, by step.

use std::{io, net::IpAddr, path::PathBuf};

use types::SandboxId;

use crate::{Subnet, cni::PluginFailure};

/// A step of the network that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An option cannot be used.
    #[error("network option {option} cannot be used: {problem}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A request holds what cannot be passed on.
    #[error("network of sandbox {sandbox_id} cannot be asked for: {problem}")]
    InvalidRequest {
        /// The sandbox.
        sandbox_id: SandboxId,
        /// What is wrong with it.
        problem: String,
    },
    /// No pod can be attached at present.
    #[error("network is not ready: {message}")]
    NotReady {
        /// What is missing.
        message: String,
    },
    /// A record or directory of ours cannot be written, read or removed.
    #[error("failed to {action} {path}")]
    State {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record of ours is damaged.
    #[error("network record {path} is damaged")]
    DamagedRecord {
        /// The record.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// A device of the node did not get into a pod's network.
    #[error("failed to move network device {name} into {netns}")]
    Device {
        /// What the node calls it.
        name: String,
        /// The pod's namespace.
        netns: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A sandbox has no network.
    #[error("sandbox {sandbox_id} has no network")]
    NotAttached {
        /// The sandbox.
        sandbox_id: SandboxId,
    },
    /// A network namespace cannot be opened or entered.
    #[error("failed to enter network namespace {netns}")]
    Namespace {
        /// Where it is pinned.
        netns: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `lo` cannot be set up.
    #[error("failed to set the loopback interface of {netns} up")]
    Loopback {
        /// Where the namespace is pinned.
        netns: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A CNI plugin failed.
    #[error("CNI plugin \"{plugin}\" of network \"{network}\" failed ({command})")]
    Plugin {
        /// The plugin's type.
        plugin: String,
        /// The network's name.
        network: String,
        /// `ADD`, `DEL`, `CHECK`, `STATUS` or `GC`.
        command: &'static str,
        /// How.
        #[source]
        source: PluginFailure,
    },
    /// The plugins were content but gave no address.
    #[error("network \"{network}\" gave sandbox {sandbox_id} no address on eth0")]
    NoAddress {
        /// The network's name.
        network: String,
        /// The sandbox.
        sandbox_id: SandboxId,
    },
    /// A lease cannot be taken or given back.
    #[error("failed to {action} address in {path}")]
    Lease {
        /// What was tried.
        action: &'static str,
        /// The directory or lease.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// All addresses are taken.
    #[error("no address is free in subnet {subnet}: remove pods or configure a wider subnet")]
    NoFreeAddress {
        /// The subnet.
        subnet: Subnet,
    },
    /// An address that was asked for is not to be had.
    #[error("address {address} cannot be given by {dir}: {why}")]
    AddressRefused {
        /// The address.
        address: IpAddr,
        /// The directory of leases.
        dir: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A bridge has another address than the configuration wants.
    #[error("bridge {bridge} has address {present} already, which is not {wanted}")]
    BridgeAddress {
        /// The bridge.
        bridge: String,
        /// What it has.
        present: Subnet,
        /// What it shall have.
        wanted: Subnet,
    },
    /// CHECK found a difference.
    #[error("network of sandbox {sandbox_id} is not as it was made: {problem}")]
    Changed {
        /// The sandbox.
        sandbox_id: SandboxId,
        /// What is missing.
        problem: String,
    },
    /// Another interface of the host uses the built-in network's addresses.
    #[error(
        "subnet {subnet} of the built-in network overlaps with {address} of interface \
         {interface}: configure another subnet"
    )]
    SubnetInUse {
        /// The built-in network's subnet.
        subnet: Subnet,
        /// The other address.
        address: Subnet,
        /// The other interface.
        interface: String,
    },
    /// The bridge's name is taken by something that is not ours.
    #[error("interface {bridge} belongs to {owner}: configure another bridge name")]
    ForeignBridge {
        /// The bridge's name.
        bridge: String,
        /// Whose it is.
        owner: String,
    },
    /// A link, address or route cannot be made or removed.
    #[error("failed to {action} interface {interface}")]
    Interface {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        interface: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel's bridges keep no VLANs apart.
    #[error("bridge {bridge} can have no VLANs with this kernel (CONFIG_BRIDGE_VLAN_FILTERING)")]
    NoVlans {
        /// The bridge.
        bridge: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A kernel setting cannot be read or written.
    #[error("failed to write {value} to {path}")]
    Sysctl {
        /// The setting.
        path: PathBuf,
        /// Its wanted value.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The packet filter refuses a change.
    #[error("failed to {action} in nftables table {table}")]
    Rules {
        /// What was tried.
        action: &'static str,
        /// The table.
        table: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A host port is taken by another pod.
    #[error("host port {port} is taken by sandbox {holder}")]
    HostPortInUse {
        /// The port with its protocol.
        port: String,
        /// Who has it.
        holder: SandboxId,
    },
    /// A worker thread could not be started or died.
    #[error("network worker of {task} was lost")]
    Worker {
        /// What it did.
        task: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
