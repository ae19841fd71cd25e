//! The root file system, mounted in the container's mount namespace only.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags};
use sys::mount::{ATTR_RDONLY, MountAttr, Propagation};

use crate::step::{Done, During};
use crate::user::User;
use crate::{ChildFailure, Rootfs, Step, filesystem, idmap};

/// Mounts the root and opens it.
pub(crate) fn mount(rootfs: &Rootfs, target: &Path) -> Done<OwnedFd> {
    match rootfs {
        Rootfs::Dir(dir) => attach(private_copy(dir)?, target),
        Rootfs::Overlay { lower, upper, work } => {
            check_layers(lower)?;
            match overlay_by_layer(lower, upper, work) {
                Ok(tree) => attach(tree, target),
                // An older kernel takes no layer at a time. Where the cause is another one, the
                // second way fails of it too, and that is reported.
                Err(_) => overlay_by_list(lower, upper, work, target).during_on(
                    Step::Rootfs,
                    "failed to mount the overlay of",
                    upper,
                ),
            }
        }
    }
}

/// Makes the root of a container in a user namespace: its files are the namespace's, and nothing is
/// changed on disk but what the container writes. The writable layer belongs to the namespace
/// already. The root is attached nowhere; `target` is used meanwhile, in the caller's mount
/// namespace.
pub(crate) fn make_mapped(rootfs: &Rootfs, target: &Path, user: &User) -> Done<OwnedFd> {
    match rootfs {
        Rootfs::Dir(dir) => {
            let tree = private_copy(dir)?;
            idmap::map_root(&tree, dir, user.as_fd())?;
            Ok(tree)
        }
        Rootfs::Overlay { lower, upper, work } => {
            check_layers(lower)?;
            // The overlay itself cannot be mapped, its layers can.
            for layer in lower {
                idmap::cover(layer, user.as_fd())?;
            }
            overlay_by_layer(lower, upper, work).or_else(|_| {
                overlay_by_list(lower, upper, work, target)
                    .and_then(|_attached| filesystem::clone_path(target, false))
                    .and_then(|tree| {
                        rustix::mount::unmount(target, UnmountFlags::DETACH)?;
                        Ok(tree)
                    })
                    .during_on(Step::Rootfs, "failed to mount the overlay of", upper)
            })
        }
    }
}

/// Attaches such a root at the working directory.
pub(crate) fn attach_here(tree: &OwnedFd) -> Done {
    filesystem::attach_here(tree.as_fd())
        .during(Step::Rootfs, "failed to mount the root file system")
}

fn check_layers(lower: &[PathBuf]) -> Done {
    if lower.is_empty() {
        return Err(ChildFailure::new(Step::Rootfs, "the root file system has no layer"));
    }
    Ok(())
}

fn private_copy(dir: &Path) -> Done<OwnedFd> {
    let tree = filesystem::clone_path(dir, true).during_on(
        Step::Rootfs,
        "failed to open the root file system",
        dir,
    )?;
    let private = MountAttr { propagation: Some(Propagation::Private), ..MountAttr::default() };
    sys::mount::set_attributes(&tree, private, true).during_on(
        Step::Rootfs,
        "failed to detach the root file system",
        dir,
    )?;
    Ok(tree)
}

/// What is done to the root when nothing more has to be made in it.
pub(crate) fn finish(spec: &Spec, root: &OwnedFd) -> Done {
    let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or_default();
    let propagation = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let attr = MountAttr {
        set: if readonly { ATTR_RDONLY } else { 0 },
        clear: 0,
        propagation: match propagation {
            // The root is a private mount already, which a slave of nothing is as well.
            None | Some("" | "private" | "rprivate" | "slave" | "rslave") => None,
            Some("shared" | "rshared") => Some(Propagation::Shared),
            Some("unbindable" | "runbindable") => Some(Propagation::Unbindable),
            Some(other) => {
                let message = format!("unknown linux.rootfsPropagation {other:?}");
                return Err(ChildFailure::new(Step::Spec, message));
            }
        },
    };
    if attr.is_empty() {
        return Ok(());
    }
    sys::mount::set_attributes(root, attr, false)
        .during(Step::Rootfs, "failed to change the root file system's attributes")
}

