//! The namespaces of a sandbox, made by a child and pinned by its parent.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Pid;
use sys::namespace::NewNamespaces;

use crate::channel::{self, Voice, Word};
use crate::namespaces::Kind;
use crate::spawn::{self, ChildPid, Spawned};
use crate::step::{Done, During};
use crate::{LaunchError, PidNamespace, Placement, Step, filesystem, process, sysctl};

/// Namespaces to be made; each is pinned at the path given for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxNamespaces {
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

/// Open handles of the namespaces that were made.
#[derive(Debug, Default)]
pub struct NamespaceHandles {
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
    let pid = ChildPid::Given(PidNamespace::Host);
    let spawned = spawn::spawn(&pid, &Placement::default(), |token, voice| {
        let made = process::isolate()
            .and_then(|()| {
                sys::fds::close_inherited(token, &[voice.as_fd()])
                    .during(Step::Stdio, "failed to close descriptors")
            })
            .and_then(|()| make(wanted));
        match made {
            Err(failure) => failure,
            Ok(()) => hold(voice),
        }
    })?;
    let result =
        channel::wait_until_ready(&spawned.socket).and_then(|()| pin_all(&spawned, wanted));
    // The child only holds the namespaces, which the pins and the handles do now.
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
fn make(wanted: &SandboxNamespaces) -> Done {
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
    if wanted.sysctls.is_empty() {
        return Ok(());
    }
    let proc = sysctl::fresh_proc()?;
    for (key, value) in &wanted.sysctls {
        sysctl::set(&proc, key, value, |kind| match kind {
            Kind::Net => new.net,
            Kind::Ipc => new.ipc,
            Kind::Uts => new.uts,
            Kind::Cgroup => false,
        })?;
    }
    Ok(())
}

/// In the child: keeps the namespaces until the parent has taken them or has gone.
fn hold(voice: &Voice) -> ! {
    voice.say(&Word::Ready, None);
    voice.wait_for_go();
    sys::clone::exit_now(0)
}

fn pin_all(child: &Spawned, wanted: &SandboxNamespaces) -> Result<NamespaceHandles, LaunchError> {
    let mut pinned = Vec::new();
    let mut pin_one = |kind: &'static str, path: &Option<PathBuf>| {
        let Some(path) = path else { return Ok(None) };
        let handle = open_namespace(child.pid, kind)?;
        pin(child.pid, kind, path)?;
        pinned.push(path.clone());
        Ok(Some(handle))
    };
    let mut pin_each = || {
        Ok(NamespaceHandles {
            net: pin_one("net", &wanted.net)?,
            ipc: pin_one("ipc", &wanted.ipc)?,
            uts: pin_one("uts", &wanted.uts)?,
        })
    };
    let result = pin_each();
    if result.is_err() {
        for path in pinned {
            // The first error is the one to be told.
            drop(remove_pin(&path));
        }
    }
    result
}

/// Opens a namespace of a child that is not reaped, whose number is therefore its own.
pub(crate) fn open_namespace(pid: Pid, kind: &'static str) -> Result<OwnedFd, LaunchError> {
    let pid = pid.as_raw_pid();
    File::open(format!("/proc/{pid}/ns/{kind}"))
        .map(OwnedFd::from)
        .map_err(|source| LaunchError::OpenNamespace { kind, pid, source })
}

fn pin(pid: Pid, kind: &str, path: &Path) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Pin { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let link = format!("/proc/{}/ns/{kind}", pid.as_raw_pid());
    let mounted = filesystem::clone_path(Path::new(&link), false)
        .and_then(|tree| filesystem::attach(tree.as_fd(), file.as_fd()));
    mounted.map_err(|source| {
        // Nothing is mounted on it: an empty file of ours.
        drop(fs::remove_file(path));
        failed(source)
    })
}
