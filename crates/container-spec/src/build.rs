//! The spec as a whole.

use std::collections::HashMap;

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Process, Root, Spec, User,
};
use types::Profile;

use crate::{
    BuiltSpec, CgroupVersion, PidNamespace, SpecError, SpecInput,
    capabilities::Granted,
    cdi_edits,
    devices::{Devices, devices},
    mounts::{Mounts, id_mappings, mounts},
    process::{Command, command},
    resources::resources,
    rlimits::rlimits,
    selinux::{Labels, labels},
    text::{check_count, check_line, check_no_nul, shown},
};

/// The version of the runtime specification that is written. All that is used of later
/// ones is optional, and older programs read this.
const VERSION: &str = "1.1.0";

/// What is hidden from a container whose request does not say: views of the node's memory,
/// keys, timers and hardware (the kubelet's list).
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What such a container cannot write.
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How many masked or read-only paths a request may give.
pub const MAX_PATHS: usize = 4096;

/// Makes a container's spec.
///
/// # Errors
///
/// The request, or the image that it names, cannot be served as it is; or the node's
/// devices cannot be listed.
pub fn build(input: &SpecInput<'_>) -> Result<BuiltSpec, SpecError> {
    if input.container.security.privileged && !input.sandbox.security.privileged {
        return Err(SpecError::PrivilegedInUnprivilegedSandbox);
    }
    check_line("name of the container", &input.container.metadata.name)?;
    check_user_namespace(input)?;
    let granted = Granted::of(&input.container.security, input.host_capabilities)?;
    let Mounts { mounts, volumes, root_propagation } = mounts(input)?;
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned());
    spec.set_root(Some(root(input)));
    spec.set_mounts(Some(mounts));
    spec.set_process(Some(process(input, &granted)?));
    // The UTS namespace is the sandbox's, and has its name.
    spec.set_hostname(None);
    spec.set_annotations(Some(annotations(input)));
    spec.set_linux(Some(linux(input, &granted, root_propagation)?));
    label(&mut spec, input)?;
    cdi_edits::apply(&mut spec, input)?;
    let net_devices = cdi_edits::net_devices(input)?;
    Ok(BuiltSpec { spec, volumes, net_devices })
}

/// All containers of a pod are in its user namespace, and who they run as must be in it too.
fn check_user_namespace(input: &SpecInput<'_>) -> Result<(), SpecError> {
    let asked = &input.sandbox.security.namespaces.user;
    if input.container.security.namespaces.user != *asked {
        return Err(SpecError::OtherUserNamespace);
    }
    let Some(namespace) = asked else { return Ok(()) };
    let user = input.user;
    if namespace.host_uid(user.uid).is_none() {
        return Err(SpecError::NotInUserNamespace { what: "user", id: user.uid });
    }
    let mut gids = [&user.gid].into_iter().chain(&user.additional_gids);
    match gids.find(|gid| namespace.host_gid(**gid).is_none()) {
        Some(gid) => Err(SpecError::NotInUserNamespace { what: "group", id: *gid }),
        None => Ok(()),
    }
}

fn root(input: &SpecInput<'_>) -> Root {
    let mut root = Root::default();
    root.set_path(input.rootfs.to_owned());
    root.set_readonly(Some(input.container.security.readonly_rootfs));
    root
}

fn process(input: &SpecInput<'_>, granted: &Granted) -> Result<Process, SpecError> {
    let Command { args, env, cwd } = command(input)?;
    let security = &input.container.security;
    let mut process = Process::default();
    process.set_terminal(Some(input.container.tty));
    process.set_console_size(None);
    process.set_user(user(input));
    process.set_args(Some(args));
    process.set_env(Some(env));
    process.set_cwd(cwd.into());
    process.set_capabilities(Some(granted.to_spec()));
    process.set_rlimits(Some(rlimits(input)?));
    process.set_no_new_privileges(Some(security.no_new_privs));
    process.set_apparmor_profile(apparmor(input)?);
    // In range: the limits are checked when they are brought into the spec.
    process.set_oom_score_adj(i32::try_from(input.container.resources.oom_score_adj).ok());
    Ok(process)
}

fn user(input: &SpecInput<'_>) -> User {
    let mut user = User::default();
    user.set_uid(input.user.uid);
    user.set_gid(input.user.gid);
    user.set_additional_gids(Some(input.user.additional_gids.clone()));
    user
}

/// The name of the AppArmor profile, or `None` for none. A privileged container has the
/// runtime's profile as little as its other bounds; one that is named is kept.
fn apparmor(input: &SpecInput<'_>) -> Result<Option<String>, SpecError> {
    let security = &input.container.security;
    match security.apparmor.as_ref().unwrap_or(input.apparmor.unset) {
        Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault if security.privileged => Ok(None),
        Profile::RuntimeDefault => Ok(input.apparmor.runtime_default.map(str::to_owned)),
        Profile::Localhost(name) if name.is_empty() => {
            Err(SpecError::Empty { what: "name of the AppArmor profile" })
        }
        Profile::Localhost(name) => {
            check_line("name of the AppArmor profile", name)?;
            Ok(Some(name.clone()))
        }
    }
}

