//! Arguments and the process's own surroundings.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::process::{set_child_subreaper, umask};
use types::SandboxId;

/// What the daemon says.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub sandbox: SandboxId,
    pub state_dir: PathBuf,
}

/// What the daemon gave: its connection as descriptor 0, the socket to listen on as 1.
pub(crate) struct Inherited {
    pub daemon: OwnedFd,
    pub listener: OwnedFd,
}

/// The directory of `--probe-user-namespaces DIR`, which is all that such a process is for.
pub(crate) fn probe_directory() -> Option<PathBuf> {
    let mut given = std::env::args_os().skip(1);
    let is_probe = given.next().is_some_and(|name| name == "--probe-user-namespaces");
    given.next().filter(|_| is_probe).map(PathBuf::from)
}

/// Whether it is to keep a cgroup of systemd's: `--hold`.
pub(crate) fn is_asked_to_hold() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == "--hold")
}

/// Waits until the daemon has no more need of it, or has ended.
pub(crate) fn hold() -> ExitCode {
    let mut byte = [0];
    while rustix::io::read(rustix::stdio::stdin(), &mut byte).is_ok_and(|count| count > 0) {}
    ExitCode::SUCCESS
}

/// Reads `--sandbox ID --state-dir DIR`.
pub(crate) fn arguments() -> Result<Arguments, String> {
    let (mut sandbox, mut state_dir) = (None, None);
    let mut given = std::env::args_os().skip(1);
    while let Some(name) = given.next() {
        let value =
            given.next().ok_or("an argument has no value: it is started by corten serve")?;
        match name.to_str() {
            Some("--sandbox") => {
                let id = value.to_string_lossy().parse().map_err(|e| format!("--sandbox: {e}"))?;
                sandbox = Some(id);
            }
            Some("--state-dir") => state_dir = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown argument {}", name.to_string_lossy())),
        }
    }
    match (sandbox, state_dir) {
        (Some(sandbox), Some(state_dir)) => Ok(Arguments { sandbox, state_dir }),
        _ => Err("--sandbox and --state-dir are needed: it is started by corten serve".to_owned()),
    }
}

/// Makes the process fit to live alone.
pub(crate) fn prepare() -> io::Result<Inherited> {
    let stdin = rustix::stdio::stdin();
    let stdout = rustix::stdio::stdout();
    let daemon = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    let listener = rustix::io::fcntl_dupfd_cloexec(stdout, 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    // Its own session: a terminal's or a service manager's signals to the daemon's group
    // do not reach it. The leader of one already is no error.
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"corten-monitor")?;
    umask(Mode::from_raw_mode(0o077));
    rustix::process::chdir("/")?;
    set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    protect();
    rustix::net::listen(&listener, 16)?;
    Ok(Inherited { daemon, listener })
}

/// A pod's out-of-memory must not take the witness of its end. Where lowering the
/// score is not permitted, that is said once and the score stays.
fn protect() {
    const SCORE: &str = "-999";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", SCORE) {
        crate::say(&format!(
            "oom_score_adj stays as it is, {SCORE} is not permitted here: {error}"
        ));
    }
}
