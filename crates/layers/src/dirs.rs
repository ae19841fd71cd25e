//! Directories of the tree, by handle.
//!
//! A path is walked from the root's handle, one component at a time, each opened
//! with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)`: the
//! kernel never follows anything. A link of the same layer is followed here, by its
//! text and within the root, as if the root were `/`; what is missing is made, 0755
//! and root's. Nothing else changes the tree meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    UnpackError,
    names::shown,
    room::{Room, make_room},
    xattrs::set_opaque,
};

/// How many links a path may lead through (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// How many directories are kept open. Archives go depth first, so few are needed.
const MAX_OPEN: usize = 64;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An open directory of the tree.
pub(crate) struct Dir {
    fd: OwnedFd,
    /// Its path from the root, without links; the root's is empty.
    pub(crate) real: Vec<u8>,
}

impl Dir {
    pub(crate) fn new(fd: OwnedFd, real: Vec<u8>) -> Self {
        Self { fd, real }
    }

    /// Returns the path of `name` in this directory.
    pub(crate) fn child(&self, name: &[u8]) -> Vec<u8> {
        match self.real.as_slice() {
            b"" => name.to_vec(),
            real => [real, b"/", name].concat(),
        }
    }

    /// Opens the directory for more than as a starting point.
    pub(crate) fn readable(&self) -> rustix::io::Result<OwnedFd> {
        open_dir(self.as_fd(), b".", OFlags::RDONLY)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The directories of one tree.
pub(crate) struct Dirs {
    root: Rc<Dir>,
    open: HashMap<Vec<u8>, Rc<Dir>>,
    max_path: usize,
    /// Whether anything was made in passing.
    pub(crate) made: u64,
    /// Whether something was replaced, so that what was counted is no longer right.
    pub(crate) replaced: bool,
}

impl Dirs {
    pub(crate) fn new(root: BorrowedFd<'_>, max_path: usize) -> Result<Self, UnpackError> {
        let fd = open_dir(root, b".", OFlags::PATH).map_err(|e| failed("open", b"/", e))?;
        let root = Rc::new(Dir { fd, real: Vec::new() });
        Ok(Self { root, open: HashMap::new(), max_path, made: 0, replaced: false })
    }

    pub(crate) fn root(&self) -> &Rc<Dir> {
        &self.root
    }

    /// Forgets what is open: something that paths may lead through was removed.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// Returns the directory `components`, made where it is missing. What is there
    /// and is no directory makes room: the later entry wins.
    pub(crate) fn ensure(&mut self, components: &[&[u8]]) -> Result<Rc<Dir>, UnpackError> {
        let key = components.join(&b'/');
        if key.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(dir) = self.open.get(&key) {
            return Ok(Rc::clone(dir));
        }
        let (mut at, known) = self.nearest(components);
        let mut queue: VecDeque<Vec<u8>> =
            components[known..].iter().map(|part| part.to_vec()).collect();
        let mut links = 0;
        while let Some(part) = queue.pop_front() {
            at = match part.as_slice() {
                b"" | b"." => at,
                b".." => self.parent(&at)?,
                name => match self.step(&at, name)? {
                    Step::Dir(dir) => dir,
                    Step::Link(target) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(failed("follow the links of", &key, Errno::LOOP));
                        }
                        let target_parts = target.split(|b| *b == b'/').map(<[u8]>::to_vec);
                        queue = target_parts.chain(queue).collect();
                        if target.starts_with(b"/") { Rc::clone(&self.root) } else { at }
                    }
                },
            };
        }
        self.keep(key, &at);
        Ok(at)
    }

    /// Returns the longest open beginning of `components`, and how many it has.
    fn nearest(&self, components: &[&[u8]]) -> (Rc<Dir>, usize) {
        for count in (1..components.len()).rev() {
            if let Some(dir) = self.open.get(&components[..count].join(&b'/')) {
                return (Rc::clone(dir), count);
            }
        }
        (Rc::clone(&self.root), 0)
    }

    fn keep(&mut self, key: Vec<u8>, dir: &Rc<Dir>) {
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(key, Rc::clone(dir));
    }

    fn parent(&self, dir: &Dir) -> Result<Rc<Dir>, UnpackError> {
        let Some(slash) = dir.real.iter().rposition(|b| *b == b'/') else {
            return Ok(Rc::clone(&self.root));
        };
        let real = dir.real[..slash].to_vec();
        let fd = open_dir(self.root.as_fd(), &real, OFlags::PATH)
            .map_err(|e| failed("open", &real, e))?;
        Ok(Rc::new(Dir { fd, real }))
    }

    fn step(&mut self, at: &Rc<Dir>, name: &[u8]) -> Result<Step, UnpackError> {
        let real = at.child(name);
        if real.len() > self.max_path {
            return Err(failed("make", &real, Errno::NAMETOOLONG));
        }
        match open_dir(at.as_fd(), name, OFlags::PATH) {
            Ok(fd) => return Ok(self.opened(fd, real)),
            Err(Errno::NOENT) => {
                make_dir(at.as_fd(), name).map_err(|e| failed("make", &real, e))?
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                if let Some(target) =
                    link_target(at.as_fd(), name).map_err(|e| failed("read the link", &real, e))?
                {
                    return Ok(Step::Link(target));
                }
                let room = make_room(at, name, self)?;
                make_dir(at.as_fd(), name).map_err(|e| failed("make", &real, e))?;
                if room == Room::Whiteout {
                    let dir = open_dir(at.as_fd(), name, OFlags::RDONLY);
                    dir.and_then(set_opaque).map_err(|e| failed("mark", &real, e))?;
                }
            }
            Err(error) => return Err(failed("open", &real, error)),
        }
        self.made += 1;
        let fd = open_dir(at.as_fd(), name, OFlags::PATH).map_err(|e| failed("open", &real, e))?;
        Ok(self.opened(fd, real))
    }

    fn opened(&mut self, fd: OwnedFd, real: Vec<u8>) -> Step {
        let dir = Rc::new(Dir { fd, real });
        self.keep(dir.real.clone(), &dir);
        Step::Dir(dir)
    }
}

enum Step {
    Dir(Rc<Dir>),
    Link(Vec<u8>),
}

/// Opens a directory below another, following nothing.
pub(crate) fn open_dir(
    at: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(at, path, flags, Mode::empty(), BENEATH)
}

fn make_dir(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
    // The process's umask may be strict. The name is a directory, made just now.
    rustix::fs::chmodat(at, name, Mode::from_raw_mode(0o755), AtFlags::empty())
}

fn link_target(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    rustix::fs::readlinkat(at, name, Vec::new()).map(|target| Some(target.into_bytes()))
}

pub(crate) fn failed(action: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    UnpackError::Apply { action, path: shown(path), source: errno.into() }
}
