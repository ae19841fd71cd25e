//! Exits: recorded on disk before they are reaped, so that whoever comes later knows.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use monitor_proto::{EXIT_RECORD_VERSION, EXITS_DIR, Exit, ExitRecord, OomFile, OomFileKind};
use rustix::process::{WaitOptions, wait};
use sys::pidfd;
use types::ContainerId;

use crate::{monitor::Monitor, say};

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

/// Whether the kernel has killed a process of the cgroup for want of memory.
pub(crate) fn was_oom_killed(files: &[OomFile]) -> bool {
    files.iter().any(|file| {
        let Ok(text) = fs::read_to_string(&file.path) else { return false };
        let key = match file.kind {
            OomFileKind::V1OomControl | OomFileKind::V2Events => "oom_kill ",
        };
        let count = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        count.is_some_and(|n| n > 0)
    })
}

/// Writes an exit record: aside, then renamed. No sync: it must outlive processes, and a
/// power cut ends the containers themselves.
pub(crate) fn record(state_dir: &Path, container: &ContainerId, pid: i32, exit: &Exit) -> io::Result<()> {
    let dir = state_dir.join(EXITS_DIR);
    let record = ExitRecord { version: EXIT_RECORD_VERSION, container: container.clone(), pid, exit: exit.clone() };
    let text = serde_json::to_vec(&record)?;
    let aside = dir.join(format!("{container}.new"));
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
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

impl Monitor {
    /// Some child has ended: finds which ones.
    pub(crate) fn children(&mut self) {
        let containers: Vec<ContainerId> = self.containers.keys().cloned().collect();
        for id in containers {
            let Some(container) = self.containers.get(&id) else { continue };
            let Some(process) = &container.process else { continue };
            if let Ok(Some(end)) = pidfd::peek_exit(process.pidfd.as_fd()) {
                self.container_ended(&id, end);
            }
        }
        let execs: Vec<u64> = self.execs.keys().copied().collect();
        for number in execs {
            let Some(exec) = self.execs.get(&number) else { continue };
            if let Ok(Some(end)) = pidfd::peek_exit(exec.pidfd.as_fd()) {
                self.exec_ended(number, end);
            }
        }
        if let Some(reaper) = &self.reaper
            && let Ok(Some(end)) = pidfd::peek_exit(reaper.pidfd.as_fd())
        {
            self.reaper_ended(end);
        }
        self.reap_strangers();
    }

    /// Reaps orphans that fell to this process: their end means nothing to anybody. One of
    /// our own that ends just now is found with them, and is not lost.
    fn reap_strangers(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let end = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => pidfd::Exit::Code(code),
                (None, Some(signal)) => pidfd::Exit::Signal(signal),
                (None, None) => continue,
            };
            let container =
                self.containers.iter().find(|(_, c)| c.process.as_ref().is_some_and(|p| p.pid == pid)).map(|(id, _)| id.clone());
            let exec = self.execs.iter().find(|(_, e)| e.pid == pid).map(|(n, _)| *n);
            let is_reaper = self.reaper.as_ref().is_some_and(|r| r.pid == pid);
            match (container, exec, is_reaper) {
                (Some(id), _, _) => self.container_ended(&id, end),
                (_, Some(number), _) => self.exec_ended(number, end),
                (_, _, true) => self.reaper_ended(end),
                (None, None, false) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_counted_in_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for (text, expected) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", true),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", false),
            ("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n", true),
            ("nonsense", false),
        ] {
            fs::write(&path, text).unwrap();
            let file = OomFile { path: path.clone(), kind: OomFileKind::V2Events };
            assert_eq!(was_oom_killed(&[file]), expected, "{text}");
        }
        assert!(!was_oom_killed(&[OomFile { path: dir.path().join("none"), kind: OomFileKind::V1OomControl }]));
    }
}
