//! Noticing that directories of configurations may have changed, without looking again and
//! again.
//!
//! A directory may be missing, come, go and be replaced by another one, and so may what it
//! lies in: all directories on the way to it are watched for that, from the root down, so
//! that what comes after a look at its parent is told by the parent. After whatever has
//! happened all watches are made anew before anybody looks. What inotify cannot tell (a
//! mount, a change far behind a link) is seen by whoever asks for the status.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use crate::ready::watched;

/// How long the rest of a change is waited for: an installer writes several files.
const BURST: Duration = Duration::from_millis(50);
/// Room for events: each is below 300 bytes.
const BUFFER: usize = 8 * 1024;

/// What is watched, and for what.
#[derive(Debug)]
pub(crate) struct Notice {
    paths: Vec<PathBuf>,
    inotify: AsyncFd<OwnedFd>,
    directories: Directories,
}

/// By the kernel's number of a watch.
type Directories = BTreeMap<i32, Meant>;

/// Which events of a directory are meant.
#[derive(Debug, Default)]
struct Meant {
    /// All: it holds configurations.
    all: bool,
    /// Those of the next directories on the way.
    names: BTreeSet<OsString>,
}

impl Notice {
    /// Watches directories, inside a runtime.
    pub(crate) fn open(paths: Vec<PathBuf>) -> io::Result<Self> {
        let (inotify, directories) = watch(&paths)?;
        Ok(Self { paths, inotify: watched(inotify)?, directories })
    }

    /// Waits until what the directories hold may have changed. Changes after that are told
    /// by the next call.
    ///
    /// # Cancellation
    ///
    /// A change that has been told may be lost.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        while !self.hear().await? {}
        tokio::time::sleep(BURST).await;
        let (inotify, directories) = watch(&self.paths)?;
        (self.inotify, self.directories) = (watched(inotify)?, directories);
        Ok(())
    }

    /// Waits for events and reports whether one of them is meant.
    async fn hear(&self) -> io::Result<bool> {
        let mut ready = self.inotify.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = inotify::Reader::new(self.inotify.get_ref().as_fd(), &mut buffer);
        let mut meant = false;
        loop {
            match events.next() {
                Ok(event) => meant |= self.is_meant(&event),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(meant)
    }

    fn is_meant(&self, event: &inotify::Event<'_>) -> bool {
        // Events without a name are of the directory itself; so is what was missed.
        let Some(name) = event.file_name() else { return true };
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        self.directories
            .get(&event.wd())
            .is_none_or(|meant| meant.all || meant.names.contains(name))
    }
}

fn watch(paths: &[PathBuf]) -> io::Result<(OwnedFd, Directories)> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let mut directories = Directories::new();
    for path in paths {
        watch_way(&inotify, path, &mut directories)?;
        // Plugins of a network may lie in one of its name.
        for dir in super::directory::directories(path).unwrap_or_default() {
            watch_way(&inotify, &dir, &mut directories)?;
        }
    }
    Ok((inotify, directories))
}

/// Watches a directory and all that it lies in, as far as it is there.
fn watch_way(inotify: &OwnedFd, path: &Path, directories: &mut Directories) -> io::Result<()> {
    let way: Vec<&Path> = path.ancestors().collect();
    for (position, dir) in way.iter().enumerate().rev() {
        let mut flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::MASK_ADD;
        if position == 0 {
            flags |= WatchFlags::CLOSE_WRITE;
        }
        match inotify::add_watch(inotify, *dir, flags) {
            Ok(number) => {
                let meant = directories.entry(number).or_default();
                meant.all |= position == 0;
                let next = position.checked_sub(1).and_then(|next| way[next].file_name());
                meant.names.extend(next.map(OsString::from));
            }
            // What is further down is not there either.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Something that happens to directories.
    type Step<'a> = Box<dyn Fn() -> io::Result<()> + 'a>;

    /// How long something is waited for that must come.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn whatever_happens_to_the_directory_is_noticed() {
        let lab = tempfile::tempdir().unwrap();
        let at = |name: &str| lab.path().join(name);
        let mut notice = Notice::open(vec![at("cni/net.d")]).unwrap();
        let steps: [(&str, Step<'_>); 16] = [
            ("the way comes", Box::new(|| fs::create_dir(at("cni")))),
            ("it comes", Box::new(|| fs::create_dir(at("cni/net.d")))),
            ("a file comes", Box::new(|| fs::write(at("cni/net.d/1.conflist"), "one"))),
            ("it is written again", Box::new(|| fs::write(at("cni/net.d/1.conflist"), "two"))),
            (
                "another is moved in",
                Box::new(|| {
                    fs::write(at("aside"), "three")?;
                    fs::rename(at("aside"), at("cni/net.d/0.conflist"))
                }),
            ),
            ("a file goes", Box::new(|| fs::remove_file(at("cni/net.d/0.conflist")))),
            ("one in it comes", Box::new(|| fs::create_dir(at("cni/net.d/name")))),
            ("a plugin comes", Box::new(|| fs::write(at("cni/net.d/name/1.conf"), "six"))),
            ("it is written", Box::new(|| fs::write(at("cni/net.d/name/1.conf"), "seven"))),
            ("it goes with all", Box::new(|| fs::remove_dir_all(at("cni/net.d")))),
            (
                "it and a file come at once",
                Box::new(|| {
                    fs::create_dir(at("cni/net.d"))?;
                    fs::write(at("cni/net.d/1.conflist"), "four")
                }),
            ),
            ("the way is moved off", Box::new(|| fs::rename(at("cni"), at("old")))),
            (
                "another is moved in its place",
                Box::new(|| {
                    fs::create_dir_all(at("new/net.d"))?;
                    fs::rename(at("new"), at("cni"))
                }),
            ),
            (
                "a link takes its place",
                Box::new(|| {
                    fs::remove_dir(at("cni/net.d"))?;
                    std::os::unix::fs::symlink(at("old/net.d"), at("cni/net.d"))
                }),
            ),
            (
                "a file comes behind the link",
                Box::new(|| fs::write(at("old/net.d/2.conf"), "five")),
            ),
            (
                "a file is a link",
                Box::new(|| std::os::unix::fs::symlink("2.conf", at("cni/net.d/3.conf"))),
            ),
        ];
        for (what, step) in steps {
            step().unwrap();
            let noticed = tokio::time::timeout(PATIENCE, notice.changed()).await;
            noticed.unwrap_or_else(|_| panic!("not noticed: {what}")).unwrap();
            let more = tokio::time::timeout(2 * BURST, notice.changed()).await;
            assert!(more.is_err(), "noticed twice: {what}");
        }
        // What lies beside the way is nobody's business.
        fs::write(at("beside"), "").unwrap();
        fs::create_dir(at("cni/other.d")).unwrap();
        tokio::time::timeout(4 * BURST, notice.changed()).await.unwrap_err();
    }
}
