//! The settings and their defaults.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use types::IpPreference;

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
    /// Exec, attach and port-forward.
    pub streaming: Streaming,
    /// The endpoint for Prometheus.
    pub metrics: Metrics,
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
            streaming: Streaming::default(),
            metrics: Metrics::default(),
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
    /// Where cAdvisor's calls of containerd are answered too, if nobody else listens there; with
    /// it every sandbox gets a process, by which cAdvisor counts its network. Empty for neither.
    pub containerd_socket: String,
    /// How long a stopping daemon waits for calls in flight, in seconds.
    pub drain_timeout_s: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "unix:///run/corten/corten.sock".into(),
            image_listen: String::new(),
            containerd_socket: "/run/containerd/containerd.sock".into(),
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
    /// Mirrors, blocked and insecure registries, short names, in the form of
    /// containers-registries.conf(5); drop-ins are read from `<file>.d`. Missing is fine.
    pub registries_conf: PathBuf,
    /// Which images may be used, in the form of containers-policy.json(5). Missing
    /// means all.
    pub policy: PathBuf,
    /// How many layers of one pull are fetched and unpacked at a time.
    pub max_parallel_layers: usize,
    /// How many downloads run at a time, of all pulls.
    pub max_parallel_downloads: usize,
    /// How many of them run at a time from one registry.
    pub max_parallel_per_registry: usize,
    /// From how many bytes on a layer is fetched in ranges, several at a time.
    pub range_min_bytes: u64,
    /// From how many bytes on an interrupted layer is kept, to go on from there after a
    /// restart too.
    pub resume_min_bytes: u64,
    /// How long a registry may take to accept a connection, in seconds.
    pub dial_timeout_s: u64,
    /// The same for a mirror, after which there is somebody else to ask.
    pub mirror_dial_timeout_s: u64,
    /// How long nothing may come from a registry, in seconds.
    pub progress_timeout_s: u64,
    /// How long a pull goes on that nobody waits for, in seconds.
    pub abandoned_pull_timeout_s: u64,
    /// Whether compressed layers are kept beside the unpacked ones.
    pub keep_blobs: bool,
    /// Content stores of others whose blobs are taken before a registry is asked:
    /// directories with `blobs/sha256`, such as containerd's.
    pub content_dirs: Vec<PathBuf>,
    /// Disk space that is kept for the day when there is none, in bytes.
    pub reserve_bytes: u64,
    /// Names of images that the kubelet must not collect; `*` stands for anything.
    pub pinned: Vec<String>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            certs_dirs: vec!["/etc/corten/certs.d".into(), "/etc/containerd/certs.d".into()],
            registries_conf: "/etc/containers/registries.conf".into(),
            policy: "/etc/containers/policy.json".into(),
            max_parallel_layers: 4,
            max_parallel_downloads: 16,
            max_parallel_per_registry: 8,
            range_min_bytes: 32 << 20,
            resume_min_bytes: 64 << 20,
            dial_timeout_s: 30,
            mirror_dial_timeout_s: 2,
            progress_timeout_s: 60,
            abandoned_pull_timeout_s: 600,
            keep_blobs: false,
            content_dirs: Vec::new(),
            reserve_bytes: 16 << 20,
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
    /// The bridge of the built-in network; also the name of the nftables tables of all
    /// chains that run in this process.
    pub bridge: String,
    /// The IPv4 subnet of the built-in network, or empty for none.
    pub subnet: String,
    /// The IPv6 subnet of the built-in network, or empty for none.
    pub subnet6: String,
    /// How long all plugin programs of a pod's network may take together, in seconds.
    pub plugin_timeout_s: u64,
    /// The name of the network in `conf_dir` that pods get, or empty for the first.
    pub network: String,
    /// Where the configurations of pods of a runtime handler are instead, by its name.
    pub handler_conf_dirs: BTreeMap<String, PathBuf>,
    /// Whether chains whose plugins and keys are all known run in this process, without
    /// plugin programs.
    pub in_process: bool,
    /// Which of a pod's addresses is its IP.
    pub ip_preference: IpPreference,
    /// How long plugins may fail STATUS before the node is not ready, in seconds.
    pub status_grace_s: u64,
    /// How often what no pod has is looked for (GC), in seconds; 0 for at start only.
    pub gc_interval_s: u64,
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
            subnet6: String::new(),
            plugin_timeout_s: 60,
            network: String::new(),
            handler_conf_dirs: BTreeMap::new(),
            in_process: true,
            ip_preference: IpPreference::Ipv4,
            status_grace_s: 10,
            gc_interval_s: 3600,
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

