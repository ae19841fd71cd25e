//! Puts entries below the root's handle.

use std::{collections::BTreeMap, rc::Rc};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};

use crate::{
    Limits, Meter, Summary, UnpackError,
    dirs::{Dir, Dirs, failed, open_dir},
    makers::{FileMeta, Job, Makers, SMALL, write_all},
    names::{Meaning, components, meaning, shown},
    room::{Room, is_whiteout, make_room},
    tar::{Archive, Entry, Kind, Mtime},
    tree::disk_usage,
    xattrs,
};

/// Links up to this length are kept in the inode (ext4, xfs and btrfs hold as much).
const SHORT_LINK: usize = 60;

/// How long the names of a layer's directories may be, together: they are held in
/// memory. 100,000 of them at a usual depth take 10 MiB.
const MAX_DIRECTORY_NAMES: usize = 64 << 20;

/// A layer being put in place.
pub(crate) struct Applier<'a> {
    limits: &'a Limits,
    meter: Option<&'a Meter>,
    root: BorrowedFd<'a>,
    dirs: Dirs,
    /// What writes small files.
    makers: Makers,
    /// What directories get at the very end, when nothing is put into them any more.
    finish: BTreeMap<Vec<u8>, Finish>,
    /// How long their names are.
    finish_bytes: usize,
    summary: Summary,
    block: u64,
    /// Whether new files are root's without being told so.
    born_root: bool,
    umask: u32,
}

/// What a directory gets at the end.
struct Finish {
    mtime: Mtime,
    mode: Option<u32>,
}

impl<'a> Applier<'a> {
    pub(crate) fn new(
        root: BorrowedFd<'a>,
        limits: &'a Limits,
        makers: usize,
        meter: Option<&'a Meter>,
    ) -> Result<Self, UnpackError> {
        let fail = |errno| failed("look at", b"/", errno);
        let stat = rustix::fs::fstat(root).map_err(fail)?;
        let block = rustix::fs::fstatvfs(root).map_err(fail)?.f_frsize.max(512);
        let root_user =
            rustix::process::geteuid().is_root() && rustix::process::getegid().is_root();
        Ok(Self {
            limits,
            meter,
            root,
            dirs: Dirs::new(root, limits.max_path)?,
            makers: Makers::new(makers),
            finish: BTreeMap::new(),
            finish_bytes: 0,
            summary: Summary { inodes: 1, bytes: block, ..Summary::default() },
            block,
            // Directories get their setgid bit at the end, so none hands its group down.
            born_root: root_user && stat.st_mode & 0o2000 == 0,
            umask: umask(),
        })
    }

    /// Applies all entries.
    pub(crate) fn run(mut self, archive: &mut Archive<'_>) -> Result<Summary, UnpackError> {
        while let Some(entry) = archive.next_entry()? {
            self.entry(&entry, archive)?;
            self.tell(0);
        }
        self.summary.dropped += self.makers.settle()?;
        self.finish()?;
        self.summary.entries = archive.entries();
        self.summary.inodes += self.dirs.made;
        self.summary.bytes += self.dirs.made * self.block;
        self.summary.replaced = self.dirs.replaced;
        if self.dirs.replaced {
            let usage = disk_usage(self.root).map_err(|source| UnpackError::Apply {
                action: "add up",
                path: "/".into(),
                source,
            })?;
            (self.summary.bytes, self.summary.inodes) = (usage.bytes, usage.inodes);
        }
        Ok(self.summary)
    }

