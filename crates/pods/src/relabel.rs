//! SELinux labels of files of the node that containers mount: those of volumes whose mount asks
//! for it (`selinux_relabel`), and those of the pod's own files.

use std::{
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, XattrFlags},
    io::Errno,
};
use types::Mount;

use crate::error::{Error, Result};

/// The attribute of a file that holds its label.
const ATTRIBUTE: &CStr = c"security.selinux";

/// Directories that whole systems stand on: a container that had them labelled as its own would
/// break the node, or read it.
const OF_THE_NODE: [&str; 28] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/tmp",
    "/usr/lib",
];

/// How deep directories are gone into: each level holds a descriptor.
const MAX_DEPTH: usize = 512;

/// What is to be labelled, where the container has a label: sources of mounts that ask for it, and
/// `own`, the pod's files.
///
/// # Errors
/// Where a mount asks for a directory that the node itself needs.
fn wanted(mounts: &[Mount], own: &[&Path]) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = own.iter().map(|path| (*path).to_owned()).collect();
    // The image of a mount is a view of what all containers share.
    for mount in mounts.iter().filter(|m| m.selinux_relabel && m.image.is_none()) {
        // Where its links lead is what would be labelled.
        let path = Path::new(&mount.host_path);
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if OF_THE_NODE.iter().any(|known| path == Path::new(known)) {
            let path = path.display();
            return Err(Error::Invalid(format!(
                "relabelling {path} is not allowed: give the mount a directory of its own"
            )));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Labels all that is wanted as the specification says; without a label in it nothing.
///
/// # Errors
/// As [`wanted`], and where a file cannot be labelled.
pub(crate) fn apply(spec: &Spec, mounts: &[Mount], own: &[&Path]) -> Result<()> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(()) };
    for path in wanted(mounts, own)? {
        tree(&path, label).map_err(|source| Error::File { what: "label", path, source })?;
    }
    Ok(())
}

/// Labels a file, or a directory with all below it. No link is followed but one at the path
/// itself, and what is exchanged meanwhile leads nowhere else. File systems that have no labels
/// are left alone.
fn tree(path: &Path, label: &str) -> io::Result<()> {
    let top = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let place = by_number(&top);
    ignore(rustix::fs::setxattr(&place, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()))?;
    let stat = rustix::fs::fstat(&top)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    below(&rustix::fs::openat(&top, ".", DIRECTORY, Mode::empty())?, label, 0)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn below(directory: &OwnedFd, label: &str, depth: usize) -> io::Result<()> {
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG.into());
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut place = by_number(directory).into_os_string();
        place.push("/");
        place.push(OsStr::from_bytes(name.to_bytes()));
        let set = rustix::fs::lsetxattr(&place, ATTRIBUTE, label.as_bytes(), XattrFlags::empty());
        ignore(set)?;
        match rustix::fs::openat(directory, name, DIRECTORY, Mode::empty()) {
            Ok(child) => below(&child, label, depth + 1)?,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is gone meanwhile, and what has no labels.
fn ignore(set: rustix::io::Result<()>) -> io::Result<()> {
    match set {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::ROFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn by_number(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label_of(path: &Path) -> String {
        let mut value = [0; 256];
        let read = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).unwrap_or_default();
        String::from_utf8_lossy(&value[..read]).into_owned()
    }

    fn mount(path: &Path, selinux_relabel: bool) -> Mount {
        let host_path = path.display().to_string();
        Mount { host_path, selinux_relabel, ..Mount::default() }
    }

    fn spec() -> Spec {
        let mut spec = Spec::default();
        let mut linux = oci_spec::runtime::Linux::default();
        linux.set_mount_label(Some(LABEL.to_owned()));
        spec.set_linux(Some(linux));
        spec
    }

    #[test]
    fn all_below_is_labelled_and_nothing_that_links_lead_to() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for dir in ["volume/deep/er", "outside/dir", "plain"] {
            fs::create_dir_all(path(dir)).unwrap();
        }
        for file in ["volume/file", "volume/deep/er/file", "outside/file", "plain/file", "hosts"] {
            fs::write(path(file), "").unwrap();
        }
        symlink("../outside", path("volume/link")).unwrap();
        symlink("../../outside/file", path("volume/deep/link")).unwrap();
        symlink("volume", path("by-link")).unwrap();
        let mounts = [mount(&path("by-link"), true), mount(&path("plain"), false)];
        apply(&spec(), &mounts, &[&path("hosts")]).unwrap();
        for labelled in [
            "volume",
            "volume/file",
            "volume/deep",
            "volume/deep/er",
            "volume/deep/er/file",
            "hosts",
        ] {
            assert_eq!(label_of(&path(labelled)), LABEL, "{labelled}");
        }
        for left in ["outside", "outside/dir", "outside/file", "plain", "plain/file", ""] {
            assert_eq!(label_of(&path(left)), "", "{left}");
        }
        // Without a label in the specification nothing is done.
        apply(&Spec::default(), &[mount(&path("plain"), true)], &[]).unwrap();
        assert_eq!(label_of(&path("plain")), "");
    }

    #[test]
    fn directories_of_the_node_are_refused() {
        let top = tempfile::tempdir().unwrap();
        symlink("/etc", top.path().join("link")).unwrap();
        let link = top.path().join("link");
        for path in
            ["/", "/etc", "/etc/", "/usr/", "/home", "/var/lib", "/etc/../etc", "/etc/passwd"]
                .into_iter()
                .map(Path::new)
                .chain([link.as_path()])
        {
            let error = wanted(&[mount(path, true)], &[]).unwrap_err();
            assert!(error.to_string().contains("is not allowed"), "{error}");
        }
        assert!(wanted(&[mount(Path::new("/etc"), false)], &[]).unwrap().is_empty());
        let mine = Path::new("/var/lib/kubelet/pods/x");
        assert_eq!(wanted(&[mount(mine, true)], &[]).unwrap(), [mine]);
    }
}
