//! Volumes that an image declares: directories of the container's own, filled with what
//! the image has at their place. The place is opened inside the image, by handle; a
//! declared `/../../etc` or a link to it finds nothing else (CVE-2022-23648).

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use container_spec::Volume;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mkdirat, openat, readlinkat,
    statat, symlinkat,
};
use types::{ContainerId, DiffId, UserNamespace};

use crate::{
    error::{Error, Result},
    service::Inner,
};

/// How deep directories of a volume may lie in each other.
const MAX_DEPTH: usize = 256;

impl Inner {
    /// Where the volumes of a container are.
    pub(crate) fn volumes_dir(&self, id: &ContainerId) -> PathBuf {
        self.options.root.join("volumes").join(id.as_str())
    }

    /// Makes and fills volumes.
    pub(crate) fn make_volumes(
        &self,
        layers: &[DiffId],
        volumes: &[Volume],
        user: Option<&UserNamespace>,
    ) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        let view = self
            .services
            .snapshots
            .open_view(layers)
            .map_err(|source| Error::Snapshot { what: "look into the image".to_owned(), source })?;
        for volume in volumes {
            crate::files::make_dir(&volume.host_path)?;
            copy_up(&view, volume, user).map_err(|source| Error::File {
                what: "fill the volume",
                path: volume.container_path.clone().into(),
                source,
            })?;
        }
        Ok(())
    }
}

fn copy_up(view: &OwnedFd, volume: &Volume, user: Option<&UserNamespace>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let to = rustix::fs::open(&volume.host_path, flags | OFlags::NOFOLLOW, Mode::empty())?;
    match sys::root::open(view, Path::new(&volume.container_path), flags) {
        Ok(from) => copy_dir(from.as_fd(), to.as_fd(), user, 0),
        // The image has nothing there, or no directory: the volume is empty.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let (uid, gid) = owner((0, 0), user);
            rustix::fs::fchown(&to, uid, gid)?;
            Ok(rustix::fs::fchmod(&to, Mode::from_raw_mode(0o755))?)
        }
        Err(e) => Err(e),
    }
}

fn copy_dir(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    user: Option<&UserNamespace>,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("its directories are nested too deep"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let source = openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
                let target = openat(to, name, read | OFlags::DIRECTORY, Mode::empty())?;
                copy_dir(source.as_fd(), target.as_fd(), user, depth + 1)?;
            }
            FileType::RegularFile => {
                let source = openat(from, name, read, Mode::empty())?;
                let write = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let target = openat(to, name, write, mode)?;
                io::copy(&mut File::from(source), &mut File::from(target.try_clone()?))?;
                own(&target, &stat, user, mode)?;
            }
            FileType::Symlink => {
                symlinkat(&readlinkat(from, name, Vec::new())?, to, name)?;
                let (uid, gid) = owner((stat.st_uid, stat.st_gid), user);
                chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            // Devices, sockets and pipes are not what a volume is filled with.
            _ => {}
        }
    }
    let stat = fstat(from)?;
    own(&to, &stat, user, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

/// Whose a file is on the host, if it is `uid`'s and `gid`'s in the image. Who is not in the user
/// namespace is its root, as nobody else in there could be given the file.
fn owner((uid, gid): (u32, u32), user: Option<&UserNamespace>) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = match user {
        None => (Some(uid), Some(gid)),
        Some(user) => (
            user.host_uid(uid).or_else(|| user.host_uid(0)),
            user.host_gid(gid).or_else(|| user.host_gid(0)),
        ),
    };
    (uid.map(Uid::from_raw), gid.map(Gid::from_raw))
}

/// The owner first: changing it takes set-user-id bits away.
fn own(
    file: &impl AsFd,
    stat: &rustix::fs::Stat,
    user: Option<&UserNamespace>,
    mode: Mode,
) -> io::Result<()> {
    let (uid, gid) = owner((stat.st_uid, stat.st_gid), user);
    rustix::fs::fchown(file, uid, gid)?;
    Ok(rustix::fs::fchmod(file, mode)?)
}
