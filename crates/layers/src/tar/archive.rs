//! Entries, with everything that announces them.

use std::io::{Read, Write};

use super::{
    header::{BLOCK, Format, Header},
    pax::{Pax, PaxLimits, check_global},
    sparse::{MapReader, OldMap, PaxForm, SparseMap},
    stream::Stream,
};
use crate::{Limits, UnpackError, split::Recorder};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// When an entry was modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mtime {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

/// An entry, without its data.
#[derive(Debug)]
pub(crate) struct Entry {
    /// From 1, headers of all sorts counted.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// The data's length in the archive, without the map of a sparse file.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<SparseMap>,
}

/// A tar stream.
pub(crate) struct Archive<'a> {
    stream: Stream<'a>,
    limits: &'a Limits,
    number: u64,
    /// Bytes of the current entry's data that were not read.
    data: u64,
    /// What follows them up to the next block.
    padding: u64,
    /// How much sparse files have claimed.
    claimed: u64,
}

/// What the headers before an entry's own say.
#[derive(Default)]
struct Announced {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<'a> Archive<'a> {
    pub(crate) fn new(
        reader: &'a mut dyn Read,
        limits: &'a Limits,
        split: Option<Box<dyn Write + 'a>>,
    ) -> Self {
        let stream = Stream::new(reader, limits.max_bytes, split.map(Recorder::new));
        Self { stream, limits, number: 0, data: 0, padding: 0, claimed: 0 }
    }

    /// Returns how many headers were read.
    pub(crate) fn entries(&self) -> u64 {
        self.number
    }

    /// Goes on to the next entry. At the end reads whatever follows.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut announced = Announced::default();
        loop {
            let Some(header) = self.next_header()? else {
                if announced.pax.is_some() || announced.name.is_some() || announced.link.is_some() {
                    return Err(UnpackError::Truncated { what: "an entry's headers" });
                }
                self.stream.drain()?;
                return Ok(None);
            };
            match header.type_flag() {
                b'x' => {
                    let data = self.special(&header, self.limits.max_extended_header)?;
                    let limits = PaxLimits {
                        max_xattrs: self.limits.max_xattrs,
                        max_xattr_value: self.limits.max_xattr_value,
                        max_segments: self.limits.max_sparse_segments,
                    };
                    let pax = self.ok(Pax::parse(&data, &limits))?;
                    self.once(&mut announced.pax, pax)?;
                }
                b'g' => {
                    let data = self.special(&header, self.limits.max_extended_header)?;
                    self.ok(check_global(&data))?;
                }
                b'L' => {
                    let name = self.long_name(&header)?;
                    self.once(&mut announced.name, name)?;
                }
                b'K' => {
                    let link = self.long_name(&header)?;
                    self.once(&mut announced.link, link)?;
                }
                // A GNU volume's label.
                b'V' => {
                    self.special(&header, self.limits.max_extended_header)?;
                }
                _ => return self.entry(&header, announced).map(Some),
            }
        }
    }

    /// Returns the next piece of the entry's data; none is left where it is empty.
    pub(crate) fn data(&mut self) -> Result<&[u8], UnpackError> {
        self.data_up_to(u64::MAX)
    }

    /// The same, with at most `max` bytes.
    pub(crate) fn data_up_to(&mut self, max: u64) -> Result<&[u8], UnpackError> {
        let wanted = self.data.min(max);
        if wanted == 0 {
            return Ok(&[]);
        }
        let chunk = self.stream.data(wanted)?;
        if chunk.is_empty() {
            return Err(UnpackError::Truncated { what: "a file's data" });
        }
        self.data -= chunk.len() as u64;
        Ok(chunk)
    }

    /// Says where the data is that was read since the last header.
    pub(crate) fn went_to(&mut self, path: &[u8], offset: u64, length: u64) {
        if let Some(recorder) = &mut self.stream.recorder {
            recorder.data(path, offset, length);
        }
    }

