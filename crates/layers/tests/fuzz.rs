//! The tar reader and the splits, fuzzed. See `testing::fuzz`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs::File, os::fd::AsFd};

use common::{Header, Place, Tar};
use layers::{Extras, Limits, rebuild, unpack_with};
use testing::fuzz::fuzz;

/// Nothing outside the tree is touched, and what a split gives is bounded by what it took.
#[test]
fn whatever_a_layer_is_nothing_else_changes() {
    let limits = Limits { max_entries: 200, max_bytes: 4 << 20, ..Limits::default() };
    let seeds = [
        Tar::new().dir("a").file("a/f", b"data").symlink("a/l", "../f").link("h", "a/f").end(),
        Tar::new().pax(&[("path", b"long/name"), ("size", b"4")]).file("x", b"data").end(),
        Tar::new().file("a/.wh.f", b"").file("a/.wh..wh..opq", b"").device(b'3', "d", 1, 3).end(),
        Tar::new()
            .with(Header::new(b'L', "././@LongLink"), &b"n/".repeat(80))
            .file("x", b"1")
            .end(),
    ];
    fuzz("layer", &seeds, |bytes| {
        let place = Place::new();
        let mut mended = bytes.to_vec();
        // Half of them get through the checksums.
        if bytes.len() % 2 == 0 {
            mend(&mut mended);
        }
        let root = File::open(place.root()).unwrap();
        let mut split = Vec::new();
        let extras = Extras { split: Some(Box::new(&mut split)), ..Extras::default() };
        let done = unpack_with(&mut mended.as_slice(), root.as_fd(), &limits, extras);
        place.assert_untouched();
        if done.is_ok_and(|summary| summary.split) {
            let mut out = Vec::new();
            rebuild(root.as_fd(), &mut split.as_slice(), &mut out).unwrap();
            assert!(out == mended, "the split makes another stream");
        }
    });
}

/// A split lies on a disk: whatever it has become, nothing but the tree's files is read,
/// and what is given out is bounded by it.
#[test]
fn whatever_a_split_is_it_reads_the_tree_alone() {
    let place = Place::new();
    let root = File::open(place.root()).unwrap();
    let tar = Tar::new().dir("a").file("a/f", b"data").symlink("a/l", "../../canary").end();
    let mut split = Vec::new();
    let extras = Extras { split: Some(Box::new(&mut split)), ..Extras::default() };
    unpack_with(&mut tar.as_slice(), root.as_fd(), &Limits::default(), extras).unwrap();
    fuzz("split", &[split], |bytes| {
        let mut out = Vec::new();
        let _ = rebuild(root.as_fd(), &mut &*bytes, &mut out);
        // Each record gives at most the longest file's bytes, or its own.
        assert!(out.len() <= bytes.len() * 4, "{} bytes of {}", out.len(), bytes.len());
    });
    place.assert_untouched();
}

fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
