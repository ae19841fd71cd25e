//! What bad layers do not do. Each case has a canary beside the tree.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
};

use common::{Header, Place, Tar, record};
use layers::{Limits, UnpackError, UnpackErrorKind, unpack};

fn refused(tar: &[u8]) -> UnpackError {
    let place = Place::new();
    let error = place.unpack(tar).unwrap_err();
    assert_eq!(error.kind(), UnpackErrorKind::Invalid, "{error}");
    error
}

/// V1
#[test]
fn names_that_lead_out_are_refused() {
    refused(&Tar::new().file("../canary/new", b"x").end());
    refused(&Tar::new().file("a/../../canary/keep", b"x").end());
    refused(&Tar::new().file("..", b"x").end());
    refused(&Tar::new().dir("a/..").end());
    refused(&Tar::new().pax(&[("path", b"../canary/keep")]).file("x", b"x").end());
    refused(&Tar::new().with(Header::new(b'L', "l"), b"../canary/keep\0").file("x", b"x").end());
    refused(&Tar::new().with(Header::new(b'L', "l"), b"a\0b\0").file("x", b"x").end());
    refused(&Tar::new().pax(&[("path", b"a\0b")]).file("x", b"x").end());
    refused(&Tar::new().file("", b"x").end());
    refused(&Tar::new().pax(&[("path", "a/".repeat(3000).as_bytes())]).dir("x").end());
    refused(&Tar::new().pax(&[("path", "a".repeat(300).as_bytes())]).file("x", b"x").end());
    refused(&Tar::new().link("l", "../canary/keep").end());
}

#[test]
fn absolute_names_are_confined() {
    let place = Place::new();
    let target = place.canary().join("keep");
    place.unpack(&Tar::new().file(target.to_str().unwrap(), b"mine").end()).unwrap();
    assert_eq!(place.read(target.strip_prefix("/").unwrap().to_str().unwrap()), "mine");
}

/// V2
#[test]
fn links_do_not_lead_out() {
    let place = Place::new();
    let canary = place.canary();
    let canary = canary.to_str().unwrap();
    let tar = Tar::new()
        .symlink("abs", canary)
        .file("abs/keep", b"mine")
        .symlink("rel", "../canary")
        .file("rel/keep", b"mine")
        .symlink("c1", "../..")
        .symlink("c2", "c1/../canary")
        .file("c2/keep", b"mine")
        .symlink("f", format!("{canary}/keep"))
        .file("f", b"mine")
        .symlink("p", "/proc/self/root")
        .file("p/x", b"x")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("canary/keep"), "mine");
    assert_eq!(place.read("f"), "mine");

    let looped = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"x").end();
    refused(&looped);
    refused(&Tar::new().symlink("proc", "/proc/self").file("proc/x", b"x").end());
}

/// V2: what a link points to changes all the time while another layer is unpacked.
#[test]
fn a_parallel_unpack_through_links_stays_inside() {
    let place = Place::new();
    let canary = place.canary();
    let root = fs::File::open(place.root()).unwrap();
    std::thread::scope(|scope| {
        let flip = scope.spawn(|| {
            for round in 0..1000 {
                let tar = match round % 2 {
                    0 => Tar::new().symlink("d", canary.to_str().unwrap()),
                    _ => Tar::new().dir("d"),
                };
                // The two may be in each other's way, which is an error and no harm.
                let _either = unpack(&mut tar.end().as_slice(), root.as_fd(), &Limits::default());
            }
        });
        while !flip.is_finished() {
            let _either = place.unpack(&Tar::new().file("d/new", b"x").end());
        }
    });
    assert!(!canary.join("new").exists());
}

/// V3
#[test]
fn the_root_stays_a_directory() {
    for name in [".", "/", "./", "//./"] {
        refused(&Tar::new().symlink(name, "/etc").end());
        refused(&Tar::new().with(Header::new(b'1', name), b"").end());
    }
    refused(&Tar::new().file(".", b"x").end());
}

