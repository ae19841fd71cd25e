//! Whether a directory can be written to.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

/// The name of what is made where files without a name cannot be.
const PROBE: &str = "writable.probe";

/// Makes a file in a directory, of which nothing is left and nothing is synced. What mounts
/// and permissions say is not enough: a file system that has met an error is read-only
/// without showing it there.
///
/// # Errors
/// The kernel's. A full disk is no reason: what is there can still be changed and removed.
pub fn try_writing(dir: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE.bits().cast_signed();
    let made = File::options().write(true).mode(0o600).custom_flags(flags).open(dir);
    match made.map(drop) {
        // Of file systems and kernels that do not know it.
        Err(error) if is_unknown(&error) => try_by_name(&dir.join(PROBE)),
        other => other,
    }
    .or_else(|error| if is_full(&error) { Ok(()) } else { Err(error) })
}

fn try_by_name(path: &Path) -> io::Result<()> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    fs::remove_file(path)
}

fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL];
    error.raw_os_error().is_some_and(|raw| unknown.iter().any(|e| e.raw_os_error() == raw))
}

/// The disk is full, or what this process may have open is.
fn is_full(error: &io::Error) -> bool {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.raw_os_error().is_some_and(|raw| full.iter().any(|e| e.raw_os_error() == raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_can_be_written_to_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        try_writing(dir.path()).unwrap();
        try_by_name(&dir.path().join(PROBE)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn why_one_cannot_be_is_told_and_a_full_disk_is_no_reason() {
        let dir = tempfile::tempdir().unwrap();
        let gone = try_writing(&dir.path().join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        // A file system on which nobody may make anything.
        assert!(try_writing(Path::new("/proc/self")).is_err());
        for (errno, full) in
            [(Errno::NOSPC, true), (Errno::DQUOT, true), (Errno::ROFS, false), (Errno::IO, false)]
        {
            assert_eq!(is_full(&errno.into()), full, "{errno}");
        }
    }
}
