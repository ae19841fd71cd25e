//! Threads that make files make the same tree as one; and from the tree and its split
//! comes the stream again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use common::{Header, Place, Tar};
use layers::{Extras, Limits, Meter, TreeSum, rebuild, tree_sum, unpack_with};
use proptest::prelude::*;

struct Unpacked {
    sum: TreeSum,
    failed: bool,
    split: Option<Vec<u8>>,
    place: Place,
}

fn unpack(tar: &[u8], makers: usize) -> Unpacked {
    let place = Place::new();
    let root = File::open(place.root()).unwrap();
    let mut split = Vec::new();
    let meter = Meter::default();
    let extras = Extras { meter: Some(&meter), split: Some(Box::new(&mut split)), makers };
    let result = unpack_with(&mut &tar[..], root.as_fd(), &Limits::default(), extras);
    let sum = tree_sum(root.as_fd()).unwrap();
    let failed = result.is_err();
    let split = result.is_ok_and(|summary| summary.split).then_some(split);
    Unpacked { sum, failed, split, place }
}

impl Unpacked {
    fn rebuilt(&self) -> Option<Vec<u8>> {
        let root = File::open(self.place.root()).unwrap();
        let mut out = Vec::new();
        rebuild(root.as_fd(), &mut self.split.as_ref()?.as_slice(), &mut out).unwrap();
        Some(out)
    }
}

/// An entry among few names, so that they meet.
fn entry() -> impl Strategy<Value = (u8, String, String)> {
    let name = prop_oneof![
        "[a-c](/[a-c]){0,2}",
        "[a-c]/\\.wh\\.[a-c]",
        "\\.wh\\.[a-c]",
        Just("a/.wh..wh..opq".to_owned()),
    ];
    let kind = prop_oneof![4 => Just(b'0'), 2 => Just(b'5'), 1 => Just(b'2'), 1 => Just(b'1')];
    (kind, name, "[a-c](/[a-c]){0,1}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn threads_make_the_same_tree(entries in proptest::collection::vec(entry(), 1..60)) {
        let mut tar = Tar::new();
        for (at, (kind, name, other)) in entries.iter().enumerate() {
            tar = match kind {
                b'0' => tar.file(name, format!("{at} {other}").as_bytes()),
                b'5' => tar.dir(name),
                b'2' => tar.symlink(name, other),
                _ => tar.link(name, other),
            };
        }
        let tar = tar.end();
        let (one, many) = (unpack(&tar, 0), unpack(&tar, 3));
        prop_assert_eq!(one.failed, many.failed);
        if !one.failed {
            prop_assert_eq!(one.sum.usage, many.sum.usage);
            prop_assert_eq!(listing(&one.place.root()), listing(&many.place.root()));
            prop_assert_eq!(one.split.is_some(), many.split.is_some());
        }
        for unpacked in [one, many] {
            if let Some(rebuilt) = unpacked.rebuilt() {
                prop_assert_eq!(&rebuilt, &tar);
            }
        }
    }
}

/// All of a tree but the times: directories that no entry names have that of the moment.
fn listing(dir: &Path) -> Vec<String> {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::path);
    let mut all =
        vec![format!("{:?}", rustix::fs::getxattr(dir, "trusted.overlay.opaque", &mut [0_u8; 1]))];
    for entry in entries {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let content = match () {
            () if meta.is_dir() => listing(&path).join("\n"),
            () if meta.is_file() => std::fs::read_to_string(&path).unwrap(),
            () => format!("{:?}", std::fs::read_link(&path)),
        };
        let (mode, links) = (meta.mode(), if meta.is_dir() { 0 } else { meta.nlink() });
        all.push(format!("{:?} {mode:o} {links} {content}", entry.file_name()));
    }
    all
}

