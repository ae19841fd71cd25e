//! Entries that replace earlier ones of the same layer.

use std::ffi::CString;

use rustix::{
    fd::AsFd,
    fs::{AtFlags, FileType, Stat},
    io::Errno,
};

use crate::{
    UnpackError,
    dirs::{Dir, Dirs, failed},
    tree::remove_tree,
};

/// What was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A whiteout: a directory in its place hides what it hid.
    Whiteout,
    /// Anything else.
    Other,
}

/// Tells whether an inode is overlayfs' whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes `name` of `dir`, whatever it is.
pub(crate) fn make_room(dir: &Dir, name: &[u8], dirs: &mut Dirs) -> Result<Room, UnpackError> {
    let fail = |action, errno| failed(action, &dir.child(name), errno);
    let stat = match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Room::Other),
        Err(errno) => return Err(fail("look at", errno)),
    };
    dirs.replaced = true;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let removed = CString::new(name)
                .map_err(|_| Errno::INVAL)
                .map(|name| remove_tree(dir.as_fd(), &name));
            match removed {
                Ok(Ok(())) => {}
                Ok(Err(source)) => {
                    return Err(UnpackError::Apply {
                        action: "replace",
                        path: crate::names::shown(&dir.child(name)),
                        source,
                    });
                }
                Err(errno) => return Err(fail("replace", errno)),
            }
            dirs.forget();
        }
        kind => {
            rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty())
                .map_err(|errno| fail("replace", errno))?;
            if kind == FileType::Symlink {
                dirs.forget();
            }
        }
    }
    Ok(if is_whiteout(&stat) { Room::Whiteout } else { Room::Other })
}
