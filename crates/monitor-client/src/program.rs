//! The monitor's program, where no container can write to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::MonitorError;

/// A sealed copy of the monitor's program in memory.
///
/// A container that gets at `/proc/PID/exe` of a monitor finds this copy and can change neither
/// it nor the file on disk (CVE-2019-5736); a program that is replaced on disk changes nothing
/// for the daemon that runs.
#[derive(Debug)]
pub struct MonitorProgram {
    copy: OwnedFd,
}

impl MonitorProgram {
    /// Copies and seals a program.
    ///
    /// # Errors
    /// When it cannot be read, or memory for the copy cannot be had.
    pub fn load(path: &Path) -> Result<Self, MonitorError> {
        sealed_copy(path)
            .map(|copy| Self { copy })
            .map_err(|source| MonitorError::Program { path: path.to_owned(), source })
    }

    /// The path by which this process executes the copy.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.copy.as_fd().as_raw_fd()).into()
    }
}

fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let mut program = File::open(path)?;
    if !program.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut copy = File::from(executable_memfd()?);
    io::copy(&mut program, &mut copy)?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(copy.into())
}

/// `MFD_EXEC` says so where the kernel wants it said (vm.memfd_noexec); before 6.3 it is not known.
fn executable_memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("corten-monitor", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create("corten-monitor", flags)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_copy_runs_and_cannot_be_changed() {
        let program = MonitorProgram::load(Path::new("/bin/true")).unwrap();
        assert!(std::process::Command::new(program.path()).status().unwrap().success());
        let mut copy = File::options().write(true).open(program.path()).unwrap();
        assert!(copy.write_all(b"x").is_err());
        assert_eq!(copy.metadata().unwrap().size(), std::fs::metadata("/bin/true").unwrap().size());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = MonitorProgram::load(Path::new("/no/such/monitor")).unwrap_err();
        assert!(error.to_string().contains("/no/such/monitor"));
    }
}