fn attach(tree: OwnedFd, target: &Path) -> Done<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(target, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|fd| filesystem::attach(tree.as_fd(), fd.as_fd()))
        .during_on(Step::Rootfs, "failed to mount the root file system on", target)?;
    Ok(tree)
}

/// One call a layer, which has no limit on their number (Linux 6.8).
fn overlay_by_layer(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    rustix::mount::fsconfig_set_string(&context, "upperdir", upper)?;
    rustix::mount::fsconfig_set_string(&context, "workdir", work)?;
    rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
    rustix::mount::fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(&context, flags, MountAttrFlags::empty())?)
}

/// One call with one list, which must fit a page; the layers' common directory is left out of it.
fn overlay_by_list(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> io::Result<OwnedFd> {
    let common = common_directory(lower);
    rustix::process::chdir(&common)?;
    let mut data = b"lowerdir=".to_vec();
    for (index, layer) in lower.iter().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        let short = layer.strip_prefix(&common).unwrap_or(layer);
        push_escaped(&mut data, if short.as_os_str().is_empty() { Path::new(".") } else { short });
    }
    data.extend_from_slice(b",upperdir=");
    push_escaped(&mut data, upper);
    data.extend_from_slice(b",workdir=");
    push_escaped(&mut data, work);
    let data = std::ffi::CString::new(data).map_err(io::Error::other)?;
    if data.as_bytes_with_nul().len() > MAX_MOUNT_DATA {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    let mounted = rustix::mount::mount(
        "overlay",
        target,
        "overlay",
        MountFlags::empty(),
        Some(data.as_c_str()),
    );
    rustix::process::chdir("/")?;
    mounted?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(target, flags, Mode::empty())?)
}

/// mount(2) reads one page.
const MAX_MOUNT_DATA: usize = 4096;

fn common_directory(paths: &[PathBuf]) -> PathBuf {
    let mut common = paths.first().and_then(|p| p.parent()).unwrap_or(Path::new("/"));
    while !paths.iter().all(|path| path.starts_with(common)) {
        let Some(parent) = common.parent() else { break };
        common = parent;
    }
    common.to_owned()
}

/// Overlayfs splits at colons and mount(2) at commas; a backslash keeps both.
fn push_escaped(data: &mut Vec<u8>, path: &Path) {
    let path: &OsStr = path.as_os_str();
    for &byte in path.as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            data.push(b'\\');
        }
        data.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The way of older kernels, in a mount namespace of the test's thread.
    #[test]
    fn layers_are_mounted_by_list() {
        let dir = tempfile::Builder::new().prefix("corten-overlay-").tempdir().expect("made");
        let path = |name: &str| dir.path().join(name);
        let mut lower = Vec::new();
        for number in 0..40 {
            let layer =
                path(&format!("layers/{number}: a name, with signs and {}", "x".repeat(40)));
            fs::create_dir_all(&layer).expect("made");
            fs::write(layer.join(format!("file{number}")), "").expect("written");
            fs::write(layer.join("top"), number.to_string()).expect("written");
            lower.push(layer);
        }
        for name in ["upper,1", "work", "target"] {
            fs::create_dir(path(name)).expect("made");
        }
        let new = sys::namespace::NewNamespaces { mount: true, ..Default::default() };
        sys::namespace::unshare(new).expect("unshared");
        crate::namespaces::detach_mounts().expect("detached");
        overlay_by_list(&lower, &path("upper,1"), &path("work"), &path("target")).expect("mounted");
        assert_eq!(fs::read_dir(path("target")).expect("read").count(), 41);
        assert_eq!(fs::read_to_string(path("target/top")).expect("read"), "0");
        fs::write(path("target/new"), "").expect("written");
        assert!(path("upper,1/new").exists());
        rustix::mount::unmount(path("target"), rustix::mount::UnmountFlags::DETACH)
            .expect("unmounted");
    }

    #[test]
    fn the_common_directory_is_found() {
        let table: [(&[&str], &str); 4] = [
            (&["/a/b/1", "/a/b/2"], "/a/b"),
            (&["/a/b/1", "/a/c/2"], "/a"),
            (&["/a/b"], "/a"),
            (&["/x/1", "/y/1"], "/"),
        ];
        for (paths, common) in table {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(common_directory(&paths), PathBuf::from(common));
        }
    }
}
