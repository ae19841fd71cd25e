//! Where a log is: opened by the directory's handle, through no link.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat, openat2,
    renameat, unlinkat,
};
use rustix::io::Errno;

/// A log's place.
#[derive(Debug)]
pub(crate) struct Place {
    dir: OwnedFd,
    file: PathBuf,
}

impl Place {
    /// Opens the directory; `file` is relative to it and stays in it. Directories between are
    /// made.
    pub(crate) fn open(dir: &Path, file: &Path) -> io::Result<Self> {
        let plain = file.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || file.as_os_str().is_empty() {
            let message = "the log's path is not a plain relative one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let dir = open(dir, DIRECTORY, Mode::empty())?;
        ensure_parents(&dir, file)?;
        Ok(Self { dir, file: file.to_owned() })
    }

    /// Opens the file for appending, making it where it is missing.
    pub(crate) fn append(&self) -> io::Result<File> {
        let file = match self.open_file(OFlags::CREATE | OFlags::EXCL) {
            Ok(new) => {
                // Whatever the umask is, the log is for a group to read.
                fchmod(&new, LOG_MODE)?;
                new
            }
            Err(Errno::EXIST) => self.open_file(OFlags::empty())?,
            Err(errno) => return Err(errno.into()),
        };
        // A FIFO or device that somebody put there would block or take the lines elsewhere.
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            let message = "the log is not a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(File::from(file))
    }

    /// Puts the file aside as `NAME.1`, that one as `NAME.2`, and so on; `kept` of them stay. With
    /// none the file is removed.
    pub(crate) fn rotate(&self, kept: u32) -> io::Result<()> {
        let name = self.file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match self.file.parent().filter(|parent| *parent != Path::new("")) {
            None => self.dir.try_clone()?,
            Some(parent) => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                openat2(&self.dir, parent, DIRECTORY, Mode::empty(), resolve)?
            }
        };
        if kept == 0 {
            return Ok(unlinkat(&parent, name, AtFlags::empty())?);
        }
        let aside = |number: u32| {
            let mut aside = name.to_owned();
            aside.push(format!(".{number}"));
            aside
        };
        for number in (1..kept).rev() {
            match renameat(&parent, aside(number), &parent, aside(number + 1)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(renameat(&parent, name, &parent, aside(1))?)
    }

    fn open_file(&self, how: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        let mode = if how.contains(OFlags::CREATE) { LOG_MODE } else { Mode::empty() };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(&self.dir, &self.file, flags | how, mode, resolve)
    }
}

/// What the kubelet's own log files have.
const LOG_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes the directories of a plain relative path, one by one and by handle, so that no link on
/// the way is followed.
fn ensure_parents(dir: &OwnedFd, file: &Path) -> io::Result<()> {
    let mut here = dir.try_clone()?;
    for name in file.parent().into_iter().flat_map(Path::components) {
        let name = name.as_os_str();
        let made = match mkdirat(&here, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let next = openat(&here, name, flags, Mode::empty())?;
        if made {
            // Whatever the umask is, others find their way to the log.
            fchmod(&next, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH)?;
        }
        here = next;
    }
    Ok(())
}
