//! Children of the calling process, whichever they are.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

use crate::pidfd::Exit;

/// Blocks SIGCHLD for the calling thread, ignores what a terminal, a broken pipe or a file that is
/// too long sends, and returns a descriptor that is readable when a child has ended.
///
/// # Errors
/// The kernel's.
pub fn watch() -> io::Result<OwnedFd> {
    let ignored =
        [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT];
    for signal in ignored {
        // SAFETY: no code of ours becomes a handler.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: rustix has neither signal masks nor signalfd. The set is initialised by sigemptyset
    // before it is used, and outlives the calls; the old mask is not asked for.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        crate::check(libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()).into())?;
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    crate::check(fd.into())?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes all that a descriptor of [`watch`] has to tell: one signal may stand for many children.
pub fn drain(watch: &OwnedFd) {
    let mut buffer = [0_u8; 1024];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Finds a child that has ended and leaves it a zombie, so that its end can be recorded before
/// the kernel forgets it; `None` when there is none.
///
/// # Errors
/// The kernel's, other than having no child.
pub fn peek_any() -> io::Result<Option<(Pid, Exit)>> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: rustix's waitid does not tell which child it was. The structure is of the kernel's
    // form, valid as zeros, and outlives the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: zeroed above, and filled by the kernel in the form for a child's end, or left as
    // zeros where no child has ended.
    let (pid, status, code) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_status(), info.si_code)
    };
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    let exit = if code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Ok(Some((pid, exit)))
}

/// Reaps a child that [`peek_any`] found.
///
/// # Errors
/// The kernel's, `ECHILD` where somebody else has reaped it.
pub fn reap(pid: Pid) -> io::Result<()> {
    use rustix::process::{WaitId, WaitIdOptions};
    rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    /// In a process of its own, as others of this one have children too.
    #[test]
    fn a_child_is_found_with_its_end_until_it_is_reaped() {
        if std::env::var_os("CORTEN_TEST_CHILDREN").is_some() {
            return alone();
        }
        let status = Command::new(std::env::current_exe().expect("has a path"))
            .args(["--exact", "children::tests::a_child_is_found_with_its_end_until_it_is_reaped"])
            .arg("--test-threads=1")
            .env("CORTEN_TEST_CHILDREN", "1")
            .output()
            .expect("ran");
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    }

    #[expect(clippy::zombie_processes, reason = "reaping is what is tested")]
    fn alone() {
        assert_eq!(peek_any().expect("asked"), None);
        for (script, expected) in [("exit 3", Exit::Code(3)), ("kill -9 $$", Exit::Signal(9))] {
            let child = Command::new("/bin/sh").args(["-c", script]).spawn().expect("spawned");
            let pid = Pid::from_child(&child);
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("opened");
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).expect("polled");
            for _ in 0..2 {
                assert_eq!(peek_any().expect("asked"), Some((pid, expected)));
            }
            reap(pid).expect("reaped");
            assert_eq!(peek_any().expect("asked"), None);
        }
    }
}