fn real_layer(files: usize) -> Vec<u8> {
    let mut tar = Tar::new().dir("./");
    for dir in 0..=files / 50 {
        tar = tar.dir(format!("d{dir}"));
    }
    for at in 0..files {
        let header = Header {
            mode: if at % 7 == 0 { 0o4755 } else { 0o644 },
            uid: u32::try_from(at % 3).unwrap(),
            ..Header::new(b'0', format!("d{}/f{at}", at / 50))
        };
        tar = tar.with(header, &vec![b'x'; at % 3000]);
        if at % 100 == 99 {
            tar = tar.link(format!("d0/link{at}"), format!("d{}/f{at}", at / 50));
            tar = tar.symlink(format!("d0/sym{at}"), "f0").device(b'4', &format!("dev{at}"), 7, 7);
            tar = tar.file(format!("d1/big{at}"), &vec![b'y'; 200_000]);
        }
    }
    tar.end()
}

#[test]
fn a_large_layer_comes_out_whole() {
    let tar = real_layer(5000);
    let (one, many) = (unpack(&tar, 0), unpack(&tar, 3));
    assert!(!one.failed && !many.failed);
    assert_eq!(one.sum, many.sum);
    assert!(one.rebuilt().unwrap() == tar && many.rebuilt().unwrap() == tar);
}

#[test]
fn a_changed_tree_has_another_sum_or_gives_another_stream() {
    let tar = real_layer(200);
    let unpacked = unpack(&tar, 1);
    let root = File::open(unpacked.place.root()).unwrap();
    let path = unpacked.place.at("d0/f49");
    let times = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, vec![b'z'; 49]).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    assert_eq!(tree_sum(root.as_fd()).unwrap(), unpacked.sum, "only the bytes differ");
    assert!(unpacked.rebuilt().unwrap() != tar);
    for change in [
        |place: &Place| std::fs::write(place.at("d0/f49"), "shorter").unwrap(),
        |place: &Place| std::fs::remove_file(place.at("d0/f49")).unwrap(),
        |place: &Place| std::fs::remove_dir_all(place.at("d1")).unwrap(),
    ] {
        change(&unpacked.place);
        assert_ne!(tree_sum(root.as_fd()).unwrap().sum, unpacked.sum.sum);
    }
    let mut out = Vec::new();
    let split = unpacked.split.unwrap();
    assert!(rebuild(root.as_fd(), &mut split.as_slice(), &mut out).is_err());
}

/// Whatever a damaged split says, nothing outside the tree is read.
#[test]
fn damaged_splits_do_no_harm() {
    let tar = Tar::new().dir("a").file("a/f", b"data").symlink("out", "/etc/passwd").end();
    let unpacked = unpack(&tar, 0);
    let root = File::open(unpacked.place.root()).unwrap();
    let split = unpacked.split.clone().unwrap();
    for at in 0..split.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = split.clone();
            damaged[at] ^= flip;
            let mut out = Vec::new();
            let _ = rebuild(root.as_fd(), &mut damaged.as_slice(), &mut out);
            assert!(!String::from_utf8_lossy(&out).contains("root:"));
        }
        let _ = rebuild(root.as_fd(), &mut &split[..at], &mut Vec::new()).unwrap_err();
    }
    for path in ["out", "../canary/keep", "/etc/passwd", "a"] {
        let mut forged = b"corten-split 1\n\x02".to_vec();
        forged.extend(0_u64.to_le_bytes());
        forged.extend(4_u64.to_le_bytes());
        forged.extend(u16::try_from(path.len()).unwrap().to_le_bytes());
        forged.extend(path.as_bytes());
        forged.push(0);
        assert!(rebuild(root.as_fd(), &mut forged.as_slice(), &mut Vec::new()).is_err(), "{path}");
    }
}

#[test]
fn sparse_files_are_split_too() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("sparse");
    let file = File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"one", 1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"two", 3 << 20).unwrap();
    for format in ["gnu", "posix"] {
        let tar = std::process::Command::new("tar")
            .args(["--sparse", "--format", format, "-C"])
            .arg(work.path())
            .args(["-cf", "-", "sparse"])
            .output()
            .unwrap()
            .stdout;
        let unpacked = unpack(&tar, 1);
        assert!(unpacked.rebuilt().unwrap() == tar, "{format}");
    }
}
