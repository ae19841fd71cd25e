//! Walks over trees of any shape.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    process::Command,
};

use layers::{disk_usage, remove_tree};
use rustix::fs::{AtFlags, Mode, OFlags};

#[test]
fn any_tree_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let keep = place.path().join("keep");
    fs::write(&keep, "keep").unwrap();
    let top = fs::File::open(place.path()).unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("work/work")).unwrap();
    for at in 0..3000 {
        fs::write(tree.join(format!("{at:0100}")), "").unwrap();
    }
    std::os::unix::fs::symlink(place.path(), tree.join("link")).unwrap();
    fs::write(tree.join("locked"), "").unwrap();
    let locked = Command::new("chattr").arg("+i").arg(tree.join("locked")).status().unwrap();
    assert!(locked.success());
    fs::set_permissions(tree.join("work/work"), fs::Permissions::from_mode(0o0)).unwrap();
    // Deeper than any path can say, and than handles last.
    let mut at: std::os::fd::OwnedFd = fs::File::open(&tree).unwrap().into();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
        rustix::fs::mkdirat(&at, "side", Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, "deep", flags, Mode::empty()).unwrap();
    }
    drop(at);
    remove_tree(top.as_fd(), c"tree").unwrap();
    assert!(!tree.exists());
    remove_tree(top.as_fd(), c"tree").unwrap();
    assert_eq!(fs::read_to_string(&keep).unwrap(), "keep");
    remove_tree(top.as_fd(), c"keep").unwrap();
    assert!(rustix::fs::statat(&top, "keep", AtFlags::empty()).is_err());
}

#[test]
fn usage_is_what_du_says() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("a/b/c")).unwrap();
    fs::write(place.path().join("a/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(place.path().join("a/file"), place.path().join("a/b/link")).unwrap();
    std::os::unix::fs::symlink("/etc", place.path().join("etc")).unwrap();
    fs::File::create(place.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
    let top = fs::File::open(place.path()).unwrap();
    let usage = disk_usage(top.as_fd()).unwrap();
    let du = Command::new("du").args(["-s", "-B1"]).arg(place.path()).output().unwrap();
    let text = String::from_utf8(du.stdout).unwrap();
    let bytes: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!((usage.bytes, usage.inodes), (bytes, 7));
}
