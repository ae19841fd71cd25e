//! Dispositions and masks of signals.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

/// Gives every signal its default action and blocks none, as a new program expects it.
///
/// # Errors
/// The kernel's.
pub fn reset() -> io::Result<()> {
    for signal in 1..=LAST_SIGNAL {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            set_default(signal)?;
        }
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: rustix has no signal masks. sigemptyset initialises the set; the old mask is not
    // asked for.
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut())
    };
    crate::check(result.into())?;
    Ok(())
}

/// All signals are blocked for the calling thread as long as this lives.
#[derive(Debug)]
pub(crate) struct Blocked {
    before: libc::sigset_t,
    /// The mask is the thread's.
    _here: std::marker::PhantomData<*const ()>,
}

impl Blocked {
    pub(crate) fn all() -> io::Result<Self> {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: sigfillset initialises the one set, the call the other where it succeeds.
        let before = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
                0 => before.assume_init(),
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        };
        Ok(Self { before, _here: std::marker::PhantomData })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was initialised by the kernel; the old one is not asked for.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}

/// The highest signal of Linux on every architecture that we build for.
const LAST_SIGNAL: libc::c_int = 64;

/// The C library hides two signals, which may have come to us ignored; a container would keep
/// them so.
fn set_default(signal: libc::c_int) -> io::Result<()> {
    // The kernel's `struct sigaction`: action, flags, restorer, mask. All zero is the default
    // action, in whichever order an architecture has them.
    let default = [0_u64; 4];
    // SAFETY: the structure is of the kernel's size, the mask of 8 bytes included, and outlives
    // the call; the old action is not asked for. No code of ours becomes a handler.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            default.as_ptr(),
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })?;
    Ok(())
}

/// Has the kernel reap every child of the calling process, adopted ones included.
///
/// # Errors
/// The kernel's.
pub fn reap_automatically() -> io::Result<()> {
    // SAFETY: no code of ours becomes a handler.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits until a signal kills the process.
pub fn wait_for_death() -> ! {
    loop {
        // SAFETY: takes no argument.
        unsafe { libc::pause() };
    }
}

/// Blocks SIGCHLD for the calling thread, ignores what a terminal or a broken pipe sends,
/// and returns a descriptor that is readable when a child has ended.
///
/// # Errors
/// The kernel's.
pub fn watch_children() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before it is used, and outlives the calls;
    // signal() is given a constant action. The descriptor is new and nobody else's.
    unsafe {
        for ignored in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
            libc::signal(ignored, libc::SIG_IGN);
        }
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        let set = set.assume_init();
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes all that a descriptor of [`watch_children`] has to tell.
pub fn drain(fd: &OwnedFd) {
    let mut buffer = [0_u8; 1024];
    while rustix::io::read(fd, &mut buffer).is_ok_and(|n| n > 0) {}
}
