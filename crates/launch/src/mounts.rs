//! The mounts of the spec, in its order, each attached by handle inside the root.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{FileType, OFlags, StatxFlags};
use sys::mount::Propagation;
use sys::root::Missing;

use crate::mount_options::{Bind, Options};
use crate::mount_table::{self, TableEntry};
use crate::namespaces::{Kind, Plan};
use crate::step::{Done, During};
use crate::user::User;
use crate::{ChildFailure, Step, cgroup_mount, filesystem, idmap, label};

/// What is read of the host before the child leaves its namespaces.
#[derive(Debug, Default)]
pub(crate) struct HostView {
    pub(crate) table: Vec<TableEntry>,
    /// The child's own `/proc/self/cgroup`.
    pub(crate) cgroups: String,
}

impl HostView {
    /// Reads only what the spec's mounts need, and checks those that take part in propagation.
    pub(crate) fn take(spec: &Spec) -> Done<Self> {
        let mut view = Self::default();
        let mounts: &[Mount] = spec.mounts().as_deref().unwrap_or_default();
        let has_cgroup = mounts.iter().any(is_cgroup);
        let mut propagating = Vec::new();
        for mount in mounts {
            let options = Options::of(mount)?;
            if options.bind.is_some() && needs_peer(&options) {
                propagating.push((source_of(mount)?, options));
            }
        }
        if has_cgroup {
            view.cgroups = read("/proc/self/cgroup")?;
        }
        if has_cgroup || !propagating.is_empty() {
            view.table = mount_table::parse(&read("/proc/self/mountinfo")?);
        }
        // Now, because a mount's number is another one in the child's own namespace.
        for (source, options) in propagating {
            check_propagation(source, &options, &view)?;
        }
        Ok(view)
    }
}

/// Mounts that are opened before the child leaves what it needs to open them.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    opened: BTreeMap<usize, OwnedFd>,
    mapped: idmap::Namespaces,
}

impl Sources {
    /// Copies the sources of bidirectional mounts while the child's mounts are the host's peers.
    pub(crate) fn open_shared(spec: &Spec, bundle: &Path) -> Done<Self> {
        let mut sources = Self::default();
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            let options = Options::of(mount)?;
            if options.propagation() == Some(Propagation::Shared) && options.bind.is_some() {
                sources.open(index, mount, &options, bundle, None)?;
            }
        }
        Ok(sources)
    }

    /// Opens all that a child in a user namespace could not: the sources of binds, some of which
    /// only the host's root may walk to, and views of namespaces that are not its own.
    pub(crate) fn open_privileged(
        spec: &Spec,
        bundle: &Path,
        plan: &Plan,
        user: &User,
    ) -> Done<Self> {
        let mut sources = Self::default();
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            let options = Options::of(mount)?;
            if options.bind.is_some() {
                refuse_shared(mount, &options)?;
                sources.open(index, mount, &options, bundle, Some(user))?;
                continue;
            }
            let is_hosts = match mount.typ().as_deref() {
                Some("proc") => true,
                Some("sysfs") => !plan.is_new(Kind::Net),
                Some("mqueue") => !plan.is_new(Kind::Ipc),
                _ => false,
            };
            if is_hosts {
                sources.opened.insert(index, make(mount, &options, label::of(spec))?);
            }
        }
        Ok(sources)
    }

    /// Opens what a program is to find done: all binds, with their attributes, and for a user
    /// namespace views of the node's own namespaces, which it may not make there.
    pub(crate) fn open_for_program(spec: &Spec, bundle: &Path, user: Option<&User>) -> Done<Self> {
        let plan = Plan::of(spec)?;
        let mut sources = Self::default();
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            let options = Options::of(mount)?;
            let is_nodes = user.is_some()
                && match mount.typ().as_deref() {
                    Some("sysfs") => !plan.has_own(Kind::Net),
                    Some("mqueue") => !plan.has_own(Kind::Ipc),
                    _ => false,
                };
            let tree = match options.bind {
                Some(bind) => {
                    refuse_shared(mount, &options)?;
                    open_source(mount, bind, bundle, user, &mut sources.mapped)?
                }
                None if is_nodes => make(mount, &options, label::of(spec))?,
                None => continue,
            };
            set_attributes(&tree, &options, mount.destination())?;
            sources.opened.insert(index, tree);
        }
        Ok(sources)
    }

    /// What is open, by the number of the mount.
    pub(crate) fn into_opened(self) -> BTreeMap<usize, OwnedFd> {
        self.opened
    }

    /// What was not done as it was asked for.
    pub(crate) fn notices(&self) -> &[String] {
        &self.mapped.notices
    }

    fn open(
        &mut self,
        index: usize,
        mount: &Mount,
        options: &Options,
        bundle: &Path,
        user: Option<&User>,
    ) -> Done {
        if let Some(bind) = options.bind {
            let tree = open_source(mount, bind, bundle, user, &mut self.mapped)?;
            self.opened.insert(index, tree);
        }
        Ok(())
    }

    /// A mount that is to be attached next.
    fn take(
        &mut self,
        index: usize,
        mount: &Mount,
        options: &Options,
        bundle: &Path,
        label: Option<&str>,
    ) -> Done<OwnedFd> {
        match (self.opened.remove(&index), options.bind) {
            (Some(tree), _) => Ok(tree),
            (None, Some(bind)) => open_source(mount, bind, bundle, None, &mut self.mapped),
            (None, None) => make(mount, options, label),
        }
    }
}

