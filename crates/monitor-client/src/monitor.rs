//! The handle of one monitor, and where handles come from.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use monitor_proto::{CgroupPlacement, ContainerState, Features, MakeSandbox, Notice, ReaperState};
use rustix::process::Signal;
use tokio::sync::mpsc;
use types::SandboxId;

use crate::connection::{Connection, handshake};
use crate::spawn::SpawnedMonitor;
use crate::{MonitorError, MonitorProgram};

/// How long a monitor has for an answer: it has one thread and answers from memory, so that
/// anything beyond is a monitor that hangs.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a monitor has to launch: its own limit for a launch is a minute (mounts of a hanging
/// file server), and its failure tells more than a deadline.
pub const START_DEADLINE: Duration = Duration::from_secs(65);

/// The most events that wait for the core. A monitor sends a few a container; a core that is
/// this far behind loses the connection and starts over from [`Monitor::state`].
const EVENT_QUEUE: usize = 1024;

/// Starts and adopts monitors.
#[derive(Debug, Clone)]
pub struct Monitors {
    program: Arc<MonitorProgram>,
}

/// A monitor that answers. Clones are the same connection; the connection ends with the last one.
#[derive(Debug, Clone)]
pub struct Monitor {
    pub(crate) connection: Arc<Connection>,
}

/// What comes from a monitor without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// News. Exec sessions started by [`Monitor::exec_sync`] are not among them.
    Notice(Notice),
    /// The connection is at its end; the last event. Where the monitor lives it can be adopted
    /// again.
    Lost {
        /// Whether the monitor is dead.
        dead: bool,
    },
}

/// The events of a monitor, in order.
#[derive(Debug)]
pub struct Events {
    pub(crate) receiver: mpsc::Receiver<Event>,
}

impl Events {
    /// Waits for the next event; `None` after [`Event::Lost`], or when the core was too slow.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn recv(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// What a monitor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorState {
    /// What was made of the sandbox, or `None` when nothing was yet.
    pub made: Option<MakeSandbox>,
    /// The reaper, where one was started.
    pub reaper: Option<ReaperState>,
    /// Containers from their start to the acknowledgement of their exit, by id.
    pub containers: Vec<ContainerState>,
}

impl Monitors {
    /// Takes the program that every monitor will execute.
    pub fn new(program: MonitorProgram) -> Self {
        Self { program: Arc::new(program) }
    }

    /// Starts the monitor of a sandbox, in its cgroups before it executes.
    ///
    /// `state_dir` is the sandbox's own directory; it exists, with mode 0700. Must be called
    /// within a tokio runtime that runs I/O and time.
    ///
    /// # Errors
    /// Where it fails no process is left.
    ///
    /// # Cancellation
    /// The process is killed.
    pub async fn spawn(
        &self,
        sandbox: &SandboxId,
        state_dir: &Path,
        cgroup: &CgroupPlacement,
    ) -> Result<(Monitor, Events), MonitorError> {
        let spawned = self.start(sandbox, state_dir, cgroup).await?;
        let (socket, child) = spawned.into_parts();
        let greeting = handshake(sandbox, socket).await?;
        Ok(Self::run(greeting, Some(child)))
    }

    /// Connects to the monitor that an earlier daemon started.
    ///
    /// # Errors
    /// [`MonitorError::NotRunning`] when there is none; [`MonitorError::Deadline`] when it hangs.
    pub async fn adopt(
        &self,
        sandbox: &SandboxId,
        state_dir: &Path,
    ) -> Result<(Monitor, Events), MonitorError> {
        let socket = crate::connection::connect(sandbox, state_dir).await?;
        let greeting = handshake(sandbox, socket).await?;
        Ok(Self::run(greeting, None))
    }

    /// Tries, in a process like those that start containers, whether containers can have user
    /// namespaces here. `scratch` is an empty directory on the file system of the layers.
    ///
    /// # Errors
    /// Why they cannot, in one line.
    pub async fn probe_user_namespaces(&self, scratch: &Path) -> Result<(), String> {
        let (program, scratch) = (self.program.clone(), scratch.to_owned());
        let work = tokio::task::spawn_blocking(move || crate::spawn::probe(&program, &scratch));
        work.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Starts the process on a thread that may block.
    async fn start(
        &self,
        sandbox: &SandboxId,
        state_dir: &Path,
        cgroup: &CgroupPlacement,
    ) -> Result<SpawnedMonitor, MonitorError> {
        let (program, name) = (self.program.clone(), sandbox.clone());
        let (state_dir, cgroup) = (state_dir.to_owned(), cgroup.clone());
        let work = tokio::task::spawn_blocking(move || {
            SpawnedMonitor::start(&program, &name, &state_dir, &cgroup)
        });
        work.await.unwrap_or_else(|error| {
            Err(MonitorError::Spawn { sandbox: sandbox.clone(), source: error.into() })
        })
    }

    fn run(
        greeting: crate::connection::Greeting,
        child: Option<crate::spawn::Child>,
    ) -> (Monitor, Events) {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let connection = Connection::run(greeting, child, sender);
        (Monitor { connection }, Events { receiver })
    }
}

impl Monitor {
    /// The sandbox that it serves.
    pub fn sandbox(&self) -> &SandboxId {
        &self.connection.sandbox
    }

    /// Its process; for logs and figures, not for signals.
    pub fn pid(&self) -> i32 {
        self.connection.hello.pid
    }

    /// Its release.
    pub fn release(&self) -> &str {
        &self.connection.hello.release
    }

    /// What it can do.
    pub fn features(&self) -> Features {
        self.connection.hello.features
    }

    /// Whether its process has ended.
    pub fn is_dead(&self) -> bool {
        self.connection.is_dead()
    }

    /// Kills its process by handle: for one that hangs. Its containers go on without it, their
    /// output and exits unwatched.
    ///
    /// # Errors
    /// The kernel's; a process that has ended already is none.
    pub fn kill(&self) -> Result<(), MonitorError> {
        let pidfd = self.connection.pidfd.as_fd();
        match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => {
                Err(MonitorError::Kill { sandbox: self.sandbox().clone(), source: errno.into() })
            }
        }
    }
}
