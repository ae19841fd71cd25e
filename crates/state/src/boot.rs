//! State that lasts as long as the kernel runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A step on the state directory that failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel does not tell which boot this is.
    #[error("failed to read the boot id from {path}")]
    BootId {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory could not be made, cleared or marked.
    #[error("failed to prepare the state directory {path}")]
    Prepare {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Returns the id of this boot (`random(4)`, `/proc/sys/kernel/random/boot_id`).
///
/// # Errors
/// Fails where `/proc` is not there.
pub fn boot_id() -> Result<String, BootError> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(BootError::BootId { path, source }),
    }
}

/// Makes the state directory (mode 0700) where it is missing, and closes it where it is open to
/// others. What another boot
/// left in `subdir` of it is deleted: none of its processes or mounts exists any
/// more. Returns whether that was so.
///
/// # Errors
/// Fails where the directory cannot be made, cleared or marked.
pub fn prepare_state_dir(state: &Path, subdir: &str, boot_id: &str) -> Result<bool, BootError> {
    let prepare = || -> io::Result<bool> {
        crate::private::ensure_dir(state)?;
        let mark = state.join("boot-id");
        let before = fs::read_to_string(&mark).unwrap_or_default();
        let other_boot = !before.is_empty() && before.trim() != boot_id;
        if other_boot {
            match fs::remove_dir_all(state.join(subdir)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        crate::private::ensure_dir(&state.join(subdir))?;
        fs::write(&mark, boot_id)?;
        Ok(other_boot)
    };
    prepare().map_err(|source| BootError::Prepare { path: state.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boots_state_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!prepare_state_dir(dir.path(), "pods", "one").unwrap());
        fs::write(dir.path().join("pods/x"), "").unwrap();
        assert!(!prepare_state_dir(dir.path(), "pods", "one").unwrap());
        assert!(dir.path().join("pods/x").exists());
        assert!(prepare_state_dir(dir.path(), "pods", "two").unwrap());
        assert!(!dir.path().join("pods/x").exists());
    }

    #[test]
    fn the_kernel_tells_its_boot() {
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
