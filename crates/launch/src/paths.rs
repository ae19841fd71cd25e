//! Paths that are hidden or made read-only.
//!
//! What covers a path is opened by us on the host and verified, never taken from the container:
//! a container that shares a volume with this one could exchange a source of the container's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr};

use crate::step::{Done, During};
use crate::{Step, filesystem, label, stdio};

/// Makes the spec's read-only paths so; what does not exist needs nothing.
pub(crate) fn make_readonly(spec: &Spec, root: &OwnedFd) -> Done {
    let paths = spec.linux().as_ref().and_then(|linux| linux.readonly_paths().as_deref());
    for path in paths.unwrap_or_default().iter().map(Path::new) {
        let during = "failed to make read-only";
        let Some(target) = open(root, path).during_on(Step::ReadonlyPath, during, path)? else {
            continue;
        };
        let tree =
            filesystem::clone_handle(&target, true).during_on(Step::ReadonlyPath, during, path)?;
        let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
        sys::mount::set_attributes(&tree, attr, true)
            .and_then(|()| filesystem::attach(tree.as_fd(), target.as_fd()))
            .during_on(Step::ReadonlyPath, during, path)?;
    }
    Ok(())
}

/// Hides the spec's masked paths: a directory below an empty one, a file below the null device.
pub(crate) fn mask(spec: &Spec, root: &OwnedFd) -> Done {
    let paths = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_deref());
    let paths = paths.unwrap_or_default();
    if paths.is_empty() {
        return Ok(());
    }
    let mut covers = Covers { label: label::of(spec), empty: None };
    for path in paths.iter().map(Path::new) {
        let during = "failed to mask";
        let Some(target) = open(root, path).during_on(Step::MaskedPath, during, path)? else {
            continue;
        };
        let kind = rustix::fs::fstat(&target).during_on(Step::MaskedPath, during, path)?.st_mode;
        let cover = if FileType::from_raw_mode(kind) == FileType::Directory {
            covers.of_directory(&target)
        } else {
            // Read-only, because the node behind it is the host's.
            let cover = stdio::null_mount()?;
            filesystem::attach(cover.as_fd(), target.as_fd())
        };
        cover.during_on(Step::MaskedPath, during, path)?;
    }
    Ok(())
}

struct Covers<'a> {
    label: Option<&'a str>,
    /// The first cover of a directory, from which the others are copied: one file system does.
    empty: Option<OwnedFd>,
}

impl Covers<'_> {
    fn of_directory(&mut self, target: &OwnedFd) -> io::Result<()> {
        if let Some(empty) = &self.empty {
            let tree = filesystem::clone_handle(empty, false)?;
            return filesystem::attach(tree.as_fd(), target.as_fd());
        }
        let options =
            vec![("mode", Some("755")), ("nr_blocks", Some("1")), ("nr_inodes", Some("1"))];
        let options = label::with_option("tmpfs", options, self.label);
        let tree = filesystem::new_mount("tmpfs", Some("tmpfs"), &options)?;
        let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        sys::mount::set_attributes(&tree, MountAttr { set, ..MountAttr::default() }, false)?;
        filesystem::attach(tree.as_fd(), target.as_fd())?;
        self.empty = Some(tree);
        Ok(())
    }
}

fn open(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    match sys::root::open(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            _ => Err(error),
        },
    }
}
