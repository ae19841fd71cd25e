//! Whether this machine can run containers in user namespaces, by doing the least of it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sys::namespace::NewNamespaces;
use types::{IdMapping, UserNamespace};

use crate::channel::{self, Voice, Word};
use crate::spawn::{self, ChildPid};
use crate::step::{Done, During};
use crate::user::{self, User};
use crate::{
    ChildFailure, LaunchError, PidNamespace, Placement, Rootfs, Step, filesystem, namespaces,
    process, procfs, rootfs,
};

/// The first of the host's ids that is tried.
const FIRST_ID: u32 = 1 << 20;
/// How many are tried: what a pod gets.
const IDS: u32 = 1 << 16;

/// Tries what a container in a user namespace needs: the namespace, a root whose layers lie in
/// `scratch` and are mapped, and mounts in it. `scratch` is an empty directory on the file system
/// of the layers; it is empty again afterwards.
///
/// The caller must have one thread.
///
/// # Errors
/// What this machine cannot.
pub fn probe_user_namespaces(scratch: &Path) -> Result<(), LaunchError> {
    let range = vec![IdMapping { container_id: 0, host_id: FIRST_ID, length: IDS }];
    let mappings = UserNamespace { uids: range.clone(), gids: range };
    let proc = procfs::fresh().map_err(LaunchError::Child)?;
    let namespace = user::make(&mappings, &proc)?;
    let user = User { namespace, mappings };
    let pid = ChildPid::Given(PidNamespace::Host);
    let child =
        spawn::spawn(&pid, &Placement::default(), |_token, voice| {
            match process::isolate().and_then(|()| attempt(scratch, &user)) {
                Err(failure) => failure,
                Ok(()) => hold(voice),
            }
        })?;
    let result = channel::wait_until_ready(&child.socket);
    spawn::kill_and_reap(&child.pidfd);
    for name in DIRECTORIES {
        // What remains is found by whoever owns the directory.
        drop(fs::remove_dir_all(scratch.join(name)));
    }
    result
}

const DIRECTORIES: [&str; 4] = ["lower", "upper", "work", "target"];

fn hold(voice: &Voice) -> ! {
    voice.say(&Word::Ready, None);
    voice.wait_for_parents_end();
    sys::clone::exit_now(0)
}

fn attempt(scratch: &Path, user: &User) -> Done {
    let [lower, upper, work, target] = make_directories(scratch)?;
    let (uid, gid) = user.root()?;
    rustix::fs::chown(&upper, Some(uid), Some(gid)).during_on(
        Step::Rootfs,
        "failed to give away",
        &upper,
    )?;
    namespaces::make(NewNamespaces { mount: true, ..NewNamespaces::default() })?;
    namespaces::detach_mounts()?;
    let layers = Rootfs::Overlay { lower: vec![lower], upper, work };
    let root = rootfs::make_mapped(&layers, &target, user, rootfs::Manner::PLAIN)?;
    rustix::process::chdir(&target).during_on(Step::Rootfs, "failed to enter", &target)?;
    user::enter(user.as_fd())?;
    namespaces::make(NewNamespaces { mount: true, ..NewNamespaces::default() })?;
    rootfs::attach_here(&root)?;
    let file = rustix::fs::statat(&root, FILE, rustix::fs::AtFlags::empty())
        .during(Step::Rootfs, "failed to look at a mapped file")?;
    if (file.st_uid, file.st_gid) != (0, 0) {
        let message = "the owners of files in layers are not mapped";
        return Err(ChildFailure::new(Step::Rootfs, message));
    }
    let own = filesystem::new_mount("tmpfs", Some("tmpfs"), &[])
        .during(Step::Mount, "failed to mount a tmpfs in a user namespace")?;
    let place = sys::root::mkdir_p(&root, Path::new("/made"))
        .during(Step::Mount, "failed to write as the root of a user namespace")?;
    filesystem::attach(own.as_fd(), place.as_fd())
        .during(Step::Mount, "failed to mount in a user namespace")
}

const FILE: &str = "file";

fn make_directories(scratch: &Path) -> Done<[PathBuf; 4]> {
    let paths = DIRECTORIES.map(|name| scratch.join(name));
    let make = |path: &PathBuf| DirBuilder::new().mode(0o755).create(path);
    let made: io::Result<()> = paths.iter().try_for_each(make);
    made.and_then(|()| fs::write(scratch.join("lower").join(FILE), "")).during_on(
        Step::Rootfs,
        "failed to make directories in",
        scratch,
    )?;
    Ok(paths)
}