    /// Says how far it is, with `more` bytes of a file that is being written.
    fn tell(&self, more: u64) {
        if let Some(meter) = self.meter {
            let made = self.dirs.made;
            let bytes = self.summary.bytes + made * self.block + more;
            meter.set(bytes, self.summary.inodes + made);
        }
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), UnpackError> {
        let parts = components(&entry.path, entry.number, self.limits)?;
        let Some((name, above)) = parts.split_last() else {
            return self.root_entry(entry);
        };
        match meaning(name) {
            Meaning::Plain => {}
            Meaning::Opaque => return self.opaque(above),
            Meaning::Whiteout(hidden) => return self.whiteout(above, hidden),
            Meaning::Aufs => {
                self.summary.dropped += 1;
                return Ok(());
            }
            Meaning::Bad => return Err(bad(entry, "it is a whiteout of no name")),
        }
        let dir = self.dirs.ensure(above)?;
        match entry.kind {
            Kind::File => self.file(entry, &dir, name, archive),
            Kind::Directory => self.directory(entry, &dir, name),
            Kind::Symlink => self.symlink(entry, &dir, name),
            Kind::HardLink => self.hard_link(entry, &dir, name),
            Kind::CharDevice if entry.device == (0, 0) => {
                // Overlayfs would take it for a whiteout, which only `.wh.` may make.
                self.summary.dropped += 1;
                Ok(())
            }
            Kind::CharDevice => self.node(entry, &dir, name, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(entry, &dir, name, FileType::BlockDevice),
            Kind::Fifo => self.node(entry, &dir, name, FileType::Fifo),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(bad(entry, "the root is no directory"));
        }
        let root = Rc::clone(self.dirs.root());
        self.directory_metadata(entry, &root, true)
    }

    fn opaque(&mut self, components: &[&[u8]]) -> Result<(), UnpackError> {
        let dir = self.dirs.ensure(components)?;
        dir.readable().and_then(xattrs::set_opaque).map_err(|e| failed("mark", &dir.real, e))
    }

    /// Hides `name` of the layers below. What this layer itself has there stays, and
    /// hides what is below too: a directory by being opaque.
    fn whiteout(&mut self, above: &[&[u8]], name: &[u8]) -> Result<(), UnpackError> {
        let dir = self.dirs.ensure(above)?;
        let fail = |errno| failed("hide", &dir.child(name), errno);
        let made =
            rustix::fs::mknodat(dir.as_fd(), name, FileType::CharacterDevice, Mode::empty(), 0);
        match made {
            Ok(()) => {
                self.summary.inodes += 1;
                Ok(())
            }
            Err(Errno::EXIST) => match open_dir(dir.as_fd(), name, OFlags::RDONLY) {
                Ok(existing) => xattrs::set_opaque(existing).map_err(fail),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(fail(errno)),
            },
            Err(errno) => Err(fail(errno)),
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        dir: &Dir,
        name: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<(), UnpackError> {
        let real = dir.child(name);
        let meta = self.meta_of(entry);
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            rustix::fs::openat(dir.as_fd(), name, flags | OFlags::CLOEXEC, mode)
        };
        let file = self.put(dir, name, create).map_err(|e| e.named("create", &entry.path))?.0;
        self.summary.inodes += 1;
        let bytes = entry.size.div_ceil(self.block) * self.block;
        if self.makers.are_there() && entry.sparse.is_none() && entry.size <= SMALL {
            let data = small_data(entry, archive)?;
            archive.went_to(&real, 0, entry.size);
            self.summary.bytes += bytes;
            return self.makers.push(Job { file, meta, data });
        }
        match &entry.sparse {
            None => {
                self.plain_data(entry, &file, archive)?;
                archive.went_to(&real, 0, entry.size);
            }
            Some(map) => {
                for (offset, length) in &map.segments {
                    self.segment(entry, &file, archive, *offset, *length)?;
                    archive.went_to(&real, *offset, *length);
                }
                rustix::fs::ftruncate(&file, map.size)
                    .map_err(|e| failed("write", &entry.path, e))?;
            }
        }
        self.summary.bytes += bytes;
        self.summary.dropped += meta.finish(&file)?;
        Ok(())
    }

    fn meta_of(&self, entry: &Entry) -> FileMeta {
        let born_so = self.born_root && (entry.uid, entry.gid) == (0, 0);
        FileMeta {
            path: entry.path.clone(),
            mode: entry.mode,
            owner: (!born_so).then(|| owner(entry)),
            chmod: entry.mode & (0o7000 | self.umask) != 0,
            times: times(entry.mtime),
            xattrs: entry.xattrs.clone(),
        }
    }

    fn plain_data(
        &self,
        entry: &Entry,
        file: &OwnedFd,
        archive: &mut Archive<'_>,
    ) -> Result<(), UnpackError> {
        let mut written = 0;
        loop {
            let chunk = archive.data()?;
            if chunk.is_empty() {
                return Ok(());
            }
            write_all(file, chunk).map_err(|e| failed("write", &entry.path, e))?;
            written += chunk.len() as u64;
            self.tell(written);
        }
    }

    fn segment(
        &self,
        entry: &Entry,
        file: &OwnedFd,
        archive: &mut Archive<'_>,
        mut offset: u64,
        mut length: u64,
    ) -> Result<(), UnpackError> {
        while length > 0 {
            let mut chunk = archive.data_up_to(length)?;
            length -= chunk.len() as u64;
            while !chunk.is_empty() {
                let written = match rustix::io::pwrite(file, chunk, offset) {
                    Err(Errno::INTR) => 0,
                    result => result.map_err(|e| failed("write", &entry.path, e))?,
                };
                offset += written as u64;
                chunk = &chunk[written..];
            }
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), UnpackError> {
        let make = || {
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            rustix::fs::mkdirat(dir.as_fd(), name, mode)
        };
        let open = || open_dir(dir.as_fd(), name, OFlags::PATH).map(drop);
        let mut existed = false;
        if let Err(errno) = make() {
            let fail = |errno| failed("make", &entry.path, errno);
            match (errno, open()) {
                (Errno::EXIST, Ok(())) => existed = true,
                (Errno::EXIST, Err(_)) => {
                    let room = make_room(dir, name, &mut self.dirs)?;
                    make().map_err(fail)?;
                    if room == Room::Whiteout {
                        open_dir(dir.as_fd(), name, OFlags::RDONLY)
                            .and_then(xattrs::set_opaque)
                            .map_err(fail)?;
                    }
                }
                (errno, _) => return Err(fail(errno)),
            }
        }
        if !existed {
            self.summary.inodes += 1;
            self.summary.bytes += self.block;
            if self.born_root && (entry.uid, entry.gid) == (0, 0) && entry.xattrs.is_empty() {
                return self.finish_later(entry, dir.child(name), false);
            }
        }
        let made = open_dir(dir.as_fd(), name, OFlags::PATH)
            .map_err(|e| failed("open", &entry.path, e))?;
        let made = Dir::new(made, dir.child(name));
        self.directory_metadata(entry, &made, existed)
    }

    /// Gives a directory its owner and attributes now, and the rest at the end.
    fn directory_metadata(
        &mut self,
        entry: &Entry,
        dir: &Dir,
        existed: bool,
    ) -> Result<(), UnpackError> {
        let fail = |errno| failed("set the owner of", &entry.path, errno);
        let open = dir.readable().map_err(fail)?;
        let (uid, gid) = owner(entry);
        rustix::fs::fchown(&open, uid, gid).map_err(fail)?;
        self.summary.dropped += xattrs::set(open.as_fd(), &entry.xattrs)
            .map_err(|e| failed("set an attribute of", &entry.path, e))?;
        self.finish_later(entry, dir.real.clone(), existed)
    }

    fn finish_later(
        &mut self,
        entry: &Entry,
        real: Vec<u8>,
        existed: bool,
    ) -> Result<(), UnpackError> {
        self.finish_bytes += real.len();
        if self.finish_bytes > MAX_DIRECTORY_NAMES {
            let limit = MAX_DIRECTORY_NAMES as u64;
            return Err(UnpackError::Limit { what: "bytes of directory names", limit });
        }
        let mode = (existed || entry.mode & (0o7000 | self.umask) != 0).then_some(entry.mode);
        self.finish.insert(real, Finish { mtime: entry.mtime, mode });
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), UnpackError> {
        if entry.link.is_empty() || entry.link.len() > self.limits.max_path {
            return Err(bad(entry, "its target is empty or too long"));
        }
        let link = || rustix::fs::symlinkat(entry.link.as_slice(), dir.as_fd(), name);
        self.put(dir, name, link).map_err(|e| e.named("link", &entry.path))?;
        if entry.link.len() >= SHORT_LINK {
            self.summary.bytes += self.block;
        }
        self.summary.inodes += 1;
        self.metadata_at(entry, dir, name)
    }

    fn node(
        &mut self,
        entry: &Entry,
        dir: &Dir,
        name: &[u8],
        kind: FileType,
    ) -> Result<(), UnpackError> {
        let (major, minor) = entry.device;
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let node = || rustix::fs::mknodat(dir.as_fd(), name, kind, mode, device);
        self.put(dir, name, node).map_err(|e| e.named("make the node", &entry.path))?;
        self.summary.inodes += 1;
        self.metadata_at(entry, dir, name)?;
        if entry.mode & (0o7000 | self.umask) != 0 {
            // The node was made here just now, so it is no link.
            rustix::fs::chmodat(
                dir.as_fd(),
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )
            .map_err(|e| failed("set the mode of", &entry.path, e))?;
        }
        Ok(())
    }

    /// Gives owner, attributes and times to what cannot be opened.
    fn metadata_at(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), UnpackError> {
        let fail = |action, errno| failed(action, &entry.path, errno);
        if !self.born_root || (entry.uid, entry.gid) != (0, 0) {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(dir.as_fd(), name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| fail("set the owner of", e))?;
        }
        self.summary.dropped +=
            xattrs::set_at(dir, name, &entry.xattrs).map_err(|e| fail("set an attribute of", e))?;
        let times = times(entry.mtime);
        rustix::fs::utimensat(dir.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fail("set the time of", e))
    }

    /// Links to an earlier entry of the same layer. Neither end is followed; the
    /// inode's metadata are those of its own entry.
    fn hard_link(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), UnpackError> {
        let parts = components(&entry.link, entry.number, self.limits)?;
        let Some((target, above)) = parts.split_last() else {
            return Err(bad(entry, "its target is the root"));
        };
        let from = self.dirs.ensure(above)?;
        let stat = |dir: &Dir, name: &[u8]| {
            rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
        };
        let Ok(found) = stat(&from, target) else {
            return Err(bad(entry, "its target is not in the layer"));
        };
        if is_whiteout(&found) || FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(bad(entry, "its target is no file of the layer"));
        }
        if stat(dir, name).is_ok_and(|old| old.st_ino == found.st_ino) {
            return Ok(());
        }
        let link =
            || rustix::fs::linkat(from.as_fd(), *target, dir.as_fd(), name, AtFlags::empty());
        match self.put(dir, name, link) {
            Ok(_) => Ok(()),
            // It was below a directory that this entry replaced.
            Err(Put::Kernel(Errno::NOENT)) => Err(bad(entry, "its target is not in the layer")),
            Err(error) => Err(error.named("link", &entry.path)),
        }
    }

    /// Makes something with `make`; if its name is taken, the earlier entry goes.
    fn put<T>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<(T, Room), Put> {
        match make() {
            Ok(made) => Ok((made, Room::Other)),
            Err(Errno::EXIST) => {
                let room = make_room(dir, name, &mut self.dirs).map_err(Put::Failed)?;
                make().map(|made| (made, room)).map_err(Put::Kernel)
            }
            Err(errno) => Err(Put::Kernel(errno)),
        }
    }

    /// Gives directories their modes and times.
    fn finish(&mut self) -> Result<(), UnpackError> {
        for (real, finish) in std::mem::take(&mut self.finish) {
            let fail = |errno| failed("set the time of", &real, errno);
            let path = if real.is_empty() { b".".as_slice() } else { real.as_slice() };
            let dir = match open_dir(self.root, path, OFlags::RDONLY) {
                Ok(dir) => dir,
                // A later entry took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(fail(errno)),
            };
            if let Some(mode) = finish.mode {
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(fail)?;
            }
            rustix::fs::futimens(&dir, &times(finish.mtime)).map_err(fail)?;
        }
        Ok(())
    }
}

/// A name that was not made.
enum Put {
    Kernel(Errno),
    Failed(UnpackError),
}

impl Put {
    fn named(self, action: &'static str, path: &[u8]) -> UnpackError {
        match self {
            Self::Kernel(errno) => failed(action, path, errno),
            Self::Failed(error) => error,
        }
    }
}

fn bad(entry: &Entry, reason: &'static str) -> UnpackError {
    UnpackError::Entry { entry: entry.number, path: shown(&entry.path), reason }
}

fn small_data(entry: &Entry, archive: &mut Archive<'_>) -> Result<Vec<u8>, UnpackError> {
    let mut data = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0));
    loop {
        let chunk = archive.data()?;
        if chunk.is_empty() {
            return Ok(data);
        }
        data.extend_from_slice(chunk);
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

/// Returns the process's umask, without changing it, which other threads would feel.
/// Where it cannot be read every mode is set anew.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}
