//! Requests, one function each.

use std::os::fd::OwnedFd;

use container_log::LogWriter;
use monitor_proto::{
    ContainerState, Failure, FailureKind, Features, Hello, HelloReply, Op, PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN, ReaperState, Reply, ResizeTty, Signal, StatePage,
};
use rustix::io::Errno;
use rustix::process::PidfdFlags;
use types::ContainerId;

use crate::container::{Phase, kernel};
use crate::exits;
use crate::kill::{kill_cgroup, signal_processes};
use crate::monitor::Monitor;
use crate::stream::{Which, log_failure};

/// How many containers one answer about the state has: a frame's worth.
const PAGE: usize = 64;

/// What this build can do.
const FEATURES: Features = Features::ATTACH
    .with(Features::PROGRAMS)
    .with(Features::MAPPED_PROGRAMS)
    .with(Features::LATE_REAPER)
    .with(Features::GIVEN_NAMESPACES);

impl Monitor {
    /// Does a request.
    pub(crate) fn request(&mut self, number: u64, id: u64, op: Op, descriptors: Vec<OwnedFd>) {
        let greeted = self.connections.get(&number).is_some_and(|c| c.greeted);
        let result = match op {
            Op::Hello(hello) => return self.hello(number, id, &hello),
            _ if !greeted => {
                Err(Failure::new(FailureKind::Version, "the connection did not greet"))
            }
            Op::MakeSandbox(wanted) => self.make_sandbox(wanted).map(Reply::SandboxMade),
            Op::StartReaper(wanted) => self.start_late_reaper(wanted).map(Reply::SandboxMade),
            Op::StartContainer(wanted) => return self.start_container(number, id, *wanted),
            Op::Exec(wanted) => return self.exec(number, id, wanted, descriptors),
            Op::Signal(signal) if self.signals_by_program(&signal) => {
                return self.signal_by_program(number, id, &signal);
            }
            Op::Signal(signal) => self.signal(&signal).map(|()| Reply::Done),
            Op::KillExec { container, exec } => {
                self.kill_exec(&container, &exec).map(|()| Reply::Done)
            }
            Op::ReopenLog { container } => self.reopen_log(&container).map(|()| Reply::Done),
            Op::ResizeTty(size) => self.resize(&size).map(|()| Reply::Done),
            Op::Attach(wanted) => self.attach(number, &wanted, descriptors).map(|()| Reply::Done),
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
            let text = format!(
                "this monitor speaks versions {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}"
            );
            return self.answer(number, id, Err(Failure::new(FailureKind::Version, text)));
        }
        let handle = match rustix::process::pidfd_open(own, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(errno) => {
                let failure = Failure::new(
                    FailureKind::Exhausted,
                    format!("no handle of the monitor: {errno}"),
                );
                return self.answer(number, id, Err(failure));
            }
        };
        let reply = HelloReply {
            version,
            features: FEATURES,
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

    pub(crate) fn signal(&mut self, wanted: &Signal) -> Result<(), Failure> {
        let id = &wanted.container;
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let process = container.process.as_ref().ok_or_else(|| {
            Failure::new(FailureKind::NotRunning, format!("container {id} does not run"))
        })?;
        // Numbers up to the real-time signals; the kernel has no others.
        if !(1..=64).contains(&wanted.signal) {
            let text = format!("{} is not a signal", wanted.signal);
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        let kills = wanted.signal == rustix::process::Signal::KILL.as_raw();
        container.killed |= kills;
        match (&container.kill.procs_file, wanted.all) {
            (_, true) if kills => kill_cgroup(&container.kill),
            (Some(procs), true) if signal_processes(procs, wanted.signal) > 0 => return Ok(()),
            _ => {}
        }
        match sys::pidfd::send_signal(&process.pidfd, wanted.signal) {
            // It has ended meanwhile: the signal is without an object, as asked.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            result => result.map_err(|error| kernel("send the signal", error)),
        }
    }

    fn kill_exec(
        &mut self,
        container: &ContainerId,
        exec: &monitor_proto::ExecId,
    ) -> Result<(), Failure> {
        let found = self
            .execs
            .iter()
            .find(|(_, e)| e.container == *container && e.id == *exec)
            .map(|(n, _)| *n);
        let number = found
            .ok_or_else(|| Failure::new(FailureKind::NotFound, "the exec session is not known"))?;
        self.kill_exec_session(number, false);
        Ok(())
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        let log = container.log.as_mut().ok_or_else(|| {
            Failure::new(FailureKind::NotRunning, format!("container {id} has no open log"))
        })?;
        log.reopen().map_err(|error| log_failure(&error))
    }

    fn resize(&self, wanted: &ResizeTty) -> Result<(), Failure> {
        let container =
            self.containers.get(&wanted.container).ok_or_else(|| not_found(&wanted.container))?;
        let console =
            container.streams.iter().find(|s| s.which == Which::Console).ok_or_else(|| {
                Failure::new(FailureKind::Invalid, "the container has no terminal")
            })?;
        let size = rustix::termios::Winsize {
            ws_row: wanted.height,
            ws_col: wanted.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&console.fd, size)
            .map_err(|e| kernel("resize the terminal", e))
    }

    fn state(&self, after: Option<&ContainerId>) -> StatePage {
        let mut ids: Vec<&ContainerId> =
            self.containers.keys().filter(|id| after.is_none_or(|a| *id > a)).collect();
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
                log_bytes_dropped: container
                    .log
                    .as_ref()
                    .map_or(container.dropped, LogWriter::dropped),
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
        // Before the answer: after it nothing of the pod runs.
        self.end_reaper();
        self.ending = true;
        Ok(())
    }
}

fn not_found(id: &ContainerId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("container {id} is not known"))
}
