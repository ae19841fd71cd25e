//! What containers and exec sessions have in common: from being inside to execve.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::capability::{self, Sets};
use crate::channel::{Voice, Word};
use crate::command::Command;
use crate::step::{Done, During, reason};
use crate::{ChildFailure, Step, limits, pivot};

/// All that is needed for the last steps.
pub(crate) struct Preparation<'a> {
    pub(crate) process: &'a Process,
    /// The filter, where the container has one.
    pub(crate) filter: Option<Filter>,
    pub(crate) command: Command,
    /// A procfs of ours.
    pub(crate) proc: &'a OwnedFd,
    /// The container's root.
    pub(crate) root: &'a OwnedFd,
}

/// The umask of a container's process where its spec has none.
const DEFAULT_UMASK: u32 = 0o022;

/// Shuts the child off from the container before the child is in it: nobody without privileges
/// may trace it or read it, signals act as in a new program, files get exactly our modes.
pub(crate) fn isolate() -> Done {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(Step::Credentials, "failed to make the process unreadable")?;
    sys::signals::reset().during(Step::Credentials, "failed to reset signals")?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Starts a session, and a keyring of its own where the kernel has one to give.
pub(crate) fn start_session(name: &str) -> Done {
    rustix::process::setsid().during(Step::Credentials, "failed to start a session")?;
    if let Ok(name) = CString::new(format!("corten-{name}")) {
        // Without keys, or with too many, the container has its parent's, which is empty.
        drop(sys::keyring::join_session(&name));
    }
    Ok(())
}

/// Takes on limits, user, capabilities and filter, and executes the command.
///
/// A filter needs a privilege or no_new_privs. With no_new_privs it is loaded last, so that it
/// need not allow our own calls; otherwise before the privilege goes.
pub(crate) fn execute(prepared: Preparation<'_>, voice: &Voice) -> Done<Infallible> {
    let Preparation { process, filter, command, proc, root } = prepared;
    let no_new_privileges = process.no_new_privileges().unwrap_or_default();
    let bounding = bounding_set();
    let sets = capability_sets(process, bounding, voice)?;
    set_label(process, proc)?;
    let is_inside = pivot::enter_cwd(root, process.cwd())?;
    limits::set_rlimits(process, voice)?;
    drop_bounding(bounding - sets.bounding)?;
    // From here on nothing stays open in the container but 0, 1 and 2. The channel is closed by
    // execve too, which is how the parent learns of it.
    sys::fds::close_on_exec_from(3).during(Step::Stdio, "failed to close descriptors")?;
    if !no_new_privileges && let Some(filter) = &filter {
        filter.load()?;
    }
    change_user(process, &sets)?;
    if !is_inside && !pivot::enter_cwd(root, process.cwd())? {
        let cwd = process.cwd();
        let message = format!("the user may not enter the working directory {}", cwd.display());
        return Err(ChildFailure::new(Step::Cwd, message).on(cwd));
    }
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(DEFAULT_UMASK)));
    voice.say(&Word::Ready, None);
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .during(Step::Credentials, "failed to set no_new_privs")?;
        if let Some(filter) = &filter {
            filter.load()?;
        }
    }
    Err(command.execute())
}

/// A compiled filter.
pub(crate) struct Filter {
    instructions: Vec<sys::seccomp::SockFilter>,
    flags: u32,
}

/// A compiled filter in the bundle, which saves the child the compilation.
pub const FILTER_FILE: &str = "seccomp.bpf";

/// The longest such file: what the kernel takes, and some.
const MAX_FILTER_BYTES: u64 = 64 * 1024;

/// The filter of the default profile is shorter: it is read at once.
const USUAL_FILTER_BYTES: usize = 8 * 1024;

impl Filter {
    /// The filter of a container's spec: as the bundle has it, or compiled.
    pub(crate) fn of(spec: &Spec, bundle: &Path) -> Done<Option<Self>> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(profile) = profile else { return Ok(None) };
        match Self::compiled(bundle) {
            Some(filter) => Ok(Some(filter)),
            None => Self::compile(profile).map(Some),
        }
    }

    /// The filter as the bundle has it, where it has a usable one.
    pub(crate) fn compiled(bundle: &Path) -> Option<Self> {
        let mut bytes = Vec::with_capacity(USUAL_FILTER_BYTES);
        let read = File::open(bundle.join(FILTER_FILE))
            .and_then(|file| file.take(MAX_FILTER_BYTES).read_to_end(&mut bytes));
        read.ok()?;
        seccomp::Program::from_bytes(&bytes).map(|program| Self::from_program(&program))
    }

    pub(crate) fn compile(profile: &LinuxSeccomp) -> Done<Self> {
        let program = seccomp::compile(profile).map_err(|error| {
            ChildFailure::new(Step::Seccomp, format!("failed to compile the filter: {error}"))
        })?;
        Ok(Self::from_program(&program))
    }

    fn from_program(program: &seccomp::Program) -> Self {
        let convert = |i: &seccomp::SockFilter| sys::seccomp::SockFilter {
            code: i.code,
            jt: i.jt,
            jf: i.jf,
            k: i.k,
        };
        let instructions = program.instructions().iter().map(convert).collect();
        Self { instructions, flags: program.flags() }
    }

    pub(crate) fn load(&self) -> Done {
        sys::seccomp::load(&self.instructions, self.flags)
            .during(Step::Seccomp, "failed to load the filter")
    }
}

