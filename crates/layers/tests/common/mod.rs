//! A builder of tar streams that can say anything, and a canary beside the tree.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use layers::{Limits, Summary, UnpackError};

/// A header to be.
#[derive(Clone)]
pub struct Header {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: u64,
    pub device: (u32, u32),
    pub magic: [u8; 8],
    /// Bytes put over the finished header, before its checksum.
    pub patch: Vec<(usize, Vec<u8>)>,
}

impl Header {
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().into(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_000_000_000,
            device: (0, 0),
            magic: *b"ustar\x0000",
            patch: Vec::new(),
        }
    }

    fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.uid).as_bytes());
        put(116, format!("{:07o}\0", self.gid).as_bytes());
        put(124, format!("{:011o}\0", self.size).as_bytes());
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, &self.magic);
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        for (at, bytes) in &self.patch {
            put(*at, bytes);
        }
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// A stream to be.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// A header with the data as it is, whatever the header says.
    pub fn raw(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.extend_from_slice(&header.block());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn with(self, mut header: Header, data: &[u8]) -> Self {
        header.size = data.len() as u64;
        self.raw(&header, data)
    }

    pub fn file(self, name: impl AsRef<[u8]>, data: &[u8]) -> Self {
        self.with(Header::new(b'0', name), data)
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.with(Header::new(b'5', name), b"")
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let header = Header { link: target.as_ref().into(), ..Header::new(b'2', name) };
        self.with(header, b"")
    }

    pub fn link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let header = Header { link: target.as_ref().into(), ..Header::new(b'1', name) };
        self.with(header, b"")
    }

    pub fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        self.with(Header { device: (major, minor), ..Header::new(kind, name) }, b"")
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.with(Header::new(b'x', "pax"), &data)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// One record of an extended header, its own length included.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length = body + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A directory to unpack into, with something beside it that must stay as it is.
pub struct Place {
    dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("keep"), "keep").unwrap();
        fs::set_permissions(canary.join("keep"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o700)).unwrap();
        let before = look(&canary);
        Self { dir, before }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub fn unpack_with(&self, tar: &[u8], limits: &Limits) -> Result<Summary, UnpackError> {
        let root = fs::File::open(self.root()).unwrap();
        let extras = layers::Extras { makers: 2, ..layers::Extras::default() };
        let result = layers::unpack_with(&mut &tar[..], root.as_fd(), limits, extras);
        self.assert_untouched();
        result
    }

    pub fn assert_untouched(&self) {
        assert_eq!(look(&self.canary()), self.before, "the canary has changed");
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2, "something is beside");
    }

    pub fn unpack(&self, tar: &[u8]) -> Result<Summary, UnpackError> {
        self.unpack_with(tar, &Limits::default())
    }
}

fn look(dir: &Path) -> Vec<String> {
    let show = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        format!(
            "{} {:o} {} {} {} {} {}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.nlink(),
            meta.mtime(),
            meta.ctime_nsec(),
            meta.size()
        )
    };
    let mut seen = vec![show(dir)];
    seen.extend(fs::read_dir(dir).unwrap().map(|entry| show(&entry.unwrap().path())));
    seen
}
