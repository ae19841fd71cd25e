//! The root file system, mounted in the container's mount namespace only.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags};
use sys::mount::{ATTR_NODEV, ATTR_RDONLY, MountAttr, Propagation};

use crate::step::{Done, During};
use crate::user::User;
use crate::{ChildFailure, Rootfs, Step, filesystem, idmap, label};

/// What device nodes in the root are: those that the image brought, and those that the container
/// makes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nodes {
    /// Devices, as far as the container may use them.
    Usable,
    /// Of no use (`nodev`), whatever the rules for devices say.
    Useless,
}

impl Nodes {
    /// They are of use to a container that may use every device, and to one whose own devices lie
    /// in the root and not below `/dev`.
    fn of(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let rules = linux
            .and_then(|linux| linux.resources().as_ref())
            .and_then(|resources| resources.devices().as_deref())
            .unwrap_or_default();
        let denies_all = |rule: &LinuxDeviceCgroup| {
            let is_any = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
            !rule.allow() && is_any && rule.major().is_none() && rule.minor().is_none()
        };
        let dev = Path::new("/dev");
        let has_dev = spec.mounts().iter().flatten().any(|mount| mount.destination() == dev);
        let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        let are_below = devices.iter().all(|device| device.path().starts_with(dev));
        match rules.iter().any(denies_all) && has_dev && are_below {
            true => Self::Useless,
            false => Self::Usable,
        }
    }

    fn attributes(self) -> MountAttrFlags {
        match self {
            Self::Usable => MountAttrFlags::empty(),
            Self::Useless => MountAttrFlags::MOUNT_ATTR_NODEV,
        }
    }

    fn flags(self) -> MountFlags {
        match self {
            Self::Usable => MountFlags::empty(),
            Self::Useless => MountFlags::NODEV,
        }
    }
}

/// How a root is mounted, beside where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner<'a> {
    nodes: Nodes,
    label: Option<&'a str>,
}

impl<'a> Manner<'a> {
    /// As a directory of the node's would be.
    pub(crate) const PLAIN: Self = Self { nodes: Nodes::Usable, label: None };

    /// As the spec wants it.
    pub(crate) fn of(spec: &'a Spec) -> Self {
        Self { nodes: Nodes::of(spec), label: label::of(spec) }
    }
}

