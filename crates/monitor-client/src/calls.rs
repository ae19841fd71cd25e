//! The typed calls.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use monitor_proto::{
    Attach, Exec, ExecId, ExecStarted, FailureKind, MakeSandbox, Op, ReaperRequest, Reply,
    ResizeTty, SandboxMade, Signal, StartContainer, Started,
};
use types::ContainerId;

use crate::monitor::{DEFAULT_DEADLINE, Monitor, MonitorState, START_DEADLINE};
use crate::{Failure, MonitorError};

/// The most pages of a state: a monitor that never comes to an end is broken.
const MAX_STATE_PAGES: usize = 1024;

impl Monitor {
    /// Makes and pins the sandbox's namespaces and starts its reaper. May be repeated.
    ///
    /// # Errors
    /// Where it fails nothing is left pinned; after a deadline it may still happen.
    pub async fn make_sandbox(&self, wanted: MakeSandbox) -> Result<SandboxMade, MonitorError> {
        let (reply, _) =
            self.call("make_sandbox", Op::MakeSandbox(wanted), &[], DEFAULT_DEADLINE).await?;
        match reply {
            Reply::SandboxMade(made) => Ok(made),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Starts the reaper of a sandbox that was made without one. May be repeated. Needs
    /// [`monitor_proto::Features::LATE_REAPER`].
    ///
    /// # Errors
    /// Where it fails there is none; after a deadline it may still come.
    pub async fn start_reaper(&self, wanted: ReaperRequest) -> Result<SandboxMade, MonitorError> {
        let (reply, _) =
            self.call("start_reaper", Op::StartReaper(wanted), &[], DEFAULT_DEADLINE).await?;
        match reply {
            Reply::SandboxMade(made) => Ok(made),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Starts a container; returns when its command executes.
    ///
    /// # Errors
    /// [`MonitorError::Refused`] when a step of the launch failed; nothing is left then. After
    /// another error [`Monitor::state`] tells whether it runs.
    pub async fn start_container(&self, wanted: StartContainer) -> Result<Started, MonitorError> {
        let op = Op::StartContainer(Box::new(wanted));
        let (reply, _) = self.call("start_container", op, &[], START_DEADLINE).await?;
        match reply {
            Reply::Started(started) => Ok(started),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Starts a process in a container; see [`Monitor::exec`].
    pub(crate) async fn call_exec(
        &self,
        wanted: Exec,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(ExecStarted, Option<OwnedFd>), MonitorError> {
        let (reply, mut received) =
            self.call("exec", Op::Exec(wanted), descriptors, START_DEADLINE).await?;
        match reply {
            Reply::ExecStarted(started) => Ok((started, received.pop())),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a signal to a container's first process, or to all of its processes.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] and [`FailureKind::NotRunning`] among the monitor's.
    pub async fn signal(
        &self,
        container: &ContainerId,
        signal: i32,
        all: bool,
    ) -> Result<(), MonitorError> {
        let op = Op::Signal(Signal { container: container.clone(), signal, all });
        self.done("signal", op).await
    }

    /// Kills an exec session and all that it started.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] when its command has ended.
    pub async fn kill_exec(
        &self,
        container: &ContainerId,
        exec: &ExecId,
    ) -> Result<(), MonitorError> {
        let op = Op::KillExec { container: container.clone(), exec: exec.clone() };
        self.done("kill_exec", op).await
    }

    /// Opens a container's log file anew.
    ///
    /// # Errors
    /// Where it fails there is no new file, and the old one is still written.
    pub async fn reopen_log(&self, container: &ContainerId) -> Result<(), MonitorError> {
        self.done("reopen_log", Op::ReopenLog { container: container.clone() }).await
    }

    /// Changes the size of a container's terminal.
    ///
    /// # Errors
    /// [`FailureKind::Invalid`] when it has none.
    pub async fn resize_tty(
        &self,
        container: &ContainerId,
        width: u16,
        height: u16,
    ) -> Result<(), MonitorError> {
        let op = Op::ResizeTty(ResizeTty { container: container.clone(), width, height });
        self.done("resize_tty", op).await
    }

    pub(crate) async fn call_attach(
        &self,
        wanted: Attach,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), MonitorError> {
        match self.call("attach", Op::Attach(wanted), descriptors, DEFAULT_DEADLINE).await?.0 {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Asks for all that the monitor knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn state(&self) -> Result<MonitorState, MonitorError> {
        let mut state = MonitorState { made: None, reaper: None, containers: Vec::new() };
        for _ in 0..MAX_STATE_PAGES {
            let after = state.containers.last().map(|last| last.id.clone());
            let (reply, _) = self.call("state", Op::State { after }, &[], DEFAULT_DEADLINE).await?;
            let Reply::State(page) = reply else { return Err(self.unexpected(&reply)) };
            state.made = page.made;
            state.reaper = page.reaper;
            let more = page.more && !page.containers.is_empty();
            state.containers.extend(page.containers);
            if !more {
                return Ok(state);
            }
        }
        Err(self.stranger("its state has no end".to_owned()))
    }

    /// Says that a container's exit is recorded: the monitor forgets the container and removes
    /// its exit record.
    ///
    /// # Errors
    /// When it does not answer; a container that is not known is none.
    pub async fn ack_exit(&self, container: &ContainerId) -> Result<(), MonitorError> {
        self.done("ack_exit", Op::AckExit { container: container.clone() }).await
    }

    /// Ends the monitor and the reaper. Pinned namespaces stay for the caller to unpin.
    ///
    /// # Errors
    /// [`FailureKind::Busy`] when a container lives. A monitor that is gone is none.
    pub async fn shutdown(&self) -> Result<(), MonitorError> {
        match self.done("shutdown", Op::Shutdown).await {
            Err(MonitorError::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    async fn done(&self, operation: &'static str, op: Op) -> Result<(), MonitorError> {
        match self.call(operation, op, &[], DEFAULT_DEADLINE).await?.0 {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn call(
        &self,
        operation: &'static str,
        op: Op,
        descriptors: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), MonitorError> {
        self.connection.call(operation, op, descriptors, deadline).await
    }

    fn unexpected(&self, reply: &Reply) -> MonitorError {
        // The reply's content is not shown: it may hold what a container's author wrote.
        self.stranger(match reply {
            Reply::Hello(_) => "it answered with a greeting".to_owned(),
            _ => "its answer belongs to another request".to_owned(),
        })
    }

    fn stranger(&self, reason: String) -> MonitorError {
        MonitorError::Stranger { sandbox: self.sandbox().clone(), reason }
    }
}

impl MonitorError {
    /// Whether the monitor refused for this reason.
    pub fn is_kind(&self, kind: FailureKind) -> bool {
        self.failure().is_some_and(|failure: &Failure| failure.kind == kind)
    }
}
