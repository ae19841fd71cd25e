//! Walks over trees that others filled, and may still fill: by handle, following
//! nothing, with bounded handles and memory.

use std::{
    collections::{HashSet, VecDeque},
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, IFlags, Mode, OFlags, RawDir, ResolveFlags, SeekFrom},
    io::Errno,
};

/// How deep directories are held open. Deeper ones are moved up: a container can
/// nest them without end.
const MAX_OPEN: usize = 64;

/// How often a directory is read again though nothing went the last time: some file
/// systems pass over entries while others go.
const MAX_IDLE_ROUNDS: usize = 4;

/// The buffer for names.
const NAMES: usize = 32 << 10;

/// How many inodes with several names are remembered. What is beyond is not counted.
const MAX_REMEMBERED: usize = 1 << 20;

/// How long the paths of directories that wait to be walked may be, together. What is
/// beyond is not counted.
const MAX_WAITING: usize = 32 << 20;

/// What a tree takes of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Disk space, in bytes, as allocated.
    pub bytes: u64,
    /// Inodes, each once.
    pub inodes: u64,
}

/// Removes `name` below `parent`, with everything in it; nothing there is fine. What
/// is left when it is interrupted can be removed by another call.
///
/// It needs no free space, follows no link, and goes into no other mount.
///
/// # Errors
/// Fails where something cannot be removed.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlink(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Most directories are empty, or full of files.
    match unlink(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let Some(top) = open(parent, name)? else { return Ok(()) };
    let mut idle = 0;
    while idle < MAX_IDLE_ROUNDS {
        if Removal::new(top.try_clone()?)?.run()? == 0 {
            idle += 1;
        }
        match unlink(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::NOTEMPTY.into())
}

/// The removal of what is in a directory.
struct Removal {
    /// From the top down.
    open: Vec<Level>,
    /// Names those that are moved to the top, which are read there.
    moved: u64,
    /// What has gone or was moved.
    done: u64,
}

struct Level {
    fd: OwnedFd,
    /// Its name in the level above.
    name: CString,
    /// Directories in it that were seen and not yet entered.
    dirs: VecDeque<CString>,
}

impl Removal {
    fn new(top: OwnedFd) -> rustix::io::Result<Self> {
        rustix::fs::seek(&top, SeekFrom::Start(0))?;
        Ok(Self { open: vec![Level::new(top, CString::default())], moved: 0, done: 0 })
    }

    /// Returns how much has gone.
    fn run(mut self) -> io::Result<u64> {
        while let Some(level) = self.open.last_mut() {
            if let Some(name) = level.dirs.pop_front() {
                self.enter(name)?;
                continue;
            }
            match level.unlink_some()? {
                Some(count) => self.done += count,
                None => self.leave()?,
            }
        }
        Ok(self.done)
    }

    fn enter(&mut self, name: CString) -> io::Result<()> {
        let depth = self.open.len();
        let Some(level) = self.open.last() else { return Ok(()) };
        match unlink(level.fd.as_fd(), &name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.done += 1;
                return Ok(());
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        if depth < MAX_OPEN {
            if let Some(fd) = open(level.fd.as_fd(), &name)? {
                self.open.push(Level::new(fd, name));
            }
            return Ok(());
        }
        let top = &self.open[0].fd;
        loop {
            let up = CString::new(format!(".corten-removed-{}", self.moved))?;
            self.moved += 1;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&level.fd, &name, top, &up, flags) {
                Ok(()) => {
                    self.done += 1;
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn leave(&mut self) -> io::Result<()> {
        let Some(left) = self.open.pop() else { return Ok(()) };
        let Some(above) = self.open.last_mut() else { return Ok(()) };
        match unlink(above.fd.as_fd(), &left.name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.done += 1;
                Ok(())
            }
            // Whatever was passed over is found by the next round.
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Level {
    fn new(fd: OwnedFd, name: CString) -> Self {
        Self { fd, name, dirs: VecDeque::new() }
    }

    /// Unlinks the next files and notes the next directories. Returns how many files
    /// have gone, or `None` at the end.
    fn unlink_some(&mut self) -> io::Result<Option<u64>> {
        let Some(entries) = read_some(self.fd.as_fd())? else { return Ok(None) };
        let mut gone = 0;
        for (name, kind) in entries {
            if kind == FileType::Directory {
                self.dirs.push_back(name);
                continue;
            }
            match unlink(self.fd.as_fd(), &name, AtFlags::empty()) {
                Ok(()) => gone += 1,
                Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => self.dirs.push_back(name),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(gone))
    }
}

/// Adds up the tree `root`, which may change meanwhile. An inode with several names
/// counts once; other mounts do not count.
///
/// # Errors
/// Fails where a directory cannot be read.
pub fn disk_usage(root: BorrowedFd<'_>) -> io::Result<DiskUsage> {
    walk(root, &mut |_| Ok(()))
}

/// The same, unless the tree has more than `most` names: then `None`, without a look at the
/// others.
///
/// # Errors
/// Fails where a directory cannot be read.
pub fn disk_usage_within(root: BorrowedFd<'_>, most: u64) -> io::Result<Option<DiskUsage>> {
    let mut names = 0;
    let usage = walk(root, &mut |_| {
        names += 1;
        if names > most { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    });
    match usage {
        Err(_) if names > most => Ok(None),
        usage => usage.map(Some),
    }
}

/// A name that a walk has found.
pub(crate) struct Found<'a> {
    /// The directory that has it, open.
    pub(crate) at: BorrowedFd<'a>,
    /// The directory's path.
    pub(crate) dir: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) stat: &'a rustix::fs::Stat,
}

/// Adds up the tree `root` and shows every name of it, the root's own too.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    each: &mut dyn FnMut(&Found<'_>) -> io::Result<()>,
) -> io::Result<DiskUsage> {
    let stat = rustix::fs::fstat(root)?;
    let mut usage = DiskUsage { bytes: blocks(&stat), inodes: 1 };
    each(&Found { at: root, dir: b"", name: b".", stat: &stat })?;
    let mut seen = HashSet::new();
    let mut waiting = VecDeque::from([c".".to_owned()]);
    let mut held = 1;
    while let Some(path) = waiting.pop_front() {
        held -= path.as_bytes().len();
        let Some(dir) = open(root, &path)? else { continue };
        while let Some(entries) = read_some(dir.as_fd())? {
            for (name, _) in entries {
                let stat = match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                let found = Found {
                    at: dir.as_fd(),
                    dir: path.as_bytes(),
                    name: name.as_bytes(),
                    stat: &stat,
                };
                match each(&found) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                }
                let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if directory && held < MAX_WAITING {
                    let below = [path.as_bytes(), b"/", name.as_bytes()].concat();
                    held += below.len();
                    waiting.push_back(CString::new(below)?);
                }
                let twice = !directory && stat.st_nlink > 1;
                if twice && (seen.contains(&stat.st_ino) || seen.len() >= MAX_REMEMBERED) {
                    continue;
                }
                if twice {
                    seen.insert(stat.st_ino);
                }
                usage.bytes += blocks(&stat);
                usage.inodes += 1;
            }
        }
    }
    Ok(usage)
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    // The unit is 512 bytes whatever the file system's blocks are (stat(2)).
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Reads the next names of a directory, without `.` and `..`. `None` at the end.
fn read_some(dir: BorrowedFd<'_>) -> io::Result<Option<Vec<(CString, FileType)>>> {
    let mut buffer = [MaybeUninit::uninit(); NAMES];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut found = Vec::new();
    let mut any = false;
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // It was removed while it was read.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        any = true;
        let (name, kind) = (entry.file_name(), entry.file_type());
        if !matches!(name.to_bytes(), b"." | b"..") {
            found.push((name.to_owned(), kind));
        }
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(any.then_some(found))
}

/// Opens a directory below another. `None` where it is gone, no directory, another
/// mount, or too deep to be named.
fn open(at: BorrowedFd<'_>, path: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(at, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => {
            Ok(None)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Unlinks, if need be after taking away a flag that forbids it.
fn unlink(at: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(at, name, flags) {
        Err(Errno::PERM) => {
            let locks = IFlags::IMMUTABLE | IFlags::APPEND;
            unlock(at, locks);
            let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            // Opening a device could do something.
            if matches!(kind, FileType::RegularFile | FileType::Directory)
                && let Ok(file) = rustix::fs::openat(at, name, open, Mode::empty())
            {
                unlock(file.as_fd(), locks);
            }
            rustix::fs::unlinkat(at, name, flags)
        }
        result => result,
    }
}

/// Takes flags away, as far as they are there and that is possible: what follows
/// fails if it was not.
fn unlock(file: BorrowedFd<'_>, locks: IFlags) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(locks)
    {
        let _unlink_tells = rustix::fs::ioctl_setflags(file, flags - locks);
    }
}
