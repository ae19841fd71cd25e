//! Taking part in a container's streams.

use std::os::fd::BorrowedFd;

use monitor_proto::{Attach, AttachEnd, ExecId};
use tokio::sync::oneshot;
use types::ContainerId;

use crate::{Monitor, MonitorError};

/// Descriptors that are attached to a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attached<'a> {
    /// From which its input is taken; the end of it is the end of the input where the container
    /// was made so.
    pub stdin: Option<BorrowedFd<'a>>,
    /// To which its output is copied; it must take it at once.
    pub stdout: Option<BorrowedFd<'a>>,
    /// To which its errors are copied.
    pub stderr: Option<BorrowedFd<'a>>,
}

/// A session that is attached. It ends when the other ends of its descriptors are closed.
#[derive(Debug)]
pub struct AttachSession {
    monitor: Monitor,
    session: ExecId,
    end: oneshot::Receiver<AttachEnd>,
}

impl Monitor {
    /// Attaches descriptors to a container that runs.
    ///
    /// # Errors
    /// [`monitor_proto::FailureKind::Unsupported`] where the monitor is of a release that cannot.
    pub async fn attach(
        &self,
        container: &ContainerId,
        streams: Attached<'_>,
    ) -> Result<AttachSession, MonitorError> {
        let Attached { stdin, stdout, stderr } = streams;
        let session = ExecId::random();
        let wanted = Attach {
            container: container.clone(),
            session: session.clone(),
            stdin: stdin.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let descriptors: Vec<_> = [stdin, stdout, stderr].into_iter().flatten().collect();
        let end = self.connection.watch_attached(&session);
        // From here on the watch is taken away with it.
        let attached = AttachSession { monitor: self.clone(), session, end };
        self.call_attach(wanted, &descriptors).await?;
        Ok(attached)
    }
}

impl AttachSession {
    /// Waits until the container has ended, or the session was let go.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub async fn ended(&mut self) -> Result<AttachEnd, MonitorError> {
        (&mut self.end).await.map_err(|_| self.monitor.connection.gone())
    }
}

impl Drop for AttachSession {
    fn drop(&mut self) {
        self.monitor.connection.forget_attached(&self.session);
    }
}