/// What becomes of a command whose client, or the daemon, is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrphanedExecs {
    /// It is killed with all that it started.
    #[default]
    Kill,
    /// Its streams end, and it does what it does then.
    Leave,
}

/// The server of exec, attach and port-forward, to which the kubelet is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// Where it listens; port 0 is any. Another address than a loopback needs a certificate.
    pub listen: SocketAddr,
    /// The host that clients are told, where it is not the one in `listen`.
    pub advertise: String,
    /// The certificate, in PEM; read again when the file changes. Empty for plain HTTP.
    pub cert_file: PathBuf,
    /// The certificate's key.
    pub key_file: PathBuf,
    /// The roots of the certificates that clients must have, or empty.
    pub client_ca_file: PathBuf,
    /// How long a session may be without a movement, in seconds; 0 is for ever.
    pub idle_timeout_s: u64,
    /// How long a session may be in all, in seconds; 0 is for ever.
    pub session_timeout_s: u64,
    /// The most sessions at a time.
    pub max_sessions: usize,
    /// How long a stopping daemon, which has let its successor in, stays for its sessions, in
    /// seconds.
    pub drain_timeout_s: u64,
    /// What becomes of a command whose client, or the daemon, is gone.
    pub orphaned_execs: OrphanedExecs,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: String::new(),
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            client_ca_file: PathBuf::new(),
            idle_timeout_s: 4 * 3600,
            session_timeout_s: 0,
            max_sessions: 4096,
            drain_timeout_s: 10,
            orphaned_execs: OrphanedExecs::Kill,
        }
    }
}

/// Where Prometheus reads the daemon's figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where it listens: an IP and a port, of which 0 is any, `unix:///path`, or empty for
    /// nowhere.
    pub listen: String,
    /// The certificate, in PEM; read again when the file changes. Empty for plain HTTP.
    pub cert_file: PathBuf,
    /// The certificate's key.
    pub key_file: PathBuf,
    /// The roots of the certificates that clients must have, or empty.
    pub client_ca_file: PathBuf,
}

/// An address of [`Metrics`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A port.
    Tcp(SocketAddr),
    /// A socket, as `unix:///path`.
    Unix(String),
}

impl Metrics {
    /// Where it listens, if anywhere.
    ///
    /// # Errors
    /// Says what the address should be.
    pub fn address(&self) -> Result<Option<MetricsAddress>, String> {
        match self.listen.as_str() {
            "" => Ok(None),
            unix if unix.starts_with("unix://") => {
                let path = unix.trim_start_matches("unix://");
                if !path.starts_with('/') {
                    return Err(format!("the path of {unix:?} must be absolute"));
                }
                Ok(Some(MetricsAddress::Unix(unix.to_owned())))
            }
            tcp => match tcp.parse() {
                Ok(address) => Ok(Some(MetricsAddress::Tcp(address))),
                Err(_) => Err(format!(
                    "{tcp:?} is neither an IP and a port such as \"127.0.0.1:9090\" nor \
                     unix:///path, nor empty for none"
                )),
            },
        }
    }
}

/// Containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// A longer line is split into parts of this size, in bytes.
    pub max_log_line_bytes: usize,
    /// The size at which the monitor puts a log aside by itself, in bytes; 0 leaves that to the
    /// kubelet.
    pub max_log_bytes: u64,
    /// The most files of a log then, the one that is written among them.
    pub max_log_files: u32,
    /// The size of a pod's `/dev/shm`, in bytes.
    pub shm_size_bytes: u64,
    /// The seccomp profile of a container that asks for none: `unconfined`, `runtime/default`,
    /// or `localhost/` and a file's absolute path.
    pub unset_seccomp_profile: String,
    /// Whether SELinux options are passed over where SELinux is not active, as other runtimes do;
    /// otherwise they are refused there.
    pub ignore_inactive_selinux: bool,
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
            max_log_bytes: 0,
            max_log_files: 5,
            shm_size_bytes: 64 << 20,
            unset_seccomp_profile: "unconfined".into(),
            ignore_inactive_selinux: false,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            rlimits: BTreeMap::new(),
        }
    }
}
