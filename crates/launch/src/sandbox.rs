//! The namespaces of a sandbox, made by a child and pinned by its parent.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Uid;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Pid;
use sys::namespace::NewNamespaces;
use types::UserNamespace;

use crate::channel::{self, Voice, Word};
use crate::namespaces::Kind;
use crate::spawn::{self, ChildPid, Spawned};
use crate::step::{Done, During};
use crate::{
    LaunchError, PidNamespace, Placement, Step, filesystem, process, procfs, sysctl, user,
};

/// Namespaces to be made; each is pinned at the path given for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxNamespaces {
    /// A new user namespace, which owns the others.
    pub user: Option<PinnedUser>,
    /// Where to pin a new network namespace.
    pub net: Option<PathBuf>,
    /// Where to pin a new IPC namespace.
    pub ipc: Option<PathBuf>,
    /// Where to pin a new UTS namespace.
    pub uts: Option<PathBuf>,
    /// The host name of the new UTS namespace; the parent's is kept when this is empty.
    pub hostname: String,
    /// Kernel parameters, with dots or slashes, of the new namespaces only.
    pub sysctls: BTreeMap<String, String>,
}

/// A user namespace to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedUser {
    /// Where to pin it.
    pub path: PathBuf,
    /// Its ids.
    pub mappings: UserNamespace,
}

/// Open handles of the namespaces that were made.
#[derive(Debug, Default)]
pub struct NamespaceHandles {
    /// The user namespace.
    pub user: Option<OwnedFd>,
    /// The network namespace.
    pub net: Option<OwnedFd>,
    /// The IPC namespace.
    pub ipc: Option<OwnedFd>,
    /// The UTS namespace.
    pub uts: Option<OwnedFd>,
}

/// Makes and pins the namespaces of a sandbox.
///
/// The caller must have one thread. Waits for the child, which takes a millisecond or, where the
/// kernel is busy with network namespaces, longer.
///
/// # Errors
/// Where it fails nothing is left pinned and no process is left.
pub fn make_sandbox_namespaces(
    wanted: &SandboxNamespaces,
) -> Result<NamespaceHandles, LaunchError> {
    procfs::keep_all();
    let make = |user: &PinnedUser| {
        procfs::all().map_err(LaunchError::Child).and_then(|proc| user::make(&user.mappings, &proc))
    };
    let user = wanted.user.as_ref().map(make).transpose()?;
    let handles = hold_and_pin(wanted, user)?;
    // Some values mean what they mean only to the host's root, who may set all of them.
    let result = match handles.user {
        Some(_) if !wanted.sysctls.is_empty() => set_from_outside(wanted, &handles),
        _ => Ok(()),
    };
    match result {
        Ok(()) => Ok(handles),
        Err(error) => {
            unpin_all(&wanted.pins());
            Err(error)
        }
    }
}

impl SandboxNamespaces {
    /// The paths at which something is pinned.
    pub fn pins(&self) -> Vec<&Path> {
        let user = self.user.as_ref().map(|user| &user.path);
        let all = [user, self.net.as_ref(), self.ipc.as_ref(), self.uts.as_ref()];
        all.into_iter().flatten().map(PathBuf::as_path).collect()
    }
}

/// Makes and pins namespaces in the calling thread, which is in them then and should end; `user`
/// is left aside. The process may have threads.
///
/// # Errors
/// Where it fails, some may be pinned.
pub fn make_namespaces_here(wanted: &SandboxNamespaces) -> Result<(), LaunchError> {
    procfs::keep_all();
    procfs::all().and_then(|proc| make(wanted, &proc)).map_err(LaunchError::Child)?;
    let kinds = [("net", &wanted.net), ("ipc", &wanted.ipc), ("uts", &wanted.uts)];
    for (kind, path) in kinds {
        if let Some(path) = path {
            pin(&PathBuf::from(format!("/proc/thread-self/ns/{kind}")), path)?;
        }
    }
    Ok(())
}

