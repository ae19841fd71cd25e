//! A daemon's connection: frames in, answers and news out, never waiting for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use monitor_proto::{Failure, FailureKind, Message, Notice, Received, Reply, Request};

use crate::monitor::Monitor;
use crate::poll::{Poll, Source};
use crate::say;

/// The most frames that wait for a daemon that does not read; one that is further
/// behind loses the connection and asks for the state anew.
const MAX_QUEUED: usize = 256;

/// How long nobody is let in after a connection could not be accepted for want of descriptors:
/// the listening socket stays readable, and must not keep the one thread busy.
const CLOSED_FOR: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) key: u64,
    /// Whether the version is settled.
    pub(crate) greeted: bool,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// Whether the socket is watched for being writable.
    blocked: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, key: u64) -> Self {
        Self { socket, key, greeted: false, queue: VecDeque::new(), blocked: false }
    }

    /// Sends a message now or when the daemon reads.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(crate) fn send(
        &mut self,
        poll: &Poll,
        message: &Message,
        descriptor: Option<OwnedFd>,
    ) -> io::Result<()> {
        let frame = monitor_proto::encode_message(message).map_err(io::Error::other)?;
        self.queue.push_back((frame, descriptor));
        if self.queue.len() > MAX_QUEUED {
            return Err(io::Error::other("the daemon does not read"));
        }
        self.flush(poll)
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub(crate) fn flush(&mut self, poll: &Poll) -> io::Result<()> {
        while let Some((frame, descriptor)) = self.queue.front() {
            let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
            match monitor_proto::send(self.socket.as_fd(), frame, &descriptors) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let blocked = !self.queue.is_empty();
        if blocked != self.blocked {
            poll.also_writable(self.socket.as_fd(), self.key, blocked)?;
            self.blocked = blocked;
        }
        Ok(())
    }
}

impl Monitor {
    /// Takes a daemon that has connected.
    pub(crate) fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
            ) => return,
            Err(errno) => {
                say(&format!("a connection was not accepted: {errno}"));
                return self.close_door();
            }
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

    fn close_door(&mut self) {
        self.poll.remove(self.listener.as_fd(), self.listener_key);
        self.closed_until = Some(Instant::now() + CLOSED_FOR);
    }

    /// Lets daemons in again.
    pub(crate) fn open_door(&mut self) {
        match self.poll.add(self.listener.as_fd(), Source::Listener) {
            Ok(key) => {
                self.listener_key = key;
                self.closed_until = None;
            }
            Err(_) => self.closed_until = Some(Instant::now() + CLOSED_FOR),
        }
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
        match monitor_proto::receive(connection.socket.as_fd(), &mut self.input) {
            Ok(Received::Frame { length, descriptors, descriptors_lost }) => {
                let frame = self.input.get(..length).unwrap_or_default();
                let request = monitor_proto::decode_request(frame);
                let id = monitor_proto::request_id(frame);
                match (request, id) {
                    (Ok(Request { id, .. }), _) if descriptors_lost => {
                        let text = "the request's descriptors did not arrive";
                        let failure = Failure::new(FailureKind::Exhausted, text);
                        self.answer(number, id, Err(failure));
                    }
                    (Ok(Request { id, op }), _) => self.request(number, id, op, descriptors),
                    (Err(error), Some(id)) => {
                        let failure = Failure::new(FailureKind::Unsupported, error.to_string());
                        self.answer(number, id, Err(failure));
                    }
                    (Err(_), None) => self.drop_connection(number),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Received::End | Received::TooLong) | Err(_) => self.drop_connection(number),
        }
    }

    pub(crate) fn drop_connection(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            self.poll.remove(connection.socket.as_fd(), connection.key);
        }
        self.forget_attached(number);
        // Commands whose client is gone have nobody to report to: they are killed.
        let orphans: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.connection == number && !exec.outlives_connection)
            .map(|(number, _)| *number)
            .collect();
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
        self.send(number, &Message::Reply { id, result }, descriptor);
    }

    /// Tells one daemon.
    pub(crate) fn tell(&mut self, number: u64, notice: Notice) {
        self.send(number, &Message::Notice(notice), None);
    }

    /// Tells every daemon that has greeted.
    pub(crate) fn tell_all(&mut self, notice: &Notice) {
        let greeted: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.greeted)
            .map(|(number, _)| *number)
            .collect();
        for number in greeted {
            self.tell(number, notice.clone());
        }
    }

    fn send(&mut self, number: u64, message: &Message, descriptor: Option<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if let Err(error) = connection.send(&self.poll, message, descriptor) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                say(&format!("a daemon's connection is given up: {error}"));
            }
            self.drop_connection(number);
        }
    }
}
