//! A container's specification and cgroup: gathers what `container-spec` needs and
//! turns its limits into those of `cgroups`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use cgroups::{CgroupPath, DeviceAccess, DeviceKind, DeviceRule, OomFiles, Resources};
use container_spec::{
    AppArmorInput, BuiltSpec, CgroupVersion, Namespaces, NetDevice, NodeDevices, PidNamespace,
    ResolvedUser, SandboxFiles, SeccompInput, SpecInput, Volume,
};
use monitor_client::{CgroupPlacement, ExecCgroup, ExecId, KillCgroup, OomFile, OomFileKind};
use oci_spec::runtime::{LinuxDeviceType, LinuxResources, LinuxSeccomp, Spec};
use rustix::fs::{Mode, OFlags};
use tracing::warn;
use types::{ContainerConfig, ContainerId, Image, NamespaceMode, PidMode, Profile};

use crate::{
    error::{Error, Result},
    record::ContainerRecord,
    service::{Inner, blocking},
    task::PodTask,
};

/// The specification in a container's bundle.
pub(crate) const SPEC_FILE: &str = "config.json";
/// Its process alone: what execs are made of.
pub(crate) const PROCESS_FILE: &str = "process.json";

/// The parts of a container's cgroup that its monitor needs.
pub(crate) struct Group {
    pub(crate) placement: CgroupPlacement,
    pub(crate) oom_files: Vec<OomFile>,
    pub(crate) kill: KillCgroup,
    /// What keeps it until the container's process is there.
    pub(crate) holder: Option<cgroups::Holder>,
}

/// Makes a container's cgroup with the limits of its specification, unless a program does.
pub(crate) async fn make_cgroup(
    inner: &Arc<Inner>,
    record: &ContainerRecord,
    bundle: &Path,
    for_program: bool,
) -> Result<Group> {
    let (inner, text, file) = (inner.clone(), record.cgroup.clone(), bundle.join(SPEC_FILE));
    blocking(move || {
        let spec = read_spec(&file)?;
        let resources = spec
            .linux()
            .as_ref()
            .and_then(|l| l.resources().as_ref())
            .map(limits)
            .unwrap_or_default();
        let failed = |source| Error::Cgroup { what: format!("create cgroup {text}"), source };
        let path: CgroupPath = text.parse().map_err(failed)?;
        let cgroups = &inner.services.cgroups;
        // A program makes its scope by itself: systemd takes none that is there already.
        let (group, holder) = if for_program && cgroups.driver() == cgroups::Driver::Systemd {
            (cgroups.open(&path), None)
        } else {
            let created = cgroups.create(&path, &resources).map_err(failed)?;
            for skipped in created.skipped {
                warn!(limit = %skipped.limit, "not limited: {}", skipped.reason);
            }
            (created.cgroup, created.holder)
        };
        let oom_files = match group.oom_files() {
            Some(OomFiles::V1 { oom_control, .. }) => {
                vec![OomFile { path: oom_control, kind: OomFileKind::V1OomControl }]
            }
            Some(OomFiles::V2 { events }) => {
                vec![OomFile { path: events, kind: OomFileKind::V2Events }]
            }
            None => Vec::new(),
        };
        Ok(Group {
            holder,
            oom_files,
            kill: KillCgroup {
                kill_file: group.kill_file(),
                procs_file: group.procs_files().pop(),
            },
            placement: placement(&group),
        })
    })
    .await
}

/// How a process gets into a cgroup: into the unified tree's by its clone, into the others by
/// itself.
pub(crate) fn placement(group: &cgroups::Cgroup) -> CgroupPlacement {
    CgroupPlacement { procs_files: group.v1_procs_files(), v2_dir: group.v2_dir() }
}

/// The cgroups of a command in a container: the container's, and in the unified tree one
/// below it of its own, by which all of it can be killed.
pub(crate) fn exec_cgroup(inner: &Inner, container: &str) -> Result<ExecCgroup> {
    let failed = |source| Error::Cgroup { what: format!("find cgroup {container}"), source };
    let group = inner.services.cgroups.open(&container.parse().map_err(failed)?);
    let dir = group.v2_dir().map(|dir| dir.join(format!("exec-{}", ExecId::random().as_str())));
    Ok(ExecCgroup { procs_files: group.v1_procs_files(), dir })
}

fn read_spec(path: &Path) -> Result<Spec> {
    let failed = |source| Error::File { what: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|e| failed(std::io::Error::other(e)))
}

