//! The lock that keeps two daemons off one root directory.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

/// How long a lock is waited for whose holder has ended. What a daemon has just forked holds what
/// the daemon held until it executes its program.
const LEFT_BEHIND: Duration = Duration::from_secs(10);

/// How often it is tried.
const RETRY: Duration = Duration::from_millis(5);

/// Why a root directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("{path} is held by process {holder}: stop it, or use another --root")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote of itself.
        holder: String,
    },
    /// The lock file could not be used.
    #[error("failed to lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A root directory taken for this process, until it is dropped.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Makes the directory (mode 0700) where it is missing, closes it where it is open to others,
    /// and takes it.
    ///
    /// # Errors
    /// Fails where another process has it, and says which.
    pub fn take(root: &Path) -> Result<Self, LockError> {
        let path = root.join("lock");
        let failed = |source| LockError::Lock { path: path.clone(), source };
        crate::private::ensure_dir(root).map_err(failed)?;
        let mut writer = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        // What stays open is for reading alone: the file system can be made read-only under us.
        let mut file = File::open(&path).map_err(failed)?;
        let begun = Instant::now();
        while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if errno != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(errno.into()));
            }
            let holder = read_holder(&mut file).map_err(failed)?;
            if holder.parse().is_ok_and(runs) || begun.elapsed() > LEFT_BEHIND {
                return Err(LockError::Held { path, holder });
            }
            thread::sleep(RETRY);
        }
        let mut write = || -> io::Result<()> {
            writer.set_len(0)?;
            writeln!(writer, "{}", std::process::id())
        };
        // The text only helps a reader: a full disk must not keep the daemon from starting.
        let _ = write();
        Ok(Self { _file: file })
    }
}

/// What the holder wrote of itself.
fn read_holder(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.take(32).read_to_string(&mut text)?;
    let text = text.trim();
    Ok(if text.is_empty() { "unknown".to_owned() } else { text.to_owned() })
}

/// Whether a process is there that has not ended.
fn runs(process: u32) -> bool {
    // proc_pid_stat(5): the state follows the name, which is in brackets and may hold any.
    let stat = fs::read(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(|byte| *byte == b')').next().and_then(|rest| rest.get(1));
    stat.contains(&b')') && !matches!(state, Some(b'Z' | b'X') | None)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A process that holds the lock of `dir`, which another one, that has ended, took.
    fn left_behind(dir: &Path) -> std::process::Child {
        let path = dir.join("lock");
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        fs::write(&path, format!("{}\n", gone.id())).unwrap();
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::from(file)).spawn().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child
    }

    #[test]
    fn what_a_dead_holder_left_behind_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = left_behind(dir.path());
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(child.stdin.take());
            child.wait().unwrap();
        });
        RootLock::take(dir.path()).unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn a_process_that_has_ended_does_not_run() {
        assert!(runs(std::process::id()));
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let id = child.id();
        let begun = Instant::now();
        while runs(id) && begun.elapsed() < LEFT_BEHIND {
            thread::sleep(RETRY);
        }
        assert!(!runs(id), "a zombie");
        child.wait().unwrap();
        assert!(!runs(id));
    }

    #[test]
    fn the_second_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = RootLock::take(dir.path()).unwrap();
        let second = RootLock::take(dir.path()).unwrap_err().to_string();
        assert!(second.contains(&std::process::id().to_string()), "{second}");
        drop(first);
        RootLock::take(dir.path()).unwrap();
    }
}
