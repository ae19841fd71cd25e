//! Files of an archive that is to be loaded: in a directory, or in a tar file whose
//! parts are read in any order.
//!
//! What must never happen: a name of the archive leads out of it, or memory grows with
//! what its headers claim.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use tar::{EntryType, Header, PaxExtensions};

use crate::{Images, PullError, error::chain, spool::Spool};

/// The most entries of an archive: an image of 500 layers in docker's old form has some
/// 2,000.
const MAX_ENTRIES: usize = 100_000;
/// The most bytes of an extended header; each holds a name or two.
const MAX_EXTENDED_HEADER: u64 = 64 << 10;
/// The most links that lead from one name in an archive to a file.
const MAX_LINKS: usize = 8;
/// A tar file is made of blocks.
const BLOCK: usize = 512;

/// Where an archive's files are.
pub(crate) enum Archive {
    Directory(PathBuf),
    /// The archive, and where in it each file's bytes lie.
    Tar {
        file: File,
        entries: HashMap<String, Entry>,
    },
}

/// What a name in a tar file stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File { offset: u64, size: u64 },
    Link(String),
}

pub(crate) fn bad(what: impl Into<String>, reason: impl Into<String>) -> PullError {
    PullError::InvalidImage { what: what.into(), reason: reason.into() }
}

pub(crate) fn failed(what: &str) -> impl Fn(io::Error) -> PullError + '_ {
    move |error| PullError::InvalidImage { what: what.to_owned(), reason: chain(&error) }
}

impl Archive {
    /// Opens a directory or a tar file, compressed or not.
    pub fn open(images: &Images, path: &Path) -> Result<Self, PullError> {
        let what = path.display().to_string();
        let kind = fs::metadata(path).map_err(failed(&what))?.file_type();
        if kind.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if !kind.is_file() {
            return Err(bad(what, "it is neither a directory nor a regular file"));
        }
        let mut file = plain(images, File::open(path).map_err(failed(&what))?)?;
        let entries = index(&mut file)?;
        Ok(Self::Tar { file, entries })
    }

    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(name).is_file(),
            Self::Tar { entries, .. } => locate(entries, name).is_some(),
        }
    }

    /// Opens a file of the archive.
    pub fn file(&mut self, name: &str) -> Result<Box<dyn Read + Send + '_>, PullError> {
        let inside = plain_name(Path::new(name));
        let inside = inside.ok_or_else(|| bad(name, "the name leads out of the archive"))?;
        match self {
            Self::Directory(dir) => {
                let path = dir.join(&inside);
                let meta = fs::symlink_metadata(&path).map_err(failed(name))?;
                if !meta.is_file() {
                    return Err(bad(name, "it is no regular file"));
                }
                Ok(Box::new(File::open(&path).map_err(failed(name))?))
            }
            Self::Tar { file, entries } => {
                let place = locate(entries, &inside);
                let (offset, size) =
                    place.ok_or_else(|| bad(name, "the archive does not have it"))?;
                file.seek(SeekFrom::Start(offset)).map_err(failed(name))?;
                Ok(Box::new(file.take(size)))
            }
        }
    }

    /// Reads a file of at most `limit` bytes.
    pub fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, PullError> {
        let mut bytes = Vec::new();
        let mut file = self.file(name)?.take(limit.saturating_add(1));
        file.read_to_end(&mut bytes).map_err(failed(name))?;
        if bytes.len() as u64 > limit {
            let what = name.to_owned();
            return Err(PullError::LimitExceeded { what, limit: format!("{limit} bytes") });
        }
        Ok(bytes)
    }
}

