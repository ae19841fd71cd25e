//! Containers: launched, running, drained, told.
//!
//! ```text
//! Starting ─ executes ─► Running ─ its process ends ─► Draining ─ streams end ─► Ended
//!     └──── fails: forgotten                          (at most a second)      (until acknowledged)
//! ```

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_log::LogWriter;
use launch::{ContainerLaunch, LaunchError, Launching, PidNamespace, Placement, Rootfs, Stdio};
use monitor_proto::{
    ContainerPhase, ContainerPid, Exit, Failure, FailureKind, KillCgroup, Notice, OomFile, Reply,
    StartContainer, Started,
};
use rustix::process::Pid;
use sys::pidfd;
use types::ContainerId;

use crate::attach::Stdin;
use crate::exits::{self, kill_and_reap};
use crate::kill::kill_cgroup;
use crate::monitor::{Monitor, REPEAT};
use crate::poll::Source;
use crate::program::Made;
use crate::say;
use crate::stream::{self, Pipes, Stream, Which};

/// How long a container or a session may take from its clone to its execve: mounts of a file server
/// that hangs are what takes long.
pub(crate) const LAUNCH_LIMIT: Duration = Duration::from_secs(60);

/// The code of a container that did not start and whose daemon left meanwhile.
const NOT_STARTED: i32 = 128;

/// The most containers of a pod: each attempt is one until its end is acknowledged.
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
    Starting(Box<Starting>),
    /// A runtime program makes it.
    Making,
    Running,
    Draining {
        exit: Exit,
        until: Instant,
    },
    Ended {
        exit: Exit,
    },
}

/// A launch under way, and who waits for it.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) launching: Launching,
    pub(crate) key: u64,
    pub(crate) connection: u64,
    pub(crate) request: u64,
    pub(crate) until: Instant,
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
    pub(crate) bundle: PathBuf,
    pub(crate) kill: KillCgroup,
    pub(crate) oom_files: Vec<OomFile>,
    /// Whether it was killed on request, and not by the kernel.
    pub(crate) killed: bool,
    pub(crate) log: Option<LogWriter>,
    pub(crate) streams: Vec<Stream>,
    /// Bytes that never reached the log, once that is closed.
    pub(crate) dropped: u64,
    /// Its standard input, for who is attached.
    pub(crate) stdin: Stdin,
    /// Where a runtime program made it.
    pub(crate) made: Option<Box<Made>>,
}

impl Container {
    pub(crate) fn lives(&self) -> bool {
        self.process.is_some()
            || matches!(self.phase, Phase::Making)
            || self.made.as_ref().is_some_and(|made| made.is_being_deleted)
    }

    /// When something is due for it.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Starting(starting) => Some(starting.until),
            // All is read: what is waited for then is the program that deletes it.
            Phase::Draining { until, .. } if !self.streams.is_empty() => Some(*until),
            Phase::Draining { .. } | Phase::Making | Phase::Running | Phase::Ended { .. } => None,
        }
    }

    /// Its command executes: takes note of that, and gives the answer that says so.
    pub(crate) fn runs_now(&mut self, notices: Vec<String>) -> Started {
        self.phase = Phase::Running;
        self.started_at_ns = exits::now_ns();
        Started {
            pid: self.pid,
            start_time: self.start_time,
            started_at_ns: self.started_at_ns,
            notices,
        }
    }

    pub(crate) fn reported_phase(&self) -> ContainerPhase {
        match &self.phase {
            Phase::Starting(_) | Phase::Making => ContainerPhase::Starting,
            // Until its log is complete it is not told to have ended.
            Phase::Running | Phase::Draining { .. } => ContainerPhase::Running,
            Phase::Ended { exit } => ContainerPhase::Exited(exit.clone()),
        }
    }

    /// Its first process, where commands can be executed in it.
    pub(crate) fn running(&self) -> Option<&Process> {
        match self.phase {
            Phase::Running => self.process.as_ref(),
            _ => None,
        }
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

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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

pub(crate) fn exhausted(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("failed to {what}: {error}"))
}

/// Opens a directory of the unified tree to be cloned into.
pub(crate) fn open_cgroup(dir: Option<&Path>) -> Result<Option<OwnedFd>, Failure> {
    let Some(dir) = dir else { return Ok(None) };
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, rustix::fs::Mode::empty())
        .map(Some)
        .map_err(|errno| kernel(&format!("open cgroup {}", dir.display()), errno))
}

impl Monitor {
    /// Begins to start a container; the answer comes when it executes.
    pub(crate) fn start_container(
        &mut self,
        connection: u64,
        request: u64,
        wanted: StartContainer,
    ) {
        if let Err(failure) = self.try_start(connection, request, wanted) {
            self.answer(connection, request, Err(failure));
        }
    }

