//! The task that reads what a monitor sends, and sees its death.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use monitor_proto::{MAX_FRAME, Message, Notice, Received};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use types::SandboxId;

use crate::Event;
use crate::connection::Shared;
use crate::exec_sync::ExecEnd;
use crate::watch::watch;

/// How long a monitor that closed its connection has to be dead. A process that ends closes its
/// descriptors a moment before its handle says so.
const DYING: Duration = Duration::from_secs(1);

/// Reads until the connection or the monitor is at its end, then says so.
pub(crate) async fn run(
    sandbox: SandboxId,
    shared: Arc<Shared>,
    pidfd: Arc<OwnedFd>,
    events: mpsc::Sender<Event>,
) {
    let dead = match pidfd.try_clone().and_then(watch) {
        Ok(handle) => {
            read_until_end(&sandbox, &shared, &handle, &events).await;
            tokio::time::timeout(DYING, handle.readable()).await.is_ok()
        }
        Err(error) => {
            tracing::warn!(%sandbox, %error, "the monitor's handle cannot be watched");
            has_ended(&pidfd)
        }
    };
    shared.lose(dead);
    // Where the queue is full the core finds its end: the sender is dropped.
    let _ = events.try_send(Event::Lost { dead });
}

async fn read_until_end(
    sandbox: &SandboxId,
    shared: &Shared,
    handle: &AsyncFd<OwnedFd>,
    events: &mpsc::Sender<Event>,
) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let ended = tokio::select! {
            biased;
            ready = shared.socket.readable() => match ready {
                Ok(mut ready) => {
                    let received = ready
                        .try_io(|fd| monitor_proto::receive(fd.get_ref().as_fd(), &mut buffer));
                    match received {
                        Ok(received) => take(sandbox, shared, received, &buffer, events),
                        Err(_would_block) => false,
                    }
                }
                Err(_) => true,
            },
            _ = handle.readable() => {
                drain(sandbox, shared, &mut buffer, events);
                true
            }
        };
        if ended {
            return;
        }
    }
}

/// Takes what a dead monitor had sent. A child of it may still hold its end of the socket open,
/// so that no end would come.
fn drain(sandbox: &SandboxId, shared: &Shared, buffer: &mut [u8], events: &mpsc::Sender<Event>) {
    loop {
        let received = monitor_proto::receive(shared.socket.get_ref().as_fd(), buffer);
        if take(sandbox, shared, received, buffer, events) {
            return;
        }
    }
}

/// Takes one packet; true at the connection's end.
fn take(
    sandbox: &SandboxId,
    shared: &Shared,
    received: io::Result<Received>,
    buffer: &[u8],
    events: &mpsc::Sender<Event>,
) -> bool {
    let (length, descriptors) = match received {
        Ok(Received::Frame { length, descriptors, .. }) => (length, descriptors),
        Ok(Received::TooLong) => {
            tracing::warn!(%sandbox, "the monitor sent a frame that is too long");
            return true;
        }
        Ok(Received::End) | Err(_) => return true,
    };
    match monitor_proto::decode_message(&buffer[..length]) {
        Ok(Message::Reply { id, result }) => {
            shared.answer(id, (result, descriptors));
            false
        }
        Ok(Message::Notice(notice)) => !tell(sandbox, shared, notice, events),
        Err(error) => {
            // A newer monitor may know news that this daemon does not.
            tracing::warn!(%sandbox, %error, "the monitor sent a frame that is not known");
            false
        }
    }
}

/// Passes news on; false when nobody takes them.
fn tell(
    sandbox: &SandboxId,
    shared: &Shared,
    notice: Notice,
    events: &mpsc::Sender<Event>,
) -> bool {
    if let Notice::ExecExited { exec, exit, timed_out, .. } = &notice {
        let end = ExecEnd { exit: exit.clone(), timed_out: *timed_out };
        if shared.exec_ended(exec, end) {
            return true;
        }
    }
    if let Notice::AttachEnded { session, why, .. } = &notice {
        shared.attach_ended(session, *why);
        return true;
    }
    match events.try_send(Event::Notice(notice)) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            tracing::warn!(%sandbox, "news of the monitor are not taken; the connection is given up");
            false
        }
        // The core does not want events; calls go on.
        Err(mpsc::error::TrySendError::Closed(_)) => true,
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(1))
}
