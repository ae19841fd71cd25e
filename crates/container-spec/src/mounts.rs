//! What is mounted where.
//!
//! In this order: the kernel's file systems, then the sandbox's files, the image's volumes
//! and the client's mounts together, those with fewer components first, so that what lies
//! inside another mount is not hidden by it. What the client mounts takes the place of a
//! default on the same path.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};
use types::{IdMapping, Mount as Asked, Propagation};

use crate::{
    SpecError, SpecInput, Volume,
    sandbox::check_range,
    text::{check_count, check_no_nul, clean_path, is_at_or_below, shown},
};

/// How many mounts a container may have. Each costs several system calls at every start,
/// and a mount namespace holds 100,000 at most.
pub const MAX_MOUNTS: usize = 4096;

/// The client's further options: flags of a mount, which confine it more or cost less.
///
/// Each belongs to a group of which the last one counts. Those that would only take away what
/// confines the source (`exec`, `dev`, `suid` and the like) are what a mount has of itself: they
/// undo an option before them and nothing else. What belongs to a whole file system, as `sync`
/// does, a mount of a part of it cannot have.
const OPTIONS: [(&str, OptionGroup, bool); 15] = [
    ("atime", OptionGroup::Atime, false),
    ("dev", OptionGroup::Dev, false),
    ("diratime", OptionGroup::Diratime, false),
    ("exec", OptionGroup::Exec, false),
    ("noatime", OptionGroup::Atime, true),
    ("nodev", OptionGroup::Dev, true),
    ("nodiratime", OptionGroup::Diratime, true),
    ("noexec", OptionGroup::Exec, true),
    ("nostrictatime", OptionGroup::Atime, false),
    ("nosuid", OptionGroup::Suid, true),
    ("nosymfollow", OptionGroup::Symfollow, true),
    ("relatime", OptionGroup::Atime, true),
    ("strictatime", OptionGroup::Atime, true),
    ("suid", OptionGroup::Suid, false),
    ("symfollow", OptionGroup::Symfollow, false),
];

/// How many of them a mount may be given.
const MAX_OPTIONS: usize = 64;

/// Options that exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OptionGroup {
    Atime,
    Dev,
    Diratime,
    Exec,
    Suid,
    Symfollow,
}

/// Where the kernel's file systems are: an image's volume has no place there.
const KERNEL_PATHS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The group that terminals belong to, by convention of all distributions.
const TTY_GROUP: u32 = 5;

/// The mounts of a container.
pub(crate) struct Mounts {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) volumes: Vec<Volume>,
    /// How mounts spread between the node and the container's root.
    pub(crate) root_propagation: Option<&'static str>,
}

/// Settles the mounts of a container.
pub(crate) fn mounts(input: &SpecInput<'_>) -> Result<Mounts, SpecError> {
    let asked = &input.container.mounts;
    refuse_spreading(input)?;
    check_count("mounts", asked.len() + input.image.volumes.len(), MAX_MOUNTS)?;
    let mut user = asked.iter().map(user_mount).collect::<Result<Vec<_>, _>>()?;
    user.extend(sandbox_files(input, &targets(&user)));
    // The pod's files are not the image's to replace.
    let volumes = volumes(input, &targets(&user))?;
    user.extend(volumes.iter().map(|v| bind(&v.host_path, &v.container_path, false)));
    // Stable: of two mounts on one path the later one is on top.
    user.sort_by_key(|m| m.destination().components().count());
    let placed = targets(&user);
    let dev_taken = placed.contains(Path::new("/dev"));
    let mut mounts: Vec<Mount> = defaults(input)
        .into_iter()
        .filter(|m| !placed.contains(m.destination()))
        .filter(|m| !(dev_taken && m.destination().starts_with("/dev")))
        .collect();
    mounts.extend(user);
    Ok(Mounts { mounts, volumes, root_propagation: root_propagation(asked) })
}

/// Whoever is root of a user namespace only must not change what the host has mounted.
fn refuse_spreading(input: &SpecInput<'_>) -> Result<(), SpecError> {
    let spreads = |mount: &&Asked| mount.propagation == Propagation::Bidirectional;
    match input.container.mounts.iter().find(spreads) {
        Some(mount) if input.sandbox.security.namespaces.user.is_some() => {
            let container_path = shown(&mount.container_path);
            Err(SpecError::PropagationFromUserNamespace { container_path })
        }
        _ => Ok(()),
    }
}

fn targets(mounts: &[Mount]) -> BTreeSet<PathBuf> {
    mounts.iter().map(|mount| mount.destination().clone()).collect()
}

/// The root must let through what one of its mounts is to let through.
fn root_propagation(asked: &[Asked]) -> Option<&'static str> {
    let any = |wanted| asked.iter().any(|mount| mount.propagation == wanted);
    if any(Propagation::Bidirectional) {
        Some("rshared")
    } else if any(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

/// The kernel's file systems. A privileged container may write to those of its node.
fn defaults(input: &SpecInput<'_>) -> Vec<Mount> {
    let write = if input.container.security.privileged { "rw" } else { "ro" };
    // The group of terminals, where the pod has it.
    let user = input.sandbox.security.namespaces.user.as_ref();
    let has_tty = user.is_none_or(|user| user.host_gid(TTY_GROUP).is_some());
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    terminals.extend(has_tty.then_some("gid=5"));
    let kernel =
        |path: &str, typ: &str, options: &[&str]| mount(typ, Path::new(typ), path, options);
    let mut mounts = vec![
        kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            Path::new("tmpfs"),
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("devpts", Path::new("devpts"), "/dev/pts", &terminals),
        kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", write]),
        kernel("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", write]),
    ];
    if input.files.shm.is_none() {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
        mounts.push(mount("tmpfs", Path::new("shm"), "/dev/shm", &options));
    }
    mounts
}