    fn try_start(
        &mut self,
        connection: u64,
        request: u64,
        wanted: StartContainer,
    ) -> Result<(), Failure> {
        if self.containers.contains_key(&wanted.id) {
            let text = format!("container {} was started already", wanted.id);
            return Err(Failure::new(FailureKind::AlreadyExists, text));
        }
        if self.containers.len() >= MAX_CONTAINERS {
            let text = format!("the pod has {MAX_CONTAINERS} containers already");
            return Err(Failure::new(FailureKind::Exhausted, text));
        }
        let log = wanted.log.as_ref().map(stream::open_log).transpose()?;
        let pipes = if wanted.tty { None } else { Some(Pipes::new(wanted.stdin)?) };
        let (theirs, stdin, outputs) = match pipes {
            None => (None, None, None),
            Some(Pipes { theirs, stdin, stdout, stderr }) => {
                (Some(theirs), stdin, Some([(Which::Stdout, stdout), (Which::Stderr, stderr)]))
            }
        };
        let stdio = theirs.as_ref().map_or(Stdio::Terminal, stream::Theirs::stdio);
        // Streams are watched first: a container whose output nobody reads must not start.
        let streams = self.watch_streams(&wanted.id, outputs.into_iter().flatten())?;
        self.begin_counting(&wanted.oom_files);
        let begun = match &wanted.program {
            None => self.launch(connection, request, &wanted, stdio).map(|(starting, process)| {
                (Phase::Starting(Box::new(starting)), Some(process), None)
            }),
            Some(program) => self
                .create_by_program(connection, request, &wanted, program, stdio)
                .map(|made| (Phase::Making, None, Some(Box::new(made)))),
        };
        match begun {
            Ok((phase, process, made)) => {
                let container = Container {
                    phase,
                    pid: process.as_ref().map_or(0, |p| p.pid.as_raw_nonzero().get()),
                    start_time: process.as_ref().map_or(0, |p| start_time(p.pid)),
                    process,
                    started_at_ns: exits::now_ns(),
                    bundle: wanted.bundle,
                    kill: wanted.kill,
                    oom_files: wanted.oom_files,
                    killed: false,
                    log,
                    streams,
                    dropped: 0,
                    stdin: Stdin::new(stdin, wanted.stdin_once),
                    made,
                };
                self.containers.insert(wanted.id, container);
                Ok(())
            }
            Err(failure) => {
                self.unwatch_streams(streams);
                Err(failure)
            }
        }
    }

    fn launch(
        &mut self,
        connection: u64,
        request: u64,
        wanted: &StartContainer,
        stdio: Stdio<'_>,
    ) -> Result<(Starting, Process), Failure> {
        let target = self.target_namespace(&wanted.pid)?;
        let into = open_cgroup(wanted.cgroup.v2_dir.as_deref())?;
        let launch = ContainerLaunch {
            bundle: wanted.bundle.clone(),
            rootfs: rootfs_of(&wanted.rootfs),
            rootfs_target: wanted.rootfs_target.clone(),
            pid: match (&wanted.pid, &target, &self.reaper) {
                (ContainerPid::New, _, _) => PidNamespace::New,
                (ContainerPid::Host, _, _) => PidNamespace::Host,
                (ContainerPid::Pod, _, Some(reaper)) => PidNamespace::Join(reaper.pidns.as_fd()),
                (ContainerPid::Container(_), Some(target), _) => PidNamespace::Join(target.as_fd()),
                (ContainerPid::Pod | ContainerPid::Container(_), _, _) => {
                    let text = "the PID namespace to join is gone";
                    return Err(Failure::new(FailureKind::NotRunning, text));
                }
            },
            cgroup: Placement {
                procs_files: wanted.cgroup.procs_files.clone(),
                into_cgroup: into.as_ref().map(AsFd::as_fd),
            },
            stdio,
        };
        let launching = launch::start_container(&launch).map_err(|error| launch_failure(&error))?;
        let (process, key) = self.watch_launch(&launching, Source::Launch(wanted.id.clone()))?;
        let until = Instant::now() + LAUNCH_LIMIT;
        Ok((Starting { launching, key, connection, request, until }, process))
    }

    /// Has the loop watch a launch; one that cannot be watched is ended.
    pub(crate) fn watch_launch(
        &mut self,
        launching: &Launching,
        source: Source,
    ) -> Result<(Process, u64), Failure> {
        let watched = launching.pidfd.try_clone().and_then(|pidfd| {
            let key = self.poll.add(launching.status_fd(), source)?;
            Ok((Process { pid: launching.pid, pidfd }, key))
        });
        watched.map_err(|error| {
            kill_and_reap(&launching.pidfd);
            exhausted("watch the new process", error)
        })
    }

