//! A runtime program (runc and its like) as a child of the monitor.
//!
//! The child does what the program expects to find done: it mounts the root, maps owners, writes
//! into the bundle's spec which PID namespace to join, and puts on a new program's surroundings. So
//! neither the monitor nor the daemon waits for a mount or for an execve that hangs.
//!
//! What must never happen: the program sees the monitor's descriptors or environment.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use serde_json::Value;
use sys::clone::ChildToken;
use sys::exec::StringArray;

use crate::channel::{Voice, Word};
use crate::rootfs::Manner;
use crate::spawn::{self, ChildPid};
use crate::step::{Done, During, reason};
use crate::{
    ChildFailure, LaunchError, Launching, PidNamespace, Placement, Rootfs, Stdio, Step, rootfs,
    spec, stdio, surroundings,
};

/// A program to run.
#[derive(Debug)]
pub struct ProgramLaunch<'a> {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Descriptors 0, 1 and 2; a container that the program makes inherits them.
    pub stdio: Stdio<'a>,
    /// What is done before the program runs that is to make a container.
    pub create: Option<ProgramCreate>,
}

/// What a program finds done that is to make a container.
#[derive(Debug)]
pub struct ProgramCreate {
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// The source of the root file system.
    pub rootfs: Rootfs,
    /// Where the root is mounted, in the mount namespace of the caller: the spec's `root.path`.
    pub rootfs_target: PathBuf,
    /// A path to the PID namespace to join; without one the spec's own entry counts.
    pub pid_namespace: Option<PathBuf>,
    /// The pod's directory, of which the bundle is a part.
    pub pod_dir: PathBuf,
}

/// All that is in the program's environment.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The umask of a program that is started by a service manager.
const UMASK: u32 = 0o022;

/// Runs a program. [`Launching`] tells when it executes; the caller reaps it.
///
/// The caller must have one thread. Nothing here waits for the program.
///
/// # Errors
/// Where it fails no process is left.
pub fn start_program(launch: &ProgramLaunch<'_>) -> Result<Launching, LaunchError> {
    let pid = ChildPid::Given(PidNamespace::Host);
    let spawned = spawn::spawn(&pid, &Placement::default(), |token, voice| {
        match set_up(launch, token, voice) {
            Err(failure) => failure,
            Ok(never) => match never {},
        }
    })?;
    Launching::new(spawned)
}

fn set_up(launch: &ProgramLaunch<'_>, token: &ChildToken, voice: &Voice) -> Done<Infallible> {
    sys::signals::reset().during(Step::Credentials, "failed to reset signals")?;
    stdio::take(&launch.stdio, token, &[voice.as_fd()])?;
    // A session of its own: all that it starts can be killed together.
    rustix::process::setsid().during(Step::Credentials, "failed to start a session")?;
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    if let Some(create) = &launch.create {
        prepare(create, launch, voice)?;
    }
    let program = &launch.program;
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| {
            ChildFailure::new(Step::Exec, "an argument of the program has a zero byte").on(program)
        })
    };
    let path = text(program.as_os_str().as_bytes())?;
    let mut args = vec![path.clone()];
    for arg in &launch.args {
        args.push(text(arg.as_bytes())?);
    }
    let env = vec![text(ENVIRONMENT.as_bytes())?];
    sys::fds::close_on_exec_from(3).during(Step::Stdio, "failed to close descriptors")?;
    voice.say(&Word::Ready, None);
    let error = sys::exec::execve(&path, &StringArray::new(args), &StringArray::new(env));
    let message = format!("failed to run {}: {}", program.display(), reason(&error));
    Err(ChildFailure::new(Step::Exec, message).on(program))
}

/// Does what the program expects to find done.
fn prepare(create: &ProgramCreate, launch: &ProgramLaunch<'_>, voice: &Voice) -> Done {
    let path = create.bundle.join("config.json");
    let mut value = spec::load_value(&create.bundle)?;
    let is_surrounded = surroundings::are_needed(&value);
    if let Some(namespace) = &create.pid_namespace {
        join_pid_namespace(&mut value, namespace).map_err(|failure| failure.on(&path))?;
    }
    if is_surrounded {
        surroundings::make(create, &launch.program, &launch.stdio, &mut value, voice)?;
    } else {
        let spec = spec::parse_value(&value)?;
        drop(rootfs::mount(&create.rootfs, &create.rootfs_target, Manner::of(&spec))?);
    }
    refuse_links(&create.rootfs_target)?;
    if is_surrounded || create.pid_namespace.is_some() {
        fs::write(&path, value.to_string()).during_on(Step::Spec, "failed to write", &path)?;
    }
    Ok(())
}

/// Where programs make things by path before they enter the root: a link of the image's in the
/// place of one of these has led some of them to write to the host.
const KERNEL_PLACES: [&str; 3] = ["dev", "proc", "sys"];

fn refuse_links(root: &Path) -> Done {
    for place in KERNEL_PLACES {
        let found = fs::symlink_metadata(root.join(place));
        if found.is_ok_and(|found| !found.is_dir()) {
            let message = format!("a link or a file is in the way of /{place}");
            return Err(ChildFailure::new(Step::Rootfs, message).on(&Path::new("/").join(place)));
        }
    }
    Ok(())
}

/// Has the spec say which PID namespace is joined.
fn join_pid_namespace(value: &mut Value, namespace: &Path) -> Done {
    let list = value.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    let is_pid = |entry: &&mut Value| entry.get("type").and_then(Value::as_str) == Some("pid");
    let entry = list.and_then(|list| list.iter_mut().find(is_pid)).and_then(Value::as_object_mut);
    let Some(entry) = entry else {
        return Err(ChildFailure::new(Step::Spec, "the spec has no PID namespace"));
    };
    entry.insert("path".to_owned(), Value::String(namespace.display().to_string()));
    Ok(())
}
