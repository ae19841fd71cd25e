//! Files that live as long as a piece of work.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A path of our own, whose file goes with the value.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
}

impl Spool {
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = Self::make_dir(root)?;
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { path: dir.join(name) })
    }

    /// Deletes what another process left.
    pub(crate) fn sweep(root: &Path) -> io::Result<()> {
        match fs::remove_dir_all(root.join("spool")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // Where a full disk does not let it be made, it is made when it is needed.
        let _made_later = Self::make_dir(root);
        Ok(())
    }

    fn make_dir(root: &Path) -> io::Result<PathBuf> {
        let dir = root.join("spool");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(dir)
    }

    /// Where the file is to be written.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
