//! What good layers become.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    process::Command,
};

use common::{Header, Place, Tar, record};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0_u8; 256];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

#[test]
fn every_kind_of_entry() {
    let place = Place::new();
    let tar = Tar::new()
        .with(Header { mode: 0o700, uid: 7, gid: 8, ..Header::new(b'5', "./") }, b"")
        .with(Header { mode: 0o1777, ..Header::new(b'5', "tmp/") }, b"")
        .with(Header { mode: 0o4755, uid: 1, gid: 2, ..Header::new(b'0', "bin/su") }, b"#!")
        .symlink("lib", "usr/lib")
        .link("bin/su2", "bin/su")
        .device(b'3', "dev/null", 1, 3)
        .device(b'4', "dev/sda", 8, 0)
        .with(Header::new(b'6', "fifo"), b"")
        .file("/abs", b"absolute")
        .end();
    let summary = place.unpack(&tar).unwrap();
    assert_eq!((summary.entries, summary.inodes, summary.dropped), (9, 10, 0));
    assert_eq!(summary.bytes, 4096 * 6);

    let meta = |path: &str| fs::symlink_metadata(place.at(path)).unwrap();
    assert_eq!((meta("").mode() & 0o7777, meta("").uid(), meta("").gid()), (0o700, 7, 8));
    assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);
    let su = meta("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 1, 2, 2));
    assert_eq!(su.mtime(), 1_000_000_000);
    assert_eq!(meta("tmp").mtime(), 1_000_000_000);
    assert_eq!(meta("lib").mtime(), 1_000_000_000);
    assert_eq!(meta("bin").mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(place.at("lib")).unwrap(), Path::new("usr/lib"));
    assert_eq!(meta("dev/null").rdev(), 0x103);
    assert!(meta("dev/sda").file_type().is_block_device());
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(place.read("abs"), "absolute");
}

#[test]
fn whiteouts_take_overlayfs_form() {
    let place = Place::new();
    let tar = Tar::new()
        .file("a/.wh.gone", b"")
        .dir("own")
        .file("own/kept", b"kept")
        .file(".wh.own", b"")
        .file("file", b"stays")
        .file(".wh.file", b"")
        .file(".wh.back", b"")
        .file("back/new", b"new")
        .file(".wh.again", b"")
        .dir("again")
        .file("o/.wh..wh..opq", b"")
        .file("o/x", b"x")
        .file(".wh..wh.plnk/1.2", b"")
        .end();
    // AUFS' directory lies below a name that means something else.
    assert!(place.unpack(&tar).is_err());

    let place = Place::new();
    let tar = Tar::new()
        .file("a/.wh.gone", b"")
        .dir("own")
        .file("own/kept", b"kept")
        .file(".wh.own", b"")
        .file("file", b"stays")
        .file(".wh.file", b"")
        .file(".wh.back", b"")
        .file("back/new", b"new")
        .file(".wh.again", b"")
        .dir("again")
        .file("o/.wh..wh..opq", b"")
        .file("o/x", b"x")
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh..opq", b"")
        .end();
    place.unpack(&tar).unwrap();
    assert!(is_whiteout(&place.at("a/gone")));
    assert!(is_opaque(&place.at("own")) && place.read("own/kept") == "kept");
    assert_eq!(place.read("file"), "stays");
    assert!(is_opaque(&place.at("back")) && place.read("back/new") == "new");
    assert!(is_opaque(&place.at("again")));
    assert!(is_opaque(&place.at("o")) && place.read("o/x") == "x");
    assert!(is_opaque(&place.root()) && !is_opaque(&place.at("a")));
    assert!(!place.at(".wh..wh.aufs").exists());
}

#[test]
fn later_entries_win() {
    let place = Place::new();
    let tar = Tar::new()
        .file("f", b"one")
        .file("f", b"two")
        .dir("d")
        .file("d/x", b"x")
        .file("d", b"now a file")
        .file("p", b"file")
        .file("p/below", b"below")
        .symlink("l", "d")
        .dir("l")
        .with(Header { mode: 0o750, ..Header::new(b'5', "l") }, b"")
        .file("l/x", b"in a real directory")
        .end();
    let summary = place.unpack(&tar).unwrap();
    assert_eq!(place.read("f"), "two");
    assert_eq!(place.read("d"), "now a file");
    assert_eq!(place.read("p/below"), "below");
    assert!(fs::symlink_metadata(place.at("l")).unwrap().is_dir());
    assert_eq!(fs::metadata(place.at("l")).unwrap().mode() & 0o777, 0o750);
    assert_eq!(summary.inodes, 7);
}

#[test]
fn links_of_the_layer_lead_within_the_root() {
    let place = Place::new();
    let tar = Tar::new()
        .dir("run")
        .symlink("var/run", "/run")
        .file("var/run/pid", b"1")
        .symlink("up", "../../../../run")
        .file("up/two", b"2")
        .symlink("dangling", "a/./b/../c")
        .file("dangling/three", b"3")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("run/pid"), "1");
    assert_eq!(place.read("run/two"), "2");
    assert_eq!(place.read("a/c/three"), "3");
}

