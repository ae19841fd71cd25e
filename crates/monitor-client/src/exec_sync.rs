//! Exec sessions: one whose end is waited for, and one whose output is collected.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use monitor_proto::{Exec, ExecCgroup, ExecId, ExecStarted, Exit};
use rustix::fs::MemfdFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use types::ContainerId;

use crate::MonitorError;
use crate::monitor::{DEFAULT_DEADLINE, Monitor};

/// How much is read of a pipe at a time: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// How an exec session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecEnd {
    /// How its command ended; `None` when it was killed and did not end in time.
    pub exit: Option<Exit>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

/// A command whose output is wanted.
#[derive(Debug, Clone)]
pub struct ExecSync {
    /// The container.
    pub container: ContainerId,
    /// How long it may run; `None` is for ever. When it is over all of it is killed.
    pub timeout: Option<Duration>,
    /// Its cgroups.
    pub cgroup: ExecCgroup,
    /// The most bytes of output and error together; what is beyond is read and thrown away.
    pub output_limit: usize,
}

/// What a command wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether bytes beyond the limit were thrown away.
    pub truncated: bool,
    /// How it ended.
    pub end: ExecEnd,
}

/// A command that runs in a container. Dropped before its end, it is killed with all that it
/// started.
#[derive(Debug)]
pub struct ExecSession {
    guard: KillOnDrop,
    started: ExecStarted,
    console: Option<OwnedFd>,
    end: oneshot::Receiver<ExecEnd>,
    timeout: Option<Duration>,
}

impl ExecSession {
    /// The session's id.
    pub fn id(&self) -> &ExecId {
        &self.guard.exec
    }

    /// What the monitor said when it had started.
    pub fn started(&self) -> &ExecStarted {
        &self.started
    }

    /// Lets it go on when this is dropped before its end.
    pub fn let_go(&mut self) {
        self.guard.armed = false;
    }

    /// Takes the master of its terminal, where it has one.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Waits for the command's end. What it started may still run then.
    ///
    /// # Errors
    /// When the monitor is gone, or says nothing although the session's time is over.
    ///
    /// # Cancellation
    /// May be called again; the session is killed when it is dropped.
    pub async fn ended(&mut self) -> Result<ExecEnd, MonitorError> {
        let monitor = self.guard.monitor.clone();
        let end = match self.timeout {
            None => (&mut self.end).await,
            Some(timeout) => {
                let deadline = timeout.saturating_add(DEFAULT_DEADLINE);
                tokio::time::timeout(deadline, &mut self.end).await.map_err(|_| {
                    MonitorError::Deadline {
                        sandbox: monitor.sandbox().clone(),
                        operation: "the end of an exec session",
                        deadline,
                    }
                })?
            }
        };
        self.guard.armed = false;
        end.map_err(|_| monitor.connection.gone())
    }
}

impl Monitor {
    /// Starts a process in a container. `process` is an OCI `Process` as JSON; `streams` are
    /// those of standard input, output and error that `wanted` announces, in this order.
    ///
    /// # Errors
    /// [`MonitorError::Refused`] when a step of the launch failed; nothing is left then.
    ///
    /// # Cancellation
    /// The command is killed.
    pub async fn exec(
        &self,
        wanted: Exec,
        process: &[u8],
        streams: &[BorrowedFd<'_>],
    ) -> Result<ExecSession, MonitorError> {
        let process = process_file(process).map_err(|source| self.streams_failed(source))?;
        let mut descriptors = vec![process.as_fd()];
        descriptors.extend_from_slice(streams);
        let end = self.connection.watch_exec(&wanted.exec);
        let mut guard = KillOnDrop {
            monitor: self.clone(),
            container: wanted.container.clone(),
            exec: wanted.exec.clone(),
            armed: true,
        };
        let timeout = wanted.timeout_ms.map(Duration::from_millis);
        match self.call_exec(wanted, &descriptors).await {
            Ok((started, console)) => Ok(ExecSession { guard, started, console, end, timeout }),
            Err(error) => {
                // After a refusal there is nothing to kill; after silence there may be.
                guard.armed = !matches!(error, MonitorError::Refused { .. });
                Err(error)
            }
        }
    }

    /// Runs a command in a container without input and collects its output.
    ///
    /// Returns when the command ends, even if a child of it holds its output open; what is in
    /// the pipes at that moment is in the answer. The command is never blocked by the limit.
    ///
    /// # Errors
    /// As [`Monitor::exec`] and [`ExecSession::ended`].
    ///
    /// # Cancellation
    /// The command is killed.
    pub async fn exec_sync(
        &self,
        wanted: &ExecSync,
        process: &[u8],
    ) -> Result<ExecOutput, MonitorError> {
        let (stdout, stdout_end) = new_pipe().map_err(|source| self.streams_failed(source))?;
        let (stderr, stderr_end) = new_pipe().map_err(|source| self.streams_failed(source))?;
        let request = Exec {
            container: wanted.container.clone(),
            exec: ExecId::random(),
            timeout_ms: wanted
                .timeout
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
            cgroup: wanted.cgroup.clone(),
            outlives_connection: false,
        };
        let streams = [stdout_end.as_fd(), stderr_end.as_fd()];
        let mut session = self.exec(request, process, &streams).await?;
        drop((stdout_end, stderr_end));
        let mut collector = Collector::new(stdout, stderr, wanted.output_limit);
        let end = collector.collect(session.ended()).await?;
        Ok(collector.finish(end))
    }

    fn streams_failed(&self, source: io::Error) -> MonitorError {
        MonitorError::ExecStreams { sandbox: self.sandbox().clone(), source }
    }
}

/// Kills a session that nobody waits for any more.
#[derive(Debug)]
struct KillOnDrop {
    monitor: Monitor,
    container: ContainerId,
    exec: ExecId,
    armed: bool,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.monitor.connection.forget_exec(&self.exec);
        if !self.armed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (monitor, container, exec) =
            (self.monitor.clone(), self.container.clone(), self.exec.clone());
        runtime.spawn(async move {
            // One that has ended meanwhile is not found; one whose monitor is gone is not ours.
            let _ = monitor.kill_exec(&container, &exec).await;
        });
    }
}