/// The limits of a specification, as `cgroups` takes them.
fn limits(from: &LinuxResources) -> Resources {
    let (memory, cpu) = (from.memory().as_ref(), from.cpu().as_ref());
    Resources {
        memory_limit: memory.and_then(|m| m.limit()),
        memory_swap_limit: memory.and_then(|m| m.swap()),
        memory_reservation: memory.and_then(|m| m.reservation()),
        cpu_shares: cpu.and_then(|c| c.shares()),
        cpu_quota_us: cpu.and_then(|c| c.quota()),
        cpu_period_us: cpu.and_then(|c| c.period()),
        cpuset_cpus: cpu.and_then(|c| c.cpus().clone()),
        cpuset_mems: cpu.and_then(|c| c.mems().clone()),
        pids_limit: from.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit),
        hugepages: from
            .hugepage_limits()
            .iter()
            .flatten()
            .map(|h| cgroups::HugepageLimit {
                page_size: h.page_size().clone(),
                limit_bytes: u64::try_from(h.limit()).unwrap_or(0),
            })
            .collect(),
        unified: from.unified().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        devices: from
            .devices()
            .as_ref()
            .map(|rules| rules.iter().filter_map(device_rule).collect()),
    }
}

fn device_rule(from: &oci_spec::runtime::LinuxDeviceCgroup) -> Option<DeviceRule> {
    let kind = match from.typ() {
        None | Some(LinuxDeviceType::A) => DeviceKind::All,
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
        Some(LinuxDeviceType::P) => return None,
    };
    // In a specification -1 stands for all numbers.
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    Some(DeviceRule {
        allow: from.allow(),
        kind,
        major: number(from.major()),
        minor: number(from.minor()),
        access: from.access().as_deref().map_or(Some(DeviceAccess::ALL), DeviceAccess::parse)?,
    })
}

/// A specification, ready to be written.
pub(crate) struct Built {
    pub(crate) config_json: Vec<u8>,
    pub(crate) process_json: Vec<u8>,
    /// The compiled seccomp filter, where there is one.
    pub(crate) filter: Option<Arc<[u8]>>,
    pub(crate) user: ResolvedUser,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) net_devices: Vec<network::NodeDevice>,
}

/// Builds a container's specification. Nothing is made yet.
pub(crate) async fn build(
    task: &PodTask,
    id: &ContainerId,
    config: &ContainerConfig,
    image: &Arc<Image>,
) -> Result<Built> {
    let (inner, sandbox, files) = (task.inner.clone(), task.record.clone(), task.files.clone());
    let (id, config, image) = (id.clone(), config.clone(), image.clone());
    blocking(move || {
        let failed = |source| Error::Spec { id: id.to_string(), source };
        let user = resolve_user(&inner, &config, &image).map_err(|e| match e {
            UserFailure::View(source) => {
                Error::Snapshot { what: format!("look into image {}", image.id), source }
            }
            UserFailure::User(source) => failed(source.into()),
        })?;
        ensure_mount_sources(&config)?;
        let unset = &inner.options.unset_seccomp;
        let localhost = localhost_profile(&config, unset)?;
        let handler = inner.handler(&sandbox.config)?;
        let seen = sandbox.config.annotations.iter().chain(&config.annotations);
        let annotations = handler.map(|handler| handler.seen(seen)).unwrap_or_default();
        let apparmor = crate::apparmor::ensure(&config)?;
        let asked = &sandbox.config.security.namespaces;
        let own_network = sandbox.netns.is_some();
        let own_ipc = asked.ipc == NamespaceMode::Pod;
        let (ipc, uts, shm) = (files.ipc_ns(), files.uts_ns(), files.shm());
        let user_ns = files.user_ns();
        let (hostname_file, hosts, resolv_conf) =
            (files.hostname(), files.hosts(), files.resolv_conf());
        let (bundle, volumes) = (files.bundle(&id), inner.volumes_dir(&id));
        let cgroups = &inner.services.cgroups;
        let cgroups_path =
            cgroups.for_specification(&cgroups.leaf(&sandbox.cgroup_parent, id.as_str()));
        let mut built = container_spec::build(&SpecInput {
            container_id: &id,
            sandbox_id: &sandbox.id,
            sandbox: &sandbox.config,
            container: &config,
            image: &image.config,
            image_name: image.repo_tags.first().map_or(config.image.image.as_str(), String::as_str),
            user: &user,
            hostname: &crate::run::hostname(&sandbox.config),
            rootfs: &bundle.join("rootfs"),
            volumes_dir: &volumes,
            files: SandboxFiles {
                hostname: own_network.then_some(hostname_file.as_path()),
                hosts: Some(if own_network { hosts.as_path() } else { Path::new("/etc/hosts") }),
                resolv_conf: Some(resolv_conf.as_path()),
                shm: Some(if own_ipc { shm.as_path() } else { Path::new("/dev/shm") }),
            },
            namespaces: Namespaces {
                network: sandbox.netns.as_deref(),
                ipc: own_ipc.then_some(ipc.as_path()),
                uts: own_network.then_some(uts.as_path()),
                user: asked.user.is_some().then_some(user_ns.as_path()),
                pid: match config.security.namespaces.pid {
                    PidMode::Node => PidNamespace::Node,
                    PidMode::Pod | PidMode::Container | PidMode::Target(_) => PidNamespace::New,
                },
            },
            cgroups_path: &cgroups_path,
            cgroup_version: cgroup_version(&inner),
            host_capabilities: host_capabilities(),
            seccomp: SeccompInput { unset, localhost: localhost.as_ref() },
            apparmor: AppArmorInput {
                runtime_default: apparmor.runtime_default,
                unset: &apparmor.unset,
            },
            devices: &NodeDevices,
            cdi: &cdi_edits(&inner, &config)?,
            runs_all_hooks: handler.is_some(),
            rlimits: &inner.options.rlimits,
            annotations: &annotations,
        })
        .map_err(failed)?;
        crate::selinux::drop_inactive_labels(&mut built.spec);
        // Those of the pod alone: what a pod shares with the node keeps its labels.
        let own = [(own_network, &hostname_file), (own_network, &hosts), (own_ipc, &shm)];
        let own = own.iter().filter(|(is_own, _)| *is_own).map(|(_, path)| path.as_path());
        let own: Vec<&Path> = own.chain([resolv_conf.as_path()]).collect();
        crate::relabel::apply(&built.spec, &config.mounts, &own)?;
        written(&inner, &id, built, user)
    })
    .await
}

