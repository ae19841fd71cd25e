//! A further process in a running container.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;
use sys::clone::ChildToken;

use crate::channel::Voice;
use crate::command::Command;
use crate::process::Preparation;
use crate::spawn::{self, ChildPid};
use crate::step::{Done, During};
use crate::{
    ExecLaunch, LaunchError, Launching, Stdio, Step, console, limits, process, procfs, spec, stdio,
    user,
};

/// Clones a process for a running container, which goes into its cgroups before all else.
///
/// The caller must have one thread. Nothing here waits for the set-up itself.
///
/// # Errors
/// Where it fails no process is left: a child that was cloned has been killed and reaped.
pub fn start_exec(launch: &ExecLaunch<'_>) -> Result<Launching, LaunchError> {
    stdio::keep_null();
    procfs::keep_processes();
    let pid = ChildPid::Of(launch.init_pidfd);
    let spawned =
        spawn::spawn(&pid, &launch.cgroup, |token, voice| match set_up(launch, token, voice) {
            Err(failure) => failure,
            Ok(never) => match never {},
        })?;
    Launching::new(spawned)
}

/// Every namespace of a container but its PID namespace, which the clone chose.
fn namespaces(has_user: bool) -> ThreadNameSpaceType {
    let user = if has_user { ThreadNameSpaceType::USER } else { ThreadNameSpaceType::empty() };
    user | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP
}

fn set_up(launch: &ExecLaunch<'_>, token: &ChildToken, voice: &Voice) -> Done<Infallible> {
    process::isolate()?;
    // The copy must not lie at 0, 1 or 2, which are about to be replaced.
    let init = rustix::io::fcntl_dupfd_cloexec(launch.init_pidfd, 3)
        .during(Step::Stdio, "failed to duplicate a descriptor")?;
    // None of the container's own is trusted, and one of its PID namespace is not needed.
    let proc = procfs::processes()?;
    let keep = [voice.as_fd(), init.as_fd(), proc.as_fd()];
    let nulls = stdio::take(&launch.stdio, token, &keep)?;
    let process = spec::parse_process(&launch.process)?;
    let spec = spec::load_outline(&launch.bundle)?;
    let has_user = user::path_of(spec.namespaces())?.is_some();
    let mappings = has_user.then(|| spec.mappings());
    stdio::give_to_user(&launch.stdio, &process, mappings.as_ref())?;
    process::start_session("exec")?;
    limits::set_oom_score(process.oom_score_adj().or(spec.oom_score_adj()), voice)?;

    // Before the bundle is out of reach.
    let filter = spec.filter(&launch.bundle)?;
    limits::raise_hard(&process);
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), namespaces(has_user))
        .during(Step::Namespace, "failed to join the container's namespaces")?;
    if has_user {
        user::become_root()?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(Path::new("/"), flags, Mode::empty())
        .during(Step::Namespace, "failed to open the container's root")?;
    stdio::use_containers_null(nulls, &root, &proc)?;
    if matches!(launch.stdio, Stdio::Terminal) {
        console::hand_over(console::open(&root, &process)?, voice)?;
    }
    let command = Command::of(&process, &root)?;
    let prepared = Preparation { process: &process, filter, command, proc: &proc, root: &root };
    process::execute(prepared, voice)
}