    /// The PID namespace of another container of the pod, by a handle that cannot be of
    /// another process: its first process is checked to live after the open.
    pub(crate) fn target_namespace(&self, pid: &ContainerPid) -> Result<Option<OwnedFd>, Failure> {
        let ContainerPid::Container(id) = pid else { return Ok(None) };
        let gone = || {
            let text = format!("the target container {id} does not run");
            Failure::new(FailureKind::NotRunning, text)
        };
        let process = self.containers.get(id).and_then(Container::running).ok_or_else(gone)?;
        let path = format!("/proc/{}/ns/pid", process.pid.as_raw_nonzero());
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let handle =
            rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|_| gone())?;
        match pidfd::peek_exit(process.pidfd.as_fd()) {
            Ok(None) => Ok(Some(handle)),
            _ => Err(gone()),
        }
    }

    /// A launch has something to say.
    pub(crate) fn launch_progress(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Starting(starting) = &mut container.phase else { return };
        if let Some(result) = starting.launching.poll() {
            self.launched(id, result.map_err(|error| launch_failure(&error)));
        }
    }

    /// A launch has come to its end.
    fn launched(&mut self, id: &ContainerId, result: Result<launch::Started, Failure>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Starting(starting) = &container.phase else { return };
        let (connection, request) = (starting.connection, starting.request);
        self.poll.remove(starting.launching.status_fd(), starting.key);
        let result = match result {
            Err(failure) => return self.start_failed(id, connection, request, failure),
            Ok(launch::Started { notices, console }) => {
                let reply = container.runs_now(notices);
                self.add_console(id, console);
                Ok(Reply::Started(reply))
            }
        };
        self.answer(connection, request, result);
    }

    pub(crate) fn add_console(&mut self, id: &ContainerId, console: Option<OwnedFd>) {
        let Some(console) = console else { return };
        match Stream::watch(&mut self.poll, id, Which::Console, console) {
            Ok(stream) => {
                if let Some(container) = self.containers.get_mut(id) {
                    container.streams.push(stream);
                }
            }
            Err(error) => say(&format!("{id}: its terminal cannot be read: {error}")),
        }
    }

    /// A launch took too long.
    pub(crate) fn launch_overdue(&mut self, id: &ContainerId) {
        let text = format!("the container was not set up within {} s", LAUNCH_LIMIT.as_secs());
        self.launched(id, Err(Failure::new(FailureKind::Launch, text)));
    }

    /// A container's first process ended while it was being set up, or just after.
    pub(crate) fn launch_ended(&mut self, id: &ContainerId) {
        self.launch_progress(id);
        if let Some(Phase::Starting(_)) = self.containers.get(id).map(|c| &c.phase) {
            self.launched(id, Err(launch_failure(&LaunchError::ChildDied)));
        }
    }

    /// A container did not start: nothing is left of it. Where nobody is there any more to be
    /// told, it has ended instead: another daemon may have found it starting.
    pub(crate) fn start_failed(
        &mut self,
        id: &ContainerId,
        connection: u64,
        request: u64,
        failure: Failure,
    ) {
        let Some(mut container) = self.containers.remove(id) else { return };
        if let Some(process) = container.process.take() {
            kill_cgroup(&container.kill);
            kill_and_reap(&process.pidfd);
        }
        self.unwatch_streams(std::mem::take(&mut container.streams));
        if self.connections.contains_key(&connection) {
            return self.answer(connection, request, Err(failure));
        }
        say(&format!("{id}: it did not start, and who asked has left: {failure}"));
        let finished_at_ns = exits::now_ns();
        let exit = Exit { code: NOT_STARTED, signal: None, oom_killed: false, finished_at_ns };
        if let Err(error) = exits::record(&self.arguments.state_dir, id, container.pid, &exit) {
            say(&format!("{id}: its exit could not be recorded: {error}"));
        }
        (container.log, container.made) = (None, None);
        container.phase = Phase::Ended { exit: exit.clone() };
        self.containers.insert(id.clone(), container);
        self.repeat_at = Some(Instant::now() + REPEAT);
        self.tell_all(&Notice::ContainerExited { container: id.clone(), exit });
    }
}

/// The source of a root file system, as the launch takes it.
pub(crate) fn rootfs_of(wanted: &monitor_proto::Rootfs) -> Rootfs {
    match wanted {
        monitor_proto::Rootfs::Overlay { lower, upper, work } => {
            Rootfs::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() }
        }
        monitor_proto::Rootfs::Dir(dir) => Rootfs::Dir(dir.clone()),
    }
}

/// When a process was started, in the kernel's ticks (proc(5), field 22 of stat).
pub(crate) fn start_time(pid: Pid) -> u64 {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = fs::read_to_string(path).unwrap_or_default();
    // The name before may hold anything; its last parenthesis ends it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}
