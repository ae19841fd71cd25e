//! Running one plugin program: bounded in time and output, killed with all that it
//! started when its time is over.

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    time::{Instant, timeout, timeout_at},
};

/// The longest result: one with hundreds of routes has some 50 KiB.
const MAX_OUTPUT: usize = 1024 * 1024;
/// How much of what a plugin says on the side is kept for its error.
const MAX_ERROR_OUTPUT: usize = 16 * 1024;
/// The longest text of a plugin that is carried to the user, in characters.
const MAX_TEXT: usize = 1024;
/// How long output may still come after the plugin's end: a process that it left behind
/// may hold the pipe for ever.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// How long a killed plugin may take to vanish: longer only if the kernel is stuck.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// Where plugins find `iptables` when the daemon was started without a path.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginFailure {
    /// There is no such program.
    #[error("no such program in {}", show(.dirs))]
    NotFound {
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// The program cannot be started.
    #[error("failed to start {path}: {source}")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program was killed because its time was over.
    #[error("no answer within {:.1} s", .after.as_secs_f32())]
    Timeout {
        /// How long it had.
        after: Duration,
    },
    /// The program told an error.
    #[error("{message} (code {code})")]
    Reported {
        /// The error's number.
        code: u32,
        /// Its text and details.
        message: String,
    },
    /// The program failed without telling an error as the specification wants it.
    #[error("{status}: {output}")]
    Crashed {
        /// How it ended.
        status: ExitStatus,
        /// What it said instead.
        output: String,
    },
    /// The program says too much.
    #[error("its output is longer than {MAX_OUTPUT} bytes")]
    TooMuchOutput,
    /// The program succeeded but its result cannot be used.
    #[error("its result cannot be used: {problem}: {output}")]
    InvalidResult {
        /// What is wrong with it.
        problem: String,
        /// The beginning of the result.
        output: String,
    },
}

/// What a plugin is called with.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The program.
    pub(super) path: &'a Path,
    /// `CNI_*`.
    pub(super) environment: Vec<(&'static str, String)>,
    /// The configuration, with result and capability arguments.
    pub(super) stdin: Vec<u8>,
    /// When its time is over.
    pub(super) deadline: Instant,
}

/// The error object of the specification.
#[derive(Debug, Deserialize)]
struct ErrorObject {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// Returns the program of a type, which is a file name and never a path.
pub(super) fn find_program(kind: &str, dirs: &[PathBuf]) -> Result<PathBuf, PluginFailure> {
    let mut paths = dirs.iter().map(|dir| dir.join(kind));
    paths
        .find(|path| path.is_file())
        .ok_or_else(|| PluginFailure::NotFound { dirs: dirs.to_owned() })
}

/// Runs a program and returns what it printed.
pub(super) async fn run(call: Call<'_>) -> Result<Vec<u8>, PluginFailure> {
    let (begun, deadline) = (Instant::now(), call.deadline);
    let mut child = spawn(&call)?;
    // Its group has the same number. It is ours until the child has been reaped.
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut output = Output::default();
    match timeout_at(deadline, converse(&mut child, call.stdin, &mut output)).await {
        Ok(Ok(_)) if output.overflowed => Err(PluginFailure::TooMuchOutput),
        Ok(Ok(status)) if status.success() => Ok(output.stdout),
        Ok(Ok(status)) => Err(output.failure(status)),
        Ok(Err(source)) => {
            kill(child, group).await;
            Err(PluginFailure::Start { path: call.path.to_owned(), source })
        }
        Err(_) => {
            let after = begun.elapsed();
            kill(child, group).await;
            Err(PluginFailure::Timeout { after })
        }
    }
}

/// Returns a text that fits into one line of an event.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String =
        text.trim().chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().nth(MAX_TEXT).is_some() {
        line.push('…');
    }
    line
}

fn spawn(call: &Call<'_>) -> Result<Child, PluginFailure> {
    let mut command = Command::new(call.path);
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", DEFAULT_PATH);
    }
    command
        .envs(call.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| PluginFailure::Start { path: call.path.to_owned(), source })
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    overflowed: bool,
}

impl Output {
    fn failure(&self, status: ExitStatus) -> PluginFailure {
        if let Ok(error) = serde_json::from_slice::<ErrorObject>(&self.stdout) {
            let message = if error.details.trim().is_empty() {
                one_line(&error.msg)
            } else {
                one_line(&format!("{}: {}", error.msg, error.details))
            };
            return PluginFailure::Reported { code: error.code, message };
        }
        let said = [&self.stderr, &self.stdout]
            .into_iter()
            .map(|bytes| one_line(&String::from_utf8_lossy(bytes)))
            .find(|text| !text.is_empty());
        PluginFailure::Crashed { status, output: said.unwrap_or("it said nothing".to_owned()) }
    }
}

/// Feeds the program and listens to it until it ends.
async fn converse(
    child: &mut Child,
    stdin: Vec<u8>,
    output: &mut Output,
) -> io::Result<ExitStatus> {
    let (to, from, aside) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let Output { stdout, stderr, overflowed } = output;
    let talk = async {
        tokio::join!(
            feed(to, &stdin),
            collect(from, stdout, MAX_OUTPUT, Some(overflowed)),
            collect(aside, stderr, MAX_ERROR_OUTPUT, None),
        );
    };
    tokio::pin!(talk);
    let mut finished = false;
    let status = loop {
        tokio::select! {
            () = &mut talk, if !finished => finished = true,
            status = child.wait() => break status?,
        }
    };
    if !finished {
        let _ = timeout(OUTPUT_GRACE, talk).await;
    }
    Ok(status)
}

/// Writes the configuration; a program that does not want it is its own affair.
async fn feed(to: Option<ChildStdin>, bytes: &[u8]) {
    if let Some(mut to) = to {
        let _ = to.write_all(bytes).await;
    }
}

/// Keeps the beginning of a stream. What exceeds the limit is read and thrown away, so
/// that the program ends by itself, or noted and left, so that it ends by SIGPIPE.
async fn collect(
    from: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
    limit: usize,
    overflowed: Option<&mut bool>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = limit - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
        if length > room
            && let Some(overflowed) = overflowed
        {
            *overflowed = true;
            return;
        }
    }
}

async fn kill(mut child: Child, group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    if timeout(KILL_GRACE, child.wait()).await.is_err() {
        tracing::warn!(?group, "a killed CNI plugin does not vanish");
    }
}

fn show(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(", ")
}