/// V4
#[test]
fn hard_links_stay_inside() {
    let place = Place::new();
    let keep = place.canary().join("keep");
    refused(&Tar::new().link("l", keep.to_str().unwrap()).end());
    refused(&Tar::new().link("l", "not/there").end());
    refused(&Tar::new().dir("d").link("l", "d").end());
    refused(&Tar::new().link("l", "/").end());
    let tar = Tar::new()
        .symlink("s", keep.to_str().unwrap())
        .link("l", "s")
        .with(Header { mode: 0o777, ..Header::new(b'0', "l") }, b"mine")
        .end();
    place.unpack(&tar).unwrap();
    assert!(fs::symlink_metadata(place.at("s")).unwrap().is_symlink());
    // A link to itself, and one whose target goes to make room for it.
    Place::new().unpack(&Tar::new().file("a", b"a").link("a", "./a").end()).unwrap();
    refused(&Tar::new().file("d/a", b"a").link("d", "d/a").end());
}

/// V5
#[test]
fn a_directory_entry_does_not_follow_a_link() {
    let place = Place::new();
    let tar = Tar::new()
        .symlink("d", place.canary().to_str().unwrap())
        .with(Header { mode: 0o777, uid: 9, ..Header::new(b'5', "d") }, b"")
        .end();
    place.unpack(&tar).unwrap();
    assert!(fs::symlink_metadata(place.at("d")).unwrap().is_dir());
}

/// V6
#[test]
fn the_extended_size_wins() {
    let inner = Tar::new().file("smuggled", b"x").0;
    let tar = Tar::new()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .raw(&Header { size: 0, ..Header::new(b'0', "inner") }, &inner)
        .file("after", b"after")
        .end();
    let place = Place::new();
    place.unpack(&tar).unwrap();
    assert!(!place.at("smuggled").exists());
    assert_eq!(fs::metadata(place.at("inner")).unwrap().len(), inner.len() as u64);
    assert_eq!(place.read("after"), "after");
}

/// V6
#[test]
fn ambiguous_headers_are_refused() {
    let pax = |data: &[u8]| Tar::new().with(Header::new(b'x', "p"), data).file("x", b"x").end();
    for data in [
        &b"10 path=a"[..],
        b"11 path=a\n",
        b"8 path=a\n",
        b"x path=a\n",
        b"10 pathxa\n",
        b"\0",
        b"10 path=a\n10 path=b\n",
        b"10 size=1\n10 size=2\n",
        b"12 size=-10\n",
        b"18 uid=4294967295\n",
    ] {
        refused(&pax(data));
    }
    let long = |kind, name: &[u8]| Header::new(kind, "././@LongLink").with_data(name);
    refused(&Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", b"").end());
    refused(&long(b'L', b"a\0").chain(long(b'L', b"b\0")).file("x", b"").end());
    refused(&long(b'L', b"a\0").chain(Tar::new().pax(&[("path", b"b")])).file("x", b"").end());
    refused(&long(b'L', b"").file("x", b"").end());
    for (key, value) in [("path", "a"), ("size", "1"), ("linkpath", "a")] {
        let global = Header::new(b'g', "g");
        refused(&Tar::new().with(global, &record(key, value.as_bytes())).file("x", b"").end());
    }
    refused(&Tar::new().file("dir/", b"data").end());
    for kind in [b'M', b'D', b'X', b'N', b'8', 200] {
        refused(&Tar::new().with(Header::new(kind, "x"), b"").end());
    }
    let mut damaged = Tar::new().file("x", b"x").end();
    damaged[0] ^= 1;
    refused(&damaged);
    let lone = [Tar::new().file("x", b"x").0, vec![0; 512], Tar::new().file("y", b"y").end()];
    refused(&lone.concat());
    let octal = Header { patch: vec![(124, b"0000000009\0\0".to_vec())], ..Header::new(b'0', "x") };
    refused(&Tar::new().raw(&octal, b"").end());
    let negative = Header { patch: vec![(124, vec![0xff; 12])], ..Header::new(b'0', "x") };
    refused(&Tar::new().raw(&negative, b"").end());
}

trait WithData {
    fn with_data(self, data: &[u8]) -> Tar;
}

impl WithData for Header {
    fn with_data(self, data: &[u8]) -> Tar {
        Tar::new().with(self, data)
    }
}

trait Chain {
    fn chain(self, next: Tar) -> Tar;
}

impl Chain for Tar {
    fn chain(mut self, next: Tar) -> Tar {
        self.0.extend(next.0);
        self
    }
}

/// V7
#[test]
fn whiteouts_hide_nothing_outside() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh..", ".wh.../x", ".wh.a/x"] {
        refused(&Tar::new().file(name, b"").end());
    }
    refused(&Tar::new().file("../.wh.canary", b"").end());
    let place = Place::new();
    let canary = place.canary();
    let canary = canary.to_str().unwrap();
    let tar = Tar::new()
        .symlink("d", canary)
        .file("d/.wh.keep", b"")
        .file("d/.wh..wh..opq", b"")
        .symlink("e", canary)
        .file(".wh.e", b"")
        .end();
    place.unpack(&tar).unwrap();
    assert!(fs::symlink_metadata(place.at("e")).unwrap().is_symlink());
}

