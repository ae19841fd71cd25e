//! Looking into an image: its layers mounted together, on no path.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::OFlags,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};
use types::DiffId;

use crate::{SnapshotError, Snapshots, active::check, store::open_dir};

impl Snapshots {
    /// Mounts `layers`, lowest first, read-only and detached: no path leads to it,
    /// and it ends with the handle.
    ///
    /// # Errors
    /// Fails where a layer is missing, or the kernel refuses the mount.
    pub fn open_view(&self, layers: &[DiffId]) -> Result<OwnedFd, SnapshotError> {
        {
            let known = self.inner.known();
            check(layers, |layer| known.layers.contains_key(layer))?;
        }
        // Without an upper directory overlayfs wants two lower ones.
        let mut lower = self.lower(layers);
        lower.push(self.inner.root.join("empty"));
        lower.dedup();
        let failed = |source: io::Error| SnapshotError::View {
            action: "mount the layers".to_owned(),
            source,
        };
        match &lower[..] {
            [only] => open_dir(only).map_err(failed),
            many => mount(many).map_err(failed),
        }
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
        let view = self.open_view(layers)?;
        let failed = |action: &str| {
            let action = format!("{action} {}", path.display());
            move |source: io::Error| SnapshotError::View { action, source }
        };
        // A FIFO or a device must not block: O_NONBLOCK, and nothing is read before the kind is known.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match sys::root::open(&view, path, flags) {
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
}

/// Not there, or a link into nowhere, or a loop of links, or a device without a driver.
fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    error.raw_os_error().is_some_and(|raw| absent.iter().any(|e| e.raw_os_error() == raw))
}

fn mount(lower: &[std::path::PathBuf]) -> io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let dirs = lower.iter().map(|dir| open_dir(dir)).collect::<io::Result<Vec<_>>>()?;
    let paths: Vec<String> =
        dirs.iter().map(|dir| format!("/proc/self/fd/{}", dir.as_raw_fd())).collect();
    match paths
        .iter()
        .try_for_each(|path| fsconfig_set_string(&context, c"lowerdir+", path.as_str()))
    {
        Ok(()) => {}
        // Before Linux 6.7 there is only the list, of up to 255 bytes.
        Err(Errno::INVAL) => fsconfig_set_string(&context, c"lowerdir", paths.join(":"))?,
        Err(errno) => return Err(errno.into()),
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
