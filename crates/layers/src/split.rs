//! What a layer's stream has beside its files' data: with the tree it makes the stream
//! again, byte by byte, so that the layer can be verified by its diff ID and given to
//! others, though the stream itself was not kept.
//!
//! ```text
//! "corten-split 1\n"  ( 1 length:u32 bytes | 2 offset:u64 length:u64 path:u16 bytes )*  0
//! ```
//!
//! A file of ours, but it lies on a disk: it is read as strictly as foreign bytes.

use std::io::{self, Read, Write};

use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

const MAGIC: &[u8] = b"corten-split 1\n";
const END: u8 = 0;
const BYTES: u8 = 1;
const DATA: u8 = 2;

/// The most bytes of one piece.
const MAX_PIECE: usize = 1 << 20;
/// The most bytes of a path (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// The most bytes that are recorded of what no file has: a layer that hides gigabytes
/// behind its whiteouts is not kept twice.
const MAX_BESIDE: u64 = 256 << 20;

/// Writes a split as the stream is read.
pub(crate) struct Recorder<'a> {
    out: Box<dyn Write + 'a>,
    piece: Vec<u8>,
    beside: u64,
    /// The first thing that went wrong: then there is no split, and still a layer.
    broken: bool,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(mut out: Box<dyn Write + 'a>) -> Self {
        let broken = out.write_all(MAGIC).is_err();
        Self { out, piece: Vec::new(), beside: 0, broken }
    }

    /// Records bytes that are no file's.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.beside += bytes.len() as u64;
        if self.broken || self.beside > MAX_BESIDE {
            self.broken = true;
            return;
        }
        for part in bytes.chunks(MAX_PIECE / 2) {
            if self.piece.len() + part.len() > MAX_PIECE {
                self.flush();
            }
            self.piece.extend_from_slice(part);
        }
    }

    /// Records that a file's data comes next.
    pub(crate) fn data(&mut self, path: &[u8], offset: u64, length: u64) {
        if length == 0 || self.broken {
            return;
        }
        self.flush();
        let Ok(path_length) = u16::try_from(path.len()) else {
            self.broken = true;
            return;
        };
        let mut record = vec![DATA];
        record.extend(offset.to_le_bytes());
        record.extend(length.to_le_bytes());
        record.extend(path_length.to_le_bytes());
        record.extend(path);
        self.broken |= self.out.write_all(&record).is_err();
    }

    fn flush(&mut self) {
        let Ok(length) = u32::try_from(self.piece.len()) else { return };
        if length > 0 {
            let mut head = [BYTES, 0, 0, 0, 0];
            head[1..].copy_from_slice(&length.to_le_bytes());
            self.broken |= self.out.write_all(&head).is_err();
            self.broken |= self.out.write_all(&self.piece).is_err();
        }
        self.piece.clear();
    }

    /// Ends the split. Returns whether it is whole.
    pub(crate) fn finish(mut self) -> bool {
        self.flush();
        self.broken |= self.out.write_all(&[END]).is_err();
        !self.broken
    }
}

/// Writes the stream that was unpacked into `root` to `out`.
///
/// # Errors
/// Fails where the split is damaged, or the tree is not the one that it was made with,
/// as far as that can be seen: the stream's digest tells the rest.
pub fn rebuild(root: BorrowedFd<'_>, split: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    split.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(bad("it is no split, or one of another version"));
    }
    let mut buffer = vec![0; MAX_PIECE];
    loop {
        match array::<1>(split)? {
            [END] => return Ok(()),
            [BYTES] => {
                let length = u32::from_le_bytes(array(split)?);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let piece = buffer.get_mut(..length).ok_or_else(|| bad("a piece is too long"))?;
                split.read_exact(piece)?;
                out.write_all(piece)?;
            }
            [DATA] => {
                let offset = u64::from_le_bytes(array(split)?);
                let length = u64::from_le_bytes(array(split)?);
                let path_length = usize::from(u16::from_le_bytes(array(split)?));
                if path_length == 0 || path_length > MAX_PATH {
                    return Err(bad("a path has a bad length"));
                }
                let mut path = vec![0; path_length];
                split.read_exact(&mut path)?;
                copy(root, &path, offset, length, out, &mut buffer)?;
            }
            [_] => return Err(bad("it has a record of no known kind")),
        }
    }
}

fn array<const N: usize>(from: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn copy(
    root: BorrowedFd<'_>,
    path: &[u8],
    mut offset: u64,
    mut length: u64,
    out: &mut dyn Write,
    buffer: &mut [u8],
) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("\"{}\": {error}", crate::names::shown(path)))
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
        .map_err(|errno| named(errno.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| named(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(named(bad("it is no regular file")));
    }
    while length > 0 {
        let want = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        match rustix::io::pread(file.as_fd(), &mut buffer[..want], offset) {
            Ok(0) => return Err(named(bad("it is too short"))),
            Ok(count) => {
                out.write_all(&buffer[..count])?;
                offset = offset.saturating_add(count as u64);
                length -= count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(named(errno.into())),
        }
    }
    Ok(())
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
