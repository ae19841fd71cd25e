//! Reading a bolt database: pages of a tree, in a file of which two pages say which tree
//! is the newest. Pure, apart from reading the file.
//!
//! ```text
//! page: id:u64 flags:u16 count:u16 overflow:u32, then its elements
//! branch element: pos:u32 ksize:u32 pgid:u64
//! leaf element:   flags:u32 pos:u32 ksize:u32 vsize:u32
//! meta: magic:u32 version:u32 pageSize:u32 flags:u32 root:u64 sequence:u64
//!       freelist:u64 pages:u64 txid:u64 checksum:u64
//! ```

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The most bytes of a database: containerd's have a few megabytes.
const MAX_BYTES: u64 = 1 << 30;
/// The most entries of one bucket.
const MAX_ENTRIES: usize = 1 << 16;
/// How deep a tree is at most.
const MAX_DEPTH: usize = 32;
/// The most pages that a bucket is gathered from: of pages without entries a damaged tree may
/// have any number of ways to each.
const MAX_PAGES: usize = 1 << 16;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const META: usize = 64;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const BUCKET: u32 = 0x01;

/// A database.
pub struct Database {
    bytes: Vec<u8>,
    page_size: usize,
    root: u64,
}

/// A bucket: a tree of entries.
pub struct Bucket<'a> {
    database: &'a Database,
    tree: Tree<'a>,
}

enum Tree<'a> {
    Page(u64),
    /// A small one lies in its own entry.
    Inline(&'a [u8]),
}

/// What was gathered of a bucket so far.
#[derive(Default)]
struct Gathered<'a> {
    entries: Vec<(Vec<u8>, Value<'a>)>,
    /// How many pages were looked at, each time that one was counted.
    pages: usize,
}

/// What an entry has.
pub enum Value<'a> {
    Bytes(Vec<u8>),
    Bucket(Bucket<'a>),
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the database is damaged: {reason}"))
}

fn part(bytes: &[u8], at: usize, length: usize) -> io::Result<&[u8]> {
    let end = at.checked_add(length);
    end.and_then(|end| bytes.get(at..end)).ok_or_else(|| bad("it ends early"))
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    Ok(u16::from_le_bytes(part(bytes, at, 2)?.try_into().map_err(|_| bad("a number"))?))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    Ok(u32::from_le_bytes(part(bytes, at, 4)?.try_into().map_err(|_| bad("a number"))?))
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    Ok(u64::from_le_bytes(part(bytes, at, 8)?.try_into().map_err(|_| bad("a number"))?))
}

fn index(number: u32) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| bad("an offset"))
}

impl Database {
    /// Reads a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 GiB"));
        }
        Self::of(bytes)
    }

    /// The newer of the two metas that are whole says where the tree is.
    fn of(bytes: Vec<u8>) -> io::Result<Self> {
        let first = meta(&bytes, 0).ok();
        let size = first.map_or(4096, |meta| meta.page_size);
        let second = meta(&bytes, size).ok();
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.txid);
        let newest = newest.ok_or_else(|| bad("it is no bolt database"))?;
        Ok(Self { page_size: newest.page_size, root: newest.root, bytes })
    }

    /// Finds a bucket by the names that lead to it.
    pub fn bucket(&self, path: &[&str]) -> io::Result<Option<Bucket<'_>>> {
        let mut at = Bucket { database: self, tree: Tree::Page(self.root) };
        for name in path {
            let mut entries = at.entries()?.into_iter();
            match entries.find(|(key, _)| key == name.as_bytes()) {
                Some((_, Value::Bucket(bucket))) => at = bucket,
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn page(&self, id: u64) -> io::Result<&[u8]> {
        let id = usize::try_from(id).map_err(|_| bad("a page's number"))?;
        let at = id.checked_mul(self.page_size).ok_or_else(|| bad("a page's number"))?;
        let overflow = index(u32_at(self.bytes.get(at..).unwrap_or_default(), 12)?)?;
        let length = overflow.checked_add(1).and_then(|count| count.checked_mul(self.page_size));
        part(&self.bytes, at, length.ok_or_else(|| bad("a page's length"))?)
    }
}

#[derive(Clone, Copy)]
struct Meta {
    page_size: usize,
    root: u64,
    txid: u64,
}

fn meta(bytes: &[u8], page: usize) -> io::Result<Meta> {
    let meta = part(bytes, page.saturating_add(PAGE_HEADER), META)?;
    if u32_at(meta, 0)? != MAGIC || u32_at(meta, 4)? != VERSION {
        return Err(bad("it is no bolt database"));
    }
    if u64_at(meta, 56)? != fnv(&meta[..56]) {
        return Err(bad("a checksum is wrong"));
    }
    let page_size = index(u32_at(meta, 8)?)?;
    if !(1024..=1 << 16).contains(&page_size) {
        return Err(bad("the size of its pages"));
    }
    Ok(Meta { page_size, root: u64_at(meta, 16)?, txid: u64_at(meta, 48)? })
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

impl<'a> Bucket<'a> {
    /// All entries, in the order of their keys.
    pub fn entries(&self) -> io::Result<Vec<(Vec<u8>, Value<'a>)>> {
        let mut all = Gathered::default();
        match self.tree {
            Tree::Page(id) => self.gather(self.database.page(id)?, 0, &mut all)?,
            Tree::Inline(page) => self.gather(page, 0, &mut all)?,
        }
        Ok(all.entries)
    }

    fn gather(&self, page: &'a [u8], depth: usize, all: &mut Gathered<'a>) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(bad("its tree is too deep"));
        }
        all.pages += 1;
        if all.pages > MAX_PAGES {
            return Err(bad("it has too many pages"));
        }
        let (kind, count) = (u16_at(page, 8)?, usize::from(u16_at(page, 10)?));
        for n in 0..count {
            if all.entries.len() >= MAX_ENTRIES {
                return Err(bad("it has too many entries"));
            }
            let at = PAGE_HEADER + 16 * n;
            match kind {
                BRANCH => {
                    let child = self.database.page(u64_at(page, at + 8)?)?;
                    self.gather(child, depth + 1, all)?;
                }
                LEAF => all.entries.push(self.leaf(page, at)?),
                _ => return Err(bad("a page of another kind")),
            }
        }
        Ok(())
    }

    fn leaf(&self, page: &'a [u8], at: usize) -> io::Result<(Vec<u8>, Value<'a>)> {
        let field = |n: usize| u32_at(page, at + 4 * n);
        let start = at.saturating_add(index(field(1)?)?);
        let (key_size, value_size) = (index(field(2)?)?, index(field(3)?)?);
        let key = part(page, start, key_size)?.to_vec();
        let value = part(page, start.saturating_add(key_size), value_size)?;
        if field(0)? & BUCKET == 0 {
            return Ok((key, Value::Bytes(value.to_vec())));
        }
        let tree = match u64_at(value, 0)? {
            // Root and sequence first, then its one page.
            0 => Tree::Inline(value.get(16..).unwrap_or_default()),
            id => Tree::Page(id),
        };
        Ok((key, Value::Bucket(Bucket { database: self.database, tree })))
    }
}

