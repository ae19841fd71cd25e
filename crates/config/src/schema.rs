//! The settings and their defaults.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What outlives a reboot: images, snapshots, records.
    pub root: PathBuf,
    /// What lasts as long as the kernel runs: sockets, namespaces, live state.
    pub state: PathBuf,
    /// The sockets.
    pub server: Server,
    /// The daemon's own log.
    pub log: Log,
    /// The image service.
    pub images: Images,
    /// The pod network.
    pub network: Network,
    /// Control groups.
    pub cgroups: Cgroups,
    /// The process that is each pod's parent.
    pub monitor: Monitor,
    /// Containers.
    pub containers: Containers,
    /// Runtime handlers that run a program, by the name that a RuntimeClass has for them.
    pub handlers: BTreeMap<String, Handler>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/corten".into(),
            state: "/run/corten".into(),
            server: Server::default(),
            log: Log::default(),
            images: Images::default(),
            network: Network::default(),
            cgroups: Cgroups::default(),
            monitor: Monitor::default(),
            containers: Containers::default(),
            handlers: BTreeMap::new(),
        }
    }
}

/// The sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where RuntimeService is served, and ImageService too unless `image_listen` is set.
    pub listen: String,
    /// Where ImageService is served instead, or empty.
    pub image_listen: String,
    /// How long a stopping daemon waits for calls in flight, in seconds.
    pub drain_timeout_s: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "unix:///run/corten/corten.sock".into(),
            image_listen: String::new(),
            drain_timeout_s: 20,
        }
    }
}

/// How a line of the daemon's log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The daemon's own log, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,images=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// The image service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Directories of `<host>/hosts.toml`; the first that has the host is used.
    pub certs_dirs: Vec<PathBuf>,
    /// How many layers are fetched and unpacked at a time.
    pub max_parallel_layers: usize,
    /// Names of images that the kubelet must not collect.
    pub pinned: Vec<String>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            certs_dirs: vec!["/etc/corten/certs.d".into(), "/etc/containerd/certs.d".into()],
            max_parallel_layers: 4,
            pinned: Vec::new(),
        }
    }
}

/// The pod network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Where CNI configurations are.
    pub conf_dir: PathBuf,
    /// Where CNI plugin programs are, in the order they are looked for.
    pub bin_dirs: Vec<PathBuf>,
    /// Where named network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// Whether a bare machine without a CNI configuration gets the built-in network.
    pub builtin: bool,
    /// The bridge of the built-in network; also the name of its nftables table.
    pub bridge: String,
    /// The IPv4 subnet of the built-in network.
    pub subnet: String,
    /// How long one plugin program may take, in seconds.
    pub plugin_timeout_s: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            netns_dir: "/run/netns".into(),
            builtin: true,
            bridge: "corten0".into(),
            subnet: "10.88.0.0/16".into(),
            plugin_timeout_s: 60,
        }
    }
}

/// Who manages control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// This runtime, by the file system.
    #[default]
    Cgroupfs,
    /// systemd, where it is the first process and the machine has cgroup v2.
    Systemd,
}

/// Control groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroups {
    /// Who manages them.
    pub driver: CgroupDriver,
    /// The parent of pods whose configuration names none, and of the monitors: a path, or
    /// with systemd a slice. Empty means `/corten`, or `corten.slice`.
    pub parent: String,
}

impl Cgroups {
    /// The parent, where none is configured the driver's own.
    pub fn parent(&self) -> &str {
        match (self.parent.as_str(), self.driver) {
            ("", CgroupDriver::Cgroupfs) => "/corten",
            ("", CgroupDriver::Systemd) => "corten.slice",
            (configured, _) => configured,
        }
    }
}

/// The process that is each pod's parent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Monitor {
    /// The program, or empty for `corten-monitor` beside the daemon's own program.
    pub program: PathBuf,
}

/// Containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// A longer line is split into parts of this size, in bytes.
    pub max_log_line_bytes: usize,
    /// The size of a pod's `/dev/shm`, in bytes.
    pub shm_size_bytes: u64,
    /// The seccomp profile of a container that asks for none: `unconfined`, `runtime/default`,
    /// or `localhost/` and a file's absolute path.
    pub unset_seccomp_profile: String,
    /// Where vendors describe their devices (Container Device Interface); a later directory
    /// wins.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Limits of every process of a container, in the place of the runtime's own:
    /// `nofile = "1024:524288"`, the soft and the hard one.
    pub rlimits: BTreeMap<String, String>,
}

/// A runtime handler that runs a program with runc's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handler {
    /// The program, absolute.
    pub program: PathBuf,
    /// Options before each of its commands.
    pub options: Vec<String>,
    /// Annotations of pods and containers that it sees; a `*` at the end stands for the rest
    /// of a name.
    pub annotations: Vec<String>,
    /// How long it may take to make and start a container, in seconds; 0 is 30.
    pub timeout_s: u64,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            max_log_line_bytes: 16 << 10,
            shm_size_bytes: 64 << 20,
            unset_seccomp_profile: "unconfined".into(),
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            rlimits: BTreeMap::new(),
        }
    }
}
