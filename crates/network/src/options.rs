//! Where the network finds its configuration and programs, and what the built-in
//! network looks like.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Ipv4Subnet, NetworkError};

/// The longest name of an interface (`IFNAMSIZ` without its NUL).
const MAX_INTERFACE_NAME: usize = 15;
/// The longest name of a table or network: far below the kernel's and file systems' limits.
const MAX_NAME: usize = 100;

/// How long one ADD or CHECK of a whole chain may take: below the kubelet's default
/// deadline of two minutes, so that the user sees our error rather than the client's.
pub const DEFAULT_ADD_DEADLINE: Duration = Duration::from_secs(90);
/// How long one DEL of a whole chain may take.
pub const DEFAULT_DEL_DEADLINE: Duration = Duration::from_secs(60);
/// The subnet of the built-in network.
pub const DEFAULT_SUBNET: Ipv4Subnet = match Ipv4Subnet::new(Ipv4Addr::new(10, 88, 0, 0), 16) {
    Some(subnet) => subnet,
    None => panic!("the default subnet is a subnet"),
};

/// Settings of a [`Network`](crate::Network).
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Where CNI configurations lie.
    pub conf_dir: PathBuf,
    /// Where plugin programs are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where what is attached is written down: `results/` in libcni's format, `owed/` in ours.
    pub cache_dir: PathBuf,
    /// Where the built-in network keeps its leases, in host-local's format.
    pub ipam_dir: PathBuf,
    /// The network that serves where no CNI configuration exists, or `None` for none:
    /// the node is then not ready until there is a configuration.
    pub builtin: Option<BuiltinOptions>,
    /// How long one ADD or CHECK of a whole chain may take.
    pub add_deadline: Duration,
    /// How long one DEL of a whole chain may take.
    pub del_deadline: Duration,
}

/// Settings of the built-in network. Two daemons on one host need different ones.
#[derive(Debug, Clone)]
pub struct BuiltinOptions {
    /// The network's name, a folder under `ipam_dir`.
    pub name: String,
    /// The bridge on the host.
    pub bridge: String,
    /// The nftables table (family `ip`) that holds all rules.
    pub table: String,
    /// The pods' addresses; the first one is the bridge's.
    pub subnet: Ipv4Subnet,
}

impl NetworkOptions {
    /// Returns the defaults, with all state under the daemon's `--root`.
    pub fn under(root: &Path) -> Self {
        Self {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            cache_dir: root.join("cni"),
            ipam_dir: root.join("cni/networks"),
            builtin: Some(BuiltinOptions::default()),
            add_deadline: DEFAULT_ADD_DEADLINE,
            del_deadline: DEFAULT_DEL_DEADLINE,
        }
    }

    /// Refuses names that the kernel or a file system would not take.
    pub(crate) fn validate(&self) -> Result<(), NetworkError> {
        let Some(builtin) = &self.builtin else { return Ok(()) };
        let names = [
            ("network name", &builtin.name, MAX_NAME),
            ("bridge", &builtin.bridge, MAX_INTERFACE_NAME),
            ("table", &builtin.table, MAX_NAME),
        ];
        for (option, name, limit) in names {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if name.is_empty() || name.len() > limit || !name.bytes().all(good) {
                let problem = format!(
                    "{name:?} is not a name of at most {limit} letters, digits, '_' and '-'"
                );
                return Err(NetworkError::InvalidOption { option, problem });
            }
        }
        Ok(())
    }
}

impl Default for BuiltinOptions {
    fn default() -> Self {
        Self {
            name: "corten".to_owned(),
            bridge: "corten0".to_owned(),
            table: "corten".to_owned(),
            subnet: DEFAULT_SUBNET,
        }
    }
}
