//! clone3 with the meaning of fork.
//!
//! The child owns a copy of everything, runs on a copy of the stack and returns from the same
//! call. That is sound for a process with one thread only: another thread's locks (the
//! allocator's among them) would stay locked in the child for ever. The thread count is therefore
//! checked first.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use rustix::process::Pid;

/// What the child gets apart from a copy of its parent.
#[derive(Debug, Default)]
pub struct CloneArgs<'a> {
    /// A new PID namespace, whose first process the child is.
    pub new_pid_namespace: bool,
    /// The directory of a v2 cgroup to start in.
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The child.
    Child(ChildToken),
    /// The parent, with the child's number and handle.
    Parent {
        /// The child, as the caller's PID namespace numbers it.
        pid: Pid,
        /// Its handle, closed on exec.
        pidfd: OwnedFd,
    },
}

/// Proof of being the child of [`clone_process`], with a descriptor table of one's own.
#[derive(Debug)]
pub struct ChildToken(());

/// Links of `/proc/self/task` in a process with one thread: itself, its parent, the thread.
const TASK_LINKS_OF_ONE_THREAD: u64 = 3;

/// Clones the calling process; the child's end is told by SIGCHLD.
///
/// # Errors
/// `EDEADLK` when the caller has more than one thread; otherwise the kernel's.
pub fn clone_process(args: &CloneArgs<'_>) -> io::Result<Cloned> {
    if !is_single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: the process has one thread, so no lock is held by a thread that the child lacks.
    unsafe { clone_unchecked(args) }
}

/// Clones the calling process, whatever threads it has.
///
/// # Safety
/// Where the caller may have threads, the child does nothing but system calls until it executes or
/// ends: it does not allocate, take a lock, or return.
pub(crate) unsafe fn clone_unchecked(args: &CloneArgs<'_>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut flags = widen(libc::CLONE_PIDFD);
    if args.new_pid_namespace {
        flags |= widen(libc::CLONE_NEWPID);
    }
    // SAFETY: a struct of integers only, for which zero means "not given".
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = args.into_cgroup {
        flags |= CLONE_INTO_CGROUP;
        raw.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    raw.flags = flags;
    raw.pidfd = &raw mut pidfd as u64;
    raw.exit_signal = widen(libc::SIGCHLD);
    // SAFETY: rustix has no clone3. Without CLONE_VM and without a stack the call behaves as fork:
    // the child continues on a copy of this stack. `raw` and `pidfd` outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<libc::clone_args>()) };
    let pid = crate::check(result)?;
    if pid == 0 {
        return Ok(Cloned::Child(ChildToken(())));
    }
    // SAFETY: the kernel has stored a new descriptor here, which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("clone3 returned no process id"))?;
    Ok(Cloned::Parent { pid, pidfd })
}

/// Ends the calling process at once: no destructor and no exit handler of the parent's runs.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// Tells whether the calling process has one thread.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn is_single_threaded() -> io::Result<bool> {
    Ok(fs::metadata("/proc/self/task")?.nlink() == TASK_LINKS_OF_ONE_THREAD)
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Flags and signal numbers are positive.
fn widen(flag: libc::c_int) -> u64 {
    u64::from(flag.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness runs this in a thread of its own.
        let error = clone_process(&CloneArgs::default()).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
    }
}
