//! Small file systems for cases, in memory or in files.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testing::program;

/// The unit of the file systems.
const BLOCK: usize = 4096;

/// The least that btrfs takes.
const BTRFS_BYTES: u64 = 256 << 20;

/// A small file system; unmounted when it is dropped.
pub struct Disk(PathBuf);

/// What there is no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Blocks.
    Space,
    /// Names of files: inodes.
    Inodes,
    /// What the quota allows, though there is space.
    Quota,
}

impl Disk {
    /// In memory.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(place: &Path, size: &str) -> Result<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(place);
        program::output(&mut mount)?;
        Ok(Self(place.to_owned()))
    }

    /// The same as nodes have it: with a journal, where a record that changes needs a block.
    ///
    /// # Errors
    /// If it cannot be made or mounted.
    pub fn ext4(file: &Path, bytes: u64, options: &[&str], place: &Path) -> Result<Self> {
        fs::File::create(file)?.set_len(bytes)?;
        let mut mkfs = Command::new("mkfs.ext4");
        program::output(mkfs.args(["-q", "-m", "0"]).args(options).arg(file))?;
        Self::of_file(file, place)
    }

    /// A file system in a file.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn of_file(file: &Path, place: &Path) -> Result<Self> {
        program::output(Command::new("mount").args(["-o", "loop"]).arg(file).arg(place))?;
        Ok(Self(place.to_owned()))
    }

    /// With a quota of so many bytes, which root has to keep as well: btrfs's.
    ///
    /// # Errors
    /// If it cannot be made or mounted.
    pub fn with_quota(file: &Path, bytes: u64, place: &Path) -> Result<Self> {
        fs::File::create(file)?.set_len(BTRFS_BYTES)?;
        program::output(Command::new("mkfs.btrfs").arg("-q").arg(file))?;
        let disk = Self::of_file(file, place)?;
        program::output(Command::new("btrfs").args(["quota", "enable"]).arg(place))?;
        let mut limit = Command::new("btrfs");
        program::output(limit.args(["qgroup", "limit", &bytes.to_string()]).arg(place))?;
        Ok(disk)
    }

    /// Unmounts it, which nobody may use any more.
    ///
    /// # Errors
    /// If somebody does.
    pub fn unmount(self) -> Result<()> {
        program::output(Command::new("umount").arg(&self.0))?;
        std::mem::forget(self);
        Ok(())
    }

    /// Mounts it with other options.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remount(&self, options: &str) -> Result<()> {
        let mut mount = Command::new("mount");
        program::output(mount.args(["-o", &format!("remount,{options}")]).arg(&self.0)).map(drop)
    }

    /// How much is used, in bytes.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn used(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }

    /// Leaves nothing of what there may be a lack of.
    ///
    /// # Errors
    /// If it does not become full.
    pub fn fill(&self, lack: Lack) -> Result<()> {
        let filler = self.filler();
        fs::create_dir_all(&filler)?;
        let full = match lack {
            Lack::Inodes => (0_u64..).find_map(|n| fs::write(filler.join(n.to_string()), "").err()),
            Lack::Space | Lack::Quota => Some(fill_file(&filler.join("file"))?),
        };
        let full = full.context("it does not become full")?;
        let kind = match lack {
            Lack::Space | Lack::Inodes => ErrorKind::StorageFull,
            Lack::Quota => ErrorKind::QuotaExceeded,
        };
        ensure!(full.kind() == kind, "{full}");
        Ok(())
    }

    /// Leaves so many blocks.
    ///
    /// # Errors
    /// If it does not become full.
    pub fn fill_but(&self, blocks: u64) -> Result<()> {
        // Both exist before it is full: giving room back must need none.
        fs::create_dir_all(self.filler())?;
        let rest = self.filler().join("rest");
        fs::write(&rest, vec![0; usize::try_from(blocks)? * BLOCK])?;
        self.fill(Lack::Space)?;
        Ok(fs::remove_file(rest)?)
    }

    /// Removes what filled it.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn relieve(&self) -> Result<()> {
        fs::remove_dir_all(self.filler()).context("failed to remove the filler")
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

/// Gives the error that ends it.
fn fill_file(path: &Path) -> Result<std::io::Error> {
    let mut file = fs::File::create(path)?;
    let block = [0_u8; BLOCK];
    loop {
        if let Err(error) = file.write_all(&block) {
            return Ok(error);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = program::output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}
