//! Containers' output: read as it comes, written to the log, and drained at the end.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use container_log::{LogWriter, Stream as LogStream};
use monitor_proto::{Failure, FailureKind, LogTarget, Notice};
use types::ContainerId;

use crate::{
    monitor::Monitor,
    poll::{Poll, Source},
};

/// How much is read at a time: what a pipe holds. One buffer for all containers.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// The longest line where the daemon names no limit.
const DEFAULT_MAX_LINE: usize = 16 << 10;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Stdout,
    Stderr,
    /// The terminal's master: output, and later input.
    Console,
}

impl Which {
    fn in_log(self) -> LogStream {
        match self {
            Self::Stdout | Self::Console => LogStream::Stdout,
            Self::Stderr => LogStream::Stderr,
        }
    }
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) which: Which,
    pub(crate) fd: OwnedFd,
    pub(crate) key: u64,
}

impl Stream {
    pub(crate) fn watch(poll: &mut Poll, id: &ContainerId, which: Which, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let key = poll.add(fd.as_fd(), Source::Stream(id.clone(), which))?;
        Ok(Self { which, fd, key })
    }
}

/// Opens a container's log.
pub(crate) fn open_log(target: &LogTarget) -> Result<LogWriter, Failure> {
    let max = match target.max_line {
        0 => DEFAULT_MAX_LINE,
        asked => asked.min(monitor_proto::MAX_LOG_LINE),
    };
    LogWriter::open(Path::new(&target.directory), Path::new(&target.file), max).map_err(|e| Failure {
        path: Some(e.path.clone()),
        errno: e.source.raw_os_error(),
        ..Failure::new(FailureKind::Log, format!("{e}: {}", e.source))
    })
}

impl Monitor {
    /// Reads what a stream has, once: other streams get their turn.
    pub(crate) fn read_stream(&mut self, id: &ContainerId, which: Which) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(at) = container.streams.iter().position(|s| s.which == which) else { return };
        let Some(stream) = container.streams.get(at) else { return };
        let read = rustix::io::read(&stream.fd, &mut self.input[..]);
        match read {
            Ok(n) if n > 0 => {
                let trouble = container
                    .log
                    .as_mut()
                    .and_then(|log| log.write(which.in_log(), self.input.get(..n)?, &mut self.output));
                if let Some(trouble) = trouble {
                    self.tell_all(&Notice::LogTrouble { container: id.clone(), message: trouble.message });
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // A terminal whose last process has gone answers EIO.
            Ok(_) | Err(_) => self.close_stream(id, which),
        }
    }

    /// Ends a stream; the last one ends a container that is being drained.
    pub(crate) fn close_stream(&mut self, id: &ContainerId, which: Which) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(at) = container.streams.iter().position(|s| s.which == which) else { return };
        let stream = container.streams.swap_remove(at);
        self.poll.remove(stream.fd.as_fd(), stream.key);
        if let Some(log) = &mut container.log {
            log.finish(which.in_log(), &mut self.output);
        }
        if container.streams.is_empty() {
            self.drained(id);
        }
    }
}