/// A compressed archive is spooled in the clear.
fn plain(images: &Images, mut file: File) -> Result<File, PullError> {
    let failed = failed("the archive");
    let mut head = Vec::new();
    file.by_ref().take(6).read_to_end(&mut head).map_err(&failed)?;
    file.seek(SeekFrom::Start(0)).map_err(&failed)?;
    let mut reader: Box<dyn Read> = match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::stream::read::Decoder::new(file).map_err(&failed)?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] | [b'B', b'Z', b'h', ..] => {
            return Err(bad("the archive", "it is compressed by other means than gzip and zstd"));
        }
        _ => return Ok(file),
    };
    let on_disk = |e: io::Error| PullError::store("spool the archive", &e);
    let spool = Spool::new(&images.options.root).map_err(on_disk)?;
    let mut plain = File::options();
    let mut plain =
        plain.read(true).write(true).create_new(true).open(spool.path()).map_err(on_disk)?;
    copy(&mut reader, &mut plain, images.limits.max_layer_bytes)?;
    // The file lives on as long as it is open; its name goes with the spool.
    Ok(plain)
}

fn copy(from: &mut dyn Read, to: &mut File, limit: u64) -> Result<(), PullError> {
    let mut buffer = vec![0; 64 << 10];
    let mut copied = 0;
    loop {
        let n = from.read(&mut buffer).map_err(failed("the archive"))?;
        if n == 0 {
            return Ok(());
        }
        copied += n as u64;
        if copied > limit {
            let what = "the archive unpacked".to_owned();
            return Err(PullError::LimitExceeded { what, limit: format!("{limit} bytes") });
        }
        io::Write::write_all(to, &buffer[..n])
            .map_err(|e| PullError::store("spool the archive", &e))?;
    }
}

