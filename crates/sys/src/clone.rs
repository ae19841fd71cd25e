//! clone3 with the meaning of fork.
//!
//! The child owns a copy of everything, runs on a copy of the stack and returns from the same
//! call. That is sound for a process with one thread only: another thread's locks (the
//! allocator's among them) would stay locked in the child for ever. The thread count is therefore
//! checked first.
//!
//! Or with the meaning of vfork: the child runs in its parent's memory, on a stack of its own,
//! while the thread that called waits. Nothing is copied, which for a process of many pages is most
//! of a clone's cost and slows its threads down afterwards.

use std::arch::asm;
use std::ffi::c_void;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
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
    let mut pidfd: RawFd = -1;
    let mut raw = raw_args(args, &mut pidfd)?;
    // SAFETY: rustix has no clone3. Without CLONE_VM and without a stack the call behaves as fork:
    // the child continues on a copy of this stack. The process has one thread, so no lock is held
    // by a thread that the child lacks. `raw` and `pidfd` outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<libc::clone_args>()) };
    let pid = crate::check(result)?;
    if pid == 0 {
        return Ok(Cloned::Child(ChildToken(())));
    }
    // SAFETY: the kernel has stored a new descriptor here, which nothing else owns.
    let (pid, pidfd) = unsafe { cloned(pid, pidfd) }?;
    Ok(Cloned::Parent { pid, pidfd })
}

/// The stack of a child that shares memory: far more than a few system calls need.
const CHILD_STACK: usize = 64 << 10;

/// How a stack is aligned where a function is called (x86-64 and AArch64 ABIs).
const STACK_ALIGN: usize = 16;

/// Runs `child` in a new process that shares the caller's memory, and comes back when that has
/// executed a program or ended. No signal handler runs in the child: the caller's mask is full
/// meanwhile, and so is the child's.
///
/// # Safety
/// `child` does nothing but system calls until it executes or ends: other threads run on in the
/// same memory. It resets the handlers of signals before it unblocks any.
pub(crate) unsafe fn clone_sharing_memory<C: Fn()>(
    args: &CloneArgs<'_>,
    child: &C,
) -> io::Result<(Pid, OwnedFd)> {
    extern "C" fn run<C: Fn()>(child: *const c_void) -> ! {
        // SAFETY: the parent's frame, which waits, has it.
        unsafe { (*child.cast::<C>())() };
        exit_now(1)
    }
    let mut stack = Vec::<MaybeUninit<u8>>::with_capacity(CHILD_STACK);
    let mut pidfd: RawFd = -1;
    let mut raw = raw_args(args, &mut pidfd)?;
    raw.flags |= widen(libc::CLONE_VM) | widen(libc::CLONE_VFORK);
    raw.stack = stack.as_mut_ptr() as u64;
    raw.stack_size = (CHILD_STACK - CHILD_STACK % STACK_ALIGN) as u64;
    let misaligned = (raw.stack + raw.stack_size) % STACK_ALIGN as u64;
    raw.stack_size -= misaligned;
    let entry: extern "C" fn(*const c_void) -> ! = run::<C>;
    let blocked = crate::signals::Blocked::all()?;
    // SAFETY: as this function's contract has it; what is given outlives the call, since the kernel
    // holds the caller until the child has let go of the memory (CLONE_VFORK).
    let result = unsafe { clone_and_call(&raw mut raw, entry, std::ptr::from_ref(child).cast()) };
    drop(blocked);
    if result < 0 {
        let errno = i32::try_from(-result).unwrap_or(libc::EINVAL);
        return Err(io::Error::from_raw_os_error(errno));
    }
    // SAFETY: the kernel has stored a new descriptor here, which nothing else owns.
    unsafe { cloned(result, pidfd) }
}

/// clone3 whose child calls a function, on its own stack, that never returns. Gives what the
/// kernel gives: a number of a process, or a negative error number.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_and_call(
    args: *mut libc::clone_args,
    entry: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the caller's. The child has the registers of the parent but for rax and rsp, and
    // never comes to the end of the block.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// clone3 whose child calls a function, on its own stack, that never returns. Gives what the
/// kernel gives: a number of a process, or a negative error number.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_and_call(
    args: *mut libc::clone_args,
    entry: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the caller's. The child has the registers of the parent but for x0 and sp, and never
    // comes to the end of the block.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x10",
            "blr x11",
            "brk 1",
            "2:",
            inlateout("x0") args => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x10") argument,
            in("x11") entry,
        );
    }
    result
}

fn raw_args(args: &CloneArgs<'_>, pidfd: &mut RawFd) -> io::Result<libc::clone_args> {
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
    raw.pidfd = std::ptr::from_mut(pidfd) as u64;
    raw.exit_signal = widen(libc::SIGCHLD);
    Ok(raw)
}

/// What the parent has of a clone.
///
/// # Safety
/// The descriptor is open and nobody else's.
unsafe fn cloned(pid: i64, pidfd: RawFd) -> io::Result<(Pid, OwnedFd)> {
    // SAFETY: the caller's.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("clone3 returned no process id"))?;
    Ok((pid, pidfd))
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
