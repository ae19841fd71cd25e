//! Containers: launched, running, drained, told.
//!
//! ```text
//! Starting ─ executes ─► Running ─ its process ends ─► Draining ─ streams end ─► Ended
//!     └──── fails: forgotten                          (at most a second)      (until acknowledged)
//! ```

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use container_log::LogWriter;
use launch::{ContainerLaunch, Launching, LaunchError, PidNamespace, Placement, Rootfs, Stdio};
use monitor_proto::{
    CgroupPlacement, ContainerPhase, ContainerPid, Exit, Failure, FailureKind, KillCgroup, Notice, OomFile, Reply,
    StartContainer, Started,
};
use rustix::{pipe::{PipeFlags, pipe_with}, process::{Pid, Signal, pidfd_send_signal}};
use sys::pidfd;
use types::ContainerId;

use crate::{
    exits,
    monitor::Monitor,
    poll::Source,
    say,
    stream::{self, Stream, Which},
};

/// How long the streams of a container that has ended are read, where something that
/// was not killed still holds them.
const DRAIN: Duration = Duration::from_secs(1);

/// How long a container may take from its clone to its execve: mounts of a file server
/// that hangs are what takes long.
const LAUNCH_LIMIT: Duration = Duration::from_secs(60);

/// The most containers of a pod.
const MAX_CONTAINERS: usize = 1024;

/// A process of ours.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// How far a container is.
#[derive(Debug)]
pub(crate) enum Phase {
    Starting { launching: Box<Launching>, key: u64, connection: u64, request: u64, until: Instant },
    Running,
    Draining { exit: Exit, until: Instant },
    Ended { exit: Exit },
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) phase: Phase,
    /// Until it is reaped.
    pub(crate) process: Option<Process>,
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) started_at_ns: i64,
    pub(crate) bundle: std::path::PathBuf,
    pub(crate) kill: KillCgroup,
    pub(crate) oom_files: Vec<OomFile>,
    pub(crate) log: Option<LogWriter>,
    pub(crate) streams: Vec<Stream>,
    /// The write end of its standard input, where that is kept open for attaching.
    pub(crate) stdin: Option<OwnedFd>,
}

impl Container {
    pub(crate) fn lives(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn reported_phase(&self) -> ContainerPhase {
        match &self.phase {
            Phase::Starting { .. } => ContainerPhase::Starting,
            // Until its log is complete it is not told to have ended.
            Phase::Running | Phase::Draining { .. } => ContainerPhase::Running,
            Phase::Ended { exit } => ContainerPhase::Exited(exit.clone()),
        }
    }

    /// Whether commands can be executed in it.
    pub(crate) fn running(&self) -> Option<&Process> {
        match self.phase {
            Phase::Running => self.process.as_ref(),
            _ => None,
        }
    }
}

/// The pipes of a container without a terminal: its ends, and ours.
struct Pipes {
    stdin: Option<(OwnedFd, OwnedFd)>,
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
}

impl Pipes {
    fn new(stdin: bool) -> rustix::io::Result<Self> {
        let pair = || pipe_with(PipeFlags::CLOEXEC);
        Ok(Self { stdin: if stdin { Some(pair()?) } else { None }, stdout: pair()?, stderr: pair()? })
    }
}

/// A launch that did not happen, in the protocol's words.
pub(crate) fn launch_failure(error: &LaunchError) -> Failure {
    let text = chain(error);
    match error {
        LaunchError::Child(child) => Failure {
            step: serde_json::to_value(child.step).ok().and_then(|v| v.as_str().map(str::to_owned)),
            path: child.path.clone(),
            errno: child.errno,
            ..Failure::new(FailureKind::Launch, text)
        },
        LaunchError::Clone(source) if source.kind() == std::io::ErrorKind::WouldBlock => {
            Failure::new(FailureKind::Exhausted, text)
        }
        _ => Failure::new(FailureKind::Launch, text),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

pub(crate) fn kernel(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Kernel, format!("failed to {what}: {error}"))
}

/// Opens a directory of the unified tree to be cloned into.
pub(crate) fn open_cgroup(placement: &CgroupPlacement) -> Result<Option<OwnedFd>, Failure> {
    let Some(dir) = &placement.v2_dir else { return Ok(None) };
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, rustix::fs::Mode::empty())
        .map(Some)
        .map_err(|e| kernel(&format!("open cgroup {}", dir.display()), e))
}

impl Monitor {
    /// Begins to start a container; the answer comes when it executes.
    pub(crate) fn start_container(&mut self, connection: u64, request: u64, wanted: StartContainer) {
        let id = wanted.id.clone();
        if let Err(failure) = self.try_start(connection, request, wanted) {
            self.forget_container(&id);
            self.answer(connection, request, Err(failure));
        }
    }

