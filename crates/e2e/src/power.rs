//! Power cuts: a disk of which every write is recorded, and what is on it when the power fails
//! between any two of them.
//!
//! QEMU's storage daemon shows a file as another one (FUSE) and records what is written to it
//! (`blklogwrites`), in the order in which it is, with the flushes among it. A loop device on that
//! file is a disk whose file system is this kernel's own. From an empty file and the first so many
//! writes comes the disk as it was then: what the page cache had not written is not there.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testing::program::{self, Program};

use crate::disk::Disk;

/// The program that records.
pub const RECORDER: &str = "/usr/bin/qemu-storage-daemon";

/// Where files are shown by a program.
pub const FUSE: &str = "/dev/fuse";

/// The record's unit: what the log's addresses and lengths are in.
const SECTOR: u64 = 512;

/// The first words of a record: magic, version, number of entries (the kernel's
/// `Documentation/admin-guide/device-mapper/log-writes.rst`).
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

/// Flags of an entry.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Sparse, and more than any case writes.
const LOG_BYTES: u64 = 8 << 30;

const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that is being recorded.
pub struct Recorder {
    program: Program,
    disk: Disk,
    dir: PathBuf,
}

impl Recorder {
    /// Makes an ext4 of so many bytes in `dir`, which must be empty, and mounts it at `place`.
    ///
    /// # Errors
    /// If a program is missing, or the kernel refuses.
    pub fn mount(dir: &Path, bytes: u64, place: &Path) -> Result<Self> {
        let path = |name: &str| dir.join(name);
        File::create(path("first"))?.set_len(bytes)?;
        program::output(Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(path("first")))?;
        copy(&path("first"), &path("written"))?;
        File::create(path("log"))?.set_len(LOG_BYTES)?;
        File::create(path("shown"))?;
        let file = |name: &str| format!("driver=file,node-name={name},filename={name}");
        let mut command = Command::new(RECORDER);
        command.current_dir(dir);
        for node in [
            file("written"),
            file("log"),
            "driver=blklogwrites,node-name=both,file=written,log=log,log-super-update-interval=1"
                .to_owned(),
        ] {
            command.arg("--blockdev").arg(node);
        }
        let shown = path("shown");
        let export = "type=fuse,id=shown,node-name=both,writable=on";
        command.arg("--export").arg(format!("{export},mountpoint={}", shown.display()));
        let mut program = Program::start(&mut command, &path("recorder"))?;
        program.until(PATIENCE, "the disk to be shown", || {
            fs::metadata(&shown).is_ok_and(|meta| meta.len() == bytes)
        })?;
        let disk = Disk::of_file(&shown, place)?;
        Ok(Self { program, disk, dir: dir.to_owned() })
    }

    /// How many writes and flushes have reached the disk by now.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn position(&self) -> Result<usize> {
        entries(&mut File::open(self.dir.join("log"))?)
    }

    /// Ends the recording. Nobody uses the disk any more.
    ///
    /// # Errors
    /// If it cannot be unmounted, or the record is none.
    pub fn end(self) -> Result<Record> {
        let Self { mut program, disk, dir } = self;
        disk.unmount()?;
        program.signal(rustix::process::Signal::TERM)?;
        program.wait(PATIENCE)?;
        Record::read(dir)
    }
}

/// What was written to a disk.
pub struct Record {
    dir: PathBuf,
    entries: Vec<Entry>,
}

/// A write, or a flush.
struct Entry {
    at: u64,
    length: u64,
    flags: u64,
    /// Where its bytes are in the record.
    bytes: u64,
}

impl Record {
    fn read(dir: PathBuf) -> Result<Self> {
        let mut log = File::open(dir.join("log"))?;
        let count = entries(&mut log)?;
        let mut all = Vec::with_capacity(count);
        let mut place = SECTOR;
        for _ in 0..count {
            log.seek(SeekFrom::Start(place))?;
            let (at, length, flags) = (number(&mut log)?, number(&mut log)?, number(&mut log)?);
            place += SECTOR;
            let (at, length) = (at * SECTOR, length * SECTOR);
            all.push(Entry { at, length, flags, bytes: place });
            if flags & DISCARD == 0 {
                place += length;
            }
        }
        Ok(Self { dir, entries: all })
    }

    /// The moments right after a flush, at which all that was synced is there.
    #[must_use]
    pub fn flushes(&self) -> Vec<usize> {
        let is_flush = |entry: &Entry| entry.flags & (FLUSH | FUA) != 0;
        (1..=self.entries.len()).filter(|at| is_flush(&self.entries[at - 1])).collect()
    }

    /// How many writes and flushes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Mounts the disk as it was after the first `count` of them.
    ///
    /// # Errors
    /// If it cannot be made or mounted.
    pub fn mount_after(&self, count: usize, place: &Path) -> Result<Disk> {
        let image = self.dir.join("cut");
        copy(&self.dir.join("first"), &image)?;
        let mut disk = File::options().write(true).open(&image)?;
        let mut log = File::open(self.dir.join("log"))?;
        let mut bytes = Vec::new();
        for entry in self.entries.iter().take(count) {
            bytes.clear();
            if entry.flags & DISCARD == 0 {
                log.seek(SeekFrom::Start(entry.bytes))?;
                (&mut log).take(entry.length).read_to_end(&mut bytes)?;
            }
            // What is discarded reads as anything: as zeros here.
            bytes.resize(usize::try_from(entry.length)?, 0);
            disk.seek(SeekFrom::Start(entry.at))?;
            disk.write_all(&bytes)?;
        }
        drop(disk);
        Disk::of_file(&image, place)
    }
}

/// How many entries a record has.
fn entries(log: &mut File) -> Result<usize> {
    let (magic, version) = (number(log)?, number(log)?);
    ensure!(magic == MAGIC && version == VERSION, "this is no record of a disk");
    usize::try_from(number(log)?).context("the record is too long")
}

fn number(log: &mut File) -> Result<u64> {
    let mut bytes = [0; 8];
    log.read_exact(&mut bytes).context("the record ends early")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Copies a file and leaves its holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    program::output(cp.arg("--sparse=always").args([from, to])).map(drop)
}