/// V8
#[test]
fn overlay_metadata_cannot_be_forged() {
    let place = Place::new();
    let forged: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u"),
        ("SCHILY.xattr.user.fine", b"1"),
    ];
    let tar = Tar::new()
        .device(b'3', "null", 0, 0)
        .pax(&forged)
        .dir("d")
        .pax(&forged)
        .file("f", b"")
        .pax(&forged)
        .symlink("s", "f")
        .file(".wh.w", b"")
        .end();
    let summary = place.unpack(&tar).unwrap();
    assert!(!place.at("null").exists());
    assert_eq!(summary.dropped, 1 + 5 + 5 + 6);
    let mut names = vec![0_u8; 4096];
    for path in ["d", "f"] {
        let length = rustix::fs::llistxattr(place.at(path), names.as_mut_slice()).unwrap();
        assert_eq!(&names[..length], b"user.fine\0");
    }
    refused(&Tar::new().file(".wh.w", b"").link("forged", "w").end());
}

/// V9
#[test]
fn damaged_capabilities_lose_only_themselves() {
    let place = Place::new();
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", b"damaged")])
        .file("f", b"f")
        .file("g", b"g")
        .device(b'3', "mem", 1, 1)
        .end();
    assert_eq!(place.unpack(&tar).unwrap().dropped, 1);
    assert_eq!(place.read("g"), "g");
    assert!(fs::metadata(place.at("mem")).unwrap().file_type().is_char_device());
}

/// A reader of what is small in the image and large here.
struct Bomb {
    head: Vec<u8>,
    left: u64,
}

impl Read for Bomb {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.head.is_empty() {
            let count = self.head.len().min(out.len());
            out[..count].copy_from_slice(&self.head[..count]);
            self.head.drain(..count);
            return Ok(count);
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        self.left -= count as u64;
        Ok(count)
    }
}

