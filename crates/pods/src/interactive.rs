//! Exec with streams, attach and port-forward: descriptors for the streaming server.
//!
//! Like ExecSync they go to the monitor without the pod's task: nothing of the pod changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

use monitor_client::{
    AttachEnd, AttachSession, Attached, Exec, ExecId, ExecSession, Monitor, MonitorError,
};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use types::ContainerId;

use crate::error::{Error, Result};
use crate::service::Pods;

/// What a pipe holds for a client of an attached container: the most that the kernel gives
/// without further rights.
const ATTACH_PIPE_BYTES: usize = 1 << 20;

/// How long a port may take to be connected to: it is on this machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamsWanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal in place of all three.
    pub tty: bool,
}

/// Our ends of a process' streams.
#[derive(Debug, Default)]
pub struct StreamEnds {
    /// Where its input is written.
    pub stdin: Option<OwnedFd>,
    /// Where its output is read, or its terminal.
    pub stdout: Option<OwnedFd>,
    /// Where its errors are read.
    pub stderr: Option<OwnedFd>,
}

/// A command that runs with streams. Dropped before its end, it is killed with all that it
/// started, unless orphans are left alone.
#[derive(Debug)]
pub struct RunningExec {
    session: ExecSession,
    console: Option<OwnedFd>,
    what: String,
}

/// A session attached to a container.
#[derive(Debug)]
pub struct RunningAttach {
    session: AttachSession,
    monitor: Monitor,
    container: ContainerId,
}

impl Pods {
    /// Starts a command with streams of its own.
    ///
    /// # Errors
    /// Where the container does not run, or the command cannot be started.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        wanted: StreamsWanted,
    ) -> Result<(StreamEnds, RunningExec)> {
        let Some(name) = command.first().cloned() else {
            return Err(Error::Invalid("the command is empty".to_owned()));
        };
        let (record, monitor) = self.running(id, "nothing can be executed in it")?;
        let (process, cgroup) = self.prepare_exec(&record, command, wanted.tty).await?;
        let what = format!("execute \"{name}\" in container {}", record.id);
        let failed =
            |source: MonitorError| Error::Monitor { what: what.clone(), source: Box::new(source) };
        let pipes = if wanted.tty { Pipes::default() } else { Pipes::new(wanted, None)? };
        let Pipes { mut ours, theirs } = pipes;
        let [stdin, stdout, stderr] = &theirs;
        let request = Exec {
            container: record.id.clone(),
            exec: ExecId::random(),
            timeout_ms: None,
            tty: wanted.tty,
            stdin: stdin.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
            cgroup,
            outlives_connection: self.inner.options.leave_orphaned_execs,
        };
        let streams: Vec<_> = theirs.iter().flatten().map(AsFd::as_fd).collect();
        let mut session = monitor.exec(request, &process, &streams).await.map_err(failed)?;
        if self.inner.options.leave_orphaned_execs {
            session.let_go();
        }
        let console = session.take_console();
        if let Some(console) = &console {
            let copy = || console.try_clone().map_err(no_descriptor);
            ours.stdin = wanted.stdin.then(copy).transpose()?;
            ours.stdout = wanted.stdout.then(copy).transpose()?;
        }
        Ok((ours, RunningExec { session, console, what }))
    }

    /// Takes part in the streams of a container's first process.
    ///
    /// # Errors
    /// Where the container does not run.
    pub async fn attach(
        &self,
        id: &str,
        wanted: StreamsWanted,
    ) -> Result<(StreamEnds, RunningAttach)> {
        let (record, monitor) = self.running(id, "there is nothing to attach to")?;
        let Pipes { ours, theirs } = Pipes::new(wanted, Some(ATTACH_PIPE_BYTES))?;
        let [stdin, stdout, stderr] = &theirs;
        let attached = Attached {
            stdin: stdin.as_ref().map(AsFd::as_fd),
            stdout: stdout.as_ref().map(AsFd::as_fd),
            stderr: stderr.as_ref().map(AsFd::as_fd),
        };
        let session = monitor.attach(&record.id, attached).await.map_err(|source| {
            let what = format!("attach to container {}", record.id);
            Error::Monitor { what, source: Box::new(source) }
        })?;
        let container = record.id.clone();
        Ok((ours, RunningAttach { session, monitor, container }))
    }

    /// Connects to a port of a sandbox, by IPv4 or else by IPv6.
    ///
    /// # Errors
    /// Where the sandbox is not ready, or nothing listens there.
    pub async fn connect_port(&self, id: &str, port: u16) -> Result<TcpStream> {
        let record = self.sandbox_ready(id)?;
        let netns = record.own_network().then(|| self.inner.netns_path(&record.id));
        let failed = |source| Error::Port { port, sandbox: record.id.to_string(), source };
        let mut sockets = sockets_in(netns).await.map_err(failed)?;
        let hosts = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut first = None;
        for (host, socket) in hosts.into_iter().zip(sockets.drain(..)) {
            let Some(socket) = socket else { continue };
            let socket = TcpSocket::from_std_stream(socket);
            let connecting = socket.connect(SocketAddr::new(host, port));
            match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => drop(first.get_or_insert(error)),
                Err(_) => drop(first.get_or_insert(io::ErrorKind::TimedOut.into())),
            }
        }
        Err(failed(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
    }

    /// Whether a container runs, and its id in full.
    ///
    /// # Errors
    /// Where it does not.
    pub fn running_container(&self, id: &str) -> Result<ContainerId> {
        self.running(id, "it has no streams").map(|(record, _)| record.id.clone())
    }

    /// A sandbox that is ready.
    ///
    /// # Errors
    /// Where it is not.
    pub fn sandbox_ready(&self, id: &str) -> Result<std::sync::Arc<crate::SandboxRecord>> {
        let record = self.sandbox(id)?;
        if !record.is_ready() {
            let text = format!("sandbox {} is not ready: it has no ports", record.id);
            return Err(Error::WrongState(text));
        }
        Ok(record)
    }
}

