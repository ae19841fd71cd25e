//! `corten` as a client: exec, attach, port-forward and logs, as people call them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use testing::wait::patient;

use super::streaming::served;
use crate::case;
use crate::case::Case;
use crate::context::{Context, equal};
use crate::runtime::{Kind, command_line};

pub(super) const CASES: &[Case] = &[
    case!("cli.exec_shows_both_outputs", exec),
    case!("cli.exec_passes_input", exec_input),
    case!("cli.exec_in_a_terminal", exec_terminal),
    case!("cli.attach_passes_input", attach),
    case!("cli.attach_shows_what_comes", attach_output),
    case!("cli.port_forward", port_forward),
    case!("cli.logs_follow_to_the_end", logs_follow)
        .differs("1.6 may report the end before the log is complete"),
];

pub(super) const BOTH: [&str; 2] = ["spdy", "websocket"];

/// What serves a client whose input ends, and ports: Debian's containerd knows no WebSocket in
/// which a stream can end (v5), and no tunnel.
fn whole(c: &Context) -> &'static [&'static str] {
    match c.runtime.kind {
        Kind::Corten => &BOTH,
        Kind::Containerd => &["spdy"],
    }
}

pub(super) fn corten(c: &Context, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(command_line()?);
    command.arg("--runtime-endpoint").arg(format!("unix://{}", c.runtime.socket().display()));
    command.args(arguments);
    Ok(command)
}

