//! The channel between the parent and the child that is being set up.
//!
//! ```text
//! parent ◀─ notice*, console?, ready ─ child
//! parent ◀─ end of stream ─ child   after ready: execve was done
//! parent ◀─ failed ─ child          at any time, the last word
//! ```
//!
//! The end of the stream without `ready` means that the child was killed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::{ChildFailure, LaunchError};

/// The longest frame; the longest message and path fit, escaped.
pub(crate) const MAX_FRAME: usize = 16 * 1024;

/// The most characters of a notice.
const MAX_NOTICE_CHARS: usize = 1024;
/// How long a helper process may take to be set up. A kernel that is busy taking network
/// namespaces down has been seen to need seconds for a new one.
const SET_UP_TIMEOUT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// Something was clamped.
    Notice(String),
    /// The descriptor that comes along is the terminal's master.
    Console,
    /// Everything is set up; execve is next.
    Ready,
    /// A step failed; the child ends.
    Failed(ChildFailure),
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct Voice(OwnedFd);

impl Voice {
    /// Takes the child's end, away from the places of standard descriptors.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        if socket.as_raw_fd() > 2 {
            return Ok(Self(socket));
        }
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(&socket, 3)?))
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits until the parent has gone, or ends us.
    pub(crate) fn wait_for_parents_end(&self) {
        let mut buffer = [0; 1];
        // Nobody writes to us: what comes is the end.
        drop(sys::message::receive(&self.0, &mut buffer));
    }

    /// Says a word. What cannot be said is lost: the parent then sees the stream end.
    pub(crate) fn say(&self, word: &Word, descriptor: Option<BorrowedFd<'_>>) {
        if let Ok(frame) = serde_json::to_vec(word) {
            drop(sys::message::send(&self.0, &frame, descriptor.as_slice()));
        }
    }

    /// Says that something was clamped.
    pub(crate) fn notice(&self, text: &str) {
        self.say(&Word::Notice(text.chars().take(MAX_NOTICE_CHARS).collect()), None);
    }
}

/// Waits until a helper process has been set up.
pub(crate) fn wait_until_ready(socket: &OwnedFd) -> Result<(), LaunchError> {
    let mut frame = [0; MAX_FRAME];
    loop {
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        let ready =
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&SET_UP_TIMEOUT)));
        if ready.map_err(|error| LaunchError::Status(error.into()))? == 0 {
            return Err(LaunchError::Status(io::ErrorKind::TimedOut.into()));
        }
        let received = sys::message::receive(socket, &mut frame).map_err(LaunchError::Status)?;
        if received.length == 0 {
            return Err(LaunchError::ChildDied);
        }
        let bytes = frame.get(..received.length).unwrap_or_default();
        match serde_json::from_slice(bytes).map_err(LaunchError::Message)? {
            Word::Ready => return Ok(()),
            Word::Failed(failure) => return Err(LaunchError::Child(failure)),
            Word::Notice(_) | Word::Console => {}
        }
    }
}