/// The version of the cgroups that limits are written to.
pub(crate) fn cgroup_version(inner: &Inner) -> CgroupVersion {
    match inner.services.cgroups.mode() {
        cgroups::Mode::Unified => CgroupVersion::V2,
        cgroups::Mode::V1 | cgroups::Mode::Hybrid => CgroupVersion::V1,
    }
}

/// Writes other limits into a specification; its device rules stay.
pub(crate) fn rewrite_resources(
    path: &Path,
    resources: &types::LinuxResources,
    version: CgroupVersion,
) -> Result<()> {
    let mut spec = read_spec(path)?;
    if let Some(linux) = spec.linux_mut() {
        let rules = linux.resources().as_ref().and_then(|old| old.devices().clone());
        let new = container_spec::resources(resources, version, rules.unwrap_or_default());
        linux.set_resources(Some(new.map_err(|e| Error::Invalid(telemetry::chain(&e)))?));
    }
    if let Some(process) = spec.process_mut() {
        process.set_oom_score_adj(i32::try_from(resources.oom_score_adj).ok());
    }
    let failed = |source| Error::File { what: "write", path: path.to_owned(), source };
    replace(path, &serde_json::to_vec(&spec).map_err(|e| failed(e.into()))?)?;
    // Commands are made of the process.
    let process = serde_json::to_vec(spec.process()).map_err(|e| failed(e.into()))?;
    replace(&path.with_file_name(PROCESS_FILE), &process)
}

/// Writes a file anew, whole or not at all.
fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let failed = |source| Error::File { what: "write", path: path.to_owned(), source };
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path)).map_err(failed)
}

/// What the vendors' devices ask for that a container names, in the field and by annotations.
fn cdi_edits(inner: &Inner, config: &ContainerConfig) -> Result<Vec<cdi::Edits>> {
    let wrong = |error: cdi::CdiError| Error::Invalid(telemetry::chain(&error));
    let mut names = Vec::new();
    for name in &config.cdi_devices {
        names.push(name.parse().map_err(wrong)?);
    }
    names.extend(cdi::from_annotations(&config.annotations).map_err(wrong)?);
    cdi::resolve(&inner.options.cdi_spec_dirs, &names).map_err(wrong)
}

fn written(inner: &Inner, id: &ContainerId, built: BuiltSpec, user: ResolvedUser) -> Result<Built> {
    let BuiltSpec { spec, volumes, net_devices } = built;
    let device = |d: NetDevice| network::NodeDevice { host_name: d.host_name, name: d.name };
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(|profile| inner.filters.get(profile)).transpose()?;
    let encode = |source: serde_json::Error| Error::File {
        what: "encode the specification of",
        path: id.as_str().into(),
        source: source.into(),
    };
    Ok(Built {
        config_json: serde_json::to_vec(&spec).map_err(encode)?,
        process_json: serde_json::to_vec(spec.process()).map_err(encode)?,
        filter,
        user,
        volumes,
        net_devices: net_devices.into_iter().map(device).collect(),
    })
}

enum UserFailure {
    View(snapshots::SnapshotError),
    User(container_spec::UserError),
}