/// Reads two pipes up to a limit that they share.
struct Collector {
    stdout: Stream,
    stderr: Stream,
    room: usize,
    truncated: bool,
}

struct Stream {
    pipe: pipe::Receiver,
    open: bool,
    chunk: Vec<u8>,
    kept: Vec<u8>,
}

impl Collector {
    fn new(stdout: pipe::Receiver, stderr: pipe::Receiver, limit: usize) -> Self {
        let stream = |pipe| Stream { pipe, open: true, chunk: vec![0; CHUNK], kept: Vec::new() };
        Self { stdout: stream(stdout), stderr: stream(stderr), room: limit, truncated: false }
    }

    async fn collect<E>(
        &mut self,
        ended: impl Future<Output = Result<ExecEnd, E>>,
    ) -> Result<ExecEnd, E> {
        tokio::pin!(ended);
        loop {
            let (stream, read) = tokio::select! {
                end = &mut ended => return end,
                read = self.stdout.pipe.read(&mut self.stdout.chunk), if self.stdout.open => {
                    (&mut self.stdout, read)
                }
                read = self.stderr.pipe.read(&mut self.stderr.chunk), if self.stderr.open => {
                    (&mut self.stderr, read)
                }
            };
            stream.keep(read, &mut self.room, &mut self.truncated);
        }
    }

    /// Takes what is in the pipes: all that the command itself wrote.
    fn finish(mut self, end: ExecEnd) -> ExecOutput {
        for stream in [&mut self.stdout, &mut self.stderr] {
            // A child that goes on writing must not keep this going on.
            let mut left = rustix::pipe::fcntl_getpipe_size(&stream.pipe).unwrap_or(CHUNK);
            while stream.open && left > 0 {
                // By the kernel itself: what tokio knows of the pipe may be older than the
                // notice of the command's end.
                let read =
                    rustix::io::read(&stream.pipe, &mut stream.chunk[..]).map_err(io::Error::from);
                if matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                    break;
                }
                left = left.saturating_sub(*read.as_ref().unwrap_or(&0));
                stream.keep(read, &mut self.room, &mut self.truncated);
            }
        }
        ExecOutput {
            stdout: self.stdout.kept,
            stderr: self.stderr.kept,
            truncated: self.truncated,
            end,
        }
    }
}

impl Stream {
    fn keep(&mut self, read: io::Result<usize>, room: &mut usize, truncated: &mut bool) {
        let read = read.unwrap_or(0);
        let kept = read.min(*room);
        self.open = read > 0;
        self.kept.extend_from_slice(&self.chunk[..kept]);
        *room -= kept;
        *truncated |= kept < read;
    }
}

fn new_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}

/// Environments are longer than a frame may be, so that the process goes as a file.
fn process_file(process: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
    file.write_all(process)?;
    file.rewind()?;
    Ok(file.into())
}
