//! Device nodes and links below the container's `/dev`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{Access, AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sys::mount::{ATTR_NOEXEC, ATTR_NOSUID, MountAttr};
use sys::root::Missing;

use crate::step::{Done, During};
use crate::user::User;
use crate::{ChildFailure, Step, filesystem, label};

/// Makes the devices that every container has and those of the spec, and the usual links.
pub(crate) fn make(spec: &Spec, root: &OwnedFd) -> Done {
    for device in list(spec)? {
        make_device(root, &device)?;
    }
    make_links(root)
}

/// Nodes that were made elsewhere, to be bound into the container.
#[derive(Debug, Default)]
pub(crate) struct Bound(Vec<(PathBuf, OwnedFd)>);

/// Makes the devices of a container in a user namespace, where no node can be made or used, on a
/// file system of the host's that nobody sees. `place` is a directory to mount it on meanwhile, in
/// the caller's mount namespace. The owners in the spec are the container's ids; a device without
/// one belongs to the host's root, and the container may do with it what everybody may.
pub(crate) fn make_elsewhere(spec: &Spec, user: &User, place: &Path) -> Done<Bound> {
    let during = "failed to make a place for devices on";
    let data = label::with_option("tmpfs", vec![("mode", Some("755"))], label::of(spec));
    let base = filesystem::new_mount("tmpfs", Some("tmpfs"), &data).during_on(
        Step::Device,
        during,
        place,
    )?;
    let set = ATTR_NOSUID | ATTR_NOEXEC;
    sys::mount::set_attributes(&base, MountAttr { set, ..MountAttr::default() }, false).during_on(
        Step::Device,
        during,
        place,
    )?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(place, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|place| filesystem::attach(base.as_fd(), place.as_fd()))
        .during_on(Step::Device, during, place)?;
    let mut bound = Bound::default();
    let (root_uid, root_gid) = user.root()?;
    for (index, mut device) in list(spec)?.into_iter().enumerate() {
        // One that the container does not know becomes its root's; one without stays the host's.
        device.owner = device.owner.map(|(uid, gid)| {
            let uid = user.mappings.host_uid(uid).unwrap_or(root_uid.as_raw());
            (uid, user.mappings.host_gid(gid).unwrap_or(root_gid.as_raw()))
        });
        let tree = node_in(&base, &index.to_string(), &device)?;
        bound.0.push((device.path, tree));
    }
    rustix::mount::unmount(place, UnmountFlags::DETACH).during_on(Step::Device, during, place)?;
    Ok(bound)
}

impl Bound {
    /// Binds the nodes below the container's root and makes the usual links.
    pub(crate) fn bind(self, root: &OwnedFd) -> Done {
        for (path, tree) in self.0 {
            attach_device(root, &path, &tree)?;
        }
        make_links(root)
    }
}

/// A mount of one node, which lies in `dir`, or of the host's where nodes cannot be made.
fn node_in(dir: &OwnedFd, name: &str, device: &Device) -> Done<OwnedFd> {
    let (path, during) = (&device.path, "failed to make the device");
    let mode = Mode::from_raw_mode(device.mode);
    match rustix::fs::mknodat(dir, name, device.kind, mode, device.number) {
        Ok(()) => {}
        Err(Errno::PERM) => return hosts_node(device),
        Err(error) => return Err(error).during_on(Step::Device, during, path),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(dir, name, flags, Mode::empty()).during_on(
        Step::Device,
        during,
        path,
    )?;
    own(&node, device)?;
    filesystem::clone_handle(&node, false).during_on(Step::Device, during, path)
}

fn list(spec: &Spec) -> Done<Vec<Device>> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    let listed = listed.unwrap_or_default();
    let is_listed = |path: &str| listed.iter().any(|device| device.path() == Path::new(path));
    let defaults = DEFAULT_DEVICES.into_iter().filter(|(path, _)| !is_listed(path));
    let mut all: Vec<_> = defaults.map(|(path, number)| Device::default_at(path, number)).collect();
    for device in listed {
        all.push(Device::of(device)?);
    }
    Ok(all)
}

fn make_links(root: &OwnedFd) -> Done {
    let dev = sys::root::mkdir_p(root, Path::new("/dev")).during_on(
        Step::Device,
        "failed to open",
        "/dev",
    )?;
    for (name, target) in LINKS {
        make_link(&dev, name, target)?;
    }
    // Some kernels have none; what reads it looks for the link first. The root is still the host's.
    if rustix::fs::access(KCORE, Access::EXISTS).is_ok() {
        make_link(&dev, "core", KCORE)?;
    }
    Ok(())
}

/// Devices of major 1 that the OCI specification promises, and `/dev/tty` of major 5.
const DEFAULT_DEVICES: [(&str, (u32, u32)); 6] = [
    ("/dev/null", (1, 3)),
    ("/dev/zero", (1, 5)),
    ("/dev/full", (1, 7)),
    ("/dev/random", (1, 8)),
    ("/dev/urandom", (1, 9)),
    ("/dev/tty", (5, 0)),
];

