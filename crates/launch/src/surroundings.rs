//! What a runtime program finds in place of the host's files where owners are mapped.
//!
//! Such programs map owners in part or not at all, and what they start in a user namespace walks
//! to its root by path, through directories that only the host's root may search. So the program
//! runs in a mount namespace of its own, in which all is done: the layers of the root and the
//! sources of binds are copied, mapped and given their attributes, and attached where anybody may
//! walk to. The spec is changed to name the mounts; the root is where it says, as later commands
//! of the program look for that path, in the host's mount namespace.
//!
//! Nothing of it is in the host's mount table; it goes with the processes that see it.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use sys::mount::Propagation;
use sys::namespace::NewNamespaces;

use crate::channel::Voice;
use crate::mount_options::Options;
use crate::mounts::{self, HostView, Sources};
use crate::rootfs::Manner;
use crate::step::{Done, During};
use crate::user::User;
use crate::{
    ChildFailure, ProgramCreate, Stdio, Step, filesystem, hooks, namespaces, rootfs, spec, stdio,
};

/// A directory that anybody may walk through and nobody but its owner reads.
const SEARCHABLE: u32 = 0o711;
/// The mounts, below the covered directory.
const MOUNTS: &str = "mounts";

/// Whether a program finds more done than its root mounted.
pub(crate) fn are_needed(spec: &Value) -> bool {
    let some = |ids: Option<&Value>| ids.and_then(Value::as_array).is_some_and(|i| !i.is_empty());
    let mounts = spec.get("mounts").and_then(Value::as_array);
    some(spec.pointer("/linux/uidMappings"))
        || mounts.into_iter().flatten().any(|mount| some(mount.get("uidMappings")))
}

/// Makes them, in a mount namespace for the caller alone, and has the spec name them.
pub(crate) fn make(
    create: &ProgramCreate,
    program: &Path,
    stdio: &Stdio<'_>,
    value: &mut Value,
    voice: &Voice,
) -> Done {
    let spec = spec::parse_value(value)?;
    let user = User::of(&spec)?;
    hooks::check_user(&spec, user.is_some())?;
    // It checks the propagation, by numbers of mounts that are others from here on.
    drop(HostView::take(&spec)?);
    match &user {
        Some(user) => {
            stdio::give_to_user(stdio, spec::process_of(&spec)?, Some(&user.mappings))?;
        }
        None => drop(rootfs::mount(&create.rootfs, &create.rootfs_target, Manner::of(&spec))?),
    }
    namespaces::make(NewNamespaces { mount: true, ..NewNamespaces::default() })?;
    namespaces::detach_mounts()?;
    let sources = Sources::open_for_program(&spec, &create.bundle, user.as_ref())?;
    sources.notices().iter().for_each(|text| voice.notice(text));
    let mapped =
        |user| rootfs::make_mapped(&create.rootfs, &create.rootfs_target, user, Manner::of(&spec));
    let root = user.as_ref().map(mapped).transpose()?;
    let cover = cover(create, program)?;
    if let Some(root) = root {
        put(&root, &create.rootfs_target)?;
    }
    for (index, tree) in sources.into_opened() {
        let place = cover.join(MOUNTS).join(index.to_string());
        put(&tree, &place)?;
        let bind = bind_of(&spec, index, &place)?;
        if let Some(mount) = value.pointer_mut(&format!("/mounts/{index}")) {
            *mount = bind;
        }
    }
    Ok(())
}

/// The mount of the spec that binds what has its attributes already.
fn bind_of(spec: &Spec, index: usize, source: &Path) -> Done<Value> {
    let mount = spec.mounts().as_ref().and_then(|mounts| mounts.get(index));
    let mount = mount.ok_or_else(|| ChildFailure::new(Step::Spec, "the spec lost a mount"))?;
    let spread = match Options::of(mount)?.propagation() {
        Some(Propagation::Slave) => "rslave",
        _ => "rprivate",
    };
    Ok(json!({
        "destination": mount.destination(),
        "type": "bind",
        "source": source,
        "options": ["rbind", spread],
    }))
}