impl RunningExec {
    /// Changes the size of its terminal; one that has none has no size.
    pub fn resize(&self, width: u16, height: u16) {
        let Some(console) = &self.console else { return };
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        // It may have ended meanwhile.
        let _ = rustix::termios::tcsetwinsize(console, size);
    }

    /// Waits for its end; returns its exit code, or 128 and the signal's number.
    ///
    /// # Errors
    /// When the monitor is gone, or the command was killed and does not end.
    ///
    /// # Cancellation
    /// May be called again.
    pub async fn ended(&mut self) -> Result<i32> {
        let end = self.session.ended().await.map_err(|source| Error::Monitor {
            what: self.what.clone(),
            source: Box::new(source),
        })?;
        let exit = end.exit.ok_or_else(|| {
            Error::WrongState(format!("failed to {}: it was killed and does not end", self.what))
        })?;
        Ok(exit.signal.map_or(exit.code, |signal| 128 + signal))
    }
}

impl RunningAttach {
    /// Changes the size of the container's terminal; one that has none has no size.
    pub async fn resize(&self, width: u16, height: u16) {
        if let Err(error) = self.monitor.resize_tty(&self.container, width, height).await {
            tracing::debug!(container = %self.container, %error, "its terminal is not resized");
        }
    }

    /// Waits for the container's end.
    ///
    /// # Errors
    /// When the monitor is gone, or the session was let go because it reads too slowly.
    ///
    /// # Cancellation
    /// May be called again.
    pub async fn ended(&mut self) -> Result<()> {
        let id = &self.container;
        match self.session.ended().await {
            Ok(AttachEnd::ContainerEnded | AttachEnd::StreamsEnded) => Ok(()),
            Ok(AttachEnd::TooSlow) => Err(Error::WrongState(format!(
                "the client reads more slowly than container {id} writes, and was let go"
            ))),
            Ok(AttachEnd::Unknown) => {
                Err(Error::WrongState(format!("the session with container {id} was ended")))
            }
            Err(source) => {
                let what = format!("stay attached to container {id}");
                Err(Error::Monitor { what, source: Box::new(source) })
            }
        }
    }
}

/// Pipes: our ends, and those of the process or the monitor.
#[derive(Debug, Default)]
struct Pipes {
    ours: StreamEnds,
    theirs: [Option<OwnedFd>; 3],
}

impl Pipes {
    fn new(wanted: StreamsWanted, output_bytes: Option<usize>) -> Result<Self> {
        let pipe = |wanted: bool| {
            let made = wanted.then(|| rustix::pipe::pipe_with(PipeFlags::CLOEXEC)).transpose();
            made.map(Option::unzip).map_err(|errno| no_descriptor(errno.into()))
        };
        let (their_stdin, stdin) = pipe(wanted.stdin)?;
        let (stdout, their_stdout) = pipe(wanted.stdout)?;
        let (stderr, their_stderr) = pipe(wanted.stderr)?;
        for end in [&stdout, &stderr].into_iter().flatten() {
            // Where the kernel gives no more, it stays as it is.
            output_bytes.map(|bytes| rustix::pipe::fcntl_setpipe_size(end, bytes));
        }
        let ours = StreamEnds { stdin, stdout, stderr };
        Ok(Self { ours, theirs: [their_stdin, their_stdout, their_stderr] })
    }
}

fn no_descriptor(source: io::Error) -> Error {
    Error::File { what: "make", path: PathBuf::from("a pipe"), source }
}

/// Makes sockets of both kinds in a network namespace, or in ours; one is missing where the kernel
/// has not its kind. A socket stays in the namespace in which it was made.
async fn sockets_in(netns: Option<PathBuf>) -> io::Result<Vec<Option<std::net::TcpStream>>> {
    let Some(netns) = netns else { return Ok(sockets()) };
    let (answer, answered) = tokio::sync::oneshot::channel();
    // A thread of its own, which ends: none of the runtime's may stay in there.
    thread::Builder::new().name("corten-port".to_owned()).spawn(move || {
        let _ = answer.send(enter(&netns).map(|()| sockets()));
    })?;
    answered.await.map_err(io::Error::other)?
}

fn enter(netns: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let handle = rustix::fs::open(netns, flags, Mode::empty())?;
    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn sockets() -> Vec<Option<std::net::TcpStream>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = |family| rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok();
    [AddressFamily::INET, AddressFamily::INET6]
        .into_iter()
        .map(|family| make(family).map(Into::into))
        .collect()
}