/// V10
#[test]
fn limits_hold() {
    let limits = Limits { max_bytes: 1 << 20, max_entries: 100, ..Limits::default() };
    let exhausted = |tar: &[u8]| {
        let place = Place::new();
        let error = place.unpack_with(tar, &limits).unwrap_err();
        assert_eq!(error.kind(), UnpackErrorKind::Exhausted, "{error}");
    };
    let many = (0..101).fold(Tar::new(), |tar, at| tar.file(format!("{at}"), b""));
    exhausted(&many.end());
    exhausted(&Tar::new().file("big", &vec![1; 2 << 20]).end());
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.size", b"1099511627776"),
        ("GNU.sparse.map", b"0,0"),
    ];
    exhausted(&Tar::new().pax(sparse).file("sparse", b"").end());
    let huge = Header { size: 1 << 32, ..Header::new(b'x', "p") };
    exhausted(&Tar::new().raw(&huge, b"").end());
    exhausted(&Tar::new().raw(&Header { kind: b'L', ..huge }, b"").end());

    let place = Place::new();
    let root = fs::File::open(place.root()).unwrap();
    let head = Tar::new().raw(&Header { size: 8 << 30, ..Header::new(b'0', "bomb") }, b"").0;
    let mut bomb = Bomb { head, left: 8 << 30 };
    let error = unpack(&mut bomb, root.as_fd(), &limits).unwrap_err();
    assert_eq!(error.kind(), UnpackErrorKind::Exhausted);
    assert!(fs::metadata(place.at("bomb")).unwrap().blocks() * 512 <= 2 << 20);
    // What follows the end counts too.
    let mut tail = Bomb { head: Tar::new().end(), left: 8 << 30 };
    assert!(unpack(&mut tail, root.as_fd(), &limits).is_err());
}

/// V10
#[test]
fn sparse_maps_are_bounded_and_checked() {
    let map = |count: &str, map: &str| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", b"100"),
        ];
        let mut data = format!("{count}\n{map}").into_bytes();
        data.resize(512, 0);
        data.extend(b"0123456789");
        Tar::new().pax(records).file("x", &data).end()
    };
    let place = Place::new();
    place.unpack(&map("2", "0\n4\n90\n6\n")).unwrap();
    let file = fs::read(place.at("f")).unwrap();
    assert_eq!(
        (file.len(), &file[..5], &file[89..97]),
        (100, &b"0123\0"[..], &b"\x00456789\0"[..])
    );
    for (count, pairs) in [
        ("1000000000000", ""),
        ("2", "0\n4\n"),
        ("2", "0\n4\n2\n6\n"),
        ("1", "95\n10\n"),
        ("1", "0\n9\n"),
        ("x", ""),
    ] {
        refused(&map(count, pairs));
    }
}

/// V10
#[test]
fn a_stream_that_ends_early_is_refused() {
    let whole = Tar::new()
        .pax(&[("path", b"name"), ("mtime", b"1")])
        .file("x", &[1; 700])
        .with(Header::new(b'L', "l"), b"long\0")
        .file("y", b"y")
        .0;
    let boundaries = [0, 512 * 5];
    for cut in (0..whole.len()).filter(|cut| !boundaries.contains(cut)) {
        let result = Place::new().unpack(&whole[..cut]);
        assert!(matches!(result, Err(UnpackError::Truncated { .. })), "{cut} {result:?}");
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the connection is gone"))
        }
    }
    let place = Place::new();
    let root = fs::File::open(place.root()).unwrap();
    let error = unpack(&mut Broken, root.as_fd(), &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), UnpackErrorKind::Source);
}

/// Random damage gives trees or errors, and nothing else.
#[test]
fn damaged_streams_do_no_harm() {
    let whole = Tar::new()
        .pax(&[("path", b"a/b"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")])
        .file("x", &[1; 600])
        .symlink("l", "../canary")
        .file("l/keep", b"x")
        .link("h", "a/b")
        .device(b'3', "n", 1, 3)
        .file(".wh.gone", b"")
        .end();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let limits = Limits { max_bytes: 1 << 20, ..Limits::default() };
    for _ in 0..1500 {
        let mut tar = whole.clone();
        for _ in 0..=random() % 3 {
            let at = usize::try_from(random() % tar.len() as u64).unwrap();
            tar[at] = if random() % 4 == 0 { b'/' } else { random().to_le_bytes()[0] };
        }
        if random() % 2 == 0 {
            mend_checksums(&mut tar);
        }
        let _either = Place::new().unpack_with(&tar, &limits);
    }
}

fn mend_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