/// What extended headers say of the entry after them.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Finds where in a tar file each file lies. Of two with one name the last counts, as
/// it would if they were unpacked.
fn index(file: &mut File) -> Result<HashMap<String, Entry>, PullError> {
    let failed = failed("the archive");
    let length = file.metadata().map_err(&failed)?.len();
    let mut entries = HashMap::new();
    let mut extended = Extended::default();
    let mut at = 0;
    let mut count = 0;
    while let Some(header) = header(file, at)? {
        count += 1;
        if count > MAX_ENTRIES {
            let what = "the number of files of the archive".to_owned();
            return Err(PullError::LimitExceeded { what, limit: MAX_ENTRIES.to_string() });
        }
        let offset = at + BLOCK as u64;
        let size = match extended.size {
            Some(size) if !is_extension(header.entry_type()) => size,
            _ => header.entry_size().map_err(&failed)?,
        };
        let end = offset.checked_add(size).filter(|end| *end <= length);
        let end = end.ok_or_else(|| bad("the archive", "it ends early"))?;
        if is_extension(header.entry_type()) {
            extended.read(file, &header, offset, size)?;
        } else {
            let of_entry = std::mem::take(&mut extended);
            if let Some((name, entry)) = entry(&header, of_entry, offset, size) {
                entries.insert(name, entry);
            }
        }
        at = end.next_multiple_of(BLOCK as u64);
    }
    Ok(entries)
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

/// Reads the header at a place; `None` at the archive's end.
fn header(file: &mut File, at: u64) -> Result<Option<Header>, PullError> {
    let failed = failed("the archive");
    file.seek(SeekFrom::Start(at)).map_err(&failed)?;
    let mut block = Vec::with_capacity(BLOCK);
    file.by_ref().take(BLOCK as u64).read_to_end(&mut block).map_err(&failed)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if block.len() < BLOCK {
        return Err(bad("the archive", "it ends early"));
    }
    let header = Header::from_byte_slice(&block).clone();
    // The sum is taken with its own field as spaces.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let expected = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
    if header.cksum().ok() != Some(expected) {
        return Err(bad("the archive", "it is no tar file"));
    }
    Ok(Some(header))
}

impl Extended {
    fn read(
        &mut self,
        file: &mut File,
        header: &Header,
        offset: u64,
        size: u64,
    ) -> Result<(), PullError> {
        if size > MAX_EXTENDED_HEADER {
            let what = "an extended header of the archive".to_owned();
            let limit = format!("{MAX_EXTENDED_HEADER} bytes");
            return Err(PullError::LimitExceeded { what, limit });
        }
        let failed = failed("the archive");
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset)).map_err(&failed)?;
        file.by_ref().take(size).read_to_end(&mut bytes).map_err(&failed)?;
        let kind = header.entry_type();
        let text = |bytes: Vec<u8>| bytes.split(|b| *b == 0).next().map(<[u8]>::to_vec);
        if kind.is_gnu_longname() {
            self.name = text(bytes);
        } else if kind.is_gnu_longlink() {
            self.link = text(bytes);
        } else if kind.is_pax_local_extensions() {
            for extension in PaxExtensions::new(&bytes) {
                let extension = extension.map_err(&failed)?;
                let value = extension.value_bytes();
                match extension.key_bytes() {
                    b"path" => self.name = Some(value.to_vec()),
                    b"linkpath" => self.link = Some(value.to_vec()),
                    b"size" => {
                        let size = extension.value().ok().and_then(|v| v.parse().ok());
                        let size = size.ok_or_else(|| bad("the archive", "a size is no number"))?;
                        self.size = Some(size);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Names that lead out of the archive, or are no text, are passed over: nothing in an
/// image's archive has one.
fn entry(header: &Header, extended: Extended, offset: u64, size: u64) -> Option<(String, Entry)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let name = text(extended.name.unwrap_or_else(|| header.path_bytes().into_owned()))?;
    let name = plain_name(Path::new(&name))?;
    let kind = header.entry_type();
    if kind.is_file() {
        return Some((name, Entry::File { offset, size }));
    }
    let base = match (kind.is_symlink(), kind.is_hard_link()) {
        (true, _) => Path::new(&name).parent().unwrap_or(Path::new("")),
        (_, true) => Path::new(""),
        _ => return None,
    };
    let link = extended.link.or_else(|| header.link_name_bytes().map(Into::into))?;
    let target = plain_name(&base.join(text(link)?))?;
    Some((name, Entry::Link(target)))
}

/// A name without `.` and `..`; one that leads out of the archive is none.
fn plain_name(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn locate(entries: &HashMap<String, Entry>, name: &str) -> Option<(u64, u64)> {
    let mut name = name;
    for _ in 0..MAX_LINKS {
        match entries.get(name)? {
            Entry::File { offset, size } => return Some((*offset, *size)),
            Entry::Link(target) => name = target,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn names_stay_in_the_archive() {
        for (text, expected) in [
            ("a/b", Some("a/b")),
            ("./a/../b", Some("b")),
            ("../a", None),
            ("a/../../b", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(plain_name(Path::new(text)).as_deref(), expected, "{text}");
        }
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn files_and_links_are_found() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/layer.tar", "x".repeat(150));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("a/layer.tar", b"one");
        add(&long, b"two!");
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "b/layer.tar", "../a/layer.tar").unwrap();
        builder.append_link(&mut link, "c/layer.tar", "../../../etc/passwd").unwrap();
        builder.append_link(&mut link, "d", "d").unwrap();
        let bytes = builder.into_inner().unwrap();
        let entries = index(&mut file(&bytes)).unwrap();
        let size = |name: &str| locate(&entries, name).map(|(_, size)| size);
        assert_eq!(size("a/layer.tar"), Some(3));
        assert_eq!(size("b/layer.tar"), Some(3));
        assert_eq!(size(&long), Some(4));
        assert_eq!(size("c/layer.tar"), None);
        assert_eq!(size("d"), None);
        for cut in [514, 1100, bytes.len() - 1500] {
            assert!(index(&mut file(&bytes[..cut])).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_is_no_tar_file_is_refused_and_claims_are_not_believed() {
        assert!(index(&mut file(&[b'x'; 2048])).is_err());
        assert!(index(&mut file(b"")).unwrap().is_empty());
        for (kind, size) in
            [(EntryType::GNULongName, 1_u64 << 40), (EntryType::XHeader, MAX_EXTENDED_HEADER + 1)]
        {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.resize(100 << 10, 0);
            assert!(index(&mut file(&bytes)).is_err(), "{kind:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_answered(bytes in proptest::collection::vec(0_u8.., 0..2000)) {
            let _ = index(&mut file(&bytes));
        }
    }
}
