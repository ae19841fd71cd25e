//! The places of a pod on disk, and the few files and mounts that are the daemon's
//! own business. All of it blocks: it is called off the async threads.
//!
//! ```text
//! <state>/pods/<sandbox>/          monitor.sock, exits/, …     (the monitor's)
//!                        ns/       pinned user, IPC and UTS namespaces
//!                        shm/      the pod's /dev/shm, a tmpfs
//!                        hostname, hosts, resolv.conf
//!                        program/  what a handler's program knows of its containers
//!                        containers/<container>/config.json, rootfs/, images/
//! <netns_dir>/corten-<sandbox>     the pinned network namespace
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use types::{ContainerId, SandboxId};

use crate::error::{Error, Result};

/// Where a sandbox's things are.
#[derive(Debug, Clone)]
pub(crate) struct PodFiles {
    dir: PathBuf,
}

impl PodFiles {
    pub(crate) fn new(state: &Path, id: &SandboxId) -> Self {
        Self { dir: state.join("pods").join(id.as_str()) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn user_ns(&self) -> PathBuf {
        self.dir.join("ns/user")
    }

    pub(crate) fn ipc_ns(&self) -> PathBuf {
        self.dir.join("ns/ipc")
    }

    pub(crate) fn uts_ns(&self) -> PathBuf {
        self.dir.join("ns/uts")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub(crate) fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    pub(crate) fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.dir.join("containers").join(id.as_str())
    }

    /// Where an image that a container mounts is.
    pub(crate) fn image_dir(&self, id: &ContainerId, index: usize) -> PathBuf {
        self.bundle(id).join(IMAGES_DIR).join(index.to_string())
    }

    /// Takes the images of a container off.
    pub(crate) fn unmount_images(&self, id: &ContainerId) -> Result<()> {
        unmount_below(&self.bundle(id).join(IMAGES_DIR))
    }

    /// Gives the files that containers see to another root than the host's.
    pub(crate) fn give(&self, (uid, gid): (u32, u32)) -> Result<()> {
        if (uid, gid) == (0, 0) {
            // We made them: they are.
            return Ok(());
        }
        for path in [self.hostname(), self.hosts(), self.resolv_conf()] {
            match std::os::unix::fs::lchown(&path, Some(uid), Some(gid)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { what: "give away", path, source: e });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the sandbox's directories.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in [self.dir.clone(), self.dir.join("ns"), self.dir.join("containers"), self.shm()]
        {
            make_dir(&dir)?;
        }
        Ok(())
    }

    /// Writes a file that containers see.
    pub(crate) fn write_public(&self, path: &Path, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| Error::File { what: "write", path: path.to_owned(), source };
        fs::write(path, text).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(failed)
    }

    /// Copies a file of the node that containers see; one that is not there is empty.
    pub(crate) fn copy_public(&self, from: &Path, to: &Path) -> Result<()> {
        match fs::read_to_string(from) {
            Ok(text) => self.write_public(to, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.write_public(to, ""),
            Err(source) => Err(Error::File { what: "read", path: from.to_owned(), source }),
        }
    }

    /// Mounts the pod's `/dev/shm`, a tmpfs of `size` bytes that belongs to the pod's root.
    pub(crate) fn mount_shm(&self, size: u64, (uid, gid): (u32, u32)) -> Result<()> {
        let path = self.shm();
        let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
        let data = format!("mode=1777,size={size},uid={uid},gid={gid}");
        let data = std::ffi::CString::new(data).unwrap_or_default();
        mount(c"shm", &path, c"tmpfs", flags, data.as_c_str()).map_err(|e| Error::File {
            what: "mount a tmpfs on",
            path,
            source: e.into(),
        })
    }

    /// Where the programs of handlers keep what they know.
    pub(crate) fn program_root(&self) -> PathBuf {
        self.dir.join("program")
    }

    /// Takes the root of a container off that a program has run; none is no error.
    pub(crate) fn unmount_root(&self, id: &ContainerId) -> Result<()> {
        unmount_all(&self.bundle(id).join("rootfs"))
    }

    /// Takes the roots of all containers off.
    fn unmount_roots(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.dir.join("containers")) else { return Ok(()) };
        for entry in entries.flatten() {
            unmount_all(&entry.path().join("rootfs"))?;
        }
        Ok(())
    }

    /// Unmounts and unpins all that is the sandbox's, and deletes what only a live
    /// sandbox needs. Whatever is gone already is no error.
    pub(crate) fn release(&self, netns: Option<&Path>) -> Result<()> {
        self.unmount_roots()?;
        unmount_all(&self.shm())?;
        for bundle in entries(&self.dir.join("containers"))? {
            unmount_below(&bundle.join(IMAGES_DIR))?;
        }
        let own = [self.user_ns(), self.ipc_ns(), self.uts_ns()];
        for pin in own.iter().map(PathBuf::as_path).chain(netns) {
            unmount_all(pin)?;
            remove_file(pin)?;
        }
        Ok(())
    }

    /// Deletes the sandbox's directory. Mounts must be gone.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

/// The directory of a bundle in which images are mounted.
const IMAGES_DIR: &str = "images";

/// Takes the mounts off the entries of a directory.
fn unmount_below(dir: &Path) -> Result<()> {
    entries(dir)?.iter().try_for_each(|path| unmount_all(path))
}

/// What lies in a directory; nothing where it is not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::File { what: "read", path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}

/// Makes a directory of ours, mode 0700, with its parents.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        what: "create directory",
        path: path.to_owned(),
        source,
    })
}

/// Makes a directory that others look into, mode 0755, with its parents.
pub(crate) fn make_public_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|source| Error::File {
        what: "create directory",
        path: path.to_owned(),
        source,
    })
}

/// Deletes a directory with all in it; one that is not there is no error.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove directory", path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

/// The most mounts that are taken off one path: more than any retry stacks up.
const MAX_STACKED_MOUNTS: usize = 16;

/// Takes all mounts off a path, lazily, so that a busy one never blocks.
fn unmount_all(path: &Path) -> Result<()> {
    for _ in 0..MAX_STACKED_MOUNTS {
        // An unmount may take long, one of nothing too.
        if !is_mounted(path) {
            return Ok(());
        }
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or not there at all.
            Err(
                rustix::io::Errno::INVAL | rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR,
            ) => return Ok(()),
            Err(e) => {
                return Err(Error::File {
                    what: "unmount",
                    path: path.to_owned(),
                    source: e.into(),
                });
            }
        }
    }
    Ok(())
}

/// Whether something is mounted on a path, or that cannot be told.
fn is_mounted(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) => {
            let known = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
            !known || found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        }
        Err(error) => error != rustix::io::Errno::NOENT && error != rustix::io::Errno::NOTDIR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shm_is_mounted_and_everything_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let files = PodFiles::new(dir.path(), &SandboxId::random());
        files.create().unwrap();
        files.mount_shm(1 << 20, (0, 0)).unwrap();
        files.mount_shm(1 << 20, (7, 8)).unwrap();
        let shm = fs::metadata(files.shm()).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&shm), 7);
        let image = files.image_dir(&ContainerId::random(), 3);
        make_dir(&image).unwrap();
        mount(c"image", &image, c"tmpfs", MountFlags::RDONLY, c"").unwrap();
        fs::write(files.shm().join("x"), "x").unwrap();
        let netns = dir.path().join("netns");
        fs::write(&netns, "").unwrap();
        files.release(Some(&netns)).unwrap();
        files.release(Some(&netns)).unwrap();
        assert!(!netns.exists());
        files.remove().unwrap();
        files.remove().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*dir.path().to_string_lossy()));
    }
}
