//! What we see in an archive is what GNU tar and Python's tarfile see: who looks at a layer with
//! them before it is used sees the files that will be in it. Damaged archives that we take are
//! read alike by the others, or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{Header, Place, Tar};

/// How many archives are compared.
const ROUNDS: usize = 1500;

/// Reads names of archives, and answers each with the names and sizes of its files, or with that
/// it is none.
const PYTHON: &str = r#"
import sys, tarfile
for path in sys.stdin:
    said = ["read"]
    try:
        with tarfile.open(path.rstrip("\n"), "r:", errorlevel=2) as archive:
            for member in archive:
                size = member.size if member.isreg() else -1
                said.append("%s\x02%d" % (member.name.replace("\n", "\\n"), size))
    except Exception as error:
        said = ["refused"]
    print("\x01".join(said), flush=True)
"#;

/// A reader that goes on.
struct Python(Child);

impl Python {
    fn new() -> Self {
        let mut python = Command::new("python3");
        python.args(["-X", "utf8", "-c", PYTHON]);
        python.env("PYTHONIOENCODING", "utf-8:surrogateescape");
        Self(python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// The names and sizes of files, of which later ones win; `None` where it reads none of it.
    fn files(&mut self, archive: &Path) -> Option<Vec<(String, u64)>> {
        writeln!(self.0.stdin.as_mut().unwrap(), "{}", archive.display()).unwrap();
        let mut line = Vec::new();
        // One line an archive: the reader takes no more than is asked for.
        let out = self.0.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, out).read_until(b'\n', &mut line).unwrap();
        let line = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
        let mut parts = line.split('\x01');
        (parts.next() == Some("read")).then(|| {
            let mut files = BTreeMap::new();
            for part in parts {
                let (name, size) = part.split_once('\x02').unwrap();
                let name = plain(name);
                // Whatever is in its way makes room: a file for a directory, and the other way.
                let (above, below) = (format!("{name}/"), |other: &String| format!("{other}/"));
                let size = size.parse().ok();
                files.retain(|other: &String, _| {
                    let is_above = name.starts_with(&below(other));
                    let is_below = size.is_some() && other.starts_with(&above);
                    !is_above && !is_below
                });
                match size {
                    Some(size) => files.insert(name, size),
                    None => files.remove(&name),
                };
            }
            files.into_iter().collect()
        })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A name without what leads nowhere.
fn plain(name: &str) -> String {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// The names that GNU tar lists; `None` where it reads it with an error.
fn listed_by_tar(archive: &Path) -> Option<BTreeSet<String>> {
    let listed = Command::new("tar")
        .args(["--quoting-style=literal", "-P", "-tf"])
        .arg(archive)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    listed.status.success().then(|| text.lines().map(plain).collect())
}

/// The files that we made, and their sizes.
fn ours(place: &Place) -> Vec<(String, u64)> {
    let root = place.root();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            let name = entry.path().strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            match meta.file_type() {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => found.push((name, meta.len())),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn seeds() -> Vec<Vec<u8>> {
    let inner = Tar::new().file("smuggled", b"x").0;
    vec![
        Tar::new().dir("a").file("a/f", b"data").file("b", &[7; 1500]).end(),
        Tar::new().pax(&[("path", b"long/name")]).file("x", b"data").file("y", b"1").end(),
        Tar::new()
            .pax(&[("size", inner.len().to_string().as_bytes())])
            .raw(&Header { size: 0, ..Header::new(b'0', "inner") }, &inner)
            .file("after", b"after")
            .end(),
        Tar::new()
            .with(Header::new(b'L', "././@LongLink"), &b"n/".repeat(80))
            .file("x", b"1")
            .file("z", b"22")
            .end(),
        Tar::new()
            .file("one", b"1")
            .raw(&Header { size: 700, ..Header::new(b'0', "two") }, &[b'x'; 700])
            .end(),
    ]
}

/// A generator of numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// Damages that readers may disagree on: a byte of a header with a checksum that fits, a block
/// that is left out or comes twice, an end that is cut off.
fn damaged(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut tar = seed.to_vec();
    for _ in 0..=random.below(2) {
        let blocks = tar.len() / 512;
        let at = random.below(blocks) * 512;
        match random.below(8) {
            0 => drop(tar.drain(at..at + 512)),
            1 => {
                let block = tar[at..at + 512].to_vec();
                drop(tar.splice(at..at, block));
            }
            2 => tar.truncate(at.max(512)),
            // Where sizes, kinds and names are.
            kind => {
                let place = [124, 135, 156, 0, 1, 345][random.below(6)] + random.below(3);
                tar[at + place] =
                    *b"01257xLg\0 /.".get(random.below(12)).unwrap_or(&kind.to_le_bytes()[0]);
            }
        }
    }
    for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

#[test]
fn others_see_the_files_that_we_see() {
    let work = tempfile::tempdir().unwrap();
    let archive = work.path().join("archive");
    let mut python = Python::new();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut taken, mut compared) = (0, 0);
    for round in 0..ROUNDS {
        let seeds = seeds();
        let seed = &seeds[round % seeds.len()];
        let tar = if round < seeds.len() { seed.clone() } else { damaged(seed, &mut random) };
        let place = Place::new();
        if place.unpack(&tar).is_err() {
            continue;
        }
        let ours = ours(&place);
        // A list of lines cannot tell such a name.
        if ours.iter().any(|(name, _)| name.contains(char::is_control)) {
            continue;
        }
        taken += 1;
        fs::write(&archive, &tar).unwrap();
        if let Some(listed) = listed_by_tar(&archive) {
            for (name, _) in &ours {
                assert!(
                    listed.contains(name),
                    "round {round}: tar does not list {name:?}: {listed:?}"
                );
            }
        }
        if let Some(theirs) = python.files(&archive) {
            assert_eq!(theirs, ours, "round {round}");
            compared += 1;
        }
    }
    assert!(taken > 100 && compared > 100, "{taken} were taken, {compared} compared");
}