/// The sandbox's files, where the client mounts nothing. They are the pod's: a container
/// with a root that it cannot write gets them so, too.
fn sandbox_files(input: &SpecInput<'_>, taken: &BTreeSet<PathBuf>) -> Vec<Mount> {
    let files = input.files;
    let readonly = input.container.security.readonly_rootfs;
    let dev_taken = taken.contains(Path::new("/dev"));
    [
        ("/etc/hostname", files.hostname, readonly),
        ("/etc/hosts", files.hosts, readonly),
        ("/etc/resolv.conf", files.resolv_conf, readonly),
        ("/dev/shm", files.shm.filter(|_| !dev_taken), false),
    ]
    .into_iter()
    .filter(|(path, _, _)| !taken.contains(Path::new(path)))
    .filter_map(|(path, source, readonly)| Some(bind(source?, path, readonly)))
    .collect()
}

/// The image's volumes, where the client mounts nothing. Their paths are the image's
/// words: they lead to no place of the node, and to none of the kernel's file systems.
fn volumes(input: &SpecInput<'_>, taken: &BTreeSet<PathBuf>) -> Result<Vec<Volume>, SpecError> {
    let mut paths = BTreeSet::new();
    for volume in &input.image.volumes {
        check_no_nul("volume of the image", volume)?;
        let path = clean_path(volume);
        let kernel = KERNEL_PATHS.iter().any(|top| is_at_or_below(&path, top));
        if path != "/" && !kernel && !taken.contains(Path::new(&path)) {
            paths.insert(path);
        }
    }
    let volume = |(at, container_path): (usize, String)| Volume {
        host_path: input.volumes_dir.join(at.to_string()),
        container_path,
    };
    Ok(paths.into_iter().enumerate().map(volume).collect())
}

/// A mount of the client's.
fn user_mount(asked: &Asked) -> Result<Mount, SpecError> {
    let Asked {
        container_path,
        host_path,
        readonly,
        // What is labelled is labelled by the caller, who knows whether labels are in use.
        selinux_relabel: _,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        // An image was mounted by the caller, the sub path included, at the host path.
        image: _,
        image_sub_path: _,
        mount_options,
    } = asked;
    for (what, path) in [("target of a mount", container_path), ("source of a mount", host_path)] {
        if !path.starts_with('/') {
            return Err(SpecError::NotAbsolute { what, path: shown(path) });
        }
        check_no_nul(what, path)?;
    }
    let target = clean_path(container_path);
    if target == "/" {
        return Err(SpecError::MountOnRoot { host_path: shown(host_path) });
    }
    if *recursive_read_only {
        let container_path = shown(container_path);
        if !readonly {
            return Err(SpecError::RecursiveReadOnlyWritable { container_path });
        }
        if *propagation != Propagation::Private {
            return Err(SpecError::RecursiveReadOnlyPropagation { container_path });
        }
    }
    let spread = match propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let write = match (readonly, recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", spread, write];
    options.extend(further_options(container_path, mount_options)?);
    let is_mapped = !uid_mappings.is_empty() || !gid_mappings.is_empty();
    if is_mapped {
        check_owners(container_path, uid_mappings, gid_mappings)?;
        options.push("idmap");
    }
    let mut mount = mount("bind", Path::new(host_path), &target, &options);
    if is_mapped {
        mount.set_uid_mappings(Some(id_mappings(uid_mappings)));
        mount.set_gid_mappings(Some(id_mappings(gid_mappings)));
    }
    Ok(mount)
}

/// The client's further options, as far as they do anything.
fn further_options(
    container_path: &str,
    asked: &[String],
) -> Result<impl Iterator<Item = &'static str>, SpecError> {
    check_count("options of a mount", asked.len(), MAX_OPTIONS)?;
    let mut chosen = BTreeMap::new();
    for option in asked {
        let known = OPTIONS.iter().find(|(known, _, _)| known == option);
        let (name, group, acts) = known.ok_or_else(|| SpecError::MountOption {
            container_path: shown(container_path),
            option: shown(option),
        })?;
        chosen.insert(*group, acts.then_some(*name));
    }
    Ok(chosen.into_values().flatten())
}

fn check_owners(
    container_path: &str,
    uids: &[IdMapping],
    gids: &[IdMapping],
) -> Result<(), SpecError> {
    let failed =
        |why: String| SpecError::MountOwners { container_path: shown(container_path), why };
    if uids.is_empty() || gids.is_empty() {
        return Err(failed("users and groups are mapped together".to_owned()));
    }
    check_count("ranges of a mount's owners", uids.len().max(gids.len()), MAX_RANGES)?;
    let mut ranges = uids.iter().chain(gids);
    ranges.try_for_each(|range| check_range(*range)).map_err(failed)
}

/// How many ranges the kernel takes (its `UID_GID_MAP_MAX_EXTENTS`).
const MAX_RANGES: usize = 340;

/// Mappings in a spec's form.
pub(crate) fn id_mappings(mappings: &[IdMapping]) -> Vec<LinuxIdMapping> {
    let one = |mapping: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .host_id(mapping.host_id)
            .container_id(mapping.container_id)
            .size(mapping.length)
            .build()
            .expect("every field of a mapping has a default")
    };
    mappings.iter().map(one).collect()
}

fn bind(source: &Path, target: &str, readonly: bool) -> Mount {
    mount("bind", source, target, &["rbind", "rprivate", if readonly { "ro" } else { "rw" }])
}

fn mount(typ: &str, source: &Path, target: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(target)
        .typ(typ)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .expect("every field of a mount has a default")
}
