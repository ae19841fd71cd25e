//! The kernel's table of mounts, as far as we read it. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) id: u64,
    /// Which directory of the file system is mounted.
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) is_shared: bool,
    pub(crate) is_slave: bool,
    pub(crate) fs_type: String,
    /// The file system's options.
    pub(crate) options: String,
}

/// Reads `/proc/<pid>/mountinfo`; a line of another form is left out.
pub(crate) fn parse(text: &str) -> Vec<TableEntry> {
    text.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<TableEntry> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let root = unescape(left.nth(2)?);
    let target = unescape(left.next()?);
    let tags: Vec<&str> = left.skip(1).collect();
    let has = |tag: &str| tags.iter().any(|t| t.starts_with(tag));
    let mut right = right.split(' ');
    let fs_type = right.next()?.to_owned();
    let options = right.nth(1)?.to_owned();
    let (is_shared, is_slave) = (has("shared:"), has("master:"));
    Some(TableEntry { id, root, target, is_shared, is_slave, fs_type, options })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "36 35 98:0 /mnt\\0401 /a\\134b rw,noatime shared:1 master:2 - ext3 /dev/r rw,x\n\
                    37 36 0:5 / /proc rw - proc proc rw\nnonsense\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        let first = entries.first().expect("first");
        assert_eq!((first.id, first.is_shared, first.is_slave), (36, true, true));
        assert_eq!(first.root, PathBuf::from("/mnt 1"));
        assert_eq!(first.target, PathBuf::from("/a\\b"));
        assert_eq!((first.fs_type.as_str(), first.options.as_str()), ("ext3", "rw,x"));
        let second = entries.last().expect("second");
        assert!(!second.is_shared && !second.is_slave);
    }
}
