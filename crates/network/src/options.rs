//! Where the network finds its configuration and programs, and what the built-in
//! network looks like.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use types::IpPreference;

use crate::{NetworkError, Subnet, native::conflist};

/// The longest name of an interface (`IFNAMSIZ` without its NUL).
pub(crate) const MAX_INTERFACE_NAME: usize = 15;
/// The longest name of a table or network: far below the kernel's and file systems' limits.
const MAX_NAME: usize = 100;

/// How long one ADD or CHECK of a whole chain may take: below the kubelet's default
/// deadline of two minutes, so that the user sees our error rather than the client's.
pub const DEFAULT_ADD_DEADLINE: Duration = Duration::from_secs(90);
/// How long one DEL of a whole chain may take.
pub const DEFAULT_DEL_DEADLINE: Duration = Duration::from_secs(60);
/// How long STATUS may fail before the node is told to be not ready.
pub const DEFAULT_STATUS_GRACE: Duration = Duration::from_secs(10);
/// The subnet of the built-in network.
pub const DEFAULT_SUBNET: Subnet = match Subnet::new(IpAddr::V4(Ipv4Addr::new(10, 88, 0, 0)), 16) {
    Some(subnet) => subnet,
    None => panic!("the default subnet is a subnet"),
};

/// Settings of a [`Network`](crate::Network).
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Where CNI configurations lie.
    pub conf_dir: PathBuf,
    /// Where those of pods of certain runtime handlers lie instead.
    pub handler_conf_dirs: BTreeMap<String, PathBuf>,
    /// The network that is selected by its name, or empty for the first by the files' names.
    pub network: String,
    /// Where plugin programs are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where what is attached is written down: `results/` in libcni's format, `owed/` in ours.
    pub cache_dir: PathBuf,
    /// Where the built-in network keeps its leases, in host-local's format.
    pub ipam_dir: PathBuf,
    /// The network that serves where no CNI configuration exists, or `None` for none:
    /// the node is then not ready until there is a configuration.
    pub builtin: Option<BuiltinOptions>,
    /// Whether chains whose plugins are all known are run in this process.
    pub in_process: bool,
    /// The nftables tables (families `ip` and `ip6`) that hold all rules of such chains.
    pub table: String,
    /// Which of a pod's addresses is its IP.
    pub ip_preference: IpPreference,
    /// How long STATUS may fail before the node is told to be not ready.
    pub status_grace: Duration,
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
    /// The pods' addresses, one of each; the first one is the bridge's.
    pub subnets: Vec<Subnet>,
}

impl NetworkOptions {
    /// Returns the defaults, with all state under the daemon's `--root`.
    pub fn under(root: &Path) -> Self {
        Self {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            handler_conf_dirs: BTreeMap::new(),
            network: String::new(),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            cache_dir: root.join("cni"),
            ipam_dir: root.join("cni/networks"),
            builtin: Some(BuiltinOptions::default()),
            in_process: true,
            table: "corten".to_owned(),
            ip_preference: IpPreference::default(),
            status_grace: DEFAULT_STATUS_GRACE,
            add_deadline: DEFAULT_ADD_DEADLINE,
            del_deadline: DEFAULT_DEL_DEADLINE,
        }
    }

    /// Returns the default network's configuration list, where there is a default network.
    pub fn default_conflist(&self) -> Option<serde_json::Value> {
        let builtin = self.builtin.as_ref()?;
        Some(conflist(builtin, &builtin.subnets, &self.ipam_dir))
    }

    /// Refuses names that the kernel or a file system would not take.
    ///
    /// # Errors
    ///
    /// Which option cannot be used, and why.
    pub fn validate(&self) -> Result<(), NetworkError> {
        check_name("table", &self.table, MAX_NAME)?;
        let Some(builtin) = &self.builtin else { return Ok(()) };
        check_name("network name", &builtin.name, MAX_NAME)?;
        check_name("bridge", &builtin.bridge, MAX_INTERFACE_NAME)?;
        check_subnets("subnet", &builtin.subnets)
    }
}

/// Refuses what is not one subnet, or one of each family.
pub(crate) fn check_subnets(option: &'static str, subnets: &[Subnet]) -> Result<(), NetworkError> {
    let problem = match subnets {
        [_] => return Ok(()),
        [one, two] if one.is_ipv6() != two.is_ipv6() => return Ok(()),
        [] => "none is given".to_owned(),
        [_, _] => "both are of one family".to_owned(),
        _ => "there are more than two".to_owned(),
    };
    Err(NetworkError::InvalidOption { option, problem })
}

/// Reports whether the kernel and `/proc/sys` take a name of an interface.
pub(crate) fn is_interface_name(name: &str) -> bool {
    check_name("interface", name, MAX_INTERFACE_NAME).is_ok()
}

fn check_name(option: &'static str, name: &str, limit: usize) -> Result<(), NetworkError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.len() <= limit && name.bytes().all(good) {
        return Ok(());
    }
    let problem = format!("{name:?} is not a name of at most {limit} letters, digits, '_' and '-'");
    Err(NetworkError::InvalidOption { option, problem })
}

impl Default for BuiltinOptions {
    fn default() -> Self {
        Self {
            name: "corten".to_owned(),
            bridge: "corten0".to_owned(),
            subnets: vec![DEFAULT_SUBNET],
        }
    }
}
