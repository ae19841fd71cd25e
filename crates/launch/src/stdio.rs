//! Descriptors 0, 1 and 2, and the end of all others.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use oci_spec::runtime::Process;
use rustix::fs::{FileType, Mode, OFlags, Uid};
use sys::clone::ChildToken;
use sys::mount::{ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr, Propagation};

use types::UserNamespace;

use crate::step::{Done, During};
use crate::{ChildFailure, Stdio, Step, filesystem};

/// Which of the three are the null device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nulls([bool; 3]);

/// Puts the wanted descriptors at 0, 1 and 2 and closes all that came from the parent, other
/// than `keep`.
pub(crate) fn take(stdio: &Stdio<'_>, token: &ChildToken, keep: &[BorrowedFd<'_>]) -> Done<Nulls> {
    let wanted = match *stdio {
        Stdio::Pipes { stdin, stdout, stderr } => [stdin, stdout, stderr],
        // The terminal is made later, in the container.
        Stdio::Terminal => [None; 3],
    };
    let null = open_null()?;
    // All are duplicated first, above 2: one that is wanted may itself lie at 0, 1 or 2.
    let mut duplicates = Vec::with_capacity(wanted.len());
    let mut nulls = Nulls([false; 3]);
    for (fd, is_replaced) in wanted.into_iter().zip(&mut nulls.0) {
        let fd = match fd {
            Some(fd) if !is_null(fd)? => fd,
            _ => {
                *is_replaced = true;
                null.as_fd()
            }
        };
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OTHER);
        duplicates.push(fd.during(Step::Stdio, "failed to duplicate a descriptor")?);
    }
    put(&duplicates)?;
    drop((null, duplicates));
    sys::fds::close_inherited(token, keep).during(Step::Stdio, "failed to close descriptors")?;
    Ok(nulls)
}

/// Uses the container's own null device where it has one, as its programs expect to find it.
///
/// `proc` is a procfs of ours: by it the node is opened after it was verified, and no other one.
/// Whose processes it numbers does not matter, as long as the caller is among them.
pub(crate) fn use_containers_null(nulls: Nulls, root: &OwnedFd, proc: &OwnedFd) -> Done {
    let Ok(node) = sys::root::open(root, Path::new("/dev/null"), OFlags::PATH) else {
        return Ok(());
    };
    if !nulls.0.contains(&true) || !is_null(&node)? {
        return Ok(());
    }
    let path = format!("self/fd/{}", node.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::openat(proc, path, flags, Mode::empty()) else { return Ok(()) };
    let during = "failed to use the container's null device";
    let [stdin, stdout, stderr] = nulls.0;
    if stdin {
        rustix::stdio::dup2_stdin(&null).during(Step::Stdio, during)?;
    }
    if stdout {
        rustix::stdio::dup2_stdout(&null).during(Step::Stdio, during)?;
    }
    if stderr {
        rustix::stdio::dup2_stderr(&null).during(Step::Stdio, during)?;
    }
    Ok(())
}

/// Puts one terminal at 0, 1 and 2.
pub(crate) fn put_terminal(terminal: &impl AsFd) -> Done {
    let fd = rustix::io::fcntl_dupfd_cloexec(terminal, FIRST_OTHER)
        .during(Step::Console, "failed to duplicate the terminal")?;
    rustix::stdio::dup2_stdin(&fd)
        .and_then(|()| rustix::stdio::dup2_stdout(&fd))
        .and_then(|()| rustix::stdio::dup2_stderr(&fd))
        .during(Step::Console, "failed to use the terminal")
}

/// Lets the container's user open its own pipes again, by `/dev/stdout` and the like. In a user
/// namespace even root is another one than who made them.
pub(crate) fn give_to_user(
    stdio: &Stdio<'_>,
    process: &Process,
    mappings: Option<&UserNamespace>,
) -> Done {
    let uid = process.user().uid();
    let host_uid = match mappings {
        None if uid == 0 => return Ok(()),
        None => uid,
        // One that is not mapped is refused where the process becomes it.
        Some(mappings) => mappings.host_uid(uid).unwrap_or_default(),
    };
    if host_uid == 0 || matches!(stdio, Stdio::Terminal) {
        return Ok(());
    }
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for fd in standard {
        let stat = rustix::fs::fstat(fd).during(Step::Stdio, "failed to look at a descriptor")?;
        if matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(host_uid)), None)
                .during(Step::Stdio, "failed to give a pipe to the container's user")?;
        }
    }
    Ok(())
}

/// Opens the machine's `/dev/null`, verified, through a read-only mount of its own: whoever gets
/// the descriptor can use the device and cannot change the node, which is the host's.
pub(crate) fn open_null() -> Done<OwnedFd> {
    let during = "failed to open /dev/null";
    let own;
    let tree = match KEPT_NULL.get() {
        Some(kept) => kept.as_fd(),
        None => {
            own = null_mount()?;
            own.as_fd()
        }
    };
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .during(Step::Stdio, during)
}

/// The mount that children of this process open the null device by.
static KEPT_NULL: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps a mount of the null device for children that are cloned from now on: each would give one
/// of its own back, and the kernel waits for a grace period there.
pub(crate) fn keep_null() {
    if KEPT_NULL.get().is_none()
        && let Ok(tree) = null_mount()
    {
        // There is one thread: nobody was faster.
        let _ = KEPT_NULL.set(tree);
    }
}

/// A read-only mount of the machine's `/dev/null`, attached nowhere.
pub(crate) fn null_mount() -> Done<OwnedFd> {
    let during = "failed to open /dev/null";
    let tree = filesystem::clone_path(Path::new("/dev/null"), false).during(Step::Stdio, during)?;
    if !is_null(&tree)? {
        return Err(ChildFailure::new(Step::Stdio, "/dev/null is not the null device"));
    }
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC;
    let attr = MountAttr { set, propagation: Some(Propagation::Private), ..MountAttr::default() };
    sys::mount::set_attributes(&tree, attr, false).during(Step::Stdio, during)?;
    Ok(tree)
}

fn is_null(fd: impl AsFd) -> Done<bool> {
    let stat = rustix::fs::fstat(fd).during(Step::Stdio, "failed to look at a descriptor")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(NULL_MAJOR, NULL_MINOR))
}

const NULL_MAJOR: u32 = 1;
const NULL_MINOR: u32 = 3;
/// The first descriptor that is not standard.
const FIRST_OTHER: i32 = 3;

fn put(duplicates: &[OwnedFd]) -> Done {
    let [stdin, stdout, stderr] = duplicates else {
        return Err(ChildFailure::new(Step::Stdio, "there are three standard descriptors"));
    };
    rustix::stdio::dup2_stdin(stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(stderr))
        .during(Step::Stdio, "failed to place a descriptor")
}
