//! Runs each case in a process of its own.

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A name and what to run.
pub type Case = (&'static str, fn());

/// How long one case may take; the longest needs a second on a busy machine.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);
/// Tells the process of a case from the one that starts them.
const CASE_VARIABLE: &str = "CORTEN_LAUNCH_CASE";

/// Runs the cases that the command line asks for.
pub fn run(cases: &[Case]) -> ExitCode {
    if let Ok(name) = std::env::var(CASE_VARIABLE) {
        let case = cases.iter().find(|case| case.0 == name).expect("a known case");
        (case.1)();
        return ExitCode::SUCCESS;
    }
    // cargo-nextest asks with `--list --format terse`, then once more with `--ignored`.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_value = |at: usize| at > 0 && arguments[at - 1] == "--format";
    let plain = arguments.iter().enumerate().filter(|(at, _)| !is_value(*at));
    let (flags, filters): (Vec<&String>, Vec<&String>) =
        plain.map(|(_, argument)| argument).partition(|argument| argument.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|given| *given == flag);
    let wanted = |name: &str| {
        let fits =
            |f: &&String| if has("--exact") { *f == name } else { name.contains(f.as_str()) };
        filters.is_empty() || filters.iter().any(fits)
    };
    let chosen: Vec<&Case> = cases.iter().filter(|case| wanted(case.0)).collect();
    if has("--list") && has("--ignored") {
        return ExitCode::SUCCESS;
    }
    if has("--list") {
        chosen.iter().for_each(|case| println!("{}: test", case.0));
        return ExitCode::SUCCESS;
    }
    let failed = chosen.iter().filter(|case| !run_one(case.0, has("--nocapture"))).count();
    println!("\ntest result: {} passed; {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(name: &str, is_shown: bool) -> bool {
    let program = std::env::current_exe().expect("own program");
    let output = tempfile::tempfile().expect("file");
    let mut command = Command::new(program);
    command.env(CASE_VARIABLE, name).stdin(Stdio::null());
    if !is_shown {
        command.stdout(output.try_clone().expect("file"));
        command.stderr(output.try_clone().expect("file"));
    }
    let mut child = command.spawn().expect("started");
    let in_time = ends_in_time(&child);
    if !in_time {
        child.kill().expect("killed");
    }
    let passed = child.wait().expect("waited").success() && in_time;
    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    if !passed && !is_shown {
        use std::io::{Read, Seek};
        let (mut output, mut text) = (output, Vec::new());
        output.rewind().expect("rewound");
        output.read_to_end(&mut text).expect("read");
        println!("{}", String::from_utf8_lossy(&text));
        if !in_time {
            println!("killed after {CASE_TIMEOUT:?}");
        }
    }
    passed
}

fn ends_in_time(child: &Child) -> bool {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("opened");
    wait_readable(&pidfd, CASE_TIMEOUT)
}

/// Waits until a descriptor can be read, or for a pidfd until the process has ended.
pub fn wait_readable(fd: impl std::os::fd::AsFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).expect("in range");
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&timeout)).expect("polled") > 0
}

/// Kills a process of the case's.
pub fn kill(pidfd: impl std::os::fd::AsFd) {
    pidfd_send_signal(pidfd, Signal::KILL).expect("signalled");
}
