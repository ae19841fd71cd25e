//! Signals to whole cgroups.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use monitor_proto::KillCgroup;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

/// How often processes are killed one by one, where the kernel cannot kill a cgroup at once: what
/// forks in between is found the next time.
const KILL_ROUNDS: usize = 16;

/// Kills everything in a cgroup.
pub(crate) fn kill_cgroup(kill: &KillCgroup) {
    if let Some(file) = &kill.kill_file
        && fs::write(file, "1").is_ok()
    {
        return;
    }
    let Some(procs) = &kill.procs_file else { return };
    for _ in 0..KILL_ROUNDS {
        if signal_processes(procs, Signal::KILL.as_raw()) == 0 {
            return;
        }
    }
}

/// Sends a signal to every process of a cgroup, one by one; tells how many there were.
pub(crate) fn signal_processes(procs_file: &Path, signal: i32) -> usize {
    let before: Vec<(Pid, OwnedFd)> = processes(procs_file)
        .into_iter()
        .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
        .collect();
    // A number that is still listed belonged to the cgroup when its handle was opened, or the
    // handle is of a process that has ended: a stranger is never hit.
    let after = processes(procs_file);
    let mut sent = 0;
    for (pid, handle) in before {
        if after.contains(&pid) && sys::pidfd::send_signal(&handle, signal).is_ok() {
            sent += 1;
        }
    }
    sent
}

fn processes(procs_file: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(procs_file).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_listed_gets_the_signal() {
        let dir = tempfile::tempdir().unwrap();
        let procs = dir.path().join("cgroup.procs");
        let mut children: Vec<_> =
            (0..2).map(|_| Command::new("/bin/sleep").arg("1000").spawn().unwrap()).collect();
        let listed = children.iter().map(|child| format!("{}\n", child.id()));
        fs::write(&procs, listed.collect::<String>() + "0\nnonsense\n").unwrap();
        assert_eq!(signal_processes(&procs, Signal::TERM.as_raw()), 2);
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(15));
        }
        assert_eq!(signal_processes(&procs, Signal::TERM.as_raw()), 0);
        assert_eq!(signal_processes(&dir.path().join("none"), Signal::TERM.as_raw()), 0);
    }
}