#[test]
fn extended_headers() {
    let place = Place::new();
    let long = format!("{}/file", "d".repeat(200));
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("size", b"5"),
            ("uid", b"3000000"),
            ("mtime", b"1234567890.5"),
            ("SCHILY.xattr.user.note", b"a\0b=\n"),
            ("SCHILY.xattr.security.capability", &capability),
        ])
        .raw(&Header::new(b'0', "short"), b"hello")
        .with(Header::new(b'L', "././@LongLink"), format!("{long}2\0").as_bytes())
        .file("short", b"two")
        .with(Header::new(b'K', "././@LongLink"), format!("{}\0", "t".repeat(300)).as_bytes())
        .symlink("link", "short")
        .with(Header::new(b'g', "pax_global_header"), &record("comment", b"a commit"))
        .file("prefixed", b"")
        .end();
    let summary = place.unpack(&tar).unwrap();
    assert_eq!(summary.dropped, 0);
    let path = place.at(&long);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    assert_eq!(
        (meta.uid(), meta.mtime(), meta.mtime_nsec()),
        (3_000_000, 1_234_567_890, 500_000_000)
    );
    assert_eq!(xattr(&path, "user.note").unwrap(), b"a\0b=\n");
    assert_eq!(xattr(&path, "security.capability").unwrap(), capability);
    assert_eq!(place.read(&format!("{long}2")), "two");
    assert_eq!(fs::read_link(place.at("link")).unwrap().as_os_str().len(), 300);
}

#[test]
fn what_has_no_data_has_none() {
    // GNU tar and Go's reader take a link's size for nothing.
    let place = Place::new();
    let tar = Tar::new()
        .file("f", b"data")
        .raw(&Header { link: b"f".into(), size: 4, ..Header::new(b'1', "l") }, b"")
        .raw(&Header { size: 512, ..Header::new(b'5', "d") }, b"")
        .file("last", b"last")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("l"), "data");
    assert_eq!(place.read("last"), "last");
}

#[test]
fn an_empty_stream_is_an_empty_layer() {
    for tar in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10240]] {
        let summary = Place::new().unpack(&tar).unwrap();
        assert_eq!((summary.entries, summary.inodes), (0, 1));
    }
}

#[test]
fn the_stream_is_read_to_its_end() {
    let tar = [Tar::new().file("a", b"a").end(), vec![b'x'; 100_000]].concat();
    let place = Place::new();
    let root = fs::File::open(place.root()).unwrap();
    let mut rest = tar.as_slice();
    layers::unpack(&mut rest, std::os::fd::AsFd::as_fd(&root), &layers::Limits::default()).unwrap();
    assert!(rest.is_empty());
}

/// Everything that GNU tar writes in its forms comes out as it went in.
#[test]
fn what_gnu_tar_writes() {
    let from = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "n".repeat(120), "m".repeat(120));
    fs::create_dir_all(from.path().join(&long)).unwrap();
    fs::write(from.path().join(&long).join("file"), "long").unwrap();
    fs::write(from.path().join("big"), vec![7; 700_000]).unwrap();
    let holes = fs::File::create(from.path().join("holes")).unwrap();
    for at in 0..40_u64 {
        std::os::unix::fs::FileExt::write_at(&holes, b"data", at * 1_000_000).unwrap();
    }
    holes.set_len(50_000_000).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), from.path().join("link")).unwrap();
    fs::hard_link(from.path().join("big"), from.path().join("big2")).unwrap();
    for format in [
        &["--format=gnu", "-S"][..],
        &["--format=oldgnu"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ] {
        let made = Command::new("tar")
            .args(format)
            .args(["-C"])
            .arg(from.path())
            .args(["-c", "."])
            .output()
            .unwrap();
        assert!(made.status.success());
        let place = Place::new();
        let summary = place.unpack(&made.stdout).unwrap();
        assert_eq!(summary.inodes, 7, "{format:?}");
        if format.contains(&"-S") {
            let usage = layers::disk_usage(std::os::fd::AsFd::as_fd(
                &fs::File::open(place.root()).unwrap(),
            ))
            .unwrap();
            assert!(usage.bytes < 2_000_000, "{format:?} {usage:?}");
            assert!(summary.bytes.abs_diff(usage.bytes) < 200_000, "{summary:?} {usage:?}");
        }
        let same = Command::new("diff")
            .arg("-r")
            .arg("--no-dereference")
            .arg(from.path())
            .arg(place.root())
            .status()
            .unwrap();
        assert!(same.success(), "{format:?}");
        let (one, two) = (place.at("big"), place.at("big2"));
        assert_eq!(fs::metadata(one).unwrap().ino(), fs::metadata(two).unwrap().ino());
    }
}
