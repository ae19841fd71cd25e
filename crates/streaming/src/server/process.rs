//! A process and its client: bytes between descriptors and streams, until one of them ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::backend::{Process, Running};
use super::session::{Channels, Input, Output};
use crate::fd::Fd;
use crate::protocol::Sizes;
use crate::task::Task;
use crate::{Activity, Outcome};

/// How much is read at a time.
const CHUNK: usize = 32 << 10;

/// The output that waits for the client of a command, which waits with it.
pub(crate) const EXEC_BEHIND: usize = 256 << 10;

/// The output that waits for the client of an attached container. It is read at once, because the
/// monitor lets a client go whose pipe is full.
pub(crate) const ATTACH_BEHIND: usize = 8 << 20;

/// The most that is read of what an ended process left: more than the largest pipe holds.
const MAX_LAST: usize = 2 << 20;

/// How long the client may take for the last output of a process that has ended.
const DELIVERY: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 30 });

/// How long a session may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Without a movement; zero is for ever.
    pub(crate) idle: Duration,
    /// In all; zero is for ever.
    pub(crate) whole: Duration,
}

impl Times {
    /// Waits until a session is over because of its times; says why.
    pub(crate) async fn over(self, activity: &Activity) -> String {
        let whole = async {
            match self.whole.is_zero() {
                true => std::future::pending().await,
                false => tokio::time::sleep(self.whole).await,
            }
        };
        tokio::select! {
            () = activity.idle_for(self.idle) => {
                format!("the session was idle for {} s", self.idle.as_secs())
            }
            () = whole => format!("the session took longer than {} s", self.whole.as_secs()),
        }
    }
}

/// Connects a process with its client, for whom `behind` bytes may wait; returns when the process has ended, or `None` when the
/// client has left. The process is dropped then.
pub(crate) async fn connect<R: Running>(
    process: Process<R>,
    channels: &mut Channels,
    behind: usize,
    times: Times,
    activity: &Activity,
) -> Option<Outcome> {
    let Process { stdin, stdout, stderr, mut running } = process;
    // Dropped with the session, all of them end.
    let mut inputs = JoinSet::new();
    if let (Some(fd), Some(input)) = (stdin, channels.stdin.take()) {
        inputs.spawn(pass_input(input, fd));
    }
    let (ended, is_over) = watch::channel(false);
    let mut outputs = JoinSet::new();
    for (fd, output) in [(stdout, channels.stdout.take()), (stderr, channels.stderr.take())] {
        match (fd, output) {
            (Some(fd), Some(output)) => {
                outputs.spawn(pass_output(fd, output, is_over.clone(), behind, activity.clone()));
            }
            (None, Some(output)) => output.finish().await,
            (_, None) => {}
        }
    }
    let mut resize = channels.resize.take();
    let mut sizes = Sizes::default();
    let over = times.over(activity);
    tokio::pin!(over);
    let outcome = loop {
        tokio::select! {
            outcome = running.ended() => break outcome,
            bytes = next(&mut resize) => match bytes {
                Some(bytes) => if let Some(size) = sizes.take(&bytes) {
                    running.resize(size).await;
                },
                None => resize = None,
            },
            () = channels.closed.wait() => return None,
            why = &mut over => break Outcome::Failed(why),
        }
    };
    ended.send_replace(true);
    // What it wrote before its end is delivered, if the client takes it.
    let delivered = async { while outputs.join_next().await.is_some() {} };
    tokio::select! {
        _ = tokio::time::timeout(DELIVERY, delivered) => Some(outcome),
        () = channels.closed.wait() => None,
    }
}

async fn next(input: &mut Option<Input>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Passes a client's input on, and its end.
async fn pass_input(mut input: Input, fd: OwnedFd) {
    let Ok(fd) = Fd::new(fd) else { return };
    while let Some(bytes) = input.recv().await {
        if fd.write_all(&bytes).await.is_err() {
            break;
        }
    }
    drop(fd);
    // Who reads no more input may still write output: what comes is thrown away.
    while input.recv().await.is_some() {}
}

/// Passes a process' output on to its end, or to what is there when the process has ended.
async fn pass_output(
    fd: OwnedFd,
    output: Output,
    mut is_over: watch::Receiver<bool>,
    behind: usize,
    activity: Activity,
) {
    let Ok(fd) = Fd::new(fd) else { return };
    let (pieces, mut queue) = mpsc::unbounded_channel::<(Bytes, _)>();
    let room = Arc::new(Semaphore::new(behind));
    let mut sending = Task::spawn(async move {
        while let Some((bytes, taken)) = queue.recv().await {
            let sent = output.send(bytes).await;
            drop::<tokio::sync::OwnedSemaphorePermit>(taken);
            if sent.is_err() {
                return;
            }
            activity.touch();
        }
        output.finish().await;
    });
    let mut buffer = vec![0; CHUNK];
    let mut last = None;
    loop {
        let read = match &mut last {
            None => tokio::select! {
                biased;
                _ = is_over.wait_for(|over| *over) => {
                    last = Some(MAX_LAST);
                    continue;
                }
                read = fd.read(&mut buffer) => read.map(Some),
            },
            Some(0) => break,
            Some(left) => {
                let read = fd.read_now(&mut buffer);
                *left = left.saturating_sub(CHUNK);
                read
            }
        };
        match read {
            Ok(Some(count)) if count > 0 => {
                let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                let wanted = u32::try_from(count).unwrap_or(u32::MAX);
                let Ok(place) = room.clone().acquire_many_owned(wanted).await else { return };
                if pieces.send((bytes, place)).is_err() {
                    return;
                }
            }
            _ => break,
        }
    }
    drop((fd, pieces));
    sending.ended().await;
}
