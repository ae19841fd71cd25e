//! Who is attached to a container: gets copies of its output, gives it input.
//!
//! ```text
//! container ─ output ─▶ log, then each attached descriptor that takes it at once
//! attached  ─ input ──▶ pending (at most a read) ─▶ container's stdin or terminal
//! ```
//!
//! What must never happen: that a container, its log or another session waits for an attached one.

use std::os::fd::{AsFd, OwnedFd};

use monitor_proto::{Attach, AttachEnd, ExecId, Failure, FailureKind, Notice};
use rustix::io::Errno;
use types::ContainerId;

use crate::container::exhausted;
use crate::monitor::Monitor;
use crate::poll::Source;
use crate::stream::Which;

/// The most sessions at a time, of all containers of the pod.
const MAX_ATTACHED: usize = 64;

/// How much input is taken at a time: what a terminal takes, and a pipe without being torn.
const INPUT_BYTES: usize = 4096;

/// A part of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Stdin,
    Stdout,
    Stderr,
}

/// An attached session.
#[derive(Debug)]
pub(crate) struct Attached {
    container: ContainerId,
    session: ExecId,
    connection: u64,
    ends: Vec<End>,
}

/// A descriptor of a session.
#[derive(Debug)]
struct End {
    part: Part,
    fd: OwnedFd,
    /// While it is watched: input is not where the container takes none.
    key: Option<u64>,
}

/// A container's standard input.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// Our end, unless it has none, a terminal, or is closed.
    fd: Option<OwnedFd>,
    /// Input that the container has not taken.
    pending: Vec<u8>,
    /// While that waits, for a pipe.
    key: Option<u64>,
    /// Whether it is closed when the first session leaves.
    once: bool,
    /// Whether that has happened, and what waits goes in before it is closed.
    left: bool,
}

impl Stdin {
    pub(crate) fn new(fd: Option<OwnedFd>, once: bool) -> Self {
        // A container that takes no input must not block the one thread.
        let fd = fd.filter(|fd| rustix::io::ioctl_fionbio(fd, true).is_ok());
        Self { fd, pending: Vec::new(), key: None, once, left: false }
    }
}

