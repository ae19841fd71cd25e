//! Paths of a foreign tree, resolved by handle and never outside of its root.
//!
//! A foreign tree (a container's root, an image) may hold any symbolic link and may change while
//! we walk it. Every function takes a handle of the root and a path as the tree's own processes
//! would write it; absolute links and `..` stay inside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What is made where a path does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing; the path must exist.
    Fail,
    /// A directory of mode 0755.
    Directory,
    /// An empty file of mode 0644.
    File,
}

/// Links that one path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;
/// Components that one path may have after its links are read; the kernel's paths have 4096 bytes.
const MAX_COMPONENTS: usize = 2048;

/// Opens a path below `root`, following links as a process inside would; magic links are refused.
///
/// # Errors
/// The kernel's.
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(root.as_fd(), path, flags, ResolveFlags::empty())
}

/// Opens a path below `root` that must not lead through any link.
///
/// # Errors
/// The kernel's; `ELOOP` for a link.
pub fn open_without_links(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(root.as_fd(), path, flags, ResolveFlags::NO_SYMLINKS)
}

/// Opens a path below `root` that must not lead through a link or into another mount: for files
/// of a fresh procfs, where nobody can have put anything else.
///
/// # Errors
/// The kernel's.
pub fn open_in_mount(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    open_with(root.as_fd(), path, flags, resolve)
}

/// Opens (as `O_PATH`) a path below `root`, making what is missing. A dangling link is followed
/// inside the root, so that what it names is made.
///
/// # Errors
/// The kernel's; `ELOOP` for too many links.
pub fn ensure(root: impl AsFd, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path, OFlags::PATH) {
        Err(error) if missing != Missing::Fail && error.kind() == io::ErrorKind::NotFound => {
            Walk::new(root.try_clone_to_owned()?).run(path, missing)
        }
        result => result,
    }
}

/// Makes a directory and its parents below `root` and opens it as `O_PATH`.
///
/// # Errors
/// As [`ensure`]; `ENOTDIR` when it is something else.
pub fn mkdir_p(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let fd = ensure(root, path, Missing::Directory)?;
    // Asks for a directory without another walk of the path.
    Ok(rustix::fs::openat(&fd, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_with(
    root: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere raced with a `..`; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// A walk in user space, one component at a time, each opened without following it.
struct Walk {
    /// The directories from the root to where the walk is; the root is never popped.
    stack: Vec<OwnedFd>,
    rest: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn new(root: OwnedFd) -> Self {
        Self { stack: vec![root], rest: VecDeque::new(), links: 0 }
    }

    fn run(mut self, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
        self.push(path)?;
        while let Some(name) = self.rest.pop_front() {
            self.step(&name, missing)?;
        }
        self.stack.pop().ok_or_else(|| Errno::NOENT.into())
    }

    fn step(&mut self, name: &OsStr, missing: Missing) -> io::Result<()> {
        if name == ".." {
            if self.stack.len() > 1 {
                self.stack.pop();
            }
            return Ok(());
        }
        let is_last = self.rest.is_empty();
        let here = self.stack.last().ok_or(Errno::NOENT)?;
        let entry = match open_entry(here, name) {
            Err(Errno::NOENT) => {
                make_entry(here, name, if is_last { missing } else { Missing::Directory })?;
                open_entry(here, name)?
            }
            result => result?,
        };
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode);
        if kind != rustix::fs::FileType::Symlink {
            self.stack.push(entry);
            return Ok(());
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = rustix::fs::readlinkat(&entry, "", Vec::new())?;
        self.push(Path::new(&OsString::from_vec(target.into_bytes())))
    }

    /// Puts the components of a path before what is left to walk.
    fn push(&mut self, path: &Path) -> io::Result<()> {
        if path.is_absolute() {
            self.stack.truncate(1);
        }
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.rest.push_front(name.to_owned()),
                Component::ParentDir => self.rest.push_front("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        if self.rest.len() > MAX_COMPONENTS || path.as_os_str().as_bytes().contains(&0) {
            return Err(Errno::NAMETOOLONG.into());
        }
        Ok(())
    }
}

fn open_entry(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn make_entry(dir: &OwnedFd, name: &OsStr, missing: Missing) -> rustix::io::Result<()> {
    let made = match missing {
        Missing::Fail => Err(Errno::NOENT),
        Missing::Directory => rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)),
        Missing::File => {
            let mode = Mode::from_raw_mode(0o100_644);
            rustix::fs::mknodat(dir, name, rustix::fs::FileType::RegularFile, mode, 0)
        }
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Tree {
        outer: tempfile::TempDir,
        root: OwnedFd,
    }

    /// A root inside an outer directory whose canary must never be reached.
    fn tree() -> Tree {
        let outer = tempfile::Builder::new().prefix("corten-root-").tempdir().expect("made");
        fs::create_dir_all(outer.path().join("root/etc")).expect("made");
        fs::create_dir(outer.path().join("canary")).expect("made");
        let root = fs::File::open(outer.path().join("root")).expect("opened").into();
        Tree { outer, root }
    }

    impl Tree {
        fn link(&self, target: impl AsRef<Path>, link: &str) {
            symlink(target, self.outer.path().join("root").join(link)).expect("linked");
        }

        fn canary_is_empty(&self) -> bool {
            fs::read_dir(self.outer.path().join("canary")).expect("read").next().is_none()
        }
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        // (link target, link, path asked for, what must exist below the root afterwards)
        let table = [
            ("", "", "/a/b/c", "a/b/c"),
            ("", "", "a/../../../b", "b"),
            ("", "", "../../x", "x"),
            ("/run/x", "etc/l", "/etc/l", "run/x"),
            ("../../../../canary/new", "etc/l", "/etc/l", "canary/new"),
            ("/", "l", "/l/y", "y"),
            ("../..", "l", "/l/canary/z", "canary/z"),
            ("m", "l", "/l/q", "m/q"),
        ];
        for (target, link, path, expected) in table {
            for missing in [Missing::Directory, Missing::File] {
                let tree = tree();
                if !link.is_empty() {
                    tree.link(target, link);
                }
                ensure(&tree.root, Path::new(path), missing).expect(path);
                let made = tree.outer.path().join("root").join(expected);
                let kind = fs::symlink_metadata(made).expect(path);
                assert_eq!(kind.is_dir(), missing == Missing::Directory, "{path}");
                assert!(tree.canary_is_empty(), "{path}");
            }
        }
    }

    #[test]
    fn loops_and_links_to_the_outside_end() {
        let tree = tree();
        tree.link("l2", "l1");
        tree.link("l1", "l2");
        let error = ensure(&tree.root, Path::new("/l1/new"), Missing::File).expect_err("loop");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        tree.link(tree.outer.path().join("canary"), "out");
        ensure(&tree.root, Path::new("/out/file"), Missing::File).expect("made inside");
        assert!(tree.canary_is_empty());
    }

    #[test]
    fn links_are_refused_where_none_may_be() {
        let tree = tree();
        tree.link("etc", "l");
        let error = open_without_links(&tree.root, Path::new("/l"), OFlags::PATH).expect_err("l");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_file_is_no_directory() {
        let tree = tree();
        fs::write(tree.outer.path().join("root/f"), "").expect("written");
        let error = mkdir_p(&tree.root, Path::new("/f/g")).expect_err("below a file");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
        let error = mkdir_p(&tree.root, Path::new("/f")).expect_err("a file");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    }
}
