//! Going into a cgroup.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Moves the calling process, which must have one thread, into the cgroup that has this
/// `cgroup.procs`.
///
/// In a v1 hierarchy it moves by `tasks`: of the caller's own single thread the kernel knows that
/// it does not fork meanwhile. Who writes a number to `cgroup.procs` waits until no process of
/// the machine forks, a grace period of some milliseconds.
///
/// # Errors
/// The kernel's.
pub fn enter(procs_file: &Path) -> io::Result<()> {
    match write_zero(&procs_file.with_file_name("tasks")) {
        // The unified tree has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_zero(procs_file),
        result => result,
    }
}

/// Zero is the one who writes. Nothing is created: a missing cgroup must not become a file.
fn write_zero(file: &Path) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all(b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_own_file_comes_first_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (procs, tasks) = (dir.path().join("cgroup.procs"), dir.path().join("tasks"));
        assert_eq!(enter(&procs).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!procs.exists() && !tasks.exists());
        std::fs::write(&procs, "").unwrap();
        enter(&procs).unwrap();
        assert_eq!(std::fs::read_to_string(&procs).unwrap(), "0");
        std::fs::write(&procs, "").unwrap();
        std::fs::write(&tasks, "").unwrap();
        enter(&procs).unwrap();
        assert_eq!(std::fs::read_to_string(&procs).unwrap(), "");
        assert_eq!(std::fs::read_to_string(&tasks).unwrap(), "0");
    }
}