/// The kernel's memory, as a file.
const KCORE: &str = "/proc/kcore";

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

const DEFAULT_MODE: u32 = 0o666;

struct Device {
    path: PathBuf,
    kind: FileType,
    number: u64,
    mode: u32,
    /// Root, where it is not said.
    owner: Option<(u32, u32)>,
}

impl Device {
    fn default_at(path: &str, (major, minor): (u32, u32)) -> Self {
        Self {
            path: path.into(),
            kind: FileType::CharacterDevice,
            number: rustix::fs::makedev(major, minor),
            mode: DEFAULT_MODE,
            owner: Some((0, 0)),
        }
    }

    fn of(device: &LinuxDevice) -> Done<Self> {
        let path = device.path().clone();
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(malformed("has no type", &path));
            }
        };
        let (Ok(major), Ok(minor)) = (u32::try_from(device.major()), u32::try_from(device.minor()))
        else {
            return Err(malformed("has a number out of range", &path));
        };
        if path.file_name().is_none() || !path.is_absolute() {
            return Err(malformed("has no place", &path));
        }
        let number = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
        Ok(Self {
            kind,
            number,
            mode: device.file_mode().unwrap_or(DEFAULT_MODE) & 0o7777,
            owner: match (device.uid(), device.gid()) {
                (None, None) => None,
                (uid, gid) => Some((uid.unwrap_or(0), gid.unwrap_or(0))),
            },
            path,
        })
    }
}

fn malformed(what: &str, path: &Path) -> ChildFailure {
    ChildFailure::new(Step::Spec, format!("the device {} {what}", path.display())).on(path)
}

fn make_device(root: &OwnedFd, device: &Device) -> Done {
    let path = &device.path;
    let during = "failed to make the device";
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = sys::root::mkdir_p(root, parent).during_on(Step::Device, during, path)?;
    let name = path.file_name().unwrap_or_default();
    // mknod follows no link. The umask is 0 while the container is set up.
    let mode = Mode::from_raw_mode(device.mode);
    match rustix::fs::mknodat(&dir, name, device.kind, mode, device.number) {
        Ok(()) => {}
        // Made by the image or by an earlier entry: it is right or refused below.
        Err(Errno::EXIST) => {}
        Err(Errno::PERM) => return bind_device(root, device),
        Err(error) => return Err(error).during_on(Step::Device, during, path),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(&dir, name, flags, Mode::empty()).during_on(
        Step::Device,
        during,
        path,
    )?;
    check(&node, device)?;
    own(&node, device)
}

fn own(node: &OwnedFd, device: &Device) -> Done {
    let (uid, gid) = device.owner.unwrap_or((0, 0));
    rustix::fs::chownat(
        node,
        "",
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::EMPTY_PATH,
    )
    .during_on(Step::Device, "failed to make the device", &device.path)
}

/// Where nodes cannot be made, the host's node is bound.
fn bind_device(root: &OwnedFd, device: &Device) -> Done {
    attach_device(root, &device.path, &hosts_node(device)?)
}

fn hosts_node(device: &Device) -> Done<OwnedFd> {
    let path = &device.path;
    let during = "failed to bind the device";
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node =
        rustix::fs::open(path, flags, Mode::empty()).during_on(Step::Device, during, path)?;
    check(&node, device)?;
    filesystem::clone_handle(&node, false).during_on(Step::Device, during, path)
}

fn attach_device(root: &OwnedFd, path: &Path, tree: &OwnedFd) -> Done {
    let during = "failed to bind the device";
    let target = sys::root::ensure(root, path, Missing::File);
    let target = target.during_on(Step::Device, during, path)?;
    filesystem::attach(tree.as_fd(), target.as_fd()).during_on(Step::Device, during, path)
}

fn check(node: &OwnedFd, device: &Device) -> Done {
    let path = &device.path;
    let stat =
        rustix::fs::fstat(node).during_on(Step::Device, "failed to look at the device", path)?;
    let is_same = FileType::from_raw_mode(stat.st_mode) == device.kind
        && (device.kind == FileType::Fifo || stat.st_rdev == device.number);
    if is_same {
        return Ok(());
    }
    let message = format!("{} exists and is another file", path.display());
    Err(ChildFailure::new(Step::Device, message).on(path))
}

fn make_link(dev: &OwnedFd, name: &str, target: &str) -> Done {
    let during = "failed to link";
    let path = Path::new("/dev").join(name);
    match rustix::fs::symlinkat(target, dev, name) {
        Err(Errno::EXIST) => {
            // The image has something here. A directory or a mount is left alone.
            match rustix::fs::unlinkat(dev, name, AtFlags::empty()) {
                Ok(()) => rustix::fs::symlinkat(target, dev, name),
                Err(Errno::ISDIR | Errno::BUSY) => return Ok(()),
                Err(error) => Err(error),
            }
        }
        result => result,
    }
    .during_on(Step::Device, during, path)
}