/// Covers the first directory on the way to the pod's that not everybody may search by one that
/// everybody may, in which only what the program needs is left of what lies below; returns it.
fn cover(create: &ProgramCreate, program: &Path) -> Done<PathBuf> {
    let at = first_closed(&create.pod_dir)?;
    // All directories above it stay closed on the host.
    let open = Permissions::from_mode(SEARCHABLE);
    std::fs::set_permissions(&create.bundle, open).during_on(
        Step::Rootfs,
        "failed to open",
        &create.bundle,
    )?;
    let mut trees = Vec::new();
    for path in kept(create, program)?.into_iter().filter(|path| path.starts_with(&at)) {
        let tree = filesystem::clone_path(&path, true);
        let tree = tree.during_on(Step::Rootfs, "failed to open", &path)?;
        trees.push((path, tree));
    }
    let mode = format!("{SEARCHABLE:o}");
    let data = [("mode", Some(mode.as_str())), ("size", Some("1m"))];
    filesystem::new_mount("tmpfs", Some("corten"), &data)
        .and_then(|tmpfs| filesystem::attach(tmpfs.as_fd(), open_place(&at, true)?.as_fd()))
        .during_on(Step::Rootfs, "failed to cover", &at)?;
    for (path, tree) in trees {
        put(&tree, &path)?;
    }
    Ok(at)
}

/// What the program sees of the pod's directory: all but the bundles of other containers.
fn kept(create: &ProgramCreate, program: &Path) -> Done<Vec<PathBuf>> {
    let entries = std::fs::read_dir(&create.pod_dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    let entries = entries.during_on(Step::Rootfs, "failed to read", &create.pod_dir)?;
    let others = entries.into_iter().filter(|path| !create.bundle.starts_with(path));
    Ok(others.chain([create.bundle.clone(), program.to_owned()]).collect())
}

/// The first directory on the way to a pod's that others may not search, or the one above it.
fn first_closed(pod_dir: &Path) -> Done<PathBuf> {
    let mut above: Vec<&Path> = pod_dir.ancestors().skip(1).collect();
    above.reverse();
    for &path in &above {
        let found = std::fs::metadata(path).during_on(Step::Rootfs, "failed to look at", path)?;
        if found.permissions().mode() & 0o001 == 0 {
            return Ok(path.to_owned());
        }
    }
    let last = above.last().filter(|path| path.parent().is_some());
    last.map(|path| (*path).to_owned()).ok_or_else(|| {
        ChildFailure::new(Step::Rootfs, "the pod's directory is not below one of ours").on(pod_dir)
    })
}

/// Attaches a tree at a place that is made for it.
fn put(tree: &OwnedFd, place: &Path) -> Done {
    let what = "failed to make";
    let parent = place.parent().unwrap_or(place);
    let dirs = |path: &Path| DirBuilder::new().recursive(true).mode(SEARCHABLE).create(path);
    let is_directory = mounts::is_directory(tree, place)?;
    match is_directory {
        true => dirs(place).during_on(Step::Rootfs, what, place)?,
        false => dirs(parent).and_then(|()| File::create(place).map(drop)).during_on(
            Step::Rootfs,
            what,
            place,
        )?,
    }
    open_place(place, is_directory)
        .and_then(|target| filesystem::attach(tree.as_fd(), target.as_fd()))
        .during_on(Step::Rootfs, "failed to mount on", place)
}

fn open_place(path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    let kind = if is_directory { OFlags::DIRECTORY } else { OFlags::empty() };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_needed_where_owners_are_mapped() {
        let ids = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
        for (spec, needed) in [
            (json!({}), false),
            (json!({ "linux": { "uidMappings": [] }, "mounts": [{ "source": "/x" }] }), false),
            (json!({ "linux": { "uidMappings": ids } }), true),
            (json!({ "mounts": [{}, { "uidMappings": ids }] }), true),
        ] {
            assert_eq!(are_needed(&spec), needed, "{spec}");
        }
    }

    #[test]
    fn the_first_closed_directory_is_found() {
        let dir = tempfile::tempdir().expect("made");
        let pod = dir.path().join("state/pods/pod");
        DirBuilder::new().recursive(true).mode(0o755).create(&pod).expect("made");
        let closed = Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), closed).expect("set");
        assert_eq!(first_closed(&pod).expect("found"), dir.path());
        let open = Permissions::from_mode(0o711);
        std::fs::set_permissions(dir.path(), open).expect("set");
        assert_eq!(first_closed(&pod).expect("found"), dir.path().join("state/pods"));
        assert!(first_closed(Path::new("/pod")).is_err());
    }
}
