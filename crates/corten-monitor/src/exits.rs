//! Exits: recorded on disk before they are reaped, so that whoever comes later knows.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use monitor_proto::{EXIT_RECORD_VERSION, EXITS_DIR, Exit, ExitRecord};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use sys::pidfd;
use types::ContainerId;

use crate::monitor::Monitor;
use crate::say;

/// How long the one thread waits for a process that it killed. SIGKILL takes effect at once,
/// unless the process hangs in the kernel; then it is reaped when it ends.
const KILL_WAIT: Duration = Duration::from_millis(200);

/// What the kernel tells, in the protocol's form.
pub(crate) fn exit_of(end: pidfd::Exit, oom_killed: bool) -> Exit {
    let (code, signal) = match end {
        pidfd::Exit::Code(code) => (code, None),
        pidfd::Exit::Signal(signal) => (128 + signal, Some(signal)),
    };
    Exit { code, signal, oom_killed, finished_at_ns: now_ns() }
}

/// The time, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Whether a process ended as one does that was killed, or whose only child was.
pub(crate) fn was_killed(end: pidfd::Exit) -> bool {
    end.shell_code() == pidfd::Exit::Signal(Signal::KILL.as_raw()).shell_code()
}

/// Writes an exit record: aside, then renamed. No sync: it must outlive processes, and a
/// power cut ends the containers themselves.
pub(crate) fn record(
    state_dir: &Path,
    container: &ContainerId,
    pid: i32,
    exit: &Exit,
) -> io::Result<()> {
    let dir = state_dir.join(EXITS_DIR);
    let record = ExitRecord {
        version: EXIT_RECORD_VERSION,
        container: container.clone(),
        pid,
        exit: exit.clone(),
    };
    let text = serde_json::to_vec(&record)?;
    let aside = dir.join(format!("{container}.new"));
    let mut file =
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&text)?;
    fs::rename(aside, dir.join(container.as_str()))
}

/// Removes a record that the daemon has taken.
pub(crate) fn forget(state_dir: &Path, container: &ContainerId) {
    let path = state_dir.join(EXITS_DIR).join(container.as_str());
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        say(&format!("the exit record {} stays: {error}", path.display()));
    }
}

/// Kills a child and reaps it, unless it hangs; then it is reaped as a stranger when it ends.
pub(crate) fn kill_and_reap(process: &OwnedFd) {
    let _ = pidfd_send_signal(process, Signal::KILL);
    wait_for_end(process, KILL_WAIT);
    let _ = pidfd::reap(process);
}

/// Waits until a process has ended, or the time is over.
pub(crate) fn wait_for_end(process: &OwnedFd, limit: Duration) {
    let time = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let _ = rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&time));
}

impl Monitor {
    /// Some child has ended: finds which ones, and reaps orphans that fell to this process,
    /// whose end means nothing to anybody.
    pub(crate) fn children(&mut self) {
        // Each turn reaps one. A failure is for the next signal.
        while let Ok(Some((pid, end))) = sys::children::peek_any() {
            self.child_ended(pid, end);
            if let Ok(Some((same, _))) = sys::children::peek_any()
                && same == pid
            {
                let _ = sys::children::reap(pid);
            }
        }
        self.remove_exec_dirs();
    }

    fn child_ended(&mut self, pid: Pid, end: pidfd::Exit) {
        if let Some(number) = self.program_of(pid) {
            return self.program_ended(number, end);
        }
        let of_container = |process: Option<&crate::container::Process>| {
            process.is_some_and(|process| process.pid == pid)
        };
        let container =
            self.containers.iter().find(|(_, container)| of_container(container.process.as_ref()));
        if let Some(id) = container.map(|(id, _)| id.clone()) {
            return self.container_ended(&id, end);
        }
        let exec = self.execs.iter().find(|(_, exec)| exec.pid == pid);
        if let Some(number) = exec.map(|(number, _)| *number) {
            return self.exec_ended(number, end);
        }
        if self.reaper.as_ref().is_some_and(|reaper| reaper.pid == pid) {
            return self.reaper_ended(end);
        }
        self.stranger_ended(pid, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_ended_so() {
        for (end, expected) in [
            (pidfd::Exit::Signal(9), true),
            // A shell whose command was killed says so by its own code.
            (pidfd::Exit::Code(137), true),
            (pidfd::Exit::Code(0), false),
            (pidfd::Exit::Code(1), false),
            (pidfd::Exit::Signal(15), false),
        ] {
            assert_eq!(was_killed(end), expected, "{end:?}");
        }
    }

    #[test]
    fn a_record_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(EXITS_DIR)).unwrap();
        let id = ContainerId::random();
        for code in [1, 2] {
            let exit = exit_of(pidfd::Exit::Code(code), false);
            record(dir.path(), &id, 7, &exit).unwrap();
            let text = fs::read(dir.path().join(EXITS_DIR).join(id.as_str())).unwrap();
            let read: ExitRecord = serde_json::from_slice(&text).unwrap();
            assert_eq!((read.container, read.pid, read.exit), (id.clone(), 7, exit));
        }
        forget(dir.path(), &id);
        assert_eq!(fs::read_dir(dir.path().join(EXITS_DIR)).unwrap().count(), 0);
    }
}
