//! Files with holes.

use super::{
    header::{BLOCK, Header, number},
    pax::{PaxSparse, decimal},
};

/// Where the data of a file with holes goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// Offset and length of each piece, in order, none empty.
    pub(crate) segments: Vec<(u64, u64)>,
    /// The file's size, holes included.
    pub(crate) size: u64,
}

impl SparseMap {
    /// Checks the map: in order, without overlap, within the file, and as long as
    /// the data that the archive has.
    pub(super) fn new(
        pairs: impl IntoIterator<Item = (u64, u64)>,
        size: u64,
        data: u64,
    ) -> Result<Self, &'static str> {
        const BAD: &str = "its sparse map is bad";
        let mut segments = Vec::new();
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in pairs {
            if offset < end {
                return Err(BAD);
            }
            end = offset.checked_add(length).ok_or(BAD)?;
            sum += length;
            if end > size || sum > data {
                return Err(BAD);
            }
            if length > 0 {
                segments.push((offset, length));
            }
        }
        if sum != data {
            return Err(BAD);
        }
        Ok(Self { segments, size })
    }

    /// Reads the map that pax records hold (forms 0.0 and 0.1).
    pub(super) fn of_records(sparse: &PaxSparse, data: u64) -> Result<Self, &'static str> {
        if !sparse.map.len().is_multiple_of(2) {
            return Err("its sparse map is bad");
        }
        let size = sparse.real_size.ok_or("its sparse records lack the file's size")?;
        Self::new(sparse.map.chunks_exact(2).map(|pair| (pair[0], pair[1])), size, data)
    }
}

/// Which sparse form pax records announce.
pub(super) enum PaxForm {
    /// The map is in the records.
    InRecords,
    /// The map is before the data.
    InData,
}

impl PaxSparse {
    pub(super) fn form(&self) -> Result<PaxForm, &'static str> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) if self.map.is_empty() => Ok(PaxForm::InData),
            (None, None) | (Some(0), Some(0 | 1)) if !self.map.is_empty() => Ok(PaxForm::InRecords),
            _ => Err("its sparse records are not understood"),
        }
    }
}

/// Gathers the map of form 1.0: decimal numbers, a line each, at the data's
/// beginning, in whole blocks.
#[derive(Default)]
pub(super) struct MapReader {
    digits: Vec<u8>,
    count: Option<u64>,
    numbers: Vec<u64>,
}

impl MapReader {
    /// Takes a block. Returns the pairs once they are complete.
    pub(super) fn block(
        &mut self,
        block: &[u8; BLOCK],
        max_segments: usize,
    ) -> Result<Option<Vec<(u64, u64)>>, &'static str> {
        for byte in block {
            if self.complete() {
                break;
            }
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return Err("its sparse map is bad");
                }
                continue;
            }
            let value = decimal(&self.digits).map_err(|_| "its sparse map is bad")?;
            self.digits.clear();
            match self.count {
                None if value > max_segments as u64 => return Err("its sparse map is too long"),
                None => self.count = Some(value * 2),
                Some(_) => self.numbers.push(value),
            }
        }
        let pairs = || self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(self.complete().then(pairs))
    }

    fn complete(&self) -> bool {
        self.count == Some(self.numbers.len() as u64)
    }
}

/// Reads the pairs of GNU's old form: four in the header, more in blocks that follow.
pub(super) struct OldMap {
    pub(super) pairs: Vec<(u64, u64)>,
    /// Whether another block follows.
    pub(super) more: bool,
    /// The file's size.
    pub(super) size: u64,
}

impl OldMap {
    pub(super) fn of_header(header: &Header) -> Result<Self, &'static str> {
        let size = number(header.bytes(483..495))?;
        let size = u64::try_from(size).map_err(|_| "its size is negative")?;
        let mut map = Self { pairs: Vec::new(), more: header.bytes(482..483) != [0], size };
        map.take(header.bytes(386..482), usize::MAX)?;
        Ok(map)
    }

    pub(super) fn block(
        &mut self,
        block: &[u8; BLOCK],
        max_segments: usize,
    ) -> Result<(), &'static str> {
        self.more = block[504] != 0;
        self.take(&block[..504], max_segments)
    }

    fn take(&mut self, bytes: &[u8], max_segments: usize) -> Result<(), &'static str> {
        for pair in bytes.chunks_exact(24) {
            if pair[0] == 0 && pair[12] == 0 {
                break;
            }
            let part =
                |field: &[u8]| u64::try_from(number(field)?).map_err(|_| "its sparse map is bad");
            if self.pairs.len() >= max_segments {
                return Err("its sparse map is too long");
            }
            self.pairs.push((part(&pair[..12])?, part(&pair[12..])?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        assert!(SparseMap::new([(0, 2), (8, 2), (12, 0)], 12, 4).is_ok());
        for (pairs, size, data) in [
            (vec![(0, 2), (1, 2)], 12, 4),
            (vec![(8, 2), (0, 2)], 12, 4),
            (vec![(8, 8)], 12, 8),
            (vec![(u64::MAX, 2)], u64::MAX, 2),
            (vec![(0, 2)], 12, 4),
            (vec![(0, u64::MAX), (u64::MAX, u64::MAX)], u64::MAX, 4),
        ] {
            assert!(SparseMap::new(pairs.clone(), size, data).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn the_map_before_the_data_may_span_blocks() {
        let mut text = b"100\n".to_vec();
        for at in 0..100 {
            text.extend(format!("{}\n1\n", at * 2).bytes());
        }
        text.resize(text.len().div_ceil(BLOCK) * BLOCK, 0);
        let mut reader = MapReader::default();
        let mut pairs = None;
        for block in text.chunks_exact(BLOCK) {
            assert!(pairs.is_none());
            pairs = reader.block(block.try_into().unwrap(), 100).unwrap();
        }
        assert_eq!(pairs.map(|p| p.len()), Some(100));
        let first: &[u8; BLOCK] = text[..BLOCK].try_into().unwrap();
        assert!(MapReader::default().block(first, 99).is_err());
        assert!(MapReader::default().block(&[b'1'; BLOCK], 99).is_err());
    }
}
