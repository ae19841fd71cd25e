//! User namespaces: making one, entering one, and which ids of the host are whose.
//!
//! Only a process that is still privileged makes mounts whose ids are mapped, so all that needs the
//! privilege is opened before [`enter`], and attached after it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Spec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::Pid;
use rustix::thread::LinkNameSpaceType;
use sys::namespace::NewNamespaces;
use types::{IdMapping, UserNamespace};

use crate::channel::{self, Word};
use crate::spawn::{self, ChildPid};
use crate::step::{Done, During};
use crate::{ChildFailure, LaunchError, PidNamespace, Placement, Step, process};

/// The user namespace of a container.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) namespace: OwnedFd,
    pub(crate) mappings: UserNamespace,
}

impl User {
    /// Opens the user namespace that a spec joins; `None` where it is the host's.
    pub(crate) fn of(spec: &Spec) -> Done<Option<Self>> {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
        let Some(path) = path_of(namespaces.unwrap_or_default())? else {
            return refuse_mappings(spec).map(|()| None);
        };
        let namespace =
            File::open(&path).during_on(Step::Namespace, "failed to open", &path)?.into();
        Ok(Some(Self { namespace, mappings: mappings_of(spec) }))
    }

    /// The host's ids of the container's root.
    pub(crate) fn root(&self) -> Done<(Uid, Gid)> {
        Ok((self.host_uid(0)?, self.host_gid(0)?))
    }

    /// The host's id of a user.
    pub(crate) fn host_uid(&self, uid: u32) -> Done<Uid> {
        let id = self.mappings.host_uid(uid).ok_or_else(|| not_mapped("user", uid))?;
        Ok(Uid::from_raw(id))
    }

    /// The host's id of a group.
    pub(crate) fn host_gid(&self, gid: u32) -> Done<Gid> {
        let id = self.mappings.host_gid(gid).ok_or_else(|| not_mapped("group", gid))?;
        Ok(Gid::from_raw(id))
    }
}

/// The ids that a spec says are mapped in its user namespace.
pub(crate) fn mappings_of(spec: &Spec) -> UserNamespace {
    let linux = spec.linux().as_ref();
    UserNamespace {
        uids: mappings(linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default()),
        gids: mappings(linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default()),
    }
}

pub(crate) fn mappings(from: &[LinuxIdMapping]) -> Vec<IdMapping> {
    let one = |m: &LinuxIdMapping| IdMapping {
        host_id: m.host_id(),
        container_id: m.container_id(),
        length: m.size(),
    };
    from.iter().map(one).collect()
}

/// The user namespace that a container joins; `None` where it is the host's.
pub(crate) fn path_of(namespaces: &[LinuxNamespace]) -> Done<Option<PathBuf>> {
    let mut found = namespaces.iter().filter(|n| n.typ() == LinuxNamespaceType::User);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(namespace), None) => match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => Ok(Some(path.clone())),
            _ => Err(crate::container::unsupported("a user namespace of a container's own")),
        },
        (Some(_), Some(_)) => {
            Err(ChildFailure::new(Step::Spec, "the spec has two User namespaces"))
        }
    }
}

fn refuse_mappings(spec: &Spec) -> Done {
    let mappings = mappings_of(spec);
    if mappings.uids.is_empty() && mappings.gids.is_empty() {
        return Ok(());
    }
    Err(ChildFailure::new(Step::Spec, "the spec maps ids and has no user namespace"))
}

fn not_mapped(what: &str, id: u32) -> ChildFailure {
    let message = format!("{what} {id} is not mapped in the container's user namespace");
    ChildFailure::new(Step::Credentials, message)
}

/// Becomes root of a user namespace. What the host's root could do is lost.
pub(crate) fn enter(namespace: BorrowedFd<'_>) -> Done {
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
        .during(Step::Namespace, "failed to join the user namespace")?;
    become_root()
}

/// Takes the ids of the present user namespace's root.
pub(crate) fn become_root() -> Done {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .during(Step::Credentials, "failed to become root of the user namespace")
}

/// Makes a user namespace with these ids, owned by the caller's.
///
/// The caller must have one thread. `proc` is a procfs of ours in which the caller's children are.
pub(crate) fn make(mappings: &UserNamespace, proc: &OwnedFd) -> Result<OwnedFd, LaunchError> {
    let pid = ChildPid::Given(PidNamespace::Host);
    let child = spawn::spawn(&pid, &Placement::default(), |token, voice| {
        let made = process::isolate()
            .and_then(|()| {
                sys::fds::close_inherited(token, &[voice.as_fd()])
                    .during(Step::Stdio, "failed to close descriptors")
            })
            .and_then(|()| unshare());
        match made {
            Err(failure) => failure,
            Ok(()) => {
                voice.say(&Word::Ready, None);
                voice.wait_for_parents_end();
                sys::clone::exit_now(0)
            }
        }
    })?;
    let result = channel::wait_until_ready(&child.socket)
        .and_then(|()| map_and_open(proc, child.pid, mappings));
    // It only holds the namespace, which the handle does now.
    spawn::kill_and_reap(&child.pidfd);
    result
}

fn unshare() -> Done {
    let new = NewNamespaces { user: true, ..NewNamespaces::default() };
    match sys::namespace::unshare(new) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) => {
            let message = "failed to make a user namespace: \
                           user.max_user_namespaces allows no further one";
            Err(ChildFailure::new(Step::Namespace, message))
        }
        result => result.during(Step::Namespace, "failed to make a user namespace"),
    }
}

fn map_and_open(
    proc: &OwnedFd,
    pid: Pid,
    mappings: &UserNamespace,
) -> Result<OwnedFd, LaunchError> {
    let pid = pid.as_raw_pid();
    for (file, ids) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
        let path = format!("{pid}/{file}");
        let text = text_of(ids);
        let written = rustix::fs::openat(proc, &path, OFlags::WRONLY, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|fd| File::from(fd).write_all(text.as_bytes()));
        written.map_err(|source| LaunchError::MapIds { file, source })?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, format!("{pid}/ns/user"), flags, Mode::empty())
        .map_err(|error| LaunchError::OpenNamespace { kind: "user", pid, source: error.into() })
}

fn text_of(ids: &[IdMapping]) -> String {
    ids.iter().fold(String::new(), |mut text, id| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", id.container_id, id.host_id, id.length);
        text
    })
}

/// The descriptor of a user namespace, borrowed.
impl AsFd for User {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_a_line_a_range() {
        let ids = [
            IdMapping { container_id: 0, host_id: 100_000, length: 65_536 },
            IdMapping { container_id: 65_536, host_id: 7, length: 1 },
        ];
        assert_eq!(text_of(&ids), "0 100000 65536\n65536 7 1\n");
    }
}
