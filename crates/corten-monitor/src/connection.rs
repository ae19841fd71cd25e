//! A daemon's connection: frames in, answers and news out, never waiting for it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
};

use monitor_proto::{Failure, Message, Notice, Reply, Request};

use crate::{
    monitor::Monitor,
    poll::{Poll, Source},
    say,
};

/// The most frames that wait for a daemon that does not read; one that is further
/// behind loses the connection and asks for the state anew.
const MAX_QUEUED: usize = 256;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) key: u64,
    /// Whether the version is settled.
    pub(crate) greeted: bool,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, key: u64) -> Self {
        Self { socket, key, greeted: false, queue: VecDeque::new() }
    }

    /// Sends a message now or when the daemon reads.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(crate) fn send(&mut self, poll: &Poll, message: &Message, descriptor: Option<OwnedFd>) -> io::Result<()> {
        let frame = monitor_proto::encode_message(message).map_err(io::Error::other)?;
        self.queue.push_back((frame, descriptor));
        if self.queue.len() > MAX_QUEUED {
            return Err(io::Error::other("the daemon does not read"));
        }
        self.flush(poll)
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self, poll: &Poll) -> io::Result<()> {
        let before = self.queue.len();
        while let Some((frame, descriptor)) = self.queue.front() {
            let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
            match monitor_proto::send(self.socket.as_fd(), frame, &descriptors) {
                Ok(()) => {
                    self.queue.pop_front();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return poll.also_writable(self.socket.as_fd(), self.key, true);
                }
                Err(e) => return Err(e),
            }
        }
        if before > 1 { poll.also_writable(self.socket.as_fd(), self.key, false) } else { Ok(()) }
    }
}

impl Monitor {
    /// Takes a daemon that has connected.
    pub(crate) fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => return,
            Err(errno) => return say(&format!("a connection was not accepted: {errno}")),
        };
        let own = rustix::process::geteuid().as_raw();
        match monitor_proto::peer_uid(socket.as_fd()) {
            Ok(uid) if uid == own => {}
            other => return say(&format!("a stranger connected and was refused: {other:?}")),
        }
        if self.connections.len() >= monitor_proto::MAX_CONNECTIONS {
            return say("a connection more than there may be was refused");
        }
        self.add_connection(socket);
    }

    pub(crate) fn add_connection(&mut self, socket: OwnedFd) {
        let number = self.next_number();
        match self.poll.add(socket.as_fd(), Source::Connection(number)) {
            Ok(key) => {
                self.connections.insert(number, Connection::new(socket, key));
            }
            Err(error) => say(&format!("a connection cannot be watched: {error}")),
        }
    }

    /// Reads what a daemon has sent, one frame a time: others get their turn between.
    pub(crate) fn read_connection(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.flush(&self.poll).is_err() {
            return self.drop_connection(number);
        }
        let mut buffer = vec![0; monitor_proto::MAX_FRAME];
        match monitor_proto::receive(connection.socket.as_fd(), &mut buffer) {
            Ok(monitor_proto::Received::Frame { length, descriptors, descriptors_lost }) => {
                let frame = buffer.get(..length).unwrap_or_default();
                let kept = if descriptors_lost { Vec::new() } else { descriptors };
                self.frame(number, frame, kept);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(monitor_proto::Received::End | monitor_proto::Received::TooLong) | Err(_) => {
                self.drop_connection(number);
            }
        }
    }

    fn frame(&mut self, number: u64, frame: &[u8], descriptors: Vec<OwnedFd>) {
        match monitor_proto::decode_request(frame) {
            Ok(Request { id, op }) => self.request(number, id, op, descriptors),
            Err(error) => match monitor_proto::request_id(frame) {
                Some(id) => {
                    let kind = monitor_proto::FailureKind::Unsupported;
                    self.answer(number, id, Err(Failure::new(kind, error.to_string())));
                }
                None => self.drop_connection(number),
            },
        }
    }

    pub(crate) fn drop_connection(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            self.poll.remove(connection.socket.as_fd(), connection.key);
        }
        // Commands whose client is gone have nobody to report to: they are killed.
        let orphans: Vec<u64> =
            self.execs.iter().filter(|(_, e)| e.connection == number).map(|(n, _)| *n).collect();
        for exec in orphans {
            self.kill_exec_session(exec, false);
        }
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, number: u64, id: u64, result: Result<Reply, Failure>) {
        self.answer_with(number, id, result, None);
    }

    pub(crate) fn answer_with(
        &mut self,
        number: u64,
        id: u64,
        result: Result<Reply, Failure>,
        descriptor: Option<OwnedFd>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let message = Message::Reply { id, result };
        if connection.send(&self.poll, &message, descriptor).is_err() {
            self.drop_connection(number);
        }
    }

    /// Tells one daemon.
    pub(crate) fn tell(&mut self, number: u64, notice: Notice) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.send(&self.poll, &Message::Notice(notice), None).is_err() {
            self.drop_connection(number);
        }
    }

    /// Tells every daemon that has greeted.
    pub(crate) fn tell_all(&mut self, notice: &Notice) {
        let numbers: Vec<u64> = self.connections.iter().filter(|(_, c)| c.greeted).map(|(n, _)| *n).collect();
        for number in numbers {
            self.tell(number, notice.clone());
        }
    }
}