#[cfg(test)]
mod fuzz_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of one leaf page with one entry and an inline bucket.
    pub(super) fn small() -> Vec<u8> {
        let mut bytes = vec![0; 4096 * 3];
        for (page, txid) in [(0_usize, 1_u64), (1, 2)] {
            let mut meta = Vec::new();
            for number in [MAGIC, VERSION, 4096, 0] {
                meta.extend(number.to_le_bytes());
            }
            for number in [2_u64, 0, 0, 3, txid] {
                meta.extend(number.to_le_bytes());
            }
            let sum = fnv(&meta);
            meta.extend(sum.to_le_bytes());
            bytes[page * 4096 + PAGE_HEADER..][..META].copy_from_slice(&meta);
        }
        let leaf = |flags: u32, pos: u32, key: u32, value: u32| {
            [flags, pos, key, value].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>()
        };
        let mut inline = vec![0; 16];
        inline.extend([0; 8]);
        inline.extend([2, 0, 1, 0, 0, 0, 0, 0]);
        inline.extend(leaf(0, 16, 1, 1));
        inline.extend(b"kv");
        let mut page = vec![0; 8];
        page.extend([2, 0, 2, 0, 0, 0, 0, 0]);
        page.extend(leaf(0, 32, 1, 2));
        page.extend(leaf(BUCKET, 16 + 3, 1, u32::try_from(inline.len()).expect("small")));
        page.extend(b"a12b");
        page.extend(&inline);
        bytes[8192..8192 + page.len()].copy_from_slice(&page);
        bytes
    }

    #[test]
    fn entries_and_buckets_are_read() {
        let database = Database::of(small()).expect("a database");
        let root = database.bucket(&[]).expect("read").expect("there");
        let entries = root.entries().expect("entries");
        assert!(matches!(&entries[0], (k, Value::Bytes(v)) if k == b"a" && v == b"12"));
        let inner = database.bucket(&["b"]).expect("read").expect("there");
        let entries = inner.entries().expect("entries");
        assert!(matches!(&entries[0], (k, Value::Bytes(v)) if k == b"k" && v == b"v"));
        assert!(database.bucket(&["a"]).expect("read").is_none());
    }

    /// Pages that lead to the next one twice, thirty of them, have a billion ways to an empty one.
    #[test]
    fn a_tree_of_empty_pages_ends_soon() {
        let mut bytes = small();
        for page in 2..32_u64 {
            let mut branch = page.to_le_bytes().to_vec();
            branch.extend([1, 0, 2, 0, 0, 0, 0, 0]);
            for _ in 0..2 {
                branch.extend([0; 8]);
                branch.extend((page + 1).to_le_bytes());
            }
            bytes.resize(usize::try_from(page).expect("small") * 4096, 0);
            branch.resize(4096, 0);
            bytes.extend(branch);
        }
        let mut leaf = vec![0; 8];
        leaf.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        leaf.resize(4096, 0);
        bytes.extend(leaf);
        let database = Database::of(bytes).expect("a database");
        let root = database.bucket(&[]).expect("read").expect("there");
        let error = root.entries().err().expect("refused").to_string();
        assert!(error.contains("too many pages"), "{error}");
    }

    /// Whatever is damaged, it is an error or another answer, soon, and no panic.
    #[test]
    fn damage_is_answered() {
        let whole = small();
        for at in (0..200).chain(4096..4200).chain(8192..8300) {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                if let Ok(database) = Database::of(damaged) {
                    let _ = database.bucket(&["b"]).map(|found| found.map(|b| b.entries()));
                }
            }
        }
        for cut in (0..whole.len()).step_by(97) {
            if let Ok(database) = Database::of(whole[..cut].to_vec()) {
                let _ = database.bucket(&["b"]).map(|found| found.map(|b| b.entries()));
            }
        }
    }
}
