//! What the kernel says about a process by its handle.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{WaitId, WaitIdOptions};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code as shells tell it: 128 and the signal's number for a killed process.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Reads how a child ended and leaves it a zombie; `None` while it runs.
///
/// # Errors
/// The kernel's; `ECHILD` when it is not ours to wait for.
pub fn peek_exit(pidfd: impl AsFd) -> io::Result<Option<Exit>> {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Reaps a child that has ended; `None` while it runs.
///
/// # Errors
/// As [`peek_exit`].
pub fn reap(pidfd: impl AsFd) -> io::Result<Option<Exit>> {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Waits until a child has ended and reaps it.
///
/// # Errors
/// As [`peek_exit`].
pub fn wait_and_reap(pidfd: impl AsFd) -> io::Result<Exit> {
    loop {
        match wait(&pidfd, WaitIdOptions::EXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(pidfd: impl AsFd, options: WaitIdOptions) -> io::Result<Option<Exit>> {
    let Some(status) = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options)? else {
        return Ok(None);
    };
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Exit::Code(code)),
        (None, Some(signal)) => Some(Exit::Signal(signal)),
        (None, None) => None,
    })
}

/// Sends a signal by number, real-time ones included.
///
/// # Errors
/// The kernel's; `ESRCH` when the process has ended and was reaped.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: rustix takes named signals only. The call takes no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    crate::check(result).map(drop)
}

/// The kernel's own record of how a process ended that somebody else reaped; `None` while it runs
/// or is not reaped yet, and on kernels before 6.15.
///
/// # Errors
/// The kernel's, other than "not known".
pub fn recorded_exit(pidfd: impl AsFd) -> io::Result<Option<Exit>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: rustix has no PIDFD_GET_INFO. The request's number carries the size of `info`, which
    // is of the kernel's first published layout and outlives the call.
    let result = unsafe {
        libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO as libc::Ioctl, &raw mut info)
    };
    match crate::check(result.into()) {
        Ok(_) if info.mask & PIDFD_INFO_EXIT != 0 => Ok(Some(from_wait_status(info.exit_code))),
        Ok(_) => Ok(None),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOTTY | libc::EINVAL | libc::ESRCH | libc::EREMOTE) => Ok(None),
            _ => Err(error),
        },
    }
}

fn from_wait_status(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` for the 64 bytes below.
const PIDFD_GET_INFO: u32 = 0xC040_FF0B;

#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::Command;

    #[expect(clippy::zombie_processes, reason = "reaped through its handle")]
    fn run(script: &str) -> std::os::fd::OwnedFd {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().expect("spawned");
        pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("opened")
    }

    #[test]
    fn a_peeked_exit_can_be_read_again() {
        let pidfd = run("exit 3");
        while peek_exit(&pidfd).expect("peeked").is_none() {
            rustix::event::poll(
                &mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)],
                None,
            )
            .expect("polled");
        }
        assert_eq!(peek_exit(&pidfd).expect("peeked"), Some(Exit::Code(3)));
        assert_eq!(wait_and_reap(&pidfd).expect("reaped"), Exit::Code(3));
        assert!(peek_exit(&pidfd).is_err());
    }

    #[test]
    fn signals_are_told_apart() {
        let exit = wait_and_reap(run("kill -9 $$")).expect("reaped");
        assert_eq!(exit, Exit::Signal(9));
        assert_eq!(exit.shell_code(), 137);
    }

    #[test]
    fn the_kernel_keeps_the_code_where_it_can() {
        let pidfd = run("exit 7");
        wait_and_reap(&pidfd).expect("reaped");
        // Kernels before 6.15 answer `None`; none may answer anything else.
        let recorded = recorded_exit(&pidfd).expect("asked");
        assert!(matches!(recorded, None | Some(Exit::Code(7))), "{recorded:?}");
    }
}