    fn try_start(&mut self, connection: u64, request: u64, wanted: StartContainer) -> Result<(), Failure> {
        if self.containers.contains_key(&wanted.id) {
            // Not ours to forget: the answer must not go by the way of a failed start.
            self.answer(connection, request, Err(Failure::new(FailureKind::AlreadyExists, "the container was started already")));
            return Ok(());
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Failure::new(FailureKind::Exhausted, "the pod has too many containers"));
        }
        let log = wanted.log.as_ref().map(stream::open_log).transpose()?;
        let pipes = if wanted.tty { None } else { Some(Pipes::new(wanted.stdin).map_err(|e| kernel("make pipes", e))?) };
        let target = self.target_namespace(&wanted.pid)?;
        let into = open_cgroup(&wanted.cgroup)?;
        let launch = ContainerLaunch {
            bundle: wanted.bundle.clone(),
            rootfs: match &wanted.rootfs {
                monitor_proto::Rootfs::Overlay { lower, upper, work } => {
                    Rootfs::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() }
                }
                monitor_proto::Rootfs::Dir(dir) => Rootfs::Dir(dir.clone()),
            },
            rootfs_target: wanted.rootfs_target.clone(),
            pid: match (&wanted.pid, &target, &self.reaper) {
                (ContainerPid::New, _, _) => PidNamespace::New,
                (ContainerPid::Host, _, _) => PidNamespace::Host,
                (ContainerPid::Pod, _, Some(reaper)) => PidNamespace::Join(reaper.pidns.as_fd()),
                (ContainerPid::Container(_), Some(target), _) => PidNamespace::Join(target.as_fd()),
                (ContainerPid::Pod | ContainerPid::Container(_), _, _) => {
                    return Err(Failure::new(FailureKind::NotRunning, "the PID namespace to join is gone"));
                }
            },
            cgroup: Placement {
                procs_files: wanted.cgroup.procs_files.clone(),
                into_cgroup: into.as_ref().map(AsFd::as_fd),
            },
            stdio: match &pipes {
                None => Stdio::Terminal,
                Some(pipes) => Stdio::Pipes {
                    stdin: pipes.stdin.as_ref().map(|(read, _)| read.as_fd()),
                    stdout: Some(pipes.stdout.1.as_fd()),
                    stderr: Some(pipes.stderr.1.as_fd()),
                },
            },
        };
        let launching = launch::start_container(&launch).map_err(|e| launch_failure(&e))?;
        self.track(connection, request, wanted, launching, pipes, log)
    }

    fn track(
        &mut self,
        connection: u64,
        request: u64,
        wanted: StartContainer,
        launching: Launching,
        pipes: Option<Pipes>,
        log: Option<LogWriter>,
    ) -> Result<(), Failure> {
        let pid = launching.pid;
        let handle = launching.pidfd.try_clone();
        let watched = self.poll.add(launching.status_fd(), Source::Launch(wanted.id.clone()));
        let (Ok(pidfd), Ok(key)) = (handle, watched) else {
            let _ = pidfd_send_signal(&launching.pidfd, Signal::KILL);
            let _ = pidfd::wait_and_reap(launching.pidfd.as_fd());
            return Err(Failure::new(FailureKind::Exhausted, "no descriptor is left for the container"));
        };
        let mut container = Container {
            phase: Phase::Starting {
                launching: Box::new(launching),
                key,
                connection,
                request,
                until: Instant::now() + LAUNCH_LIMIT,
            },
            process: Some(Process { pid, pidfd }),
            pid: pid.as_raw_nonzero().get(),
            start_time: start_time(pid),
            started_at_ns: exits::now_ns(),
            bundle: wanted.bundle,
            kill: wanted.kill,
            oom_files: wanted.oom_files,
            log,
            streams: Vec::new(),
            stdin: None,
        };
        if let Some(Pipes { stdin, stdout, stderr }) = pipes {
            for (which, (read, _write)) in [(Which::Stdout, stdout), (Which::Stderr, stderr)] {
                match Stream::watch(&mut self.poll, &wanted.id, which, read) {
                    Ok(stream) => container.streams.push(stream),
                    Err(error) => say(&format!("{}: a stream cannot be read: {error}", wanted.id)),
                }
            }
            container.stdin = stdin.map(|(_read, write)| write);
        }
        self.containers.insert(wanted.id, container);
        Ok(())
    }

    /// The PID namespace of another container of the pod, by a handle that cannot be of
    /// another process: its first process is checked to live after the open.
    fn target_namespace(&self, pid: &ContainerPid) -> Result<Option<OwnedFd>, Failure> {
        let ContainerPid::Container(id) = pid else { return Ok(None) };
        let gone = || Failure::new(FailureKind::NotRunning, format!("the target container {id} does not run"));
        let process = self.containers.get(id).and_then(Container::running).ok_or_else(gone)?;
        let path = format!("/proc/{}/ns/pid", process.pid.as_raw_nonzero());
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|_| gone())?;
        match pidfd::peek_exit(process.pidfd.as_fd()) {
            Ok(None) => Ok(Some(handle)),
            _ => Err(gone()),
        }
    }

    /// A launch has something to say.
    pub(crate) fn launch_progress(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Starting { launching, key, connection, request, .. } = &mut container.phase else { return };
        let Some(result) = launching.poll() else { return };
        let (key, connection, request) = (*key, *connection, *request);
        self.poll.remove(launching.status_fd(), key);
        match result {
            Ok(started) => {
                container.phase = Phase::Running;
                if let Some(console) = started.console {
                    match Stream::watch(&mut self.poll, id, Which::Console, console) {
                        Ok(stream) => container.streams.push(stream),
                        Err(error) => say(&format!("{id}: its terminal cannot be read: {error}")),
                    }
                }
                let reply = Started {
                    pid: container.pid,
                    start_time: container.start_time,
                    started_at_ns: container.started_at_ns,
                    notices: started.notices,
                };
                self.answer(connection, request, Ok(Reply::Started(reply)));
            }
            Err(error) => {
                self.forget_container(id);
                self.answer(connection, request, Err(launch_failure(&error)));
            }
        }
    }

    /// A launch took too long.
    pub(crate) fn launch_overdue(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Starting { launching, key, connection, request, .. } = &container.phase else { return };
        let (key, connection, request) = (*key, *connection, *request);
        self.poll.remove(launching.status_fd(), key);
        self.forget_container(id);
        let text = format!("the container was not set up within {} s", LAUNCH_LIMIT.as_secs());
        self.answer(connection, request, Err(Failure::new(FailureKind::Launch, text)));
    }

    /// Ends what there is of a container that did not start, without a trace.
    fn forget_container(&mut self, id: &ContainerId) {
        let Some(mut container) = self.containers.remove(id) else { return };
        if let Some(process) = container.process.take() {
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
            kill_cgroup(&container.kill);
            let _ = pidfd::wait_and_reap(process.pidfd.as_fd());
        }
        for stream in container.streams.drain(..) {
            self.poll.remove(stream.fd.as_fd(), stream.key);
        }
    }

    /// A container's first process has ended; it is recorded, then reaped.
    pub(crate) fn container_ended(&mut self, id: &ContainerId, end: pidfd::Exit) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Phase::Starting { .. } = container.phase {
            // The launch's own channel tells it; until then it stays a zombie.
            self.launch_progress(id);
            let Some(container) = self.containers.get(id) else { return };
            if matches!(container.phase, Phase::Starting { .. }) {
                return;
            }
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        // What it left behind in its cgroup ends with it.
        kill_cgroup(&container.kill);
        let exit = exits::exit_of(end, exits::was_oom_killed(&container.oom_files));
        if let Err(error) = exits::record(&self.arguments.state_dir, id, container.pid, &exit) {
            say(&format!("{id}: its exit ({}) could not be recorded: {error}", exit.code));
        }
        if let Some(process) = container.process.take() {
            let _ = pidfd::reap(process.pidfd.as_fd());
        }
        container.stdin = None;
        container.phase = Phase::Draining { exit, until: Instant::now() + DRAIN };
        if container.streams.is_empty() {
            self.drained(id);
        }
    }

    /// The log of a container that has ended is complete: it is told.
    pub(crate) fn drained(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Draining { exit, .. } = &container.phase else { return };
        let exit = exit.clone();
        container.phase = Phase::Ended { exit: exit.clone() };
        container.log = None;
        for stream in container.streams.drain(..) {
            self.poll.remove(stream.fd.as_fd(), stream.key);
        }
        self.repeat_at = Some(Instant::now() + crate::monitor::REPEAT);
        self.tell_all(&Notice::ContainerExited { container: id.clone(), exit });
    }

    /// Streams that something still holds are not waited for any longer.
    pub(crate) fn drain_overdue(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let open: Vec<Which> = container.streams.iter().map(|s| s.which).collect();
        for which in open {
            // What is in the pipe is read; then it is closed.
            for _ in 0..MAX_LAST_READS {
                let left = self.containers.get(id).is_some_and(|c| c.streams.iter().any(|s| s.which == which && has_input(s)));
                if !left {
                    break;
                }
                self.read_stream(id, which);
            }
            self.close_stream(id, which);
        }
        self.drained(id);
    }
}

/// How often a stream is read before it is closed: a pipe's content, and then some.
const MAX_LAST_READS: usize = 64;

fn has_input(stream: &Stream) -> bool {
    rustix::io::ioctl_fionread(&stream.fd).is_ok_and(|n| n > 0)
}

/// Kills everything in a cgroup.
pub(crate) fn kill_cgroup(kill: &KillCgroup) {
    if let Some(file) = &kill.kill_file
        && fs::write(file, "1").is_ok()
    {
        return;
    }
    signal_cgroup(kill, Signal::KILL);
}

/// Sends a signal to every process of a cgroup, one by one.
pub(crate) fn signal_cgroup(kill: &KillCgroup, signal: Signal) {
    let Some(file) = &kill.procs_file else { return };
    let Ok(text) = fs::read_to_string(file) else { return };
    for pid in text.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?)) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// When a process was started, in the kernel's ticks (proc(5), field 22 of stat).
fn start_time(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name before may hold anything; its last parenthesis ends it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after.split_whitespace().nth(19).and_then(|t| t.parse().ok()).unwrap_or(0)
}