impl Monitor {
    /// Attaches a session's descriptors.
    pub(crate) fn attach(
        &mut self,
        connection: u64,
        wanted: &Attach,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let id = &wanted.container;
        let container = self.containers.get(id).ok_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("container {id} is not known"))
        })?;
        if container.running().is_none() {
            let text = format!("container {id} does not run");
            return Err(Failure::new(FailureKind::NotRunning, text));
        }
        if self.attached.len() >= MAX_ATTACHED {
            let text = format!("{MAX_ATTACHED} sessions are attached in the pod already");
            return Err(Failure::new(FailureKind::Exhausted, text));
        }
        let parts = [
            (wanted.stdin, Part::Stdin),
            (wanted.stdout, Part::Stdout),
            (wanted.stderr, Part::Stderr),
        ];
        let parts: Vec<Part> = parts.into_iter().filter(|(is, _)| *is).map(|(_, p)| p).collect();
        if parts.len() != descriptors.len() {
            let text = "an announced stream is not there";
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        let number = self.next_number();
        let mut ends = Vec::new();
        for (part, fd) in parts.into_iter().zip(descriptors) {
            match self.watch_attached(number, part, fd) {
                Ok(end) => ends.push(end),
                Err(error) => {
                    self.drop_ends(ends);
                    return Err(exhausted("watch an attached stream", error));
                }
            }
        }
        let (container, session) = (id.clone(), wanted.session.clone());
        self.attached.insert(number, Attached { container, session, connection, ends });
        Ok(())
    }

    fn watch_attached(&mut self, number: u64, part: Part, fd: OwnedFd) -> std::io::Result<End> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let source = Source::Attached(number, part);
        let key = match part {
            Part::Stdin => self.poll.add(fd.as_fd(), source)?,
            Part::Stdout | Part::Stderr => self.poll.add_for_end(fd.as_fd(), source)?,
        };
        Ok(End { part, fd, key: Some(key) })
    }

    fn drop_ends(&mut self, ends: Vec<End>) {
        for end in ends {
            end.key.iter().for_each(|key| self.poll.remove(end.fd.as_fd(), *key));
        }
    }

    /// A session's descriptor has something: input, or its reader is gone.
    pub(crate) fn attached_event(&mut self, number: u64, part: Part) {
        match part {
            Part::Stdin => self.read_attached(number),
            Part::Stdout | Part::Stderr => self.end_part(number, part),
        }
    }

    /// Gives what a container wrote, which is in the input buffer, to who is attached.
    pub(crate) fn copy_to_attached(&mut self, id: &ContainerId, which: Which, count: usize) {
        if self.attached.is_empty() {
            return;
        }
        let part = match which {
            Which::Stdout | Which::Console => Part::Stdout,
            Which::Stderr => Part::Stderr,
        };
        let bytes = self.input.get(..count).unwrap_or_default();
        let (mut slow, mut gone) = (Vec::new(), Vec::new());
        for (number, attached) in self.attached.iter().filter(|(_, a)| a.container == *id) {
            let Some(end) = attached.ends.iter().find(|end| end.part == part) else { continue };
            match rustix::io::write(&end.fd, bytes) {
                Ok(written) if written == bytes.len() => {}
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => slow.push(*number),
                Err(_) => gone.push(*number),
            }
        }
        for number in gone {
            self.end_part(number, part);
        }
        for number in slow {
            self.detach(number, AttachEnd::TooSlow);
        }
    }

    /// Ends a session and says why.
    fn detach(&mut self, number: u64, why: AttachEnd) {
        let Some(attached) = self.attached.remove(&number) else { return };
        let Attached { container, session, connection, ends } = attached;
        let had_stdin = ends.iter().any(|end| end.part == Part::Stdin);
        self.drop_ends(ends);
        if had_stdin {
            self.stdin_left(&container);
        }
        self.tell(connection, Notice::AttachEnded { container, session, why });
    }

    /// The container has ended: so have its sessions.
    pub(crate) fn end_attached(&mut self, id: &ContainerId) {
        let of = self.attached.iter().filter(|(_, attached)| attached.container == *id);
        let numbers: Vec<u64> = of.map(|(number, _)| *number).collect();
        for number in numbers {
            self.detach(number, AttachEnd::ContainerEnded);
        }
    }

    /// A daemon is gone. Its sessions end by their descriptors, when all input was taken.
    pub(crate) fn forget_attached(&mut self, connection: u64) {
        self.attached.retain(|_, a| a.connection != connection || !a.ends.is_empty());
    }

    /// One of a session's descriptors is at its end.
    fn end_part(&mut self, number: u64, part: Part) {
        let Some(attached) = self.attached.get_mut(&number) else { return };
        let Some(at) = attached.ends.iter().position(|end| end.part == part) else { return };
        let end = attached.ends.swap_remove(at);
        let (container, is_last) = (attached.container.clone(), attached.ends.is_empty());
        self.drop_ends(vec![end]);
        if is_last {
            self.detach(number, AttachEnd::StreamsEnded);
        }
        if part == Part::Stdin {
            self.stdin_left(&container);
        }
    }

    /// A session gives no more input.
    fn stdin_left(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let stdin = &mut container.stdin;
        stdin.left = stdin.once && stdin.fd.is_some();
        // What it gave before goes in first.
        if stdin.left && stdin.pending.is_empty() {
            self.close_stdin(id);
        }
    }

    /// Reads a session's input, once, and passes it on.
    fn read_attached(&mut self, number: u64) {
        let Some(attached) = self.attached.get(&number) else { return };
        let id = attached.container.clone();
        let Some(end) = attached.ends.iter().find(|end| end.part == Part::Stdin) else { return };
        let Some(container) = self.containers.get_mut(&id) else { return };
        if !container.stdin.pending.is_empty() {
            return self.pause_input(&id);
        }
        let mut buffer = [0; INPUT_BYTES];
        match rustix::io::read(&end.fd, &mut buffer) {
            Ok(count) if count > 0 => {
                let bytes = buffer.get(..count).unwrap_or_default();
                container.stdin.pending.extend_from_slice(bytes);
                self.pass_stdin(&id);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => self.end_part(number, Part::Stdin),
        }
    }

    /// Gives a container the input that waits for it.
    pub(crate) fn pass_stdin(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.stdin.pending.is_empty() {
            return;
        }
        let console = container.streams.iter().find(|stream| stream.which == Which::Console);
        let target = container.stdin.fd.as_ref().or(console.map(|stream| &stream.fd));
        let written = target.map(|fd| rustix::io::write(fd, &container.stdin.pending));
        match written {
            Some(Ok(count)) => drop(container.stdin.pending.drain(..count)),
            Some(Err(Errno::AGAIN | Errno::INTR)) => {}
            // There is none, or the container has closed it: nobody wants it.
            Some(Err(_)) | None => container.stdin.pending.clear(),
        }
        if container.stdin.pending.is_empty() {
            container.stdin.pending.shrink_to_fit();
            self.resume_input(id);
        } else {
            self.pause_input(id);
        }
    }

    /// Takes no input of a container's sessions until it has taken what it was given.
    fn pause_input(&mut self, id: &ContainerId) {
        self.watch_inputs(id, false);
        let Some(container) = self.containers.get_mut(id) else { return };
        let stdin = &mut container.stdin;
        if let (Some(fd), None) = (&stdin.fd, stdin.key) {
            let key = self.poll.add_for_room(fd.as_fd(), Source::Stdin(id.clone()));
            stdin.key = key.ok();
        } else if let Some(console) = container.stream(Which::Console) {
            let _ = self.poll.also_writable(console.fd.as_fd(), console.key, true);
        }
    }

    fn resume_input(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let (Some(fd), Some(key)) = (&container.stdin.fd, container.stdin.key.take()) {
            self.poll.remove(fd.as_fd(), key);
        } else if let Some(console) = container.stream(Which::Console) {
            let _ = self.poll.also_writable(console.fd.as_fd(), console.key, false);
        }
        if container.stdin.left {
            self.close_stdin(id);
        }
        self.watch_inputs(id, true);
    }

    /// Watches the inputs of a container's sessions, or does not: an input at its end would keep
    /// the one thread busy.
    fn watch_inputs(&mut self, id: &ContainerId, watch: bool) {
        let of = self.attached.iter_mut().filter(|(_, attached)| attached.container == *id);
        for (number, attached) in of {
            for end in attached.ends.iter_mut().filter(|end| end.part == Part::Stdin) {
                match (watch, end.key) {
                    (true, None) => {
                        let source = Source::Attached(*number, Part::Stdin);
                        end.key = self.poll.add(end.fd.as_fd(), source).ok();
                    }
                    (false, Some(key)) => {
                        self.poll.remove(end.fd.as_fd(), key);
                        end.key = None;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Closes a container's standard input. A terminal has none of its own.
    pub(crate) fn close_stdin(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.stdin.pending = Vec::new();
        let key = container.stdin.key.take();
        if let Some(fd) = container.stdin.fd.take()
            && let Some(key) = key
        {
            self.poll.remove(fd.as_fd(), key);
        }
    }
}