/// Mounts the root and opens it.
pub(crate) fn mount(rootfs: &Rootfs, target: &Path, manner: Manner<'_>) -> Done<OwnedFd> {
    match rootfs {
        Rootfs::Dir(dir) => attach(private_copy(dir, manner)?, target),
        Rootfs::Overlay { lower, upper, work } => {
            check_layers(lower)?;
            match overlay_by_layer(lower, upper, work, manner) {
                Ok(tree) => attach(tree, target),
                // An older kernel takes no layer at a time. Where the cause is another one, the
                // second way fails of it too, and that is reported.
                Err(_) => overlay_by_list(lower, upper, work, target, manner).during_on(
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
pub(crate) fn make_mapped(
    rootfs: &Rootfs,
    target: &Path,
    user: &User,
    manner: Manner<'_>,
) -> Done<OwnedFd> {
    match rootfs {
        Rootfs::Dir(dir) => {
            let tree = private_copy(dir, manner)?;
            idmap::map_root(&tree, dir, user.as_fd())?;
            Ok(tree)
        }
        Rootfs::Overlay { lower, upper, work } => {
            check_layers(lower)?;
            // The overlay itself cannot be mapped, its layers can.
            for layer in lower {
                idmap::cover(layer, user.as_fd())?;
            }
            overlay_by_layer(lower, upper, work, manner).or_else(|_| {
                overlay_by_list(lower, upper, work, target, manner)
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

fn private_copy(dir: &Path, manner: Manner<'_>) -> Done<OwnedFd> {
    let tree = filesystem::clone_path(dir, true).during_on(
        Step::Rootfs,
        "failed to open the root file system",
        dir,
    )?;
    let private = MountAttr {
        set: if manner.nodes == Nodes::Useless { ATTR_NODEV } else { 0 },
        propagation: Some(Propagation::Private),
        ..MountAttr::default()
    };
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

/// One call a layer, which has no limit on their number.
fn overlay_by_layer(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    manner: Manner<'_>,
) -> io::Result<OwnedFd> {
    if !sys::mount::overlay_takes_layers() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    rustix::mount::fsconfig_set_string(&context, "upperdir", upper)?;
    rustix::mount::fsconfig_set_string(&context, "workdir", work)?;
    rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
    for (key, value) in label::with_option("overlay", Vec::new(), manner.label) {
        rustix::mount::fsconfig_set_string(&context, key, value.unwrap_or_default())?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(&context, flags, manner.nodes.attributes())?)
}

/// One call with one list, which must fit a page: the layers go by the numbers of descriptors, so
/// that neither their number nor the length of their paths matters.
fn overlay_by_list(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    manner: Manner<'_>,
) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
    let lower = lower.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let number = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let list = lower.iter().map(number).collect::<Vec<_>>().join(":");
    let mut data = format!("lowerdir={list},upperdir={},workdir={}", number(&upper), number(&work));
    data.push_str(&label::as_text(manner.label));
    let data = std::ffi::CString::new(data).map_err(io::Error::other)?;
    if data.as_bytes_with_nul().len() > MAX_MOUNT_DATA {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    rustix::process::chdir(DESCRIPTORS)?;
    let kind = "overlay";
    let mounted = rustix::mount::mount(kind, target, kind, manner.nodes.flags(), Some(&*data));
    rustix::process::chdir("/")?;
    mounted?;
    Ok(open(target)?)
}

/// Where the caller's descriptors are by their numbers.
const DESCRIPTORS: &str = "/proc/self/fd";

/// mount(2) reads one page.
const MAX_MOUNT_DATA: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    /// More than a list of their paths could hold.
    const LAYERS: usize = 300;

    #[test]
    fn nodes_are_of_use_where_all_devices_are_and_where_some_lie_in_the_root() {
        let of = |rules: serde_json::Value, mounts: &[&str], devices: &[&str]| {
            let mounts = mounts.iter().map(|at| json!({ "destination": at, "type": "tmpfs" }));
            let device = |path: &&str| json!({ "path": path, "type": "c", "major": 1, "minor": 3 });
            let devices = devices.iter().map(device).collect::<Vec<_>>();
            let linux = json!({ "resources": { "devices": rules }, "devices": devices });
            let spec = json!({
                "ociVersion": "1.0.2", "mounts": mounts.collect::<Vec<_>>(), "linux": linux,
            });
            Nodes::of(&crate::spec::parse_value(&spec).expect("a spec"))
        };
        let one_of_them =
            json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" });
        let none = json!([{ "allow": false, "access": "rwm" }, one_of_them]);
        let one = json!([{ "allow": false, "type": "c", "major": 1, "minor": 1, "access": "rwm" }]);
        let all = json!([{ "allow": true, "type": "a", "access": "rwm" }]);
        for (rules, mounts, devices, wanted) in [
            (&none, &["/dev"][..], &["/dev/a", "/dev/b/c"][..], Nodes::Useless),
            (&none, &["/proc", "/dev"], &[], Nodes::Useless),
            (&none, &["/dev"], &["/dev/a", "/data/card"], Nodes::Usable),
            (&none, &["/dev"], &["/devices/card"], Nodes::Usable),
            (&none, &["/dev/shm"], &[], Nodes::Usable),
            (&one, &["/dev"], &[], Nodes::Usable),
            (&all, &["/dev"], &[], Nodes::Usable),
            (&json!([]), &["/dev"], &[], Nodes::Usable),
        ] {
            assert_eq!(
                of(rules.clone(), mounts, devices),
                wanted,
                "{rules} {mounts:?} {devices:?}"
            );
        }
    }

    /// The way of older kernels, in a mount namespace of the test's thread.
    #[test]
    fn layers_are_mounted_by_list() {
        let dir = tempfile::Builder::new().prefix("corten-overlay-").tempdir().expect("made");
        let path = |name: &str| dir.path().join(name);
        let mut lower = Vec::new();
        for number in 0..LAYERS {
            let layer =
                path(&format!("layers/{number}: a name, with signs and {}", "x".repeat(200)));
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
        let manner = Manner { nodes: Nodes::Useless, label: None };
        let (upper, target) = (path("upper,1"), path("target"));
        overlay_by_list(&lower, &upper, &path("work"), &target, manner).expect("mounted");
        let mounted = rustix::fs::statvfs(&target).expect("told");
        assert!(mounted.f_flag.contains(rustix::fs::StatVfsMountFlags::NODEV));
        assert_eq!(fs::read_dir(path("target")).expect("read").count(), LAYERS + 1);
        assert_eq!(fs::read_to_string(path("target/top")).expect("read"), "0");
        fs::write(path("target/new"), "").expect("written");
        assert!(path("upper,1/new").exists());
        rustix::mount::unmount(path("target"), rustix::mount::UnmountFlags::DETACH)
            .expect("unmounted");
    }
}
