//! A launch under way, as the monitor's event loop sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;

use crate::channel::{MAX_FRAME, Word};
use crate::spawn::{self, ChildPid, Spawned};
use crate::{ContainerLaunch, LaunchError, procfs, stdio};

/// A process that was cloned and is being set up.
#[derive(Debug)]
pub struct Launching {
    /// The process, as the caller's PID namespace numbers it.
    pub pid: Pid,
    /// Its handle. The caller reaps the process, whether the launch succeeds or fails.
    pub pidfd: OwnedFd,
    status: OwnedFd,
    notices: Vec<String>,
    console: Option<OwnedFd>,
    ready: bool,
}

/// A process that executes the command.
#[derive(Debug)]
pub struct Started {
    /// What was clamped to what this machine allows; for the log.
    pub notices: Vec<String>,
    /// The master of the terminal, where one was asked for.
    pub console: Option<OwnedFd>,
}

/// The most notices kept of one launch; a child sends one a limit and one a capability set.
const MAX_NOTICES: usize = 64;

/// Clones the first process of a container, which goes into its cgroups before all else.
///
/// The caller must have one thread. Nothing here waits for the set-up itself.
///
/// # Errors
/// Where it fails no process is left: a child that was cloned has been killed and reaped.
pub fn start_container(launch: &ContainerLaunch<'_>) -> Result<Launching, LaunchError> {
    stdio::keep_null();
    procfs::keep_processes();
    let pid = ChildPid::Given(launch.pid);
    let spawned = spawn::spawn(&pid, &launch.cgroup, |token, voice| {
        crate::container::run(launch, token, voice)
    })?;
    Launching::new(spawned)
}

impl Launching {
    pub(crate) fn new(spawned: Spawned) -> Result<Self, LaunchError> {
        let Spawned { pid, pidfd, socket } = spawned;
        if let Err(error) = rustix::io::ioctl_fionbio(&socket, true) {
            spawn::kill_and_reap(&pidfd);
            return Err(LaunchError::Channel(error.into()));
        }
        let (notices, console) = (Vec::new(), None);
        Ok(Self { pid, pidfd, status: socket, notices, console, ready: false })
    }

    /// The descriptor to poll for reading; [`Launching::poll`] is called when it is ready.
    #[must_use]
    pub fn status_fd(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }

    /// Takes what the child has said; `None` while it is not done. Never blocks. Not to be called
    /// again after it gave a result.
    pub fn poll(&mut self) -> Option<Result<Started, LaunchError>> {
        let mut frame = [0; MAX_FRAME];
        loop {
            let received = match sys::message::receive(&self.status, &mut frame) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // An unread go at the child's end makes its death a reset.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Some(Err(LaunchError::ChildDied));
                }
                Err(error) => return Some(Err(LaunchError::Status(error))),
            };
            if received.length == 0 {
                return Some(self.ended());
            }
            let descriptor = received.descriptors.into_iter().next();
            let bytes = frame.get(..received.length).unwrap_or_default();
            match serde_json::from_slice(bytes) {
                Ok(word) => {
                    if let Err(error) = self.hear(word, descriptor) {
                        return Some(Err(error));
                    }
                }
                Err(error) => return Some(Err(LaunchError::Message(error))),
            }
        }
    }

    fn hear(&mut self, word: Word, descriptor: Option<OwnedFd>) -> Result<(), LaunchError> {
        match word {
            Word::Notice(text) if self.notices.len() < MAX_NOTICES => self.notices.push(text),
            Word::Notice(_) => {}
            Word::Console => self.console = descriptor,
            Word::Ready => self.ready = true,
            Word::Failed(failure) => return Err(LaunchError::Child(failure)),
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Started, LaunchError> {
        if !self.ready {
            return Err(LaunchError::ChildDied);
        }
        Ok(Started { notices: std::mem::take(&mut self.notices), console: self.console.take() })
    }
}
