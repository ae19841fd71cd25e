//! A program started in its cgroups, by a process that may have threads.
//!
//! The child runs in its parent's memory, beside the other threads: it may call nothing that takes
//! a lock or allocates. All that the child needs is therefore made before the clone, and it does
//! nothing but system calls until execve.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::process::Pid;

use crate::clone::{self, CloneArgs};
use crate::exec::StringArray;

/// A program to be started.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its file.
    pub path: &'a CStr,
    /// Its arguments, its name first.
    pub args: &'a StringArray,
    /// Its environment.
    pub env: &'a StringArray,
    /// What it finds as descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The directory of a v2 cgroup to start in.
    pub into_cgroup: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` files of further cgroups to start in.
    pub procs_files: &'a [PathBuf],
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no process.
    #[error("failed to clone")]
    Clone(#[source] io::Error),
    /// The process could not enter a cgroup.
    #[error("failed to enter the cgroup of {path}")]
    Place {
        /// The `cgroup.procs` file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The program was not executed.
    #[error("failed to execute")]
    Execute(#[source] io::Error),
}

/// Starts a program; comes back when it executes. The caller reaps it.
///
/// # Errors
/// Where it fails no process is left.
pub fn spawn(program: &Program<'_>) -> Result<(Pid, OwnedFd), SpawnError> {
    let places = places(program.procs_files).map_err(SpawnError::Clone)?;
    // Above 2, where nothing is about to be replaced.
    let moved = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| SpawnError::Clone(errno.into()))
    };
    let [stdin, stdout, stderr] = program.stdio;
    let stdio = [moved(stdin)?, moved(stdout)?, moved(stderr)?];
    let child = Child {
        program,
        places: &places,
        stdio: stdio.each_ref().map(AsRawFd::as_raw_fd),
        failure: Cell::new(None),
    };
    let args = CloneArgs { into_cgroup: program.into_cgroup, ..CloneArgs::default() };
    // SAFETY: `run` keeps to system calls, and resets handlers before it unblocks signals.
    let cloned = unsafe { clone::clone_sharing_memory(&args, &|| child.run()) };
    let (pid, pidfd) = cloned.map_err(SpawnError::Clone)?;
    let Some((at, errno)) = child.failure.get() else { return Ok((pid, pidfd)) };
    // It has ended, or does so now.
    let _ = crate::pidfd::wait_and_reap(&pidfd);
    let source = io::Error::from_raw_os_error(errno);
    Err(match program.procs_files.get(at) {
        Some(path) => SpawnError::Place { path: path.clone(), source },
        None => SpawnError::Execute(source),
    })
}

/// The names of a cgroup's files: the one of v1 hierarchies, and the one that all have.
struct Place {
    tasks: CString,
    procs: CString,
}

fn places(procs_files: &[PathBuf]) -> io::Result<Vec<Place>> {
    let name = |path: PathBuf| CString::new(path.as_os_str().as_bytes());
    procs_files
        .iter()
        .map(|file| {
            Ok(Place { tasks: name(file.with_file_name("tasks"))?, procs: name(file.clone())? })
        })
        .collect()
}

/// What the child works with, and says.
struct Child<'a> {
    program: &'a Program<'a>,
    places: &'a [Place],
    stdio: [RawFd; 3],
    /// The place that it could not enter, or the number of all places where it was another step,
    /// and the kernel's error number.
    failure: Cell<Option<(usize, i32)>>,
}

impl Child<'_> {
    /// Does system calls only. Where it comes back, it has failed.
    fn run(&self) {
        for (at, place) in self.places.iter().enumerate() {
            if !enter(place) {
                return self.fail(at);
            }
        }
        for (from, to) in self.stdio.into_iter().zip(0..) {
            // SAFETY: takes integers. Nobody uses what is replaced: the process executes or ends.
            if unsafe { libc::dup2(from, to) } < 0 {
                return self.fail(self.places.len());
            }
        }
        if crate::signals::reset().is_ok() {
            drop(crate::exec::execve(self.program.path, self.program.args, self.program.env));
        }
        self.fail(self.places.len());
    }

    fn fail(&self, at: usize) {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
        self.failure.set(Some((at, errno)));
    }
}

/// As [`crate::cgroup::enter`], without allocating. Leaves the cause in errno.
fn enter(place: &Place) -> bool {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: both names end in a zero byte; the buffer is one byte long. The descriptor is ours
    // alone.
    unsafe {
        let mut file = libc::open(place.tasks.as_ptr(), flags);
        if file < 0 && io::Error::last_os_error().kind() == io::ErrorKind::NotFound {
            file = libc::open(place.procs.as_ptr(), flags);
        }
        file >= 0 && libc::write(file, c"0".as_ptr().cast(), 1) == 1 && libc::close(file) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn strings(of: &[&str]) -> StringArray {
        StringArray::new(of.iter().map(|text| CString::new(*text).unwrap()).collect())
    }

    fn run(path: &CStr, procs_files: &[PathBuf]) -> (Result<(Pid, OwnedFd), SpawnError>, String) {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (out, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let result = spawn(&Program {
            path,
            args: &strings(&["sh", "-c", "echo $0 $X; echo error >&2; cat; exit 7", "name"]),
            env: &strings(&["X=y"]),
            stdio: [null.as_fd(), theirs.as_fd(), theirs.as_fd()],
            into_cgroup: None,
            procs_files,
        });
        drop(theirs);
        let mut text = String::new();
        std::fs::File::from(out).read_to_string(&mut text).unwrap();
        (result, text)
    }

    #[test]
    fn it_gets_arguments_environment_and_three_descriptors() {
        let (result, text) = run(c"/bin/sh", &[]);
        let (_, pidfd) = result.unwrap();
        assert_eq!(crate::pidfd::wait_and_reap(&pidfd).unwrap().shell_code(), 7);
        assert_eq!(text, "name y\nerror\n");
    }

    #[test]
    fn what_fails_is_told_and_nothing_runs() {
        let (result, text) = run(c"/none", &[]);
        let Err(SpawnError::Execute(cause)) = result else { panic!("{result:?}") };
        assert_eq!((cause.kind(), text.as_str()), (io::ErrorKind::NotFound, ""));
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("cgroup.procs");
        std::fs::write(&there, "").unwrap();
        let missing = dir.path().join("none/cgroup.procs");
        let (result, text) = run(c"/bin/sh", &[there.clone(), missing.clone()]);
        let Err(SpawnError::Place { path, source }) = result else { panic!("{result:?}") };
        assert_eq!((path, source.kind()), (missing, io::ErrorKind::NotFound));
        assert_eq!((text.as_str(), std::fs::read_to_string(there).unwrap().as_str()), ("", "0"));
    }
}
