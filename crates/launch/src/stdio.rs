//! Descriptors 0, 1 and 2, and the end of all others.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use oci_spec::runtime::Process;
use rustix::fs::{FileType, Mode, OFlags, Uid};
use sys::clone::ChildToken;

use crate::step::{Done, During};
use crate::{ChildFailure, Stdio, Step};

/// Puts the wanted descriptors at 0, 1 and 2 and closes all that came from the parent, other
/// than `keep`.
pub(crate) fn take(stdio: &Stdio<'_>, token: &ChildToken, keep: &[BorrowedFd<'_>]) -> Done {
    let wanted = match *stdio {
        Stdio::Pipes { stdin, stdout, stderr } => [stdin, stdout, stderr],
        // The terminal is made later, in the container.
        Stdio::Terminal => [None; 3],
    };
    let null = open_null()?;
    // All are duplicated first, above 2: one that is wanted may itself lie at 0, 1 or 2.
    let mut duplicates = Vec::with_capacity(wanted.len());
    for fd in wanted {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd.unwrap_or(null.as_fd()), FIRST_OTHER);
        duplicates.push(fd.during(Step::Stdio, "failed to duplicate a descriptor")?);
    }
    put(&duplicates)?;
    drop((null, duplicates));
    sys::fds::close_inherited(token, keep).during(Step::Stdio, "failed to close descriptors")
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

/// Lets the container's user open its own pipes again, by `/dev/stdout` and the like.
pub(crate) fn give_to_user(stdio: &Stdio<'_>, process: &Process) -> Done {
    let uid = process.user().uid();
    if uid == 0 || matches!(stdio, Stdio::Terminal) {
        return Ok(());
    }
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for fd in standard {
        let stat = rustix::fs::fstat(fd).during(Step::Stdio, "failed to look at a descriptor")?;
        if matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None)
                .during(Step::Stdio, "failed to give a pipe to the container's user")?;
        }
    }
    Ok(())
}

/// Opens the machine's `/dev/null` and makes sure that it is that device.
pub(crate) fn open_null() -> Done<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open("/dev/null", flags, Mode::empty())
        .during(Step::Stdio, "failed to open /dev/null")?;
    let file = File::from(file);
    let metadata = file.metadata().during(Step::Stdio, "failed to look at /dev/null")?;
    let is_null = metadata.file_type().is_char_device()
        && metadata.rdev() == rustix::fs::makedev(NULL_MAJOR, NULL_MINOR);
    if !is_null {
        return Err(ChildFailure::new(Step::Stdio, "/dev/null is not the null device"));
    }
    Ok(file.into())
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