/// What is mounted in a user namespace must not spread to the host, which is privileged; what a
/// program mounts beside mapped mounts does not, as its mounts are no peers of the host's.
fn refuse_shared(mount: &Mount, options: &Options) -> Done {
    if options.propagation() != Some(Propagation::Shared) {
        return Ok(());
    }
    let destination = mount.destination();
    let message = format!(
        "the mount on {} is to spread to the host, which it cannot beside mapped owners",
        destination.display()
    );
    Err(ChildFailure::new(Step::Mount, message).on(destination))
}

/// What lies at `/dev` in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dev {
    /// A place where we make devices.
    Ours,
    /// A tree of the host, where nothing is made.
    Hosts,
}

impl Dev {
    pub(crate) fn is_ours(self) -> bool {
        self == Self::Ours
    }
}

/// Mounts everything.
pub(crate) fn mount_all(
    spec: &Spec,
    root: &OwnedFd,
    bundle: &Path,
    view: &HostView,
    sources: &mut Sources,
) -> Done<Dev> {
    let mut dev = Dev::Ours;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = Options::of(mount)?;
        check_destination(mount.destination())?;
        if is_cgroup(mount) {
            cgroup_mount::mount(root, mount, &options, view, spec)?;
            continue;
        }
        let tree = sources.take(index, mount, &options, bundle, label::of(spec))?;
        set_attributes(&tree, &options, mount.destination())?;
        place(root, mount, &options, &tree)?;
        if options.bind.is_some() && is_dev(mount.destination()) {
            dev = Dev::Hosts;
        }
    }
    Ok(dev)
}

/// Gives a mount that is not attached yet its attributes.
pub(crate) fn set_attributes(tree: &OwnedFd, options: &Options, destination: &Path) -> Done {
    for (attr, recursive) in [(options.tree, true), (options.top, false)] {
        if !attr.is_empty() {
            sys::mount::set_attributes(tree, attr, recursive).during_on(
                Step::Mount,
                "failed to set the attributes of",
                destination,
            )?;
        }
    }
    Ok(())
}

/// Opens a mount's target below the root, making it as a directory where it is missing.
pub(crate) fn open_target(root: &OwnedFd, destination: &Path, missing: Missing) -> Done<OwnedFd> {
    sys::root::ensure(root, destination, missing).during_on(
        Step::Mount,
        "failed to make the mount target",
        destination,
    )
}

fn place(root: &OwnedFd, mount: &Mount, options: &Options, tree: &OwnedFd) -> Done {
    let destination = mount.destination();
    let is_kernels = matches!(mount.typ().as_deref(), Some("proc" | "sysfs"));
    let target = if is_kernels && options.bind.is_none() {
        open_plain_target(root, destination)?
    } else {
        let missing =
            if is_directory(tree, destination)? { Missing::Directory } else { Missing::File };
        let target = open_target(root, destination, missing)?;
        refuse_in_proc(&target, tree, destination)?;
        target
    };
    filesystem::attach(tree.as_fd(), target.as_fd()).during_on(
        Step::Mount,
        "failed to mount on",
        destination,
    )
}

/// The target of proc or sysfs: what later reads and writes below it relies on its place, so no
/// link may have led there.
fn open_plain_target(root: &OwnedFd, destination: &Path) -> Done<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let what = "a link or a file is in the way of";
    match sys::root::open_without_links(root, destination, flags) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            drop(open_target(root, destination, Missing::Directory)?);
            sys::root::open_without_links(root, destination, flags).during_on(
                Step::Mount,
                what,
                destination,
            )
        }
        result => result.during_on(Step::Mount, what, destination),
    }
}