/// Reads the image's own user files; a file that is no regular one, or too long, is an error.
fn resolve_user(
    inner: &Inner,
    config: &ContainerConfig,
    image: &Image,
) -> std::result::Result<ResolvedUser, UserFailure> {
    let paths = ["etc/passwd", "etc/group"].map(Path::new);
    let limit = container_spec::MAX_USER_FILE_BYTES;
    let files = inner.services.snapshots.view_files(&image.layers, paths, limit);
    let [passwd, group] = files.map_err(UserFailure::View)?;
    let request = container_spec::UserRequest::from(&config.security);
    container_spec::resolve_user(&request, &image.config.user, passwd.as_deref(), group.as_deref())
        .map_err(UserFailure::User)
}

/// A source that is missing is made as a directory, as the kubelet's users know it from
/// other runtimes.
fn ensure_mount_sources(config: &ContainerConfig) -> Result<()> {
    for mount in config.mounts.iter().filter(|m| m.image.is_none()) {
        let source = PathBuf::from(&mount.host_path);
        if !source.is_absolute() {
            return Err(Error::Invalid(format!(
                "mount on {}: the source \"{}\" is not absolute",
                mount.container_path, mount.host_path
            )));
        }
        match std::fs::metadata(&source) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                crate::files::make_public_dir(&source)?
            }
            Err(e) => {
                return Err(Error::File {
                    what: "look at the mount's source",
                    path: source,
                    source: e,
                });
            }
        }
    }
    Ok(())
}

/// The seccomp profile of a file of the node, where one is asked for.
fn localhost_profile(config: &ContainerConfig, unset: &Profile) -> Result<Option<LinuxSeccomp>> {
    let profile = config.security.seccomp.as_ref().unwrap_or(unset);
    let Profile::Localhost(name) = profile else { return Ok(None) };
    if config.security.privileged {
        return Ok(None); // it has no filter whatever it asks for
    }
    let path = PathBuf::from(name.strip_prefix("localhost/").unwrap_or(name));
    if !path.is_absolute() {
        return Err(Error::Invalid(format!(
            "the seccomp profile \"{name}\" is not an absolute path"
        )));
    }
    let text = read_profile(&path)?;
    let granted = container_spec::bounding_set(&config.security, host_capabilities())
        .map_err(|e| Error::Invalid(telemetry::chain(&e)))?;
    let granted: BTreeSet<&str> = granted.iter().map(String::as_str).collect();
    let host = seccomp::Host {
        machine: seccomp::Machine::native()
            .ok_or_else(|| Error::Invalid("seccomp is not supported on this machine".to_owned()))?,
        kernel: sys::kernel::version().unwrap_or((5, 10)),
        capabilities: &granted,
    };
    seccomp::read_profile(&text, &host).map(Some).map_err(|e| {
        Error::Invalid(format!("the seccomp profile {}: {}", path.display(), telemetry::chain(&e)))
    })
}

/// Reads a regular file of limited length: a FIFO must not hold the pod up.
fn read_profile(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let failed =
        |source| Error::File { what: "read the seccomp profile", path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let file = std::fs::File::from(file);
    let regular = file.metadata().map_err(failed)?.is_file();
    let wrong = |why| Error::Invalid(format!("the seccomp profile {} is {why}", path.display()));
    if !regular {
        return Err(wrong("not a regular file"));
    }
    let limit = u64::try_from(seccomp::MAX_PROFILE_BYTES).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut text).map_err(failed)?;
    if text.len() > seccomp::MAX_PROFILE_BYTES {
        return Err(wrong("too long"));
    }
    Ok(text)
}

/// The bounding set of this process: what a privileged container can have at most.
fn host_capabilities() -> &'static BTreeSet<String> {
    static FOUND: OnceLock<BTreeSet<String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};
        CapabilitySet::all()
            .iter_names()
            .filter(|(_, capability)| capability_is_in_bounding_set(*capability).unwrap_or(false))
            .map(|(name, _)| format!("CAP_{name}"))
            .collect()
    })
}

/// Whether mounts can be made read-only with all that is below them: tried once, on a
/// detached copy of the root mount (`mount_setattr(2)`, Linux 5.12).
pub fn supports_recursive_read_only() -> bool {
    static TRIED: OnceLock<bool> = OnceLock::new();
    *TRIED.get_or_init(|| {
        use rustix::mount::{OpenTreeFlags, open_tree};
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let read_only = sys::mount::MountAttr {
            set: sys::mount::ATTR_RDONLY,
            ..sys::mount::MountAttr::default()
        };
        open_tree(rustix::fs::CWD, "/", flags)
            .is_ok_and(|tree| sys::mount::set_attributes(tree, read_only, true).is_ok())
    })
}
