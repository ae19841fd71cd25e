//! Reading and writing of the small files that cgroups are made of.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::CgroupError;

/// The most cgroups that are looked at below one: a container can make as many as it likes.
const MAX_DESCENDANTS: usize = 100_000;

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { action, path, source }
}

/// Writes a value, with one call, into a file that exists.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// Sets a limit.
pub(crate) fn set(path: &Path, value: &str) -> Result<(), CgroupError> {
    write(path, value).map_err(|source| CgroupError::Limit {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Reads a file; one that is not there, or whose cgroup has gone, is `None`.
pub(crate) fn read(path: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Reads a number; `max` and what is no number are `None`.
pub(crate) fn read_number(path: &Path) -> Result<Option<u64>, CgroupError> {
    Ok(read(path)?.and_then(|text| text.trim().parse().ok()))
}

/// Reads the number behind `key` in a file of lines `key value`.
pub(crate) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Makes a directory with its parents; returns whether it was made now.
pub(crate) fn make(dir: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed("create", dir)(e)),
    }
}

/// A directory and all below it, the deepest first.
pub(crate) fn subtree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while next < all.len() && all.len() < MAX_DESCENDANTS {
        if !is_leaf(&all[next])
            && let Ok(entries) = fs::read_dir(&all[next])
        {
            let below = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            all.extend(below.map(|e| e.path()));
        }
        next += 1;
    }
    all.reverse();
    all
}

/// The links of a directory that has none below it, where its file system counts them, as
/// cgroups' do: its name and its own `.`.
const LEAF_LINKS: u64 = 2;

/// Tells, with one call, that no directory is below.
fn is_leaf(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.nlink() == LEAF_LINKS)
}

/// Asks again and again, with growing pauses, until `done` or `limit` is over.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() >= limit {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("a/b/c")).unwrap();
        fs::create_dir(path("d")).unwrap();
        fs::write(path("d/file"), "").unwrap();
        let found = subtree(root.path());
        let place = |name: &str| found.iter().position(|dir| *dir == path(name)).unwrap();
        assert_eq!(found.len(), 5);
        assert!(place("a/b/c") < place("a/b") && place("a/b") < place("a"));
        assert_eq!(found.last().unwrap(), root.path());
        assert_eq!(subtree(&path("gone")), [path("gone")]);
    }
}
