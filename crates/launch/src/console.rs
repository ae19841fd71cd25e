//! The terminal, made from the container's own devpts and verified by handle.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{OFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use sys::root::Missing;

use crate::channel::{Voice, Word};
use crate::step::{Done, During};
use crate::{ChildFailure, Step, filesystem, stdio};

/// A master and the terminal that belongs to it.
pub(crate) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

const PTMX: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";
const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;
/// `ptmx` is 5:2 and always inode 2 of a devpts.
const PTMX_NUMBER: (u32, u32) = (5, 2);
const PTMX_INODE: u64 = 2;
/// The major numbers of terminals of a devpts.
const SLAVE_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Opens a terminal below `root`, of the size and for the user that the process asks for.
pub(crate) fn open(root: &OwnedFd, process: &Process) -> Done<Terminal> {
    let during = "failed to open the terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = sys::root::open_without_links(root, Path::new(PTMX), flags).during_on(
        Step::Console,
        "failed to open",
        PTMX,
    )?;
    let master = verify(master, |number, inode| number == PTMX_NUMBER && inode == PTMX_INODE)?;
    rustix::pty::unlockpt(&master).during(Step::Console, during)?;
    // By the master's handle: a path could lead to another terminal by now.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).during(Step::Console, during)?;
    let slave = verify(slave, |(major, _), _| SLAVE_MAJORS.contains(&major))?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(process.user().uid())), None)
        .during(Step::Console, "failed to give the terminal to the container's user")?;
    if let Some(size) = process.console_size() {
        let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        let (rows, columns) = (cells(size.height()), cells(size.width()));
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).during(Step::Console, during)?;
    }
    Ok(Terminal { master, slave })
}

/// Binds the terminal at `/dev/console`, by handle on both sides.
pub(crate) fn bind_dev_console(root: &OwnedFd, terminal: &Terminal) -> Done {
    let during = "failed to bind the terminal at";
    let tree = filesystem::clone_handle(&terminal.slave, false).during_on(
        Step::Console,
        during,
        CONSOLE,
    )?;
    let target = sys::root::ensure(root, Path::new(CONSOLE), Missing::File).during_on(
        Step::Console,
        during,
        CONSOLE,
    )?;
    filesystem::attach(tree.as_fd(), target.as_fd()).during_on(Step::Console, during, CONSOLE)
}

/// Makes the terminal the session's own and descriptors 0 to 2, and sends the master out.
pub(crate) fn hand_over(terminal: Terminal, voice: &Voice) -> Done {
    rustix::process::ioctl_tiocsctty(&terminal.slave)
        .during(Step::Console, "failed to make the terminal the session's")?;
    stdio::put_terminal(&terminal.slave)?;
    voice.say(&Word::Console, Some(terminal.master.as_fd()));
    Ok(())
}

fn verify(fd: OwnedFd, fits: impl Fn((u32, u32), u64) -> bool) -> Done<OwnedFd> {
    let during = "failed to look at the terminal";
    let fs_type = rustix::fs::fstatfs(&fd).during(Step::Console, during)?.f_type;
    let file = File::from(fd);
    let metadata = file.metadata().during(Step::Console, during)?;
    let number = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let is_right = fs_type == DEVPTS_MAGIC
        && metadata.file_type().is_char_device()
        && fits(number, metadata.ino());
    if is_right {
        return Ok(file.into());
    }
    Err(ChildFailure::new(Step::Console, "the container's /dev/pts is not a devpts"))
}
