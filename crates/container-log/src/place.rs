//! Where a log is: opened by the directory's handle, through no link.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

/// A log's place.
#[derive(Debug)]
pub(crate) struct Place {
    dir: OwnedFd,
    file: PathBuf,
}

impl Place {
    /// Opens the directory; `file` is relative to it and stays in it.
    pub(crate) fn open(dir: &Path, file: &Path) -> io::Result<Self> {
        let plain = file.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || file.as_os_str().is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the log's path is not a plain relative one",
            ));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: open(dir, flags, Mode::empty())?, file: file.to_owned() })
    }

    /// Opens the file for appending, making it where it is missing.
    pub(crate) fn append(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(&self.dir, &self.file, flags, mode, resolve)?;
        // A FIFO or device that somebody put there would block or take the lines elsewhere.
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the log is not a regular file",
            ));
        }
        Ok(File::from(file))
    }
}
