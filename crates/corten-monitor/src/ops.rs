//! Requests, one function each.

use std::os::fd::OwnedFd;

use launch::{Placement, ReaperLaunch, SandboxNamespaces};
use monitor_proto::{
    ContainerState, Failure, FailureKind, Features, Hello, HelloReply, MakeSandbox, Notice, Op, PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN, ReaperState, Reply, ResizeTty, SandboxMade, Signal, StatePage,
};
use rustix::process::PidfdFlags;
use types::ContainerId;

use crate::{
    container::{Phase, launch_failure, open_cgroup, signal_cgroup},
    exits,
    monitor::Monitor,
    say,
    stream::Which,
};

/// How many containers one answer about the state has: a frame's worth.
const PAGE: usize = 64;

impl Monitor {
    /// Does a request.
    pub(crate) fn request(&mut self, number: u64, id: u64, op: Op, descriptors: Vec<OwnedFd>) {
        let greeted = self.connections.get(&number).is_some_and(|c| c.greeted);
        let result = match op {
            Op::Hello(hello) => return self.hello(number, id, &hello),
            _ if !greeted => Err(Failure::new(FailureKind::Version, "the connection did not greet")),
            Op::MakeSandbox(wanted) => self.make_sandbox(wanted).map(Reply::SandboxMade),
            Op::StartContainer(wanted) => return self.start_container(number, id, *wanted),
            Op::Exec(wanted) => return self.exec(number, id, wanted, descriptors),
            Op::Signal(signal) => self.signal(&signal).map(|()| Reply::Done),
            Op::KillExec { container, exec } => self.kill_exec(&container, &exec).map(|()| Reply::Done),
            Op::ReopenLog { container } => self.reopen_log(&container).map(|()| Reply::Done),
            Op::ResizeTty(size) => self.resize(&size).map(|()| Reply::Done),
            Op::Attach(_) => Err(Failure::new(FailureKind::Unsupported, "this monitor cannot attach")),
            Op::State { after } => Ok(Reply::State(self.state(after.as_ref()))),
            Op::AckExit { container } => {
                self.ack_exit(&container);
                Ok(Reply::Done)
            }
            Op::Shutdown => self.shutdown().map(|()| Reply::Done),
        };
        self.answer(number, id, result);
    }

    fn hello(&mut self, number: u64, id: u64, hello: &Hello) {
        let own = rustix::process::getpid();
        let version = PROTOCOL_VERSION.min(hello.max_version);
        if version < PROTOCOL_VERSION_MIN.max(hello.min_version) {
            let text = format!("this monitor speaks versions {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}");
            return self.answer(number, id, Err(Failure::new(FailureKind::Version, text)));
        }
        let handle = match rustix::process::pidfd_open(own, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(errno) => {
                let failure = Failure::new(FailureKind::Exhausted, format!("no handle of the monitor: {errno}"));
                return self.answer(number, id, Err(failure));
            }
        };
        let reply = HelloReply {
            version,
            features: Features::default(),
            sandbox: self.arguments.sandbox.clone(),
            pid: own.as_raw_nonzero().get(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.answer_with(number, id, Ok(Reply::Hello(reply)), Some(handle));
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.greeted = true;
        }
        self.repeat_exits(Some(number));
    }

    /// Makes the sandbox's namespaces; the same request again gets what was made.
    fn make_sandbox(&mut self, wanted: MakeSandbox) -> Result<SandboxMade, Failure> {
        if self.made.as_ref() == Some(&wanted) {
            return Ok(self.sandbox_made());
        }
        if self.made.is_some() {
            return Err(Failure::new(FailureKind::AlreadyExists, "the sandbox was made already, differently"));
        }
        let namespaces = SandboxNamespaces {
            net: wanted.net.clone(),
            ipc: wanted.ipc.clone(),
            uts: wanted.uts.clone(),
            hostname: wanted.hostname.clone(),
            sysctls: wanted.sysctls.clone(),
        };
        let handles = launch::make_sandbox_namespaces(&namespaces).map_err(|e| launch_failure(&e))?;
        if let Some(reaper) = &wanted.reaper {
            let into = open_cgroup(&reaper.cgroup)?;
            let joined = [&handles.net, &handles.ipc, &handles.uts];
            let launch = ReaperLaunch {
                namespaces: joined.into_iter().flatten().map(std::os::fd::AsFd::as_fd).collect(),
                cgroup: Placement {
                    procs_files: reaper.cgroup.procs_files.clone(),
                    into_cgroup: into.as_ref().map(std::os::fd::AsFd::as_fd),
                },
            };
            match launch::start_reaper(&launch) {
                Ok(reaper) => self.reaper = Some(reaper),
                Err(error) => {
                    for pin in [&wanted.net, &wanted.ipc, &wanted.uts].into_iter().flatten() {
                        if let Err(undo) = launch::unpin(pin) {
                            say(&format!("a namespace stays pinned: {undo}"));
                        }
                    }
                    return Err(launch_failure(&error));
                }
            }
        }
        self.namespaces = handles;
        self.made = Some(wanted);
        Ok(self.sandbox_made())
    }

    fn sandbox_made(&self) -> SandboxMade {
        SandboxMade { reaper_pid: self.reaper.as_ref().map(|r| r.pid.as_raw_nonzero().get()) }
    }

    fn signal(&self, wanted: &Signal) -> Result<(), Failure> {
        let container = self.containers.get(&wanted.container).ok_or_else(|| not_found(&wanted.container))?;
        let process = container.process.as_ref().ok_or_else(|| {
            Failure::new(FailureKind::NotRunning, format!("container {} does not run", wanted.container))
        })?;
        // Numbers up to the real-time signals; the kernel has no others.
        let signal = std::num::NonZeroI32::new(wanted.signal)
            .filter(|n| (1..=64).contains(&n.get()))
            .ok_or_else(|| Failure::new(FailureKind::Invalid, format!("{} is not a signal", wanted.signal)))?;
        if wanted.all {
            if wanted.signal == rustix::process::Signal::KILL.as_raw() {
                crate::container::kill_cgroup(&container.kill);
            } else if let Some(signal) = rustix::process::Signal::from_named_raw(signal.get()) {
                signal_cgroup(&container.kill, signal);
            }
        }
        sys::pidfd::send_signal(&process.pidfd, signal.get()).or_else(|error| {
            // It has ended meanwhile: the signal is without an object, as asked.
            if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) { Ok(()) } else { Err(error) }
        })
        .map_err(|e| crate::container::kernel("send the signal", e))
    }

