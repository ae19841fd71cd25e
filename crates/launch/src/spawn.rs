//! The parent's half, and the child's first step: clone, and into the cgroups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::AssertUnwindSafe;

use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use sys::clone::{ChildToken, CloneArgs, Cloned};

use crate::channel::{Voice, Word};
use crate::step::{Done, During};
use crate::{ChildFailure, LaunchError, PidNamespace, Placement, Step};

/// The PID namespace of a child.
pub(crate) enum ChildPid<'a> {
    /// As asked for by the caller.
    Given(PidNamespace<'a>),
    /// The one of the process behind this handle.
    Of(BorrowedFd<'a>),
}

/// A child that was cloned.
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// The parent's end of the channel.
    pub(crate) socket: OwnedFd,
}

/// Clones a child that goes into its cgroups and then runs `body`. `body` comes back only when
/// it failed; what it says then is reported and the child ends.
pub(crate) fn spawn(
    pid: &ChildPid<'_>,
    cgroup: &Placement<'_>,
    body: impl FnOnce(&ChildToken, &Voice) -> ChildFailure,
) -> Result<Spawned, LaunchError> {
    let (socket, childs) = sys::message::pair().map_err(LaunchError::Channel)?;
    match clone_into(pid, cgroup.into_cgroup)? {
        Cloned::Child(token) => {
            drop(socket);
            if let Ok(voice) = Voice::new(childs) {
                // A panic must not unwind into the parent's code in a second process.
                let body = AssertUnwindSafe(|| match enter(cgroup) {
                    Ok(()) => body(&token, &voice),
                    Err(failure) => failure,
                });
                if let Ok(failure) = std::panic::catch_unwind(body) {
                    voice.say(&Word::Failed(failure), None);
                }
            }
            sys::clone::exit_now(FAILED_CHILD_CODE)
        }
        Cloned::Parent { pid, pidfd } => Ok(Spawned { pid, pidfd, socket }),
    }
}

/// The exit code of a child that did not get as far as execve; nobody reports it.
const FAILED_CHILD_CODE: i32 = 125;

/// Kills a child of ours and reaps it.
pub(crate) fn kill_and_reap(pidfd: &OwnedFd) {
    // Fails only when it has ended already.
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    drop(sys::pidfd::wait_and_reap(pidfd));
}

fn clone_into(
    pid: &ChildPid<'_>,
    into_cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, LaunchError> {
    let new_pid_namespace = matches!(pid, ChildPid::Given(PidNamespace::New));
    let args = CloneArgs { new_pid_namespace, into_cgroup };
    match *pid {
        ChildPid::Given(PidNamespace::New | PidNamespace::Host) => {
            sys::clone::clone_process(&args).map_err(LaunchError::Clone)
        }
        ChildPid::Given(PidNamespace::Join(namespace)) => clone_elsewhere(&args, || {
            rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))
        }),
        ChildPid::Of(process) => clone_elsewhere(&args, || {
            rustix::thread::move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
        }),
    }
}

/// setns changes the PID namespace of the caller's children, not the caller's own, so the caller
/// selects another one for the moment of the clone. In the child the way back is left out: its
/// own children belong where it is.
fn clone_elsewhere(
    args: &CloneArgs<'_>,
    select: impl FnOnce() -> rustix::io::Result<()>,
) -> Result<Cloned, LaunchError> {
    let own = std::fs::File::open("/proc/self/ns/pid").map_err(LaunchError::RestorePid)?;
    select().map_err(|error| LaunchError::JoinPid(error.into()))?;
    let cloned = sys::clone::clone_process(args);
    if let Ok(Cloned::Child(_)) = cloned {
        return cloned.map_err(LaunchError::Clone);
    }
    let restored =
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID));
    match (cloned, restored) {
        (Ok(cloned), Ok(())) => Ok(cloned),
        (Ok(cloned), Err(error)) => {
            if let Cloned::Parent { pidfd, .. } = cloned {
                kill_and_reap(&pidfd);
            }
            Err(LaunchError::RestorePid(error.into()))
        }
        (Err(_), Err(error)) => Err(LaunchError::RestorePid(error.into())),
        // The kernel says so when the namespace's first process has ended.
        (Err(error), Ok(())) if error.kind() == io::ErrorKind::OutOfMemory => {
            Err(LaunchError::PidNamespaceEnded(error))
        }
        (Err(error), Ok(())) => Err(LaunchError::Clone(error)),
    }
}

/// In the child: goes into the cgroups that it was not cloned into.
fn enter(cgroup: &Placement<'_>) -> Done {
    for path in &cgroup.procs_files {
        sys::cgroup::enter(path).during_on(Step::Cgroup, "failed to enter the cgroup of", path)?;
    }
    Ok(())
}