/// The container's SELinux labels, or the pod's where it has none of its own.
fn label(spec: &mut Spec, input: &SpecInput<'_>) -> Result<(), SpecError> {
    let own = labels(input.container.security.selinux.as_ref())?;
    let pods = labels(input.sandbox.security.selinux.as_ref())?;
    let Some(Labels { process, mount }) = own.or(pods) else { return Ok(()) };
    if let Some(ours) = spec.process_mut() {
        ours.set_selinux_label(Some(process));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_mount_label(Some(mount));
    }
    Ok(())
}

fn linux(
    input: &SpecInput<'_>,
    granted: &Granted,
    root_propagation: Option<&str>,
) -> Result<Linux, SpecError> {
    let Devices { nodes, rules } = devices(input)?;
    let resources = resources(&input.container.resources, input.cgroup_version, rules)?;
    check_line("path of the cgroup", input.cgroups_path)?;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(input)));
    linux.set_resources(Some(resources));
    linux.set_cgroups_path(Some(input.cgroups_path.into()));
    linux.set_devices((!nodes.is_empty()).then_some(nodes));
    linux.set_seccomp(seccomp(input, granted)?);
    linux.set_rootfs_propagation(root_propagation.map(str::to_owned));
    linux.set_masked_paths(Some(paths(
        input,
        &input.container.security.masked_paths,
        &MASKED_PATHS,
    )?));
    linux.set_readonly_paths(Some(paths(
        input,
        &input.container.security.readonly_paths,
        &READONLY_PATHS,
    )?));
    if let Some(user) = &input.sandbox.security.namespaces.user {
        linux.set_uid_mappings(Some(id_mappings(&user.uids)));
        linux.set_gid_mappings(Some(id_mappings(&user.gids)));
    }
    Ok(linux)
}

/// The namespaces. On cgroup v2 a container sees its own cgroup as the root, unless it is
/// privileged and looks after its node's.
fn namespaces(input: &SpecInput<'_>) -> Vec<LinuxNamespace> {
    let namespace = |typ, path: Option<&std::path::Path>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace.set_path(path.map(Into::into));
        namespace
    };
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)];
    for (typ, path) in [
        (LinuxNamespaceType::Network, input.namespaces.network),
        (LinuxNamespaceType::Ipc, input.namespaces.ipc),
        (LinuxNamespaceType::Uts, input.namespaces.uts),
        (LinuxNamespaceType::User, input.namespaces.user),
    ] {
        all.extend(path.map(|path| namespace(typ, Some(path))));
    }
    match input.namespaces.pid {
        PidNamespace::New => all.push(namespace(LinuxNamespaceType::Pid, None)),
        PidNamespace::Join(path) => all.push(namespace(LinuxNamespaceType::Pid, Some(path))),
        PidNamespace::Node => {}
    }
    if input.cgroup_version == CgroupVersion::V2 && !input.container.security.privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    all
}

/// The filter: none for a privileged container; else what is asked for, or what stands for
/// nothing. A profile that was asked for and is not there is an error, never no filter.
fn seccomp(input: &SpecInput<'_>, granted: &Granted) -> Result<Option<LinuxSeccomp>, SpecError> {
    let security = &input.container.security;
    if security.privileged {
        return Ok(None);
    }
    match security.seccomp.as_ref().unwrap_or(input.seccomp.unset) {
        Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault => Ok(Some(seccomp::runtime_default(&granted.names()))),
        Profile::Localhost(name) => {
            let profile = input.seccomp.localhost.filter(|_| !name.is_empty()).cloned();
            profile.map(Some).ok_or_else(|| SpecError::NoSeccompProfile { name: shown(name) })
        }
    }
}

/// Masked or read-only paths: those given, or the defaults where none are. In a user
/// namespace, where the kernel guards these paths, no paths given means none: it is how a
/// client asks for an unmasked `/proc`. A privileged container has none.
fn paths(
    input: &SpecInput<'_>,
    given: &[String],
    defaults: &[&str],
) -> Result<Vec<String>, SpecError> {
    let what = "masked or read-only path";
    check_count("masked or read-only paths", given.len(), MAX_PATHS)?;
    for path in given {
        check_no_nul(what, path)?;
        if !path.starts_with('/') {
            return Err(SpecError::NotAbsolute { what, path: shown(path) });
        }
    }
    if input.container.security.privileged {
        return Ok(Vec::new());
    }
    if given.is_empty() && input.sandbox.security.namespaces.user.is_none() {
        return Ok(defaults.iter().map(|path| (*path).to_owned()).collect());
    }
    Ok(given.to_vec())
}

/// What tools that look at specs know a container by. Ours are set last: nothing given may
/// replace them.
fn annotations(input: &SpecInput<'_>) -> HashMap<String, String> {
    let pod = &input.sandbox.metadata;
    let own = [
        ("container-type", "container"),
        ("sandbox-id", input.sandbox_id.as_str()),
        ("container-name", &input.container.metadata.name),
        ("sandbox-name", &pod.name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
        ("image-name", input.image_name),
    ];
    let own = own.map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()));
    let mut all: HashMap<String, String> =
        input.annotations.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    all.extend(own);
    all
}
