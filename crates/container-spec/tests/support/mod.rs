//! A container to start from, and a node that is not there.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use container_spec::{
    AppArmorInput, BuiltSpec, CgroupVersion, DeviceNode, HostDevices, Namespaces, PidNamespace,
    ResolvedUser, SandboxFiles, SeccompInput, SpecError, SpecInput, build,
};
use oci_spec::runtime::LinuxSeccomp;
use types::{
    ContainerConfig, ContainerId, ContainerMetadata, ContainerSecurity, ImageConfig, ImageSpec,
    LinuxResources, Profile, SandboxConfig, SandboxId, SandboxMetadata, SandboxSecurity,
};

/// What a test changes before it builds.
pub struct Setup {
    pub sandbox: SandboxConfig,
    pub container: ContainerConfig,
    pub image: ImageConfig,
    pub user: ResolvedUser,
    pub host_capabilities: BTreeSet<String>,
    pub unset_seccomp: Profile,
    pub localhost: Option<LinuxSeccomp>,
    pub unset_apparmor: Profile,
    pub apparmor_default: Option<&'static str>,
    pub cgroup_version: CgroupVersion,
    pub pid: PidNamespace<'static>,
    pub node_network: bool,
    pub shm: Option<&'static Path>,
    pub annotations: BTreeMap<String, String>,
    pub cdi: Vec<cdi::Edits>,
    pub runs_all_hooks: bool,
}

pub const ALL_CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

impl Setup {
    pub fn new() -> Self {
        Self {
            sandbox: sandbox(),
            container: container(),
            image: ImageConfig { cmd: vec!["/bin/sh".to_owned()], ..ImageConfig::default() },
            user: ResolvedUser {
                uid: 1000,
                gid: 1001,
                additional_gids: vec![1001, 29],
                home: "/home/app".to_owned(),
                username: "app".to_owned(),
            },
            host_capabilities: ALL_CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect(),
            unset_seccomp: Profile::Unconfined,
            localhost: None,
            unset_apparmor: Profile::RuntimeDefault,
            apparmor_default: None,
            cgroup_version: CgroupVersion::V1,
            pid: PidNamespace::New,
            node_network: false,
            shm: Some(Path::new("/run/corten/s/shm")),
            annotations: BTreeMap::new(),
            cdi: Vec::new(),
            runs_all_hooks: false,
        }
    }

    pub fn build(&self) -> Result<BuiltSpec, SpecError> {
        let pinned = |name: &'static str| Some(Path::new(name));
        build(&SpecInput {
            container_id: &"c".repeat(64).parse::<ContainerId>().unwrap(),
            sandbox_id: &"5".repeat(64).parse::<SandboxId>().unwrap(),
            sandbox: &self.sandbox,
            container: &self.container,
            image: &self.image,
            image_name: "docker.io/library/app:1",
            user: &self.user,
            hostname: "web-0",
            rootfs: Path::new("rootfs"),
            volumes_dir: Path::new("/var/lib/corten/v"),
            files: SandboxFiles {
                hostname: pinned("/run/corten/s/hostname"),
                hosts: pinned("/run/corten/s/hosts"),
                resolv_conf: pinned("/run/corten/s/resolv.conf"),
                shm: self.shm,
            },
            namespaces: Namespaces {
                network: pinned("/run/netns/n").filter(|_| !self.node_network),
                ipc: pinned("/run/corten/s/ipc"),
                uts: pinned("/run/corten/s/uts"),
                user: self
                    .sandbox
                    .security
                    .namespaces
                    .user
                    .as_ref()
                    .map(|_| Path::new("/run/corten/s/user")),
                pid: self.pid,
            },
            cgroups_path: "/kubepods/pod1/c",
            cgroup_version: self.cgroup_version,
            host_capabilities: &self.host_capabilities,
            seccomp: SeccompInput {
                unset: &self.unset_seccomp,
                localhost: self.localhost.as_ref(),
            },
            apparmor: AppArmorInput {
                unset: &self.unset_apparmor,
                runtime_default: self.apparmor_default,
            },
            devices: &FakeNode,
            cdi: &self.cdi,
            runs_all_hooks: self.runs_all_hooks,
            rlimits: &container_spec::default_rlimits(),
            annotations: &self.annotations,
        })
    }

    /// The spec as it is written.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self.build().unwrap().spec).unwrap()
    }
}

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "web".to_owned(),
            uid: "uid-1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        },
        hostname: "web-0".to_owned(),
        log_directory: String::new(),
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::from([("org.systemd.property.X".to_owned(), "'y'".to_owned())]),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::from([("net.ipv4.ip_forward".to_owned(), "1".to_owned())]),
        overhead: None,
        resources: None,
        security: SandboxSecurity::default(),
        runtime_handler: String::new(),
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "app".to_owned(), attempt: 0 },
        image: ImageSpec::default(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::from([("run.oci.handler".to_owned(), "x".to_owned())]),
        log_path: String::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
        cdi_devices: Vec::new(),
        stop_signal: None,
        resources: LinuxResources::default(),
        security: ContainerSecurity::default(),
    }
}

/// A node with `/dev/fuse`, `/dev/sda` and a directory of two nodes.
struct FakeNode;

impl FakeNode {
    fn node(path: &str, block: bool, major: u32, minor: u32) -> DeviceNode {
        DeviceNode { path: PathBuf::from(path), block, major, minor, mode: 0o660, uid: 0, gid: 6 }
    }
}

impl HostDevices for FakeNode {
    fn at(&self, path: &Path) -> io::Result<Vec<DeviceNode>> {
        let below: Vec<_> =
            self.all()?.into_iter().filter(|node| node.path.starts_with(path)).collect();
        match path.to_str() {
            Some("/etc") => Ok(Vec::new()),
            Some("/dev/broken") => Err(io::Error::from_raw_os_error(5)),
            _ if below.is_empty() => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(below),
        }
    }

    fn all(&self) -> io::Result<Vec<DeviceNode>> {
        Ok(vec![
            Self::node("/dev/fuse", false, 10, 229),
            Self::node("/dev/sda", true, 8, 0),
            Self::node("/dev/snd/a", false, 116, 1),
            Self::node("/dev/snd/by/b", false, 116, 2),
        ])
    }
}