    /// Ends what takes down the stream. Returns whether it is whole.
    pub(crate) fn finish_split(&mut self) -> bool {
        self.stream.recorder.take().is_some_and(Recorder::finish)
    }

    fn next_header(&mut self) -> Result<Option<Header>, UnpackError> {
        self.stream.skip(self.data, "a file's data")?;
        self.stream.skip(self.padding, "a file's padding")?;
        (self.data, self.padding) = (0, 0);
        let mut block = [0; BLOCK];
        // As in GNU tar and Go's reader, the two blocks of zeros may be missing.
        if !self.stream.read_exact(&mut block, "a header")? {
            return Ok(None);
        }
        if block == [0; BLOCK] {
            let second = self.stream.read_exact(&mut block, "the end mark")?;
            return if second && block != [0; BLOCK] {
                Err(self.malformed("one block of zeros between entries"))
            } else {
                Ok(None)
            };
        }
        self.number += 1;
        if self.number > self.limits.max_entries {
            return Err(UnpackError::Limit { what: "entries", limit: self.limits.max_entries });
        }
        self.ok(Header::parse(block)).map(Some)
    }

    /// Announces `size` bytes of data, with what fills up their last block.
    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads the data of a header that is no entry.
    fn special(&mut self, header: &Header, max: usize) -> Result<Vec<u8>, UnpackError> {
        let size = self.ok(header.size())?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > max {
            return Err(UnpackError::Limit {
                what: "bytes of an entry's headers",
                limit: max as u64,
            });
        }
        self.expect_data(size);
        let mut data = vec![0; length];
        if length > 0 && !self.stream.read_exact(&mut data, "an extended header")? {
            return Err(UnpackError::Truncated { what: "an extended header" });
        }
        self.data = 0;
        Ok(data)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, UnpackError> {
        // Its NUL, and a slash at the end, come on top of the path.
        let mut name = self.special(header, self.limits.max_path + 2)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.is_empty() || name.contains(&0) {
            return Err(self.malformed("its long name is bad"));
        }
        Ok(name)
    }

    fn entry(&mut self, header: &Header, announced: Announced) -> Result<Entry, UnpackError> {
        let mut pax = announced.pax.unwrap_or_default();
        let mut path = self.agreed(pax.path.take(), announced.name)?;
        let link = self.agreed(pax.link.take(), announced.link)?;
        if let Some(name) = pax.sparse.as_mut().and_then(|sparse| sparse.name.take()) {
            // The entry's own name is a made-up one then (`dir/GNUSparseFile.1/name`).
            path = Some(name);
        }
        let path = path.unwrap_or_else(|| header.name());
        let kind = self.kind(header, &path)?;
        let size = match pax.size {
            Some(size) => size,
            None => self.ok(header.size())?,
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Mtime { seconds: self.ok(header.mtime())?, nanoseconds: 0 },
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => self.ok(header.device())?,
            _ => (0, 0),
        };
        // Only files have data, whatever the size says: so do GNU tar and Go.
        self.expect_data(if kind == Kind::File { size } else { 0 });
        let sparse = self.sparse(header, kind, &pax)?;
        Ok(Entry {
            number: self.number,
            kind,
            path,
            link: link.unwrap_or_else(|| header.link()),
            size: self.data,
            mode: self.ok(header.mode())?,
            uid: self.id(pax.uid, header.uid())?,
            gid: self.id(pax.gid, header.gid())?,
            mtime,
            device,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<Kind, UnpackError> {
        let slash = path.ends_with(b"/");
        let size = self.ok(header.size())?;
        match header.type_flag() {
            // Before there was a type for directories, a slash told.
            0 if slash && size == 0 => Ok(Kind::Directory),
            0 | b'0' | b'7' | b'S' if slash => Err(self.malformed("a file's name ends in a slash")),
            b'S' if header.format != Format::Gnu => {
                Err(self.malformed("a sparse file needs a GNU header"))
            }
            0 | b'0' | b'7' | b'S' => Ok(Kind::File),
            b'1' => Ok(Kind::HardLink),
            b'2' => Ok(Kind::Symlink),
            b'3' => Ok(Kind::CharDevice),
            b'4' => Ok(Kind::BlockDevice),
            b'5' => Ok(Kind::Directory),
            b'6' => Ok(Kind::Fifo),
            _ => Err(self.malformed("its type is not known")),
        }
    }

    /// Reads the map of a file with holes, wherever it is.
    fn sparse(
        &mut self,
        header: &Header,
        kind: Kind,
        pax: &Pax,
    ) -> Result<Option<SparseMap>, UnpackError> {
        let map = match (header.type_flag(), &pax.sparse) {
            (b'S', None) => self.old_map(header)?,
            (b'S', Some(_)) => return Err(self.malformed("it is sparse in two ways")),
            (_, None) => return Ok(None),
            (_, Some(_)) if kind != Kind::File => {
                return Err(self.malformed("it is sparse and no file"));
            }
            (_, Some(sparse)) => match self.ok(sparse.form())? {
                PaxForm::InRecords => self.ok(SparseMap::of_records(sparse, self.data))?,
                PaxForm::InData => {
                    let size = sparse.real_size.ok_or("its sparse records lack the file's size");
                    self.map_in_data(self.ok(size)?)?
                }
            },
        };
        self.claimed = self.claimed.saturating_add(map.size);
        if self.claimed > self.limits.max_bytes {
            return Err(UnpackError::Limit { what: "bytes", limit: self.limits.max_bytes });
        }
        Ok(Some(map))
    }

    fn old_map(&mut self, header: &Header) -> Result<SparseMap, UnpackError> {
        let mut map = self.ok(OldMap::of_header(header))?;
        while map.more {
            let mut block = [0; BLOCK];
            if !self.stream.read_exact(&mut block, "a sparse map")? {
                return Err(UnpackError::Truncated { what: "a sparse map" });
            }
            self.ok(map.block(&block, self.limits.max_sparse_segments))?;
        }
        self.ok(SparseMap::new(map.pairs, map.size, self.data))
    }

    fn map_in_data(&mut self, size: u64) -> Result<SparseMap, UnpackError> {
        let mut reader = MapReader::default();
        loop {
            let mut block = [0; BLOCK];
            let rest = self.data.checked_sub(BLOCK as u64).ok_or("its sparse map is cut off");
            self.data = self.ok(rest)?;
            if !self.stream.read_exact(&mut block, "a sparse map")? {
                return Err(UnpackError::Truncated { what: "a sparse map" });
            }
            if let Some(pairs) = self.ok(reader.block(&block, self.limits.max_sparse_segments))? {
                return self.ok(SparseMap::new(pairs, size, self.data));
            }
        }
    }

    fn id(&self, pax: Option<u32>, header: Result<u32, &'static str>) -> Result<u32, UnpackError> {
        match pax.map_or(header, Ok) {
            // To the kernel that number means "leave as is".
            Ok(u32::MAX) => Err(self.malformed("its owner is no user or group id")),
            id => self.ok(id),
        }
    }

    /// Takes what one of the two says, or both alike.
    fn agreed(
        &self,
        pax: Option<Vec<u8>>,
        gnu: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, UnpackError> {
        match (pax, gnu) {
            (Some(pax), Some(gnu)) if pax != gnu => {
                Err(self.malformed("its extended header and its long name differ"))
            }
            (pax, gnu) => Ok(pax.or(gnu)),
        }
    }

    fn once<T>(&self, slot: &mut Option<T>, value: T) -> Result<(), UnpackError> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.malformed("two extended headers of one sort")),
        }
    }

    fn ok<T>(&self, result: Result<T, &'static str>) -> Result<T, UnpackError> {
        result.map_err(|reason| self.malformed(reason))
    }

    fn malformed(&self, reason: &'static str) -> UnpackError {
        UnpackError::Malformed { entry: self.number.max(1), reason }
    }
}