    fn kill_exec(&mut self, container: &ContainerId, exec: &monitor_proto::ExecId) -> Result<(), Failure> {
        let found = self.execs.iter().find(|(_, e)| e.container == *container && e.id == *exec).map(|(n, _)| *n);
        let number = found.ok_or_else(|| Failure::new(FailureKind::NotFound, "the exec session is not known"))?;
        self.kill_exec_session(number, false);
        Ok(())
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let log = container
            .log
            .as_mut()
            .ok_or_else(|| Failure::new(FailureKind::NotRunning, format!("container {id} has no open log")))?;
        log.reopen().map_err(|e| Failure {
            path: Some(e.path.clone()),
            errno: e.source.raw_os_error(),
            ..Failure::new(FailureKind::Log, format!("{e}: {}", e.source))
        })
    }

    fn resize(&self, wanted: &ResizeTty) -> Result<(), Failure> {
        let container = self.containers.get(&wanted.container).ok_or_else(|| not_found(&wanted.container))?;
        let console = container
            .streams
            .iter()
            .find(|s| s.which == Which::Console)
            .ok_or_else(|| Failure::new(FailureKind::Invalid, "the container has no terminal"))?;
        let size = rustix::termios::Winsize { ws_row: wanted.height, ws_col: wanted.width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&console.fd, size).map_err(|e| crate::container::kernel("resize the terminal", e))
    }

    fn state(&self, after: Option<&ContainerId>) -> StatePage {
        let mut ids: Vec<&ContainerId> = self.containers.keys().filter(|id| after.is_none_or(|a| *id > a)).collect();
        ids.sort_unstable();
        let more = ids.len() > PAGE;
        let containers = ids.into_iter().take(PAGE).filter_map(|id| {
            let container = self.containers.get(id)?;
            Some(ContainerState {
                id: id.clone(),
                pid: container.pid,
                start_time: container.start_time,
                started_at_ns: container.started_at_ns,
                phase: container.reported_phase(),
                execs: self.execs.values().filter(|e| e.container == *id).count(),
                log_bytes_dropped: container.log.as_ref().map_or(0, container_log::LogWriter::dropped),
            })
        });
        StatePage {
            made: self.made.clone(),
            reaper: self.made.as_ref().and_then(|m| m.reaper.as_ref()).map(|_| ReaperState {
                pid: self.reaper.as_ref().map_or(0, |r| r.pid.as_raw_nonzero().get()),
                alive: self.reaper.is_some(),
            }),
            containers: containers.collect(),
            more,
        }
    }

    fn ack_exit(&mut self, id: &ContainerId) {
        if matches!(self.containers.get(id).map(|c| &c.phase), Some(Phase::Ended { .. })) {
            self.containers.remove(id);
            exits::forget(&self.arguments.state_dir, id);
        }
    }

    fn shutdown(&mut self) -> Result<(), Failure> {
        if let Some((id, _)) = self.containers.iter().find(|(_, c)| c.lives()) {
            return Err(Failure::new(FailureKind::Busy, format!("container {id} still lives")));
        }
        self.ending = true;
        Ok(())
    }

    /// The pod's PID namespace is at its end, and with it all that ran in there.
    pub(crate) fn reaper_ended(&mut self, end: sys::pidfd::Exit) {
        let Some(reaper) = self.reaper.take() else { return };
        let _ = sys::pidfd::reap(&reaper.pidfd);
        if !self.ending {
            self.tell_all(&Notice::ReaperExited { exit: exits::exit_of(end, false) });
        }
    }
}

fn not_found(id: &ContainerId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("container {id} is not known"))
}