/// Runs to the end with an input.
pub(super) async fn run(mut command: Command, input: &'static str) -> Result<Output> {
    let work = move || -> Result<Output> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start the client")?;
        let mut stdin = child.stdin.take().context("no input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        Ok(child.wait_with_output()?)
    };
    let limit = patient(std::time::Duration::from_secs(60));
    tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await??
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn exec(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let script = "echo out; echo err >&2; exit 7";
    for transport in BOTH {
        let command = corten(c, &["exec", "--transport", transport, &id, "sh", "-c", script])?;
        let output = run(command, "").await?;
        let seen = (text(&output.stdout), text(&output.stderr), output.status.code());
        equal("what it shows", seen, ("out\n".to_owned(), "err\n".to_owned(), Some(7)))?;
        let missing = corten(c, &["exec", "--transport", transport, &id, "/no/such/program"])?;
        let output = run(missing, "").await?;
        equal("its code", output.status.code(), Some(1))?;
        ensure!(text(&output.stderr).contains("/no/such/program"), "{}", text(&output.stderr));
    }
    let output = run(corten(c, &["exec", "--sync", &id, "sh", "-c", script])?, "").await?;
    equal("its code in one call", output.status.code(), Some(7))
}

async fn exec_input(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in whole(c) {
        let command = corten(c, &["exec", "-i", "--transport", transport, &id, "cat"])?;
        let output = run(command, "one\ntwo\n").await?;
        equal("the output", text(&output.stdout), "one\ntwo\n")?;
        equal("its code", output.status.code(), Some(0))?;
    }
    Ok(())
}

/// A terminal of Python's: its size is ours to set, and what is typed is not shown twice.
const IN_A_TERMINAL: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
def size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
pid, fd = pty.fork()
if pid == 0:
    time.sleep(0.3)
    os.execv(sys.argv[1], sys.argv[1:])
size(fd, 33, 99)
seen = b""
until = time.monotonic() + 60
def expect(text):
    global seen
    while text not in seen:
        assert time.monotonic() < until, (text, seen)
        if select.select([fd], [], [], 1)[0]:
            seen += os.read(fd, 4096)
    seen = seen[seen.index(text) + len(text):]
expect(b"ready")
size(fd, 40, 120)
os.kill(pid, signal.SIGWINCH)
for attempt in range(200):
    # What is typed is shown too: the answers are made not to look like it.
    os.write(fd, b"test \"$(stty size)\" = '40 120' && echo it''is:yes || echo it''is:no\n")
    expect(b"itis:")
    while len(seen) < 2:
        seen += os.read(fd, 4096)
    if seen.startswith(b"ye"):
        break
    time.sleep(0.05)
else:
    raise AssertionError("the size is never told")
os.write(fd, b"exit 9\n")
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert code == 9, code
"#;

async fn exec_terminal(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for transport in BOTH {
        let inner = corten(c, &["exec", "-it", "--transport", transport, &id])?;
        let mut command = Command::new("python3");
        command.args(["-c", IN_A_TERMINAL]).arg(inner.get_program()).args(inner.get_args());
        command.args(["sh", "-c", "tty && stty size && echo ready; exec sh"]);
        let ran = tokio::task::spawn_blocking(move || testing::program::output(&mut command));
        ran.await??;
    }
    Ok(())
}

async fn attach(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for transport in whole(c) {
        let config = cri_proto::v1::ContainerConfig {
            stdin: true,
            stdin_once: true,
            ..c.script("while read line; do echo got $line; done; echo bye >&2")
        };
        let id = c.run(&pod, &config).await?;
        let output =
            run(corten(c, &["attach", "-i", "--transport", transport, &id])?, "one\ntwo\n");
        let output = output.await?;
        equal("the output", text(&output.stdout), "got one\ngot two\n")?;
        equal("the errors", text(&output.stderr), "bye\n")?;
        equal("its code", output.status.code(), Some(0))?;
    }
    Ok(())
}

/// Without an input both transports do, with any runtime.
async fn attach_output(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for transport in BOTH {
        let script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.1; done; echo end >&2; exit 3";
        let id = c.run(&pod, &c.script(script)).await?;
        let output = run(corten(c, &["attach", "--transport", transport, &id])?, "").await?;
        let out = text(&output.stdout);
        ensure!(out.ends_with("39\n40\n"), "not to the end: {out:?}");
        equal("its code", output.status.code(), Some(0))?;
    }
    Ok(())
}

/// A client that forwards a port, killed at the end.
pub(super) struct Forwarding {
    client: Child,
    /// Where it listens.
    pub(super) address: String,
    /// It has more to say: who stops reading ends it.
    _output: BufReader<ChildStdout>,
}

impl Forwarding {
    /// Starts it and waits until it says where it listens.
    pub(super) async fn start(mut command: Command) -> Result<Self> {
        let starting = move || -> Result<Self> {
            let mut client = command.stdout(Stdio::piped()).spawn()?;
            let mut output = BufReader::new(client.stdout.take().context("no output")?);
            let mut line = String::new();
            output.read_line(&mut line)?;
            let said = line.strip_prefix("Forwarding from ").and_then(|l| l.split(' ').next());
            let Some(address) = said.map(str::to_owned) else {
                client.kill()?;
                bail!("it ends with {}, and says {line:?}", client.wait()?);
            };
            Ok(Self { client, address, _output: output })
        };
        tokio::task::spawn_blocking(starting).await?
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

async fn port_forward(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    served(c, &pod, "127.0.0.1", 8086).await?;
    for transport in whole(c) {
        let command = corten(c, &["port-forward", "--transport", transport, &pod.id, ":8086"])?;
        let forwarding = Forwarding::start(command).await?;
        for _ in 0..3 {
            let page = super::network::get(&forwarding.address).await?;
            ensure!(page.contains("page of 8086"), "{page}");
        }
    }
    Ok(())
}

async fn logs_follow(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script =
        "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo end >&2";
    let id = c.run(&pod, &c.script(script)).await?;
    let output = run(corten(c, &["logs", "-f", &id])?, "").await?;
    let wanted: String = (1..=100).map(|number| format!("{number}\n")).collect();
    equal("the log", text(&output.stdout), wanted)?;
    equal("the errors", text(&output.stderr), "end\n")?;
    equal("its code", output.status.code(), Some(0))
}
