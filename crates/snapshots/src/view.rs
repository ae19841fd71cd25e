//! Looking into an image: its layers mounted together, on no path.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{CWD, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
        MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
        mount_change, move_mount, open_tree,
    },
};
use sys::namespace::NewNamespaces;
use types::DiffId;

use crate::{SnapshotError, Snapshots, active::check, remembered::Content, store::open_dir};

impl Snapshots {
    /// Mounts `layers`, lowest first, read-only and detached: no path leads to it,
    /// and it ends with the handle.
    ///
    /// # Errors
    /// Fails where a layer is missing, or the kernel refuses the mount.
    pub fn open_view(&self, layers: &[DiffId]) -> Result<OwnedFd, SnapshotError> {
        let lower = self.view_layers(layers)?;
        let failed = |source: io::Error| SnapshotError::View {
            action: "mount the layers".to_owned(),
            source,
        };
        match &lower[..] {
            [only] => copy_read_only(only).map_err(failed),
            many => mount(many, &self.inner.root.join("empty")).map_err(failed),
        }
    }

    /// The same for containers in a user namespace: its root owns what root owns in the image.
    ///
    /// # Errors
    /// As [`Snapshots::open_view`]; or the store's file system cannot map owners.
    pub fn open_mapped_view(
        &self,
        layers: &[DiffId],
        user_namespace: BorrowedFd<'_>,
    ) -> Result<OwnedFd, SnapshotError> {
        let lower = self.view_layers(layers)?;
        let place = self.inner.root.join("empty");
        in_own_mount_namespace(|| {
            for dir in &lower {
                cover_mapped(dir, user_namespace)?;
            }
            match &lower[..] {
                [only] => copy_read_only(only),
                many => mount_by_layer(many).or_else(|error| {
                    if is_invalid(&error) { attach_by_list(many, &place) } else { Err(error) }
                }),
            }
        })
        .map_err(|source| SnapshotError::View {
            action: "mount the layers with mapped owners".to_owned(),
            source,
        })
    }

    /// The layers of a view, topmost first. Without an upper directory overlayfs wants two.
    fn view_layers(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>, SnapshotError> {
        let known = self.inner.known();
        check(layers, |layer| known.layers.contains_key(layer))?;
        let mut lower = self.lower(&known, layers);
        lower.push(self.inner.root.join("empty"));
        lower.dedup();
        Ok(lower)
    }

    /// Reads the regular file `path` of the image that `layers` make, following links
    /// inside of it. `None` where there is no such file.
    ///
    /// # Errors
    /// Fails where it is no regular file, or longer than `max_len`.
    pub fn view_file(
        &self,
        layers: &[DiffId],
        path: &Path,
        max_len: usize,
    ) -> Result<Option<Vec<u8>>, SnapshotError> {
        let [content] = self.view_files(layers, [path], max_len)?;
        Ok(content.map(|bytes| bytes.to_vec()))
    }

    /// The same for some files, with one mount for all of them. Small ones are kept in memory.
    ///
    /// # Errors
    /// As [`Snapshots::view_file`].
    pub fn view_files<const N: usize>(
        &self,
        layers: &[DiffId],
        paths: [&Path; N],
        max_len: usize,
    ) -> Result<[Option<Arc<[u8]>>; N], SnapshotError> {
        let begun = {
            let known = self.inner.known();
            check(layers, |layer| known.layers.contains_key(layer))?;
            let kept = paths.map(|path| known.files.get(layers, path));
            if kept.iter().all(Option::is_some) {
                return within(paths, kept.map(Option::flatten), max_len);
            }
            known.files.generation()
        };
        let view = self.open_view(layers)?;
        let mut contents = [const { None }; N];
        for (path, content) in paths.into_iter().zip(&mut contents) {
            *content = read_file(&view, path, max_len)?.map(Arc::from);
        }
        let mut known = self.inner.known();
        for (path, content) in paths.into_iter().zip(&contents) {
            known.files.keep(begun, layers, path, content);
        }
        Ok(contents)
    }
}

/// Refuses a file that is longer than it may be.
fn within<const N: usize>(
    paths: [&Path; N],
    contents: [Content; N],
    max: usize,
) -> Result<[Content; N], SnapshotError> {
    let is_long = |content: &Content| content.as_ref().is_some_and(|bytes| bytes.len() > max);
    match contents.iter().position(is_long) {
        Some(at) => Err(SnapshotError::TooLong { path: paths[at].to_owned(), max }),
        None => Ok(contents),
    }
}

/// Reads a regular file of a view; `None` where there is none.
fn read_file(
    view: &OwnedFd,
    path: &Path,
    max_len: usize,
) -> Result<Option<Vec<u8>>, SnapshotError> {
    let failed = |action: &str| {
        let action = format!("{action} {}", path.display());
        move |source: io::Error| SnapshotError::View { action, source }
    };
    // A FIFO or a device must not block: O_NONBLOCK, and nothing is read before the kind is known.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match sys::root::open(view, path, flags) {
        Ok(file) => File::from(file),
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(failed("open")(e)),
    };
    let meta = file.metadata().map_err(failed("look at"))?;
    if !meta.is_file() {
        return Err(SnapshotError::NotRegular { path: path.to_owned() });
    }
    let limit = u64::try_from(max_len).unwrap_or(u64::MAX);
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed("read"))?;
    if content.len() > max_len {
        return Err(SnapshotError::TooLong { path: path.to_owned(), max: max_len });
    }
    Ok(Some(content))
}

