//! Compressed bytes on disk: of layers that were interrupted, of layers that are kept
//! because the configuration says so, and in other programs' content stores.
//!
//! ```text
//! <root>/content/partial/<hex>        what has come of a layer so far
//! <root>/content/blobs/sha256/<hex>   layers as they came, where they are kept
//! ```
//!
//! Nothing here is believed: whoever uses it compares the digest, as if it came from a
//! registry. So nothing is synced either.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use types::Digest;

use crate::options::ImagesOptions;

/// How long an interrupted layer is kept for the next pull. The kubelet comes back within
/// minutes.
const MAX_PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// The compressed bytes on disk.
#[derive(Debug)]
pub(crate) struct Content {
    partials: PathBuf,
    blobs: PathBuf,
    keep: bool,
    resume_min_bytes: u64,
    others: Vec<PathBuf>,
    /// What is being written now, by its file's name.
    writing: Mutex<HashSet<Digest>>,
    /// What all files of ours have, in bytes, as far as is known.
    used: AtomicU64,
}

impl Content {
    /// Opens the directories, and deletes what is too old to go on from.
    pub fn open(options: &ImagesOptions) -> io::Result<Self> {
        let root = options.root.join("content");
        let content = Self {
            partials: root.join("partial"),
            blobs: root.join("blobs/sha256"),
            keep: options.keep_blobs,
            resume_min_bytes: options.resume_min_bytes,
            others: options.content_dirs.clone(),
            writing: Mutex::default(),
            used: AtomicU64::new(0),
        };
        for dir in [&content.partials, &content.blobs] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        content.sweep(SystemTime::now())?;
        Ok(content)
    }

    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        let mut used = 0;
        for entry in fs::read_dir(&self.partials)? {
            let (path, meta) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            let age = meta.modified().ok().and_then(|at| now.duration_since(at).ok());
            let is_ours = meta.is_file() && digest_of_name(&path).is_some();
            if is_ours && age.is_none_or(|age| age < MAX_PARTIAL_AGE) {
                used += meta.blocks() * 512;
            } else if meta.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        for entry in fs::read_dir(&self.blobs)? {
            used += entry?.metadata()?.blocks() * 512;
        }
        self.used.store(used, Relaxed);
        Ok(())
    }

    /// What the files take of the disk, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Returns the files in which a layer may be, ours first.
    pub fn find(&self, digest: Digest, size: u64) -> Vec<(PathBuf, File)> {
        let hex = digest.hex();
        let others = self.others.iter().map(|dir| dir.join("blobs/sha256").join(&hex));
        let places = std::iter::once(self.blobs.join(&hex)).chain(others);
        places.filter_map(|path| open_regular(&path, size).map(|file| (path, file))).collect()
    }

    /// Deletes a kept layer that is not what its name says.
    pub fn discard(&self, path: &Path) {
        if path.starts_with(&self.blobs) {
            self.forget(path);
        }
    }

    /// Returns the kept layers.
    pub fn blobs(&self) -> Vec<(Digest, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.blobs) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter_map(|path| Some((digest_of_name(&path)?, path))).collect()
    }

    /// Returns a small document that one of the files holds.
    pub fn read_document(&self, digest: Digest, size: u64) -> Option<Vec<u8>> {
        self.find(digest, size).into_iter().find_map(|(_, mut file)| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(&mut file, size), &mut bytes).ok()?;
            (crate::layer::digest_of(&bytes) == digest).then_some(bytes)
        })
    }

    /// Takes up what has come of a layer, if it is worth it. `None` where nothing is
    /// kept, or another pull is at it.
    pub fn partial(&self, digest: Digest, size: u64) -> Option<Partial<'_>> {
        if !self.keep && size < self.resume_min_bytes {
            return None;
        }
        if !self.writing.lock().insert(digest) {
            return None;
        }
        let path = self.partials.join(digest.hex());
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut options = File::options();
        let opened = options
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(&path)
            .and_then(|file| {
                let have = file.metadata()?.len();
                // Longer than the layer is none of it.
                if have > size {
                    file.set_len(0)?;
                }
                Ok((file, if have > size { 0 } else { have }))
            });
        match opened {
            Ok((file, have)) => {
                Some(Partial { content: self, digest, path, file: Some(file), have })
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the layer cannot be kept on disk while it comes");
                self.writing.lock().remove(&digest);
                None
            }
        }
    }

    fn forget(&self, path: &Path) {
        let bytes = fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
        match fs::remove_file(path) {
            Ok(()) => {
                let less = |used: u64| Some(used.saturating_sub(bytes));
                let _always = self.used.fetch_update(Relaxed, Relaxed, less);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "a blob was not deleted"),
        }
    }

    /// Deletes the kept layers that are not among `needed`, and what nobody goes on with.
    pub fn collect(&self, needed: &HashSet<Digest>) {
        for dir in [&self.blobs, &self.partials] {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let Some(digest) = digest_of_name(&path) else { continue };
                let is_partial = dir == &self.partials;
                if !is_partial
                    && !needed.contains(&digest)
                    && !self.writing.lock().contains(&digest)
                {
                    self.forget(&path);
                }
            }
        }
    }

    /// Deletes what nobody goes on with now, to make room.
    pub fn drop_partials(&self) {
        let Ok(entries) = fs::read_dir(&self.partials) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let writing = self.writing.lock();
            if digest_of_name(&path).is_none_or(|digest| !writing.contains(&digest)) {
                drop(writing);
                self.forget(&path);
            }
        }
    }
}

