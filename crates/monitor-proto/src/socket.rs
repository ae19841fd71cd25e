//! One frame, one packet.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::{MAX_DESCRIPTORS, SOCKET_NAME};

/// A packet that arrived.
#[derive(Debug)]
pub enum Received {
    /// A frame of this many bytes, and the descriptors that came with it.
    Frame {
        /// How much of the buffer it fills.
        length: usize,
        /// What came with it.
        descriptors: Vec<OwnedFd>,
        /// Whether descriptors were lost: there were too many, or no room was left for them.
        descriptors_lost: bool,
    },
    /// A packet longer than the buffer.
    TooLong,
    /// The peer is gone.
    End,
}

/// Sends a frame.
///
/// # Errors
/// The kernel's, `WouldBlock` among them. A dead peer is an error and no signal.
pub fn send(
    socket: BorrowedFd<'_>,
    frame: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = SendAncillaryMessage::ScmRights(descriptors);
    let fits = descriptors.len() <= MAX_DESCRIPTORS;
    if !fits || (!descriptors.is_empty() && !ancillary.push(rights)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(frame)], &mut ancillary, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives a frame into `buffer`.
///
/// # Errors
/// The kernel's, `WouldBlock` among them.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            descriptors.extend(fds);
        }
    }
    if message.bytes == 0 {
        return Ok(Received::End);
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Received::TooLong);
    }
    let descriptors_lost = message.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received::Frame { length: message.bytes, descriptors, descriptors_lost })
}

/// Makes the monitor's socket in the sandbox's state directory, of mode 0600 from its first
/// moment. A socket that is there already is replaced.
///
/// The monitor itself listens on it, so that the kernel names the monitor to who connects.
///
/// # Errors
/// The kernel's.
pub fn bind(state_dir: &Path) -> io::Result<OwnedFd> {
    let dir = open_dir(state_dir)?;
    match rustix::fs::unlinkat(&dir, SOCKET_NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    // The kernel takes the mode of the path's node from the socket's inode (unix_bind_bsd).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path_through(&dir))?)?;
    Ok(socket)
}

/// Connects to the monitor's socket in the sandbox's state directory; the descriptor does not
/// block.
///
/// # Errors
/// The kernel's: `NotFound` and `ConnectionRefused` where no monitor listens, `WouldBlock` where
/// one does but does not take connections.
pub fn connect(state_dir: &Path) -> io::Result<OwnedFd> {
    let dir = open_dir(state_dir)?;
    let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path_through(&dir))?)?;
    Ok(socket)
}

/// Returns the user that the peer of a socket runs as.
///
/// # Errors
/// The kernel's.
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A socket's address has 108 bytes; through the directory's handle every path fits.
fn path_through(dir: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK, None)
            .expect("made")
    }

    #[test]
    fn frames_keep_their_bounds_and_bring_descriptors() {
        let (left, right) = pair();
        let null = File::open("/dev/null").expect("opened");
        send(left.as_fd(), b"one", &[]).expect("sent");
        send(left.as_fd(), b"second", &[null.as_fd(), null.as_fd()]).expect("sent");
        let mut buffer = [0; 64];
        for (text, count) in [(&b"one"[..], 0), (b"second", 2)] {
            let received = receive(right.as_fd(), &mut buffer).expect("received");
            let Received::Frame { length, descriptors, descriptors_lost: false } = received else {
                panic!("{received:?}")
            };
            assert_eq!((&buffer[..length], descriptors.len()), (text, count));
        }
        let error = receive(right.as_fd(), &mut buffer).expect_err("empty");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert!(matches!(receive(right.as_fd(), &mut buffer), Ok(Received::End)));
        assert!(send(right.as_fd(), b"x", &[]).is_err(), "and no signal");
    }

    #[test]
    fn what_is_too_long_or_too_many_is_told() {
        let (left, right) = pair();
        let mut buffer = [0; 4];
        send(left.as_fd(), b"12345", &[]).expect("sent");
        assert!(matches!(receive(right.as_fd(), &mut buffer), Ok(Received::TooLong)));
        let null = File::open("/dev/null").expect("opened");
        let many = [null.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send(left.as_fd(), b"1", &many).is_err());
    }

    /// The path of a sandbox's state directory may be longer than a socket's address.
    #[test]
    fn a_socket_in_a_deep_directory_is_private_and_found() {
        let dir = tempfile::tempdir().expect("made");
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).expect("made");
        assert_eq!(connect(&deep).expect_err("none").kind(), io::ErrorKind::NotFound);
        for _ in 0..2 {
            let socket = bind(&deep).expect("bound");
            let mode = std::fs::metadata(deep.join(SOCKET_NAME)).expect("there").permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
            let refused = connect(&deep).expect_err("nobody listens");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            rustix::net::listen(&socket, 1).expect("listens");
            let client = connect(&deep).expect("connected");
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(peer_uid(client.as_fd()).expect("told"), own);
        }
    }
}
