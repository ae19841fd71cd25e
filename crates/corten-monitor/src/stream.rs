//! Containers' output: read as it comes, written to the log, and drained at the end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use container_log::{Cap, LogWriter, Stream as LogStream};
use launch::Stdio;
use monitor_proto::{Failure, FailureKind, LogTarget, Notice};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use types::ContainerId;

use crate::container::{Container, exhausted};
use crate::monitor::Monitor;
use crate::poll::{Poll, Source};

/// How much is read at a time: more than a pipe holds, and than the longest frame. One buffer for
/// all. The allocator takes one of this size from the kernel as pages that exist when they are
/// used, and clears a smaller one itself, which would cost each pod 64 KiB.
pub(crate) const READ_BYTES: usize = 128 << 10;

const _: () = assert!(READ_BYTES >= monitor_proto::MAX_FRAME);

/// The longest line where the daemon names no limit.
const DEFAULT_MAX_LINE: usize = 16 << 10;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Stdout,
    Stderr,
    /// The terminal's master: output, and input of who is attached.
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

/// The pipes of a container without a terminal: its ends, and ours.
pub(crate) struct Pipes {
    pub(crate) theirs: Theirs,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A container's ends of its pipes.
pub(crate) struct Theirs {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    pub(crate) fn new(with_stdin: bool) -> Result<Self, Failure> {
        let pair =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| exhausted("make a pipe", errno));
        let (their_stdin, stdin) =
            if with_stdin { pair().map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
        let ((stdout, their_stdout), (stderr, their_stderr)) = (pair()?, pair()?);
        let theirs = Theirs { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
        Ok(Self { theirs, stdin, stdout, stderr })
    }
}

impl Theirs {
    pub(crate) fn stdio(&self) -> Stdio<'_> {
        Stdio::Pipes {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: Some(self.stdout.as_fd()),
            stderr: Some(self.stderr.as_fd()),
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
    pub(crate) fn watch(
        poll: &mut Poll,
        id: &ContainerId,
        which: Which,
        fd: OwnedFd,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let key = poll.add(fd.as_fd(), Source::Stream(id.clone(), which))?;
        Ok(Self { which, fd, key })
    }

    pub(crate) fn has_input(&self) -> bool {
        rustix::io::ioctl_fionread(&self.fd).is_ok_and(|count| count > 0)
    }
}

impl Container {
    pub(crate) fn stream(&self, which: Which) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.which == which)
    }
}

/// Opens a container's log.
pub(crate) fn open_log(target: &LogTarget) -> Result<LogWriter, Failure> {
    let max = match target.max_line {
        0 => DEFAULT_MAX_LINE,
        asked => asked.min(monitor_proto::MAX_LOG_LINE),
    };
    let cap = (target.max_bytes > 0)
        .then_some(Cap { file_bytes: target.max_bytes, files: target.max_files });
    LogWriter::open(&target.directory, &target.file, max)
        .map(|log| log.capped(cap))
        .map_err(|error| log_failure(&error))
}

pub(crate) fn log_failure(error: &container_log::LogError) -> Failure {
    Failure {
        path: Some(error.path.clone()),
        errno: error.source.raw_os_error(),
        ..Failure::new(FailureKind::Log, format!("{error}: {}", error.source))
    }
}

impl Monitor {
    /// Has the loop watch a container's output.
    pub(crate) fn watch_streams(
        &mut self,
        id: &ContainerId,
        outputs: impl IntoIterator<Item = (Which, OwnedFd)>,
    ) -> Result<Vec<Stream>, Failure> {
        let mut streams = Vec::new();
        for (which, fd) in outputs {
            match Stream::watch(&mut self.poll, id, which, fd) {
                Ok(stream) => streams.push(stream),
                Err(error) => {
                    self.unwatch_streams(streams);
                    return Err(exhausted("watch the container's output", error));
                }
            }
        }
        Ok(streams)
    }

    pub(crate) fn unwatch_streams(&mut self, streams: Vec<Stream>) {
        for stream in streams {
            self.poll.remove(stream.fd.as_fd(), stream.key);
        }
    }

    /// Reads what a stream has, once: other streams get their turn.
    pub(crate) fn read_stream(&mut self, id: &ContainerId, which: Which) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(stream) = container.stream(which) else { return };
        match rustix::io::read(&stream.fd, &mut self.input[..]) {
            Ok(count) if count > 0 => {
                let bytes = self.input.get(..count).unwrap_or_default();
                let log = container.log.as_mut();
                let trouble =
                    log.and_then(|log| log.write(which.in_log(), bytes, &mut self.scratch));
                self.tell_trouble(id, trouble);
                self.copy_to_attached(id, which, count);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose last process has gone answers EIO.
            Ok(_) | Err(_) => self.close_stream(id, which),
        }
    }

    /// Ends a stream; the last one ends a container that is being drained.
    pub(crate) fn close_stream(&mut self, id: &ContainerId, which: Which) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let at = container.streams.iter().position(|stream| stream.which == which);
        let Some(at) = at else { return };
        let stream = container.streams.swap_remove(at);
        let last = container.streams.is_empty();
        let log = container.log.as_mut();
        let trouble = log.and_then(|log| log.finish(which.in_log(), &mut self.scratch));
        self.poll.remove(stream.fd.as_fd(), stream.key);
        self.tell_trouble(id, trouble);
        if last {
            self.drained(id);
        }
    }

    fn tell_trouble(&mut self, id: &ContainerId, trouble: Option<container_log::Trouble>) {
        if let Some(container_log::Trouble { message }) = trouble {
            self.tell_all(&Notice::LogTrouble { container: id.clone(), message });
        }
    }
}
