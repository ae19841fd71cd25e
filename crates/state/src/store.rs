//! A directory of records of one kind.
//!
//! A record's file begins with a version that was written aside and renamed. Later versions are
//! appended to it, as long as that is little: the file system begins to write a file out when it
//! is renamed over another, and a version that was synced once stays readable beneath those that
//! were not. The last whole version counts.
//!
//! ```text
//! corten sandbox 1 sha256:…   the kind, the format's version, the checksum of the next line
//! {"id":…}                    the record
//! corten sandbox 1 sha256:…   a later version, and so on
//! {"id":…}
//! ```

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// The most bytes that a record may have. The largest is a container's, whose
/// labels, environment and mounts the client sends in a message of 16 MiB.
const MAX_RECORD_BYTES: u64 = 32 << 20;

/// The longest name: two ids and a sign between them.
const MAX_NAME_BYTES: usize = 129;

/// Up to which size versions are appended to a file; then it is written anew.
const MAX_APPENDED_BYTES: u64 = 64 << 10;

/// The suffix of a record that is being written.
const TEMPORARY: &str = ".new";

/// What a record must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of any process: the page cache holds it.
    Process,
    /// A power cut: synced before the write is answered.
    PowerCut,
}

/// A step on a record that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory could not be made or read.
    #[error("failed to open the record directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The record could not be written; the old one, if any, still stands.
    #[error("failed to write the record {path}")]
    Write {
        /// The record.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The record could not be removed.
    #[error("failed to remove the record {path}")]
    Remove {
        /// The record.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The value has no JSON form: a defect of ours.
    #[error("failed to encode the record {path}")]
    Encode {
        /// The record.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The name is not one that this crate makes files of.
    #[error("\"{name}\" is not a name for a record")]
    Name {
        /// The name.
        name: String,
    },
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// It could not be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is not a regular file, or it is larger than any record of ours.
    #[error("is not a regular file of at most {MAX_RECORD_BYTES} bytes")]
    Shape,
    /// Its first line is not ours, or names another kind or a version from the future.
    #[error("has the header \"{found}\", expected \"{expected}\"")]
    Header {
        /// What stands there, cut.
        found: String,
        /// What should.
        expected: String,
    },
    /// Its bytes are not those that were written.
    #[error("does not match its checksum")]
    Checksum,
    /// Its bytes are those that were written, but do not describe a record.
    #[error("does not hold a record")]
    Decode(#[source] serde_json::Error),
}

/// A record as it was found on disk.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The record's name.
    pub name: String,
    /// The record, or why it cannot be used.
    pub value: Result<T, Damaged>,
    /// When it was last written, in nanoseconds since 1970; 0 where that is unknown.
    pub modified_ns: i64,
}

/// A directory of records of one kind and format version.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    header: String,
}

impl Store {
    /// Opens the directory, making it (mode 0700) where it is missing, and
    /// deletes what a crash left half-written.
    ///
    /// # Errors
    /// Fails where the directory cannot be made or read.
    pub fn open(dir: &Path, kind: &str, version: u32) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.to_string_lossy().ends_with(TEMPORARY) {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(Self { dir: dir.to_owned(), header: format!("corten {kind} {version} sha256:") })
    }

    /// Writes a record, replacing the one of that name.
    ///
    /// # Errors
    /// Fails where the disk does; the old record then still stands.
    pub fn put<T: Serialize>(
        &self,
        name: &str,
        value: &T,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let body = serde_json::to_vec(value)
            .map_err(|source| StoreError::Encode { path: path.clone(), source })?;
        let mut bytes = format!("{}{}\n", self.header, hex(&Sha256::digest(&body))).into_bytes();
        bytes.extend_from_slice(&body);
        if durability == Durability::Process {
            match append(&path, &bytes) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(source) => return Err(StoreError::Write { path, source }),
            }
        }
        let aside = self.dir.join(format!("{name}{TEMPORARY}"));
        self.replace(&aside, &path, &bytes, durability).map_err(|source| {
            let _ = fs::remove_file(&aside);
            StoreError::Write { path, source }
        })
    }

    fn replace(
        &self,
        aside: &Path,
        path: &Path,
        bytes: &[u8],
        durability: Durability,
    ) -> io::Result<()> {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(aside)?;
        file.write_all(bytes)?;
        if durability == Durability::PowerCut {
            file.sync_data()?;
        }
        match fs::rename(aside, path) {
            // Somebody has put a directory there.
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                fs::remove_dir_all(path)?;
                fs::rename(aside, path)?;
            }
            other => other?,
        }
        if durability == Durability::PowerCut {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }

    /// Makes a record that was written for [`Durability::Process`] outlive a power cut.
    ///
    /// # Errors
    /// Fails where the disk does, or where there is no record.
    pub fn sync(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let sync = || {
            File::open(&path)?.sync_data()?;
            File::open(&self.dir)?.sync_all()
        };
        sync().map_err(|source| StoreError::Write { path: path.clone(), source })
    }

    /// Removes a record; one that is not there is no error.
    ///
    /// # Errors
    /// Fails where the disk does.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(&path),
            other => other,
        }
        .or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        .map_err(|source| StoreError::Remove { path, source })
    }

    /// Reads one record; `None` where there is none.
    ///
    /// # Errors
    /// Says why it cannot be used.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Damaged> {
        let Ok(path) = self.path(name) else { return Ok(None) };
        match self.load(&path) {
            Err(Damaged::Read(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Returns the names of all records, without reading them.
    ///
    /// # Errors
    /// Fails where the directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::Open { path: self.dir.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string().ok().filter(|name| is_name(name)));
        }
        names.sort();
        Ok(names)
    }

    /// Reads all records; those that cannot be used are among them, with the reason.
    ///
    /// # Errors
    /// Fails where the directory cannot be read.
    pub fn load_all<T: DeserializeOwned>(&self) -> Result<Vec<Loaded<T>>, StoreError> {
        let failed = |source| StoreError::Open { path: self.dir.clone(), source };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.ends_with(TEMPORARY) || !is_name(&name) {
                continue;
            }
            let modified_ns = modified_ns(&entry.path());
            all.push(Loaded { value: self.load(&entry.path()), name, modified_ns });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<T, Damaged> {
        let bytes = read_bounded(path)?;
        let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
        let body = |at: usize| without_zeros(lines.get(at + 1).copied().unwrap_or_default());
        for (at, line) in lines.iter().enumerate().rev() {
            if self.check(line, body(at)).is_ok() {
                return serde_json::from_slice(body(at)).map_err(Damaged::Decode);
            }
        }
        // Of what is wrong with all, the first counts.
        let first = lines.first().copied().unwrap_or_default();
        Err(self.check(first, body(0)).err().unwrap_or(Damaged::Checksum))
    }

    /// Looks whether two lines are a header of ours and what it describes.
    fn check(&self, header: &[u8], body: &[u8]) -> Result<(), Damaged> {
        let header = String::from_utf8_lossy(header);
        let wrong = || Damaged::Header {
            found: header.chars().take(80).collect(),
            expected: self.header.clone(),
        };
        let sum = header.strip_prefix(&self.header).ok_or_else(wrong)?;
        if sum == hex(&Sha256::digest(body)) { Ok(()) } else { Err(Damaged::Checksum) }
    }

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        if is_name(name) {
            Ok(self.dir.join(name))
        } else {
            Err(StoreError::Name { name: name.to_owned() })
        }
    }
}

