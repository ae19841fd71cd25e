//! Hooks: programs of the node that vendors of devices have run for a container.
//!
//! Two moments exist here, both before the root is changed: `createRuntime` (and `prestart`, its
//! older name), in the node's namespaces, and `createContainer`, in the container's mount
//! namespace while the node's files are still there. They run as children of the process that
//! becomes the container, one after the other, each within its time.
//!
//! What must never happen: a hook sees the container's environment, or descriptors of anybody.

use std::fs::File;
use std::io::Seek;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::LinkNameSpaceType;

use crate::step::{Done, During};
use crate::{ChildFailure, Step};

/// How long a hook may take that names no time.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);
/// The longest that a hook may take: a launch as a whole has a minute.
const MAX_LIMIT: Duration = Duration::from_secs(45);
/// What a program of the node is started with.
const UMASK: u32 = 0o022;
/// How much of what a hook says on standard error is told.
const MAX_SAID: usize = 512;

/// The namespaces that hooks of the node's run in.
const NODES: [(&str, LinkNameSpaceType); 4] = [
    ("net", LinkNameSpaceType::Network),
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ("mnt", LinkNameSpaceType::Mount),
];

/// The node's namespaces, while the process is still in them.
#[derive(Debug)]
pub(crate) struct Node {
    namespaces: Vec<(OwnedFd, LinkNameSpaceType)>,
}

/// Whether there are hooks of moments that exist here; others are refused.
///
/// # Errors
/// A hook is to run at a moment that this handler does not have.
pub(crate) fn check(spec: &Spec) -> Done {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let others = [hooks.start_container(), hooks.poststart(), hooks.poststop()];
    if others.into_iter().flatten().any(|list| !list.is_empty()) {
        return Err(crate::container::unsupported(
            "a hook other than createRuntime and createContainer",
        ));
    }
    Ok(())
}

/// Refuses hooks of a container in a user namespace: they are programs of the node's root, which
/// the process that would run them no longer is.
pub(crate) fn check_user(spec: &Spec, has_user_namespace: bool) -> Done {
    let has_hooks = spec.hooks().as_ref().is_some_and(|hooks| {
        of_node(hooks).next().is_some() || hooks.create_container().iter().flatten().count() > 0
    });
    if has_hooks && has_user_namespace {
        let message = "a hook for a container in a user namespace is not supported";
        return Err(ChildFailure::new(Step::Spec, message));
    }
    Ok(())
}

impl Node {
    /// Keeps the node's namespaces, where a hook will need them.
    pub(crate) fn keep(spec: &Spec) -> Done<Option<Self>> {
        if spec.hooks().as_ref().is_none_or(|hooks| of_node(hooks).next().is_none()) {
            return Ok(None);
        }
        let mut namespaces = Vec::with_capacity(NODES.len());
        for (name, kind) in NODES {
            let path = format!("/proc/self/ns/{name}");
            let file = File::open(&path).during_on(Step::Hook, "failed to open", &path)?;
            namespaces.push((file.into(), kind));
        }
        Ok(Some(Self { namespaces }))
    }
}

/// The hooks of the node's namespaces, in their order.
fn of_node(hooks: &Hooks) -> impl Iterator<Item = &Hook> {
    #[allow(deprecated, reason = "it runs at the same moment")]
    let prestart = hooks.prestart();
    prestart.iter().chain(hooks.create_runtime()).flatten()
}

/// Runs all hooks: first those of the node, then those of the container.
pub(crate) fn run(spec: &Spec, node: Option<Node>, id: &str, bundle: &Path) -> Done {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let state = state(spec, id, bundle)?;
    for hook in of_node(hooks) {
        run_one(hook, "createRuntime", node.as_ref(), &state, bundle)?;
    }
    for hook in hooks.create_container().iter().flatten() {
        run_one(hook, "createContainer", None, &state, bundle)?;
    }
    Ok(())
}

/// What a hook reads (OCI runtime specification, `runtime.md`, State).
fn state(spec: &Spec, id: &str, bundle: &Path) -> Done<Vec<u8>> {
    // By the node's procfs: the number that the node knows this process by.
    let own = std::fs::read_link("/proc/self").during(Step::Hook, "failed to read /proc/self")?;
    let pid: i32 = own.to_string_lossy().parse().unwrap_or_default();
    let state = serde_json::json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": "creating",
        "pid": pid,
        "bundle": bundle,
        "annotations": spec.annotations(),
    });
    Ok(state.to_string().into_bytes())
}

fn run_one(hook: &Hook, when: &str, node: Option<&Node>, state: &[u8], bundle: &Path) -> Done {
    let path = hook.path();
    let during = format!("failed to run the {when} hook");
    // A file and no pipe: a hook that does not read its state must not end this process.
    let state = File::from(sys::memfd::sealed("state", state).during(Step::Hook, &during)?);
    (&state).rewind().during(Step::Hook, &during)?;
    let mut command = Command::new(path);
    let args: &[String] = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().current_dir(bundle);
    for entry in hook.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    command.stdin(state).stdout(Stdio::null()).stderr(Stdio::piped());
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let limit = limit.filter(|s| *s > 0).map_or(DEFAULT_LIMIT, Duration::from_secs).min(MAX_LIMIT);
    let ours = rustix::process::umask(Mode::from_raw_mode(UMASK));
    let spawned = spawn(&mut command, node);
    rustix::process::umask(ours);
    let mut child = spawned.during_on(Step::Hook, &during, path)?;
    if !ends_within(&child, limit).during_on(Step::Hook, &during, path)? {
        drop(child.kill());
        drop(child.wait());
        let message =
            format!("{during} {}: it did not end within {} s", path.display(), limit.as_secs());
        return Err(ChildFailure::new(Step::Hook, message).on(path));
    }
    let output = child.wait_with_output().during_on(Step::Hook, &during, path)?;
    if output.status.success() {
        return Ok(());
    }
    let end = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    let said: String = String::from_utf8_lossy(&output.stderr).chars().take(MAX_SAID).collect();
    let message = format!("{during} {}: {end}: {}", path.display(), said.trim());
    Err(ChildFailure::new(Step::Hook, message).on(path))
}

/// Starts a hook, in the node's namespaces where these are given. The process itself goes there
/// for the moment: it is nobody yet, and has one thread.
fn spawn(command: &mut Command, node: Option<&Node>) -> std::io::Result<Child> {
    let Some(node) = node else { return command.spawn() };
    let mut own = Vec::with_capacity(NODES.len());
    for (name, kind) in NODES {
        own.push((OwnedFd::from(File::open(format!("/proc/self/ns/{name}"))?), kind));
    }
    enter(&node.namespaces)?;
    let child = command.spawn();
    enter(&own)?;
    child
}

fn enter(namespaces: &[(OwnedFd, LinkNameSpaceType)]) -> std::io::Result<()> {
    for (namespace, kind) in namespaces {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(*kind))?;
    }
    Ok(())
}

/// Waits for a child's end; false when the time is over first.
fn ends_within(child: &Child, limit: Duration) -> std::io::Result<bool> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let time = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&time)))?;
    Ok(ready > 0)
}