/// Opens namespaces that [`make_namespaces_here`] has pinned.
///
/// # Errors
/// Where one is not there.
pub fn open_sandbox_namespaces(made: &SandboxNamespaces) -> Result<NamespaceHandles, LaunchError> {
    let open = |path: &Option<PathBuf>| {
        let Some(path) = path else { return Ok(None) };
        let failed = |source| LaunchError::OpenPin { path: path.clone(), source };
        sys::namespace::open(path).map(Some).map_err(failed)
    };
    Ok(NamespaceHandles {
        user: None,
        net: open(&made.net)?,
        ipc: open(&made.ipc)?,
        uts: open(&made.uts)?,
    })
}

/// Makes the namespaces in a child, which holds them until they are pinned.
fn hold_and_pin(
    wanted: &SandboxNamespaces,
    user: Option<OwnedFd>,
) -> Result<NamespaceHandles, LaunchError> {
    let pid = ChildPid::Given(PidNamespace::Host);
    let spawned = spawn::spawn(&pid, &Placement::default(), |token, voice| {
        let made = process::isolate().and_then(|()| match &user {
            Some(user) => user::enter(user.as_fd()),
            None => Ok(()),
        });
        let made = made.and_then(|()| procfs::all()).and_then(|proc| {
            sys::fds::close_inherited(token, &[voice.as_fd(), proc.as_fd()])
                .during(Step::Stdio, "failed to close descriptors")?;
            make(wanted, &proc)
        });
        match made {
            Err(failure) => failure,
            Ok(()) => hold(voice),
        }
    })?;
    let result =
        channel::wait_until_ready(&spawned.socket).and_then(|()| pin_all(&spawned, wanted, user));
    // The child only holds the namespaces, which the pins and the handles do now.
    spawn::kill_and_reap(&spawned.pidfd);
    result
}

/// Sets kernel parameters of namespaces that a user namespace owns, as the host's root.
fn set_from_outside(
    wanted: &SandboxNamespaces,
    handles: &NamespaceHandles,
) -> Result<(), LaunchError> {
    let pid = ChildPid::Given(PidNamespace::Host);
    let spawned = spawn::spawn(&pid, &Placement::default(), |_token, voice| {
        let joined = [&handles.net, &handles.ipc, &handles.uts];
        let set = process::isolate()
            .and_then(|()| {
                joined.into_iter().flatten().try_for_each(|namespace| {
                    rustix::thread::move_into_link_name_space(namespace.as_fd(), None)
                        .during(Step::Namespace, "failed to join a namespace")
                })
            })
            .and_then(|()| set_sysctls(wanted, &procfs::all()?));
        match set {
            Err(failure) => failure,
            Ok(()) => hold(voice),
        }
    })?;
    let result = channel::wait_until_ready(&spawned.socket);
    spawn::kill_and_reap(&spawned.pidfd);
    result
}

/// Takes a pinned namespace away; one that is gone already is no error.
///
/// # Errors
/// When the pin is still there afterwards.
pub fn unpin(path: &Path) -> Result<(), LaunchError> {
    remove_pin(path).map_err(|source| LaunchError::Unpin { path: path.to_owned(), source })
}

/// Mounts that may lie on one pin: a pin has one, a pin that was made twice has more.
const MAX_STACKED: usize = 16;

