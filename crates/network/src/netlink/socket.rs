//! A blocking netlink socket in the calling thread's network namespace.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        OnceLock,
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv,
    send, socket_with, sockopt,
};

use super::{Message, flags, message::HEADER};

/// How long the kernel may take to answer: only a stuck kernel takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest datagram that the kernel sends (dumps use up to 32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How many sockets may wait for being closed.
const MAX_CLOSING: usize = 64;
/// How often a dump is begun again because the table changed under it.
const DUMP_ATTEMPTS: usize = 10;
/// The most replies of one request that are kept: 16 times a node of 4,000 pods.
const MAX_REPLIES: usize = 65_536;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A netlink protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes.
    Route,
    /// nf_tables and connection tracking.
    Netfilter,
}

/// One message of an answer, without the netlink header.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The message's type.
    pub(crate) kind: u16,
    /// The family's header and the attributes.
    pub(crate) payload: Vec<u8>,
}

/// A netlink socket. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        // Routing is protocol 0, which rustix spells as none.
        let protocol: Option<Protocol> = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TIMEOUT))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(TIMEOUT))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Closes it in another thread: the kernel lets go of a socket of nf_tables only when
    /// what was taken out of the tables before is unused, which takes it up to 10 ms.
    pub(crate) fn close_apart(self) {
        static CLOSER: OnceLock<Option<SyncSender<OwnedFd>>> = OnceLock::new();
        let closer = CLOSER.get_or_init(|| {
            let (sender, closed) = sync_channel::<OwnedFd>(MAX_CLOSING);
            let close = move || closed.into_iter().for_each(drop);
            std::thread::Builder::new().name("corten-close".to_owned()).spawn(close).ok()?;
            Some(sender)
        });
        if let Some(closer) = closer {
            // What it does not take is closed here.
            let _ = closer.try_send(self.fd);
        }
    }

    /// Opens a socket that hears of changes of links, for at most `patience` at a time.
    pub(crate) fn hear_links(patience: Duration) -> io::Result<Self> {
        // `RTMGRP_LINK`.
        Self::hear(1, patience)
    }

    /// Opens a socket that hears of changes of IPv6 addresses.
    pub(crate) fn hear_addresses(patience: Duration) -> io::Result<Self> {
        // `RTMGRP_IPV6_IFADDR`.
        Self::hear(0x100, patience)
    }

    fn hear(groups: u32, patience: Duration) -> io::Result<Self> {
        let socket = Self::open(Family::Route)?;
        bind(&socket.fd, &netlink::SocketAddrNetlink::new(0, groups))?;
        sockopt::set_socket_timeout(&socket.fd, sockopt::Timeout::Recv, Some(patience))?;
        Ok(socket)
    }

    /// Waits for a change; time that is over, and changes that were missed, are changes.
    pub(crate) fn wait_for_change(&mut self) {
        self.wait_for_news(|_, _| {});
    }

    /// Waits for news and hands all that there are to `each`, type and payload. Returns
    /// whether they are all: some may have been missed, or none came in time.
    pub(super) fn wait_for_news(&mut self, mut each: impl FnMut(u16, &[u8])) -> bool {
        let mut flags = RecvFlags::empty();
        loop {
            match recv(&self.fd, &mut self.buffer[..], flags) {
                Ok((length, _)) => {
                    let length = length.min(self.buffer.len());
                    for message in Messages(&self.buffer[..length]) {
                        each(message.kind, message.payload);
                    }
                }
                // What else has happened meanwhile was told with it.
                Err(rustix::io::Errno::AGAIN) => return flags == RecvFlags::DONTWAIT,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
            flags = RecvFlags::DONTWAIT;
        }
    }

    /// Sends a request and waits until the kernel has acknowledged it.
    pub(crate) fn request(&mut self, mut message: Message) -> io::Result<Vec<Reply>> {
        message.add_flags(flags::ACK);
        let sequence = self.send(message)?;
        let mut replies = Vec::new();
        self.receive(sequence, &mut replies)?;
        Ok(replies)
    }

    /// Sends several requests at once, which are done one after the other whether earlier
    /// ones succeed or not, and returns the first error but that something is there already.
    pub(crate) fn request_all(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let Some(count) = messages.len().checked_sub(1) else { return Ok(()) };
        let mut bytes = Vec::new();
        for (position, mut message) in messages.into_iter().enumerate() {
            // Errors are always told; success only of the last one, after all others.
            if position == count {
                message.add_flags(flags::ACK);
            }
            bytes.extend(message.finish(self.next_sequence()));
        }
        let last = self.sequence;
        send(&self.fd, &bytes, SendFlags::empty())?;
        let mut first = Ok(());
        loop {
            let length = self.receive_datagram()?;
            for message in Messages(&self.buffer[..length]) {
                let ours = last.wrapping_sub(message.sequence) <= count.try_into().unwrap_or(0);
                if message.kind != NLMSG_ERROR || !ours {
                    continue;
                }
                match message.error() {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => first = first.and(other),
                }
                if message.sequence == last {
                    return first;
                }
            }
        }
    }

    /// Sends a request for a table and collects its rows.
    pub(crate) fn dump(&mut self, message: &Message) -> io::Result<Vec<Reply>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut message = message.clone();
            message.add_flags(flags::DUMP);
            let sequence = self.send(message)?;
            let mut replies = Vec::new();
            if self.receive(sequence, &mut replies)? == Dump::Whole {
                return Ok(replies);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the table changed too often to be read"))
    }

    /// Sends several messages as one transaction between `begin` and `end`, and returns
    /// the first error.
    pub(crate) fn transact(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> io::Result<()> {
        let mut bytes = begin.finish(self.next_sequence());
        let first = self.sequence;
        let count = messages.len();
        for (position, mut message) in messages.into_iter().enumerate() {
            // Errors are always told; success only of the last one, after all others.
            if position + 1 == count {
                message.add_flags(flags::ACK);
            }
            bytes.extend(message.finish(self.next_sequence()));
        }
        let last = self.sequence;
        bytes.extend(end.finish(self.next_sequence()));
        self.reserve_send_buffer(bytes.len())?;
        send(&self.fd, &bytes, SendFlags::empty())?;
        self.receive_transaction(first, last)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, message: Message) -> io::Result<u32> {
        let sequence = self.next_sequence();
        send(&self.fd, &message.finish(sequence), SendFlags::empty())?;
        Ok(sequence)
    }

    /// A transaction is one datagram: it must fit the send buffer.
    fn reserve_send_buffer(&self, length: usize) -> io::Result<()> {
        if length < 64 * 1024 {
            return Ok(());
        }
        sockopt::set_socket_send_buffer_size_force(&self.fd, length * 2)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&self.fd, length * 2))?;
        Ok(())
    }

    fn receive(&mut self, sequence: u32, replies: &mut Vec<Reply>) -> io::Result<Dump> {
        let mut dump = Dump::Whole;
        loop {
            let length = self.receive_datagram()?;
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR | NLMSG_DONE => {
                        message.error()?;
                        return Ok(dump);
                    }
                    kind if replies.len() < MAX_REPLIES => {
                        replies.push(Reply { kind, payload: message.payload.to_vec() });
                    }
                    _ => return Err(io::Error::other("the kernel's table is too long")),
                }
            }
        }
    }

    fn receive_transaction(&mut self, first: u32, last: u32) -> io::Result<()> {
        loop {
            let length = self.receive_datagram()?;
            for message in Messages(&self.buffer[..length]) {
                let ours = message.sequence.wrapping_sub(first) <= last.wrapping_sub(first) + 1;
                if message.kind == NLMSG_ERROR && ours {
                    message.error()?;
                    if message.sequence == last {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn receive_datagram(&mut self) -> io::Result<usize> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let text = "the kernel did not answer a netlink request in time";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dump {
    Whole,
    Interrupted,
}

/// A message as it was received.
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) payload: &'a [u8],
}

impl Received<'_> {
    /// Reads the error code of an acknowledgement: a negative errno, or 0.
    fn error(&self) -> io::Result<()> {
        let code = self.payload.get(..4).and_then(|bytes| bytes.try_into().ok());
        match code.map(i32::from_ne_bytes) {
            None | Some(0..) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        }
    }
}

/// Reads the messages of a datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = super::u32_of(header).and_then(|length| usize::try_from(length).ok())?;
        // An error repeats the request, which may be cut off at our buffer's end.
        let payload = self.0.get(HEADER..length.min(self.0.len()))?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        })
    }
}