fn capability_sets(process: &Process, bounding: CapabilitySet, voice: &Voice) -> Done<Sets> {
    let own = rustix::thread::capabilities(None)
        .during(Step::Credentials, "failed to read the capabilities")?;
    let sets = Sets::of(process.capabilities().as_ref(), bounding, own.permitted);
    if !sets.clamped.is_empty() {
        voice.notice(&format!("not available here: {}", capability::names(sets.clamped)));
    }
    Ok(sets)
}

/// The bounding set. The kernel does not know the newest capabilities everywhere; then they are
/// not in it either.
pub(crate) fn bounding_set() -> CapabilitySet {
    let is_there =
        |c: &CapabilitySet| rustix::thread::capability_is_in_bounding_set(*c).unwrap_or(false);
    let all = CapabilitySet::all();
    all.iter_names().map(|(_, capability)| capability).filter(is_there).collect()
}

/// Takes capabilities out of the bounding set. The kernel wants a privilege for this, so it comes
/// before the user changes.
pub(crate) fn drop_bounding(dropped: CapabilitySet) -> Done {
    for (_, capability) in dropped.iter_names() {
        rustix::thread::remove_capability_from_bounding_set(capability)
            .during(Step::Credentials, "failed to drop a capability")?;
    }
    Ok(())
}

fn change_user(process: &Process, sets: &Sets) -> Done {
    let user = process.user();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let additional = user.additional_gids().iter().flatten();
    let groups: Vec<Gid> = additional.map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_keep_capabilities(true)
        .during(Step::Credentials, "failed to keep capabilities")?;
    rustix::thread::set_thread_groups(&groups)
        .during(Step::Credentials, "failed to set the additional groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .during(Step::Credentials, &format!("failed to change to group {}", user.gid()))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .during(Step::Credentials, &format!("failed to change to user {}", user.uid()))?;
    rustix::thread::set_keep_capabilities(false)
        .during(Step::Credentials, "failed to stop keeping capabilities")?;
    let wanted = CapabilitySets {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
    };
    rustix::thread::set_capabilities(None, wanted)
        .during(Step::Credentials, "failed to set the capabilities")?;
    set_ambient(sets.ambient)
}

fn set_ambient(ambient: CapabilitySet) -> Done {
    let during = "failed to set the ambient capabilities";
    rustix::thread::clear_ambient_capability_set().during(Step::Credentials, during)?;
    for (_, capability) in ambient.iter_names() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .during(Step::Credentials, during)?;
    }
    Ok(())
}

/// Asks the security module for the label at execve, through a procfs that is ours.
fn set_label(process: &Process, proc: &OwnedFd) -> Done {
    let apparmor = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty());
    let selinux = process.selinux_label().as_deref().filter(|label| !label.is_empty());
    if let Some(profile) = apparmor {
        let text = format!("exec {profile}");
        write_label(proc, &["attr/apparmor/exec", "attr/exec"], &text, "apparmor profile")?;
    }
    if let Some(label) = selinux {
        write_label(proc, &["attr/exec"], label, "selinux label")?;
    }
    Ok(())
}

fn write_label(proc: &OwnedFd, files: &[&str], text: &str, what: &str) -> Done {
    let during = "failed to find the process";
    // By the number that the procfs gives it, which is another one than in the container.
    let own = rustix::fs::readlinkat(proc, "self", Vec::new()).during(Step::Label, during)?;
    let own = Path::new(OsStr::from_bytes(own.as_bytes()));
    let mut cause = None;
    for file in files {
        let written = sys::root::open_in_mount(proc, &own.join(file), OFlags::WRONLY)
            .and_then(|fd| File::from(fd).write_all(text.as_bytes()));
        match written {
            Ok(()) => return Ok(()),
            Err(error) => cause = cause.or(Some(error)),
        }
    }
    let cause = cause.map(|error| reason(&error)).unwrap_or_default();
    let message = format!("failed to set the {what}, which this kernel may not support: {cause}");
    Err(ChildFailure::new(Step::Label, message))
}