fn remove_pin(path: &Path) -> io::Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    for _ in 0..MAX_STACKED {
        match rustix::mount::unmount(path, flags) {
            Ok(()) => {}
            // Not a mount point any more.
            Err(Errno::INVAL) => break,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// In the child: makes the namespaces and sets what belongs to them.
fn make(wanted: &SandboxNamespaces, proc: &OwnedFd) -> Done {
    let new = NewNamespaces {
        net: wanted.net.is_some(),
        ipc: wanted.ipc.is_some(),
        uts: wanted.uts.is_some(),
        ..NewNamespaces::default()
    };
    sys::namespace::unshare(new).during(Step::Namespace, "failed to make namespaces")?;
    if new.uts && !wanted.hostname.is_empty() {
        rustix::system::sethostname(wanted.hostname.as_bytes())
            .during(Step::Hostname, "failed to set the host name")?;
    }
    if wanted.user.is_some() || wanted.sysctls.is_empty() {
        return Ok(());
    }
    set_sysctls(wanted, proc)
}

fn set_sysctls(wanted: &SandboxNamespaces, proc: &OwnedFd) -> Done {
    for (key, value) in &wanted.sysctls {
        set_sysctl(wanted, proc, key, value)?;
    }
    Ok(())
}

fn set_sysctl(wanted: &SandboxNamespaces, proc: &OwnedFd, key: &str, value: &str) -> Done {
    let has_own = |kind| match kind {
        Kind::Net => wanted.net.is_some(),
        Kind::Ipc => wanted.ipc.is_some(),
        Kind::Uts => wanted.uts.is_some(),
        Kind::Cgroup => false,
    };
    let denied = Some(Errno::ACCESS.raw_os_error());
    let root = wanted.user.as_ref().and_then(|user| user.mappings.host_uid(0));
    match (sysctl::set(proc, key, value, has_own), root) {
        // Since Linux 6.8 those of IPC belong to the namespace's root alone.
        (Err(failure), Some(root)) if failure.errno == denied => {
            take_uid(Uid::from_raw(root))?;
            let result = sysctl::set(proc, key, value, has_own);
            take_uid(Uid::ROOT)?;
            result
        }
        (result, _) => result,
    }
}

/// Acts as another user until the next call.
fn take_uid(effective: Uid) -> Done {
    rustix::thread::set_thread_res_uid(Uid::ROOT, effective, Uid::ROOT)
        .during(Step::Sysctl, "failed to act as another user")
}

/// In the child: keeps the namespaces until the parent has taken them or has gone.
fn hold(voice: &Voice) -> ! {
    voice.say(&Word::Ready, None);
    voice.wait_for_parents_end();
    sys::clone::exit_now(0)
}

fn pin_all(
    child: &Spawned,
    wanted: &SandboxNamespaces,
    user: Option<OwnedFd>,
) -> Result<NamespaceHandles, LaunchError> {
    let mut pinned = Vec::new();
    let mut pin_one = |kind: &'static str, path: &Option<PathBuf>| {
        let Some(path) = path else { return Ok(None) };
        let handle = open_namespace(child.pid, kind)?;
        pin(&namespace_link(child.pid, kind), path)?;
        pinned.push(path.clone());
        Ok(Some(handle))
    };
    let user_path = wanted.user.as_ref().map(|user| user.path.clone());
    let pin_each = || {
        pin_one("user", &user_path)?;
        Ok(NamespaceHandles {
            user,
            net: pin_one("net", &wanted.net)?,
            ipc: pin_one("ipc", &wanted.ipc)?,
            uts: pin_one("uts", &wanted.uts)?,
        })
    };
    let result = pin_each();
    if result.is_err() {
        unpin_all(&pinned);
    }
    result
}

fn unpin_all(paths: &[impl AsRef<Path>]) {
    for path in paths {
        // The first error is the one to be told.
        drop(remove_pin(path.as_ref()));
    }
}

/// Opens a namespace of a child that is not reaped, whose number is therefore its own.
pub(crate) fn open_namespace(pid: Pid, kind: &'static str) -> Result<OwnedFd, LaunchError> {
    let failed = |source| LaunchError::OpenNamespace { kind, pid: pid.as_raw_pid(), source };
    File::open(namespace_link(pid, kind)).map(OwnedFd::from).map_err(failed)
}

fn namespace_link(pid: Pid, kind: &str) -> PathBuf {
    format!("/proc/{}/ns/{kind}", pid.as_raw_pid()).into()
}

fn pin(namespace: &Path, path: &Path) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Pin { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mounted = filesystem::clone_path(namespace, false)
        .and_then(|tree| filesystem::attach(tree.as_fd(), file.as_fd()));
    mounted.map_err(|source| {
        // Nothing is mounted on it: an empty file of ours.
        drop(fs::remove_file(path));
        failed(source)
    })
}
