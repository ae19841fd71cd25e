//! Whether a directory can be written to, and by nobody else.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
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

/// Closes a directory of ours to others, as an older version or somebody else may have left it
/// open: it has root file systems with programs that run as others, and what clients have said.
/// Returns whether it was open. One that is not there is made later, closed.
///
/// # Errors
/// Where it is no directory, or cannot be changed.
pub fn close_dir(dir: &Path) -> io::Result<bool> {
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() == own && meta.mode() & OTHERS == 0 {
        return Ok(false);
    }
    std::os::unix::fs::lchown(dir, Some(own), None)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(meta.mode() & OWN_MODE))?;
    Ok(true)
}

/// What others may do, and what remains for ourselves.
const OTHERS: u32 = 0o077;
const OWN_MODE: u32 = 0o700;

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
    fn a_directory_that_is_open_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("images");
        assert!(!close_dir(&at).unwrap());
        fs::create_dir(&at).unwrap();
        for (mode, open) in [(0o777, true), (0o700, false), (0o711, true), (0o1755, true)] {
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(close_dir(&at).unwrap(), open, "{mode:o}");
            assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o700);
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&at, &link).unwrap();
        assert!(close_dir(&link).is_err());
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
