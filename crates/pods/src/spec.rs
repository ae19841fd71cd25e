//! A container's specification and cgroup: gathers what `container-spec` needs and
//! turns its limits into those of `cgroups`.

use std::{path::Path, sync::Arc};

use cgroups::{CgroupPath, DeviceAccess, DeviceKind, DeviceRule, OomFiles, Resources};
use container_spec::ResolvedUser;
use monitor_client::{CgroupPlacement, ExecCgroup, ExecId, KillCgroup, OomFile, OomFileKind};
use oci_spec::runtime::{LinuxDeviceType, LinuxResources, Spec};
use tracing::warn;

use crate::{
    error::{Error, Result},
    record::ContainerRecord,
    service::{Inner, blocking},
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
}

/// Makes a container's cgroup with the limits of its specification.
pub(crate) async fn make_cgroup(inner: &Arc<Inner>, record: &ContainerRecord, bundle: &Path) -> Result<Group> {
    let (inner, text, file) = (inner.clone(), record.cgroup.clone(), bundle.join(SPEC_FILE));
    blocking(move || {
        let spec = read_spec(&file)?;
        let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref()).map(limits).unwrap_or_default();
        let failed = |source| Error::Cgroup { what: format!("create cgroup {text}"), source };
        let path: CgroupPath = text.parse().map_err(failed)?;
        let created = inner.services.cgroups.create(&path, &resources).map_err(failed)?;
        for skipped in created.skipped {
            warn!(limit = %skipped.limit, "not limited: {}", skipped.reason);
        }
        let group = created.cgroup;
        let oom_files = match group.oom_files() {
            Some(OomFiles::V1 { oom_control, .. }) => {
                vec![OomFile { path: oom_control, kind: OomFileKind::V1OomControl }]
            }
            Some(OomFiles::V2 { events }) => vec![OomFile { path: events, kind: OomFileKind::V2Events }],
            None => Vec::new(),
        };
        Ok(Group {
            oom_files,
            kill: KillCgroup { kill_file: group.kill_file(), procs_file: group.procs_files().pop() },
            placement: CgroupPlacement { procs_files: group.procs_files(), v2_dir: None },
        })
    })
    .await
}

/// The cgroups of a command in a container: the container's, and in the unified tree one
/// below it of its own, by which all of it can be killed.
pub(crate) fn exec_cgroup(inner: &Inner, container: &str) -> Result<ExecCgroup> {
    let failed = |source| Error::Cgroup { what: format!("find cgroup {container}"), source };
    let group = inner.services.cgroups.open(&container.parse().map_err(failed)?);
    let dir = group.v2_dir().map(|dir| dir.join(format!("exec-{}", ExecId::random().as_str())));
    let procs_files = if dir.is_some() { group.v1_procs_files() } else { group.procs_files() };
    Ok(ExecCgroup { procs_files, dir })
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
        devices: from.devices().as_ref().map(|rules| rules.iter().filter_map(device_rule).collect()),
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

/// Whether AppArmor profiles have any effect here.
pub(crate) fn apparmor_is_active() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'))
}

/// A specification, ready to be written.
pub(crate) struct Built {
    pub(crate) config_json: Vec<u8>,
    pub(crate) process_json: Vec<u8>,
    pub(crate) user: ResolvedUser,
}

/// Whether mounts can be made read-only with all that is below them: tried once, on a
/// detached copy of the root mount (`mount_setattr(2)`, Linux 5.12).
pub fn supports_recursive_read_only() -> bool {
    static TRIED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TRIED.get_or_init(|| {
        use rustix::mount::{OpenTreeFlags, open_tree};
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let read_only = sys::mount::MountAttr { set: sys::mount::ATTR_RDONLY, ..sys::mount::MountAttr::default() };
        open_tree(rustix::fs::CWD, "/", flags)
            .is_ok_and(|tree| sys::mount::set_attributes(tree, read_only, true).is_ok())
    })
}
