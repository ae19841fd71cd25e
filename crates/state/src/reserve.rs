//! Disk space that is kept for the day when there is none.
//!
//! A file of zeros that are really allocated. When a removal, or the record that a stop
//! writes, meets a full disk, the file is given up and the step done again; when there is
//! room, the file is filled again. It is open only then: what is open for writing keeps an
//! administrator from making the file system read-only.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use rustix::fs::{FallocateFlags, fallocate};

/// How many times the reserve must be free before it is filled again: it is not to be the
/// thing that fills the disk.
const ROOM: u64 = 4;

/// The reserve.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// Held while the file is changed.
    changing: Mutex<()>,
}

impl Reserve {
    /// Opens the reserve, and fills it if there is room. No bytes mean no reserve.
    ///
    /// # Errors
    /// Fails where the file cannot be made for another reason than a full disk.
    pub fn open(path: &Path, bytes: u64) -> io::Result<Self> {
        let reserve = Self { path: path.to_owned(), bytes, changing: Mutex::default() };
        if bytes == 0 {
            return match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(reserve),
            };
        }
        let mut options = File::options();
        let opened = options.write(true).create(true).truncate(false).mode(0o600).open(path);
        match opened {
            Ok(_) => {
                reserve.refill();
                Ok(reserve)
            }
            Err(e) if is_full(&e) => Ok(reserve),
            Err(e) => Err(e),
        }
    }

    /// What it holds now, in bytes.
    pub fn held_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| allocated(&meta))
    }

    /// Does a step, and once more with the reserve given up where the disk is full.
    ///
    /// # Errors
    /// The step's own.
    pub fn with<T, E>(
        &self,
        is_full: impl Fn(&E) -> bool,
        mut step: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        match step() {
            Err(error) if is_full(&error) && self.give_up() => {
                let again = step();
                self.refill();
                again
            }
            first => first,
        }
    }

    /// Frees the space. Returns whether there was any.
    pub fn give_up(&self) -> bool {
        let Ok(_changing) = self.changing.lock() else { return false };
        self.held_bytes() > 0 && self.open_file().is_some_and(|file| file.set_len(0).is_ok())
    }

    /// Takes the space again, if there is plenty of room.
    pub fn refill(&self) {
        let Ok(_changing) = self.changing.lock() else { return };
        if self.held_bytes() >= self.bytes {
            return;
        }
        let free = rustix::fs::statvfs(&self.path)
            .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        if free < self.bytes.saturating_mul(ROOM) {
            return;
        }
        let Some(file) = self.open_file() else { return };
        if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            tracing::warn!(path = %self.path.display(), %error, "no disk space was set aside");
            let _given_back = file.set_len(0);
        }
    }

    /// `None` where there is no reserve, or it cannot be changed.
    fn open_file(&self) -> Option<File> {
        File::options().write(true).open(&self.path).ok()
    }
}

fn allocated(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(meta) * 512
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_for_a_step_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        let reserve = Reserve::open(&path, 1 << 20).unwrap();
        assert!(reserve.held_bytes() >= 1 << 20);
        let mut tries = 0;
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let done = reserve.with(is_full, || {
            tries += 1;
            if tries == 1 {
                return Err(full());
            }
            assert_eq!(reserve.held_bytes(), 0);
            Ok(tries)
        });
        assert_eq!(done.unwrap(), 2);
        assert!(reserve.held_bytes() >= 1 << 20);
        assert!(reserve.with(is_full, || Err::<(), _>(full())).is_err());
        let denied = || Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(reserve.with(is_full, denied).is_err());
        assert_eq!(Reserve::open(&path, 0).unwrap().held_bytes(), 0);
        assert!(!path.exists());
    }
}
