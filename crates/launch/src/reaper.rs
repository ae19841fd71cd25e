//! The first process of a pod's PID namespace.
//!
//! It exists because the namespace lives no longer than its first process, and does nothing but
//! wait for SIGKILL: the kernel reaps its children, adopted orphans included, because it ignores
//! SIGCHLD. Containers of the pod see it, so it has nothing that is worth having: no file, no
//! descriptor, no privilege, an empty root of its own, and a filter that lets it wait and exit.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder,
};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use sys::clone::ChildToken;
use sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr};
use sys::namespace::NewNamespaces;

use crate::channel::{self, Voice, Word};
use crate::sandbox::open_namespace;
use crate::spawn::{self, ChildPid};
use crate::step::{Done, During};
use crate::{
    ChildFailure, LaunchError, PidNamespace, Placement, Step, filesystem, namespaces, pivot,
    process,
};

/// The first process of a pod's PID namespace, to be started.
#[derive(Debug, Default)]
pub struct ReaperLaunch<'a> {
    /// Namespaces (network, IPC, UTS) that it joins.
    pub namespaces: Vec<BorrowedFd<'a>>,
    /// The cgroups to be in.
    pub cgroup: Placement<'a>,
}

/// A running reaper.
#[derive(Debug)]
pub struct Reaper {
    /// The process, as the caller's PID namespace numbers it.
    pub pid: Pid,
    /// Its handle; the caller reaps it.
    pub pidfd: OwnedFd,
    /// The PID namespace that lives as long as it, for [`crate::PidNamespace::Join`].
    pub pidns: OwnedFd,
}

/// The user and group that the reaper runs as: nobody's, by convention.
const NOBODY: u32 = 65534;

/// Starts the process that is PID 1 of a pod's PID namespace and reaps its orphans for ever.
///
/// The caller must have one thread. Waits until the reaper is set up, which takes a millisecond.
///
/// # Errors
/// Where it fails no process is left.
pub fn start_reaper(launch: &ReaperLaunch<'_>) -> Result<Reaper, LaunchError> {
    let pid = ChildPid::Given(PidNamespace::New);
    let spawned =
        spawn::spawn(&pid, &launch.cgroup, |token, voice| match set_up(launch, token, voice) {
            Err(failure) => failure,
            Ok(()) => serve(token, voice),
        })?;
    let pidns = channel::wait_until_ready(&spawned.socket)
        .and_then(|()| open_namespace(spawned.pid, "pid"));
    match pidns {
        Ok(pidns) => Ok(Reaper { pid: spawned.pid, pidfd: spawned.pidfd, pidns }),
        Err(error) => {
            spawn::kill_and_reap(&spawned.pidfd);
            Err(error)
        }
    }
}

fn set_up(launch: &ReaperLaunch<'_>, token: &ChildToken, voice: &Voice) -> Done {
    process::isolate()?;
    for namespace in &launch.namespaces {
        rustix::thread::move_into_link_name_space(*namespace, None)
            .during(Step::Namespace, "failed to join a namespace")?;
    }
    sys::fds::close_inherited(token, &[voice.as_fd()])
        .during(Step::Stdio, "failed to close descriptors")?;
    let during = "failed to set a name";
    rustix::thread::set_name(c"corten-reaper").during(Step::Credentials, during)?;
    sys::title::set(token, "corten-reaper").during(Step::Credentials, during)?;
    rustix::process::setsid().during(Step::Credentials, "failed to start a session")?;
    enter_empty_root()?;
    give_up_privileges()?;
    sys::signals::reap_automatically().during(Step::Credentials, "failed to ignore SIGCHLD")
}

/// Says that all is set up, closes the last descriptors, and waits for SIGKILL.
fn serve(token: &ChildToken, voice: &Voice) -> ! {
    match filter() {
        Ok(filter) => {
            voice.say(&Word::Ready, None);
            if sys::fds::close_all(token).is_ok() && filter.load().is_ok() {
                sys::signals::wait_for_death();
            }
        }
        Err(failure) => voice.say(&Word::Failed(failure), None),
    }
    sys::clone::exit_now(1)
}

/// A mount namespace with nothing in it but an empty file system that cannot be written.
fn enter_empty_root() -> Done {
    let during = "failed to make an empty root";
    let new = NewNamespaces { mount: true, ..NewNamespaces::default() };
    sys::namespace::unshare(new).during(Step::Namespace, during)?;
    namespaces::detach_mounts()?;
    let options = [("mode", Some("555")), ("nr_blocks", Some("1")), ("nr_inodes", Some("1"))];
    let root =
        filesystem::new_mount("tmpfs", Some("tmpfs"), &options).during(Step::Rootfs, during)?;
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    sys::mount::set_attributes(&root, MountAttr { set, ..MountAttr::default() }, false)
        .during(Step::Rootfs, during)?;
    // Any directory serves: the mount namespace is our own and is about to be emptied.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let anywhere =
        rustix::fs::open(Path::new("/proc"), flags, Mode::empty()).during(Step::Rootfs, during)?;
    filesystem::attach(root.as_fd(), anywhere.as_fd()).during(Step::Rootfs, during)?;
    drop(anywhere);
    pivot::enter(&root)
}

fn give_up_privileges() -> Done {
    let during = "failed to give up privileges";
    process::drop_bounding(process::bounding_set())?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).during(Step::Limits, during)?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .and_then(|()| rustix::thread::clear_ambient_capability_set())
        .during(Step::Credentials, during)?;
    let empty = CapabilitySet::empty();
    let sets = CapabilitySets { effective: empty, permitted: empty, inheritable: empty };
    rustix::thread::set_capabilities(None, sets)
        .and_then(|()| rustix::thread::set_no_new_privs(true))
        .during(Step::Credentials, during)
}

fn filter() -> Done<process::Filter> {
    let profile = profile().map_err(|error| {
        ChildFailure::new(Step::Seccomp, format!("failed to describe the filter: {error}"))
    })?;
    process::Filter::compile(&profile)
}

/// Waiting, and what belongs to it. The C library waits by either of the first two.
fn profile() -> Result<LinuxSeccomp, OciSpecError> {
    let names = ["pause", "ppoll", "rt_sigreturn", "restart_syscall", "exit", "exit_group"];
    let allowed = LinuxSyscallBuilder::default()
        .names(names.map(str::to_owned).to_vec())
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()?;
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .syscalls(vec![allowed])
        .build()
}
