//! The child that becomes a container's first process, from its release to execve.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;
use sys::clone::ChildToken;
use sys::namespace::NewNamespaces;

use crate::channel::Voice;
use crate::devices::Bound;
use crate::mounts::Sources;
use crate::namespaces::{self, Plan};
use crate::process::Preparation;
use crate::rootfs::Manner;
use crate::step::{Done, During};
use crate::user::{self, User};
use crate::{
    ChildFailure, ContainerLaunch, Stdio, Step, command, console, devices, hooks, limits, mounts,
    paths, pivot, process, procfs, rootfs, spec, stdio, sysctl,
};

/// Sets the container up and executes its command; comes back only with a failure.
pub(crate) fn run(launch: &ContainerLaunch<'_>, token: &ChildToken, voice: &Voice) -> ChildFailure {
    match set_up(launch, token, voice) {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

fn set_up(launch: &ContainerLaunch<'_>, token: &ChildToken, voice: &Voice) -> Done<Infallible> {
    process::isolate()?;
    let proc = procfs::processes()?;
    let nulls = stdio::take(&launch.stdio, token, &[voice.as_fd(), proc.as_fd()])?;
    let spec = spec::load(&launch.bundle)?;
    let process = spec::process_of(&spec)?;
    let user = User::of(&spec)?;
    stdio::give_to_user(&launch.stdio, process, user.as_ref().map(|user| &user.mappings))?;
    process::start_session(launch_name(launch).as_str())?;
    limits::set_oom_score(process.oom_score_adj(), voice)?;

    // Before the bundle is out of reach.
    let filter = process::Filter::of(&spec, &launch.bundle)?;
    let view = mounts::HostView::take(&spec)?;
    let plan = Plan::of(&spec)?;
    hooks::check_user(&spec, user.is_some())?;
    let node = hooks::Node::keep(&spec)?;
    let Inside { root, mut sources, devices, parameters } = match &user {
        None => enter(launch, &spec, &plan)?,
        Some(user) => enter_user(launch, &spec, &plan, user)?,
    };
    let dev = mounts::mount_all(&spec, &root, &launch.bundle, &view, &mut sources)?;
    sources.notices().iter().for_each(|text| voice.notice(text));
    match devices {
        _ if !dev.is_ours() => {}
        None => devices::make(&spec, &root)?,
        Some(devices) => devices.bind(&root)?,
    }
    let cwd = pivot::ensure_cwd(&root, process.cwd())?;
    drop(cwd);
    paths::make_readonly(&spec, &root)?;
    paths::mask(&spec, &root)?;
    sysctl::set_of_container(&spec, &plan, parameters.as_ref())?;
    stdio::use_containers_null(nulls, &root, &proc)?;
    hooks::run(&spec, node, &launch_name(launch), &launch.bundle)?;
    pivot::enter(&root)?;
    // Not before: the kernel moves no root that is shared.
    rootfs::finish(&spec, &root)?;

    if matches!(launch.stdio, Stdio::Terminal) {
        let terminal = console::open(&root, process)?;
        if dev.is_ours() {
            console::bind_dev_console(&root, &terminal)?;
        }
        console::hand_over(terminal, voice)?;
    }
    let command = command::Command::of(process, &root)?;
    process::execute(Preparation { process, filter, command, proc: &proc, root: &root }, voice)
}

/// What the child has when it is in the container's namespaces.
struct Inside {
    /// The root, mounted.
    root: OwnedFd,
    sources: Sources,
    /// Devices that could not be made in the container.
    devices: Option<Bound>,
    /// What kernel parameters are written by, where the spec has any.
    parameters: Option<OwnedFd>,
}

fn enter(launch: &ContainerLaunch<'_>, spec: &Spec, plan: &Plan) -> Done<Inside> {
    namespaces::enter(plan)?;
    let sources = Sources::open_shared(spec, &launch.bundle)?;
    namespaces::detach_mounts()?;
    namespaces::set_names(spec, plan)?;
    let root = rootfs::mount(&launch.rootfs, &launch.rootfs_target, Manner::of(spec))?;
    Ok(Inside { root, sources, devices: None, parameters: sysctl::open_for(spec)? })
}

/// The same for a user namespace. All that needs the host's root is made first, in a mount
/// namespace for that alone; the container's own belongs to its user namespace.
fn enter_user(launch: &ContainerLaunch<'_>, spec: &Spec, plan: &Plan, user: &User) -> Done<Inside> {
    let target = &launch.rootfs_target;
    namespaces::join(plan)?;
    namespaces::make(NewNamespaces { mount: true, ..NewNamespaces::default() })?;
    namespaces::detach_mounts()?;
    let parameters = sysctl::open_for(spec)?;
    let sources = Sources::open_privileged(spec, &launch.bundle, plan, user)?;
    let devices = devices::make_elsewhere(spec, user, target)?;
    let root = rootfs::make_mapped(&launch.rootfs, target, user, Manner::of(spec))?;
    limits::raise_hard(spec::process_of(spec)?);
    // The new mount namespace's copy of it becomes the working directory there.
    rustix::process::chdir(target).during_on(Step::Rootfs, "failed to enter", target)?;
    user::enter(user.as_fd())?;
    namespaces::make(plan.new)?;
    rootfs::attach_here(&root)?;
    namespaces::set_names(spec, plan)?;
    Ok(Inside { root, sources, devices: Some(devices), parameters })
}

/// The name of the container's session keyring: of its bundle, which is of the container.
fn launch_name(launch: &ContainerLaunch<'_>) -> String {
    launch.bundle.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// A failure for something that the spec asks for and this handler does not do.
pub(crate) fn unsupported(what: &str) -> ChildFailure {
    ChildFailure::new(Step::Spec, format!("{what} is not supported by the native handler"))
}

/// Refuses what would otherwise be ignored.
pub(crate) fn check_supported(spec: &Spec) -> Done {
    hooks::check(spec)?;
    let linux = spec.linux().as_ref();
    let asked = |is: bool, what: &'static str| if is { Err(unsupported(what)) } else { Ok(()) };
    let Some(linux) = linux else { return Ok(()) };
    asked(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    asked(linux.personality().is_some(), "linux.personality")?;
    asked(linux.memory_policy().is_some(), "linux.memoryPolicy")?;
    asked(linux.time_offsets().as_ref().is_some_and(|t| !t.is_empty()), "linux.timeOffsets")?;
    asked(linux.net_devices().as_ref().is_some_and(|n| !n.is_empty()), "linux.netDevices")
}
