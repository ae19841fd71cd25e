//! Showing what is added to a log until its container ends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::sink::Sink;
use super::source::Source;

/// How long nothing may happen before the container's state is asked for. The
/// kubelet waits as long.
pub const CHECK_AFTER: Duration = Duration::from_secs(1);

/// Tells whether a container may still write.
pub trait Alive {
    /// Answers at once or soon; `true` while in doubt.
    async fn alive(&self) -> anyhow::Result<bool>;
}

/// Shows what `source` has and gets, and what its successors get, until the
/// container is dead and everything was shown. Its state is asked for when nothing
/// happened for `check_after`.
pub async fn follow(
    mut source: Source,
    sink: &mut Sink<'_, '_>,
    container: &impl Alive,
    check_after: Duration,
) -> anyhow::Result<()> {
    let changes = Changes::watch(source.path())?;
    let mut alive = true;
    loop {
        source.drain(sink)?;
        if sink.is_full() {
            break;
        }
        if let Some(next) = source.successor()? {
            // What was written between draining and the first byte of the new file.
            source.drain(sink)?;
            source.end(sink)?;
            source = next;
            continue;
        }
        if !alive {
            source.end(sink)?;
            break;
        }
        if !changes.wait(check_after).await? {
            alive = container.alive().await?;
        }
    }
    Ok(())
}

/// The changes in a log file's directory.
struct Changes {
    fd: Arc<OwnedFd>,
}

impl Changes {
    fn watch(file: &Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let fd = inotify::init(flags)?;
        let dir = file.parent().unwrap_or(Path::new("/"));
        let kinds = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, kinds)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Waits for a change; `false` when there was none within `limit`.
    ///
    /// The wait is a thread's: registering a descriptor with the async runtime
    /// is unsafe, and this program has nothing else to do.
    async fn wait(&self, limit: Duration) -> anyhow::Result<bool> {
        let fd = Arc::clone(&self.fd);
        Ok(tokio::task::spawn_blocking(move || wait(&fd, limit)).await??)
    }
}

fn wait(fd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut waiting = [PollFd::new(fd, PollFlags::IN)];
    match poll(&mut waiting, Some(&limit)) {
        Ok(0) => return Ok(false),
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(fd, &mut space);
    loop {
        match events.next() {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}