fn digest_of_name(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

fn open_regular(path: &Path, size: u64) -> Option<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok()?;
    (meta.is_file() && meta.len() == size).then_some(file)
}

/// What has come of a layer so far. Dropped, it stays for the next pull.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    content: &'a Content,
    digest: Digest,
    path: PathBuf,
    /// None once the disk has refused: then the layer goes on without.
    file: Option<File>,
    have: u64,
}

impl Partial<'_> {
    /// How many bytes were there already.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Opens what was there already.
    pub fn reader(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Adds what came. A disk that refuses costs the resumption, not the pull.
    pub fn append(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        match file.write_all(bytes) {
            Ok(()) => {
                self.content.used.fetch_add(bytes.len() as u64, Relaxed);
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the layer is not kept on disk while it comes");
                self.file = None;
                self.content.forget(&self.path);
            }
        }
    }

    /// The layer is there and was right: it is kept or deleted, as configured.
    pub fn finish(self) {
        if self.content.keep && self.file.is_some() {
            let place = self.content.blobs.join(self.digest.hex());
            if let Err(error) = fs::rename(&self.path, &place) {
                tracing::warn!(path = %place.display(), %error, "a blob was not kept");
                self.content.forget(&self.path);
            }
        } else {
            self.content.forget(&self.path);
        }
    }

    /// It was wrong, or there is no room for it.
    pub fn discard(self) {
        self.content.forget(&self.path);
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        self.content.writing.lock().remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(root: &Path, change: impl FnOnce(&mut ImagesOptions)) -> Content {
        let mut options = ImagesOptions::new(root.to_owned());
        options.resume_min_bytes = 1;
        change(&mut options);
        Content::open(&options).unwrap()
    }

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    #[test]
    fn an_interrupted_layer_is_taken_up_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = content(dir.path(), |_| ());
        let mut partial = first.partial(digest(1), 10).unwrap();
        assert!(first.partial(digest(1), 10).is_none(), "one at a time");
        partial.append(b"12345");
        drop(partial);
        assert_eq!(first.used_bytes(), 5);
        let again = content(dir.path(), |_| ());
        assert!(again.used_bytes() > 0);
        let partial = again.partial(digest(1), 10).unwrap();
        assert_eq!(partial.have(), 5);
        assert_eq!(io::read_to_string(partial.reader().unwrap()).unwrap(), "12345");
        partial.finish();
        let partial = again.partial(digest(1), 10).unwrap();
        assert_eq!((partial.have(), again.used_bytes()), (0, 0));
        drop(partial);
        let mut partial = again.partial(digest(1), 10).unwrap();
        partial.append(b"more than ten bytes");
        drop(partial);
        assert_eq!(again.partial(digest(1), 10).unwrap().have(), 0);
        assert!(content(dir.path(), |o| o.resume_min_bytes = 11).partial(digest(2), 10).is_none());
    }

    #[test]
    fn old_and_foreign_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let first = content(dir.path(), |_| ());
        drop(first.partial(digest(1), 10));
        fs::write(first.partials.join("odd"), "x").unwrap();
        fs::create_dir(first.partials.join("dir")).unwrap();
        first.sweep(SystemTime::now()).unwrap();
        assert_eq!(fs::read_dir(&first.partials).unwrap().count(), 1);
        first.sweep(SystemTime::now() + 2 * MAX_PARTIAL_AGE).unwrap();
        assert_eq!(fs::read_dir(&first.partials).unwrap().count(), 0);
    }

    #[test]
    fn kept_layers_are_found_and_collected() {
        let dir = tempfile::tempdir().unwrap();
        let kept = content(dir.path(), |options| options.keep_blobs = true);
        for n in 1..=2 {
            let mut partial = kept.partial(digest(n), 4).unwrap();
            partial.append(b"blob");
            partial.finish();
        }
        assert_eq!((kept.find(digest(1), 4).len(), kept.find(digest(1), 5).len()), (1, 0));
        kept.collect(&HashSet::from([digest(1)]));
        assert_eq!((kept.find(digest(1), 4).len(), kept.find(digest(2), 4).len()), (1, 0));
        // Another program's store is read and never touched.
        let mine = tempfile::tempdir().unwrap();
        let other = dir.path().join("content");
        let mine = content(mine.path(), |options| options.content_dirs = vec![other]);
        let (path, _) = mine.find(digest(1), 4).remove(0);
        mine.discard(&path);
        mine.collect(&HashSet::new());
        assert!(path.exists());
    }
}