/// Nothing but files that are known to be safe may cover a part of procfs: later steps of ours
/// and of the container's programs believe what they find there.
fn refuse_in_proc(target: &OwnedFd, tree: &OwnedFd, destination: &Path) -> Done {
    let fs_type = |fd: &OwnedFd| {
        rustix::fs::fstatfs(fd).map(|stat| stat.f_type).during_on(
            Step::Mount,
            "failed to look at",
            destination,
        )
    };
    if fs_type(target)? != PROC_MAGIC || fs_type(tree)? == PROC_MAGIC {
        return Ok(());
    }
    let path: PathBuf = destination.components().collect();
    if COVERABLE.iter().any(|allowed| path == Path::new(allowed)) {
        return Ok(());
    }
    let message = format!("a mount on {} is inside /proc, which is not allowed", path.display());
    Err(ChildFailure::new(Step::Mount, message).on(&path))
}

const PROC_MAGIC: rustix::fs::FsWord = 0x9fa0;
/// Files that per-container views of the machine's resources replace.
const COVERABLE: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

fn make(mount: &Mount, options: &Options, label: Option<&str>) -> Done<OwnedFd> {
    let destination = mount.destination();
    let Some(fs_type) = mount.typ().as_deref().filter(|t| !t.is_empty() && *t != "none") else {
        let message = format!("the mount on {} has no type", destination.display());
        return Err(ChildFailure::new(Step::Spec, message).on(destination));
    };
    let source = mount.source().as_ref().map(|source| source.to_string_lossy());
    let data = options.data.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
    let data = label::with_option(fs_type, data, label);
    let source = source.as_deref().unwrap_or(fs_type);
    let tree = filesystem::new_mount(fs_type, Some(source), &data).during_on(
        Step::Mount,
        &format!("failed to mount {fs_type} on"),
        destination,
    )?;
    label::give_to_root(&tree, fs_type, label, destination)?;
    Ok(tree)
}

fn open_source(
    mount: &Mount,
    bind: Bind,
    bundle: &Path,
    user: Option<&User>,
    mapped: &mut idmap::Namespaces,
) -> Done<OwnedFd> {
    // A relative source is relative to the bundle; an absolute one replaces it here.
    let source = bundle.join(source_of(mount)?);
    let tree = filesystem::clone_path(&source, bind == Bind::Recursive).during_on(
        Step::Mount,
        "failed to open the mount source",
        &source,
    )?;
    mapped.apply(mount, &tree, &source, user)?;
    Ok(tree)
}

fn source_of(mount: &Mount) -> Done<&Path> {
    mount.source().as_deref().ok_or_else(|| {
        let destination = mount.destination();
        let message = format!("the bind mount on {} has no source", destination.display());
        ChildFailure::new(Step::Spec, message).on(destination)
    })
}

fn needs_peer(options: &Options) -> bool {
    matches!(options.propagation(), Some(Propagation::Shared | Propagation::Slave))
}

/// A mount can take part in propagation only where its source does.
fn check_propagation(source: &Path, options: &Options, view: &HostView) -> Done {
    let stat = rustix::fs::statx(
        rustix::fs::CWD,
        source,
        rustix::fs::AtFlags::empty(),
        StatxFlags::MNT_ID,
    )
    .during_on(Step::Mount, "failed to look at the mount source", source)?;
    let entry = view.table.iter().find(|entry| entry.id == stat.stx_mnt_id);
    let wants_shared = options.propagation() == Some(Propagation::Shared);
    let (is_fit, what) = match entry {
        Some(entry) if wants_shared => (entry.is_shared, "a shared"),
        Some(entry) => (entry.is_shared || entry.is_slave, "a shared or slave"),
        None => (false, "a known"),
    };
    if is_fit {
        return Ok(());
    }
    let on = entry.map_or(Path::new("an unknown mount"), |entry| &entry.target);
    let message = format!(
        "path {} is mounted on {} but it is not {what} mount",
        source.display(),
        on.display()
    );
    Err(ChildFailure::new(Step::Mount, message).on(source))
}

fn check_destination(destination: &Path) -> Done {
    let is_root = !destination.components().any(|part| matches!(part, Component::Normal(_)));
    if is_root || !destination.is_absolute() {
        let message = format!("{} is no place for a mount", destination.display());
        return Err(ChildFailure::new(Step::Spec, message).on(destination));
    }
    Ok(())
}

pub(crate) fn is_directory(tree: &OwnedFd, destination: &Path) -> Done<bool> {
    let stat = rustix::fs::fstat(tree).during_on(
        Step::Mount,
        "failed to look at the mount for",
        destination,
    )?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

fn is_dev(destination: &Path) -> bool {
    destination.components().eq(Path::new("/dev").components())
}

fn read(path: &str) -> Done<String> {
    fs::read_to_string(path).during_on(Step::Mount, "failed to read", path)
}
