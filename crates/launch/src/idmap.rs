//! Mounts whose files have other owners than on disk, for containers in a user namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use types::UserNamespace;

use crate::mount_table;
use crate::step::{Done, During, reason};
use crate::user::{self, User};
use crate::{ChildFailure, LaunchError, Step, filesystem, procfs};

/// User namespaces for mounts, each of which maps as one does.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    known: BTreeMap<String, OwnedFd>,
    /// What was not mapped.
    pub(crate) notices: Vec<String>,
}

impl Namespaces {
    /// Maps the ids of a copy of what lies at `source`, as the mount of the spec asks for.
    pub(crate) fn apply(
        &mut self,
        mount: &Mount,
        tree: &OwnedFd,
        source: &Path,
        user: Option<&User>,
    ) -> Done {
        let Some(wanted) = wanted(mount) else { return Ok(()) };
        let notice = match user {
            Some(user) if user.mappings == wanted => map(tree, source, user.as_fd())?,
            _ => map(tree, source, self.get(&wanted)?.as_fd())?,
        };
        self.notices.extend(notice);
        Ok(())
    }

    fn get(&mut self, wanted: &UserNamespace) -> Done<&OwnedFd> {
        match self.known.entry(format!("{wanted:?}")) {
            std::collections::btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => {
                Ok(free.insert(user::make(wanted, &procfs::fresh()?).map_err(as_failure)?))
            }
        }
    }
}

fn as_failure(error: LaunchError) -> ChildFailure {
    match error {
        LaunchError::Child(failure) => failure,
        LaunchError::MapIds { file, source } => {
            let message = format!("the kernel refuses the {file}: {}", reason(&source));
            ChildFailure::new(Step::Mount, message)
        }
        other => ChildFailure::new(Step::Mount, other.to_string()),
    }
}

fn wanted(mount: &Mount) -> Option<UserNamespace> {
    let (uids, gids) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
    let wanted = UserNamespace {
        uids: user::mappings(uids.unwrap_or_default()),
        gids: user::mappings(gids.unwrap_or_default()),
    };
    (!wanted.uids.is_empty() || !wanted.gids.is_empty()).then_some(wanted)
}

/// Maps the ids of a copy of the mounts at and below `source`. Where one below cannot be mapped,
/// the kernel maps none below: then they show the owners that they have, which the notice tells.
fn map(tree: &OwnedFd, source: &Path, namespace: BorrowedFd<'_>) -> Done<Option<String>> {
    if sys::mount::map_ids(tree, namespace, true).is_ok() {
        return Ok(None);
    }
    let Err(error) = sys::mount::map_ids(tree, namespace, false) else {
        let why = culprit(source, namespace).unwrap_or_default();
        return Ok(Some(format!(
            "owners of what is mounted below {} are not mapped: {why}",
            source.display()
        )));
    };
    let why = culprit(source, namespace).unwrap_or_else(|| reason(&error));
    let message = format!("failed to map the owners of {}: {why}", source.display());
    let mut failure = ChildFailure::new(Step::Mount, message).on(source);
    failure.errno = error.raw_os_error();
    Err(failure)
}

/// Covers a directory by a copy of its mount with mapped ids, in the caller's mount namespace.
pub(crate) fn cover(dir: &Path, namespace: BorrowedFd<'_>) -> Done {
    let during = "failed to open the layer";
    let tree = filesystem::clone_path(dir, false).during_on(Step::Rootfs, during, dir)?;
    map_root(&tree, dir, namespace)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|place| filesystem::attach(tree.as_fd(), place.as_fd()))
        .during_on(Step::Rootfs, "failed to cover the layer", dir)
}

/// Maps the ids of a root that is a directory.
pub(crate) fn map_root(tree: &OwnedFd, dir: &Path, namespace: BorrowedFd<'_>) -> Done {
    match map(tree, dir, namespace) {
        // A root has no mounts below it that are the host's.
        Ok(_) => Ok(()),
        Err(failure) => Err(ChildFailure { step: Step::Rootfs, ..failure }),
    }
}

/// Tells which of the mounts at and below a path cannot be mapped, by trying each.
fn culprit(source: &Path, namespace: BorrowedFd<'_>) -> Option<String> {
    let real = fs::canonicalize(source).ok()?;
    let table = mount_table::parse(&fs::read_to_string("/proc/self/mountinfo").ok()?);
    let top = mount_id(&real)?;
    let tried = table.iter().filter(|e| e.id == top || below(&e.target, &real));
    for entry in tried {
        let path: PathBuf = if entry.id == top { real.clone() } else { entry.target.clone() };
        let refused = filesystem::clone_path(&path, false)
            .and_then(|tree| sys::mount::map_ids(&tree, namespace, false))
            .is_err_and(|e| e.raw_os_error() == Some(Errno::INVAL.raw_os_error()));
        if refused {
            let (fs_type, at) = (&entry.fs_type, entry.target.display());
            return Some(format!("the file system {fs_type} mounted on {at} does not support it"));
        }
    }
    None
}

fn below(path: &Path, top: &Path) -> bool {
    path != top && path.starts_with(top)
}

fn mount_id(path: &Path) -> Option<u64> {
    let stat =
        rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    Some(stat.stx_mnt_id)
}
