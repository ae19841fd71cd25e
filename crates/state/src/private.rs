//! Directories that nobody but their owner may enter.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

/// Makes a directory, and those above it, with mode 0700. One that is there and open to others,
/// as an earlier version or an administrator may have left it, is closed: below it are the files
/// of images, with programs that change their user, and secrets of pods.
pub(crate) fn ensure_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mut permissions = fs::metadata(path)?.permissions();
    let mode = permissions.mode();
    if mode & 0o077 != 0 {
        permissions.set_mode(mode & !0o077);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_directories_are_closed() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        ensure_dir(&path).unwrap();
        assert_eq!(mode(), 0o700);
        for open in [0o755, 0o711, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            ensure_dir(&path).unwrap();
            assert_eq!(mode(), 0o700);
        }
    }
}