/// Appends a version to a record; false where there is none, or it is to be written anew.
fn append(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let opened = File::options().append(true).custom_flags(flags.cast_signed()).open(path);
    // What cannot be appended to, such as a link, makes way for a file.
    let Ok(mut file) = opened else { return Ok(false) };
    let meta = file.metadata()?;
    let length = meta.len();
    if !meta.is_file() || length + bytes.len() as u64 > MAX_APPENDED_BYTES {
        return Ok(false);
    }
    // One write, which no reader sees a part of.
    let appended = file.write_all(&[b"\n", bytes].concat());
    if appended.is_err() {
        // On a full disk; what remains where this fails too is no whole version.
        let _ = file.set_len(length);
    }
    appended.map(|()| true)
}

/// A line without what a power cut left of the version that was appended to it.
fn without_zeros(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &line[..end]
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Damaged> {
    let flags = i32::try_from((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits())
        .map_err(|_| Damaged::Shape)?;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(Damaged::Read)?;
    let meta = file.metadata().map_err(Damaged::Read)?;
    if !meta.is_file() || meta.len() > MAX_RECORD_BYTES {
        return Err(Damaged::Shape);
    }
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).map_err(Damaged::Read)?;
    Ok(bytes)
}

fn modified_ns(path: &Path) -> i64 {
    fs::symlink_metadata(path)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> Store {
        Store::open(dir, "thing", 1).unwrap()
    }

    #[test]
    fn records_round_trip_and_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let s = store(dir.path());
        s.put("a", &vec![1, 2], Durability::Process).unwrap();
        s.put("a", &vec![3], Durability::PowerCut).unwrap();
        s.sync("a").unwrap();
        assert!(matches!(s.sync("b"), Err(StoreError::Write { .. })));
        let all = s.load_all::<Vec<u8>>().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].value.as_ref().unwrap(), &vec![3]);
        assert!(all[0].modified_ns > 0);
        assert_eq!(s.get::<Vec<u8>>("a").unwrap(), Some(vec![3]));
        assert_eq!(s.names().unwrap(), ["a"]);
        s.remove("a").unwrap();
        s.remove("a").unwrap();
        assert_eq!(s.get::<Vec<u8>>("a").unwrap(), None);
        assert!(s.load_all::<Vec<u8>>().unwrap().is_empty());
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "../x", "a/b", "a.new", &"a".repeat(200)] {
            assert!(matches!(
                store(dir.path()).put(name, &1, Durability::Process),
                Err(StoreError::Name { .. })
            ));
        }
    }

    /// Whatever happens to a file, opening works, the record is reported under
    /// its name, and it can be removed.
    #[test]
    fn every_damage_is_reported_and_removable() {
        let dir = tempfile::tempdir().unwrap();
        let s = store(dir.path());
        s.put("whole", &"text", Durability::Process).unwrap();
        let whole = fs::read(dir.path().join("whole")).unwrap();
        for cut in 0..whole.len() {
            fs::write(dir.path().join("cut"), &whole[..cut]).unwrap();
            let all = s.load_all::<String>().unwrap();
            assert!(all[0].value.is_err(), "cut to {cut} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x20;
            fs::write(dir.path().join("cut"), &flipped).unwrap();
            assert!(s.load_all::<String>().unwrap()[0].value.is_err(), "byte {at} flipped");
        }
        s.remove("cut").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        // Each is replaced by a record as if it were one.
        for name in ["dir", "link"] {
            s.put(name, &"again", Durability::Process).unwrap();
            assert_eq!(s.get::<String>(name).unwrap().as_deref(), Some("again"));
            s.remove(name).unwrap();
        }
        fs::create_dir(dir.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("link")).unwrap();
        let damaged: Vec<_> = s
            .load_all::<String>()
            .unwrap()
            .into_iter()
            .filter(|r| r.value.is_err())
            .map(|r| r.name)
            .collect();
        assert_eq!(damaged, ["dir", "fifo", "link"]);
        for name in damaged {
            s.remove(&name).unwrap();
        }
        assert_eq!(s.load_all::<String>().unwrap().len(), 1);
    }

    /// No file is renamed over another while a record is changed, and what is cut off or spoilt
    /// of a later version leaves the one before.
    #[test]
    fn changes_are_appended_and_the_last_whole_one_counts() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let (s, path) = (store(dir.path()), dir.path().join("a"));
        s.put("a", &"one\ntwo", Durability::PowerCut).unwrap();
        let first = fs::metadata(&path).unwrap();
        let read = || s.get::<String>("a").ok().flatten();
        s.put("a", &"three", Durability::Process).unwrap();
        s.put("a", &"four", Durability::Process).unwrap();
        assert_eq!(read().as_deref(), Some("four"));
        assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino());
        let whole = fs::read(&path).unwrap();
        let first_length = usize::try_from(first.len()).unwrap();
        for cut in first_length..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(["one\ntwo", "three"].contains(&read().unwrap().as_str()), "cut to {cut}");
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            fs::write(&path, &zeroed).unwrap();
            assert!(["one\ntwo", "three"].contains(&read().unwrap().as_str()), "zero from {cut}");
            s.put("a", &"five", Durability::Process).unwrap();
            assert_eq!(read().as_deref(), Some("five"));
        }
        // A version that must outlive a power cut is written anew, and so is what has grown.
        s.put("a", &"six", Durability::PowerCut).unwrap();
        assert_eq!(read().as_deref(), Some("six"));
        assert!(fs::metadata(&path).unwrap().len() < first.len() + 10);
        for _ in 0..100 {
            s.put("a", &"x".repeat(1000), Durability::Process).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= MAX_APPENDED_BYTES);
        }
        assert_eq!(read(), Some("x".repeat(1000)));
    }

    #[test]
    fn a_record_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), "other", 1).unwrap().put("a", &1, Durability::Process).unwrap();
        let all = store(dir.path()).load_all::<u8>().unwrap();
        assert!(matches!(all[0].value, Err(Damaged::Header { .. })));
    }

    #[test]
    fn half_written_files_are_deleted_at_open() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.new"), "x").unwrap();
        store(dir.path());
        assert!(!dir.path().join("a.new").exists());
    }
}
