//! Disks that fail: writes that are lost, no inodes, a file system that has become
//! read-only. Needs root: each case runs in a process and a mount namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, process::Command};

use common::{
    Bed,
    fake::Fake,
    made::{Layer, Made, tar},
};
use images::PullErrorKind as Kind;

/// Runs an ignored test of this program: with a file system made with these options at its
/// `TMPDIR`, below a program with these arguments.
fn run(case: &str, mkfs: &str, below: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "truncate -s 64M \"$1/image\" && mkfs.ext4 -q {mkfs} \"$1/image\" && mkdir \"$1/mount\" \
         && mount -o loop \"$1/image\" \"$1/mount\" \
         && TMPDIR=\"$1/mount\" exec {below} \"$0\" --exact {case} --ignored --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(dir.path())
        .output()
        .unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let text = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Whether the first sync of a layer fails or the second: what is not known to be on disk
/// does not count, now and after a restart.
#[test]
fn a_sync_that_fails_is_no_success() {
    for when in ["1+", "2+"] {
        let inject = format!("-e trace=syncfs -e inject=syncfs:error=EIO:when={when}");
        run("where_no_sync_succeeds", "", &format!("strace -f -qq -o /dev/null {inject}"));
    }
}

#[tokio::test]
#[ignore = "run by a_sync_that_fails_is_no_success"]
async fn where_no_sync_succeeds() {
    let (fake, bed) = (Fake::new(), Bed::new());
    fake.push("a", "latest", &Made::new(&[Layer::file("f", "1")]));
    let error = bed.images.pull(&fake.name("a"), None).await.unwrap_err();
    assert!(error.to_string().contains("Input/output error"), "{error}");
    assert_eq!(error.kind(), Kind::Internal);
    bed.assert_tidy();
    for dir in ["layers", "seals", "splits"] {
        assert_eq!(entries(&bed.dir.path().join("snapshots").join(dir)), 0, "{dir}");
    }
    let bed = bed.again();
    assert!(bed.images.list().is_empty() && bed.snapshots.layers().is_empty());
}

#[test]
fn without_inodes_a_pull_is_refused_and_leaves_nothing() {
    run("where_inodes_are_few", "-N 128", "");
}

#[tokio::test]
#[ignore = "run by without_inodes_a_pull_is_refused_and_leaves_nothing"]
async fn where_inodes_are_few() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let names: Vec<String> = (0..300).map(|n| format!("f{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    fake.push("many", "latest", &Made::new(&[Layer::gzip(&tar(&files))]));
    fake.push("one", "latest", &Made::new(&[Layer::file("f", "1")]));
    let one = bed.images.pull(&fake.name("one"), None).await.unwrap();
    let error = bed.images.pull(&fake.name("many"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    assert!(error.to_string().contains("o space left"), "{error}");
    bed.assert_tidy();
    assert_eq!(bed.text(&one, "f").as_deref(), Some("1"));
    bed.images.remove(&fake.name("one")).await.unwrap();
    bed.images.pull(&fake.name("one"), None).await.unwrap();
}

#[test]
fn a_read_only_disk_is_named_and_heals() {
    run("where_the_disk_becomes_read_only", "", "");
}

#[tokio::test]
#[ignore = "run by a_read_only_disk_is_named_and_heals"]
async fn where_the_disk_becomes_read_only() {
    let (fake, bed) = (Fake::new(), Bed::new());
    let place = std::env::var("TMPDIR").unwrap();
    let remount = |options: &str| {
        let status = Command::new("mount").args(["-o", options, &place]).status().unwrap();
        assert!(status.success());
    };
    for name in ["a", "b"] {
        fake.push(name, "latest", &Made::new(&[Layer::file(name, name)]));
    }
    let pulled = bed.images.pull(&fake.name("a"), None).await.unwrap();
    remount("remount,ro");
    let error = bed.images.pull(&fake.name("b"), None).await.unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    assert!(bed.images.remove(&fake.name("a")).await.is_err());
    assert_eq!(bed.images.list().len(), 1, "what could not be removed is still listed");
    assert_eq!(bed.text(&pulled, "a").as_deref(), Some("a"));
    remount("remount,rw");
    bed.images.pull(&fake.name("b"), None).await.unwrap();
    bed.images.remove(&fake.name("a")).await.unwrap();
    assert_eq!(bed.images.list().len(), 1);
}