/// Not there, or a link into nowhere, or a loop of links, or a device without a driver.
fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    error.raw_os_error().is_some_and(|raw| absent.iter().any(|e| e.raw_os_error() == raw))
}

/// What the view's files cannot be used for.
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

fn mount(lower: &[PathBuf], place: &Path) -> io::Result<OwnedFd> {
    // Without it there is only a list, and fsconfig(2) takes 255 bytes of it.
    if !sys::mount::overlay_takes_layers() {
        return mount_by_list(lower, place);
    }
    match mount_by_layer(lower) {
        Err(e) if is_invalid(&e) => mount_by_list(lower, place),
        result => result,
    }
}

fn is_invalid(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

/// A detached copy of the mount at a directory.
fn copy(dir: &Path) -> io::Result<OwnedFd> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, dir, clone)?)
}

fn copy_read_only(dir: &Path) -> io::Result<OwnedFd> {
    use sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr};
    let tree = copy(dir)?;
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    sys::mount::set_attributes(&tree, MountAttr { set, ..MountAttr::default() }, false)?;
    Ok(tree)
}

/// Covers a directory by a copy of its mount with mapped owners.
fn cover_mapped(dir: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let tree = copy(dir)?;
    sys::mount::map_ids(&tree, user_namespace, false)?;
    let place = open_dir(dir)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &place, "", flags)?)
}

fn mount_by_layer(lower: &[PathBuf]) -> io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let dirs = open_all(lower)?;
    for path in names(&dirs) {
        fsconfig_set_string(&context, c"lowerdir+", path.as_str())?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, ATTRIBUTES)?)
}

fn open_all(dirs: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    dirs.iter().map(|dir| open_dir(dir)).collect()
}

/// Short names of open directories, whatever the store's path is.
fn names(dirs: &[OwnedFd]) -> Vec<String> {
    dirs.iter().map(|dir| format!("/proc/self/fd/{}", dir.as_raw_fd())).collect()
}

/// The same by mount(2), which takes a page, but wants a place: one in a mount
/// namespace of its own, that a thread enters and takes with it when it ends. What is
/// returned is a copy that is attached nowhere.
fn mount_by_list(lower: &[PathBuf], place: &Path) -> io::Result<OwnedFd> {
    in_own_mount_namespace(|| attach_by_list(lower, place))
}

fn attach_by_list(lower: &[PathBuf], place: &Path) -> io::Result<OwnedFd> {
    // Opened in here: the kernel takes no directory of another mount namespace.
    let dirs = open_all(lower)?;
    let data = CString::new(format!("lowerdir={}", names(&dirs).join(":")))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(
        c"overlay",
        place,
        c"overlay",
        flags | MountFlags::NOEXEC,
        data.as_c_str(),
    )?;
    copy(place)
}

/// Works in a thread with a mount namespace of its own, of which nothing remains.
fn in_own_mount_namespace(
    work: impl FnOnce() -> io::Result<OwnedFd> + Send,
) -> io::Result<OwnedFd> {
    let work = || {
        sys::namespace::unshare(NewNamespaces { mount: true, ..NewNamespaces::default() })?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private)?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("the mounting thread has panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels that know only one way still get the view.
    #[test]
    fn both_ways_of_mounting_give_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for at in 0..60 {
            let layer = dir.path().join(format!("{at}"));
            std::fs::create_dir(&layer).unwrap();
            std::fs::write(layer.join("file"), at.to_string()).unwrap();
            paths.push(layer);
        }
        let place = dir.path().join("59");
        for view in [mount_by_layer(&paths).unwrap(), mount_by_list(&paths, &place).unwrap()] {
            let file = sys::root::open(&view, Path::new("file"), OFlags::RDONLY).unwrap();
            assert_eq!(io::read_to_string(File::from(file)).unwrap(), "0");
            let write = OFlags::WRONLY;
            assert!(sys::root::open(&view, Path::new("file"), write).is_err());
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*dir.path().to_string_lossy()));
    }
}
