//! Commands that cannot be executed, or barely: each is refused with its reason, or works.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use cri_proto::v1::{ContainerConfig, KeyValue};
use streaming::client::Transport;
use streaming::{Outcome, Streams, TerminalSize};
use testing::wait::patient;

use super::streaming::{begin, exec_address};
use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, equal, refusal, security};
use crate::process;
use crate::runtime::Kind;

pub(super) const CASES: &[Case] = &[
    case!("exec.not_executable_is_refused", not_executable),
    case!("exec.directory_that_is_gone", gone_directory),
    case!("exec.user_that_is_gone", gone_user),
    case!("exec.longest_argument", longest_argument)
        .differs("1.6 has a code for what the kernel does not execute"),
    case!("exec.large_environment", large_environment),
    case!("exec.many_mounts", many_mounts),
    case!("streaming.exec_input_that_never_ends", endless_input),
    case!("streaming.exec_storm_of_sizes", storm),
];

/// The longest argument, with its end, that the kernel takes (`MAX_ARG_STRLEN`).
const LONGEST: usize = 128 << 10;

async fn not_executable(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    c.sh(&id, "echo text > /tmp/text; chmod 755 /tmp; mkdir /tmp/directory").await?;
    for path in ["/tmp/text", "/tmp/directory", "/etc/passwd/below"] {
        let error = refusal(c.exec_for(&id, &[path], 10).await)?.to_string();
        ensure!(error.contains(path), "it does not say what: {error}");
        let lines = error.trim_end().lines().count();
        ensure!(lines == 1 || c.runtime.kind == Kind::Containerd, "{lines} lines: {error}");
    }
    equal("it still runs", c.sh(&id, "echo yes").await?, "yes")
}

async fn gone_directory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = ContainerConfig { working_dir: "/tmp/work".to_owned(), ..c.waiting() };
    let id = c.run(&pod, &config).await?;
    equal("before", c.sh(&id, "pwd").await?, "/tmp/work")?;
    c.sh(&id, "rmdir /tmp/work && touch /tmp/work").await?;
    let error = refusal(c.exec_for(&id, &["pwd"], 10).await)?.to_string();
    ensure!(error.contains("/tmp/work"), "it does not say where: {error}");
    Ok(())
}

/// Who a container's user is was found when it was made: nothing that it does later changes it.
async fn gone_user(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let marker = "the-user-that-is-gone";
    let mut config = c.script(&format!("trap 'exit 0' TERM; tail -f /dev/null & wait # {marker}"));
    security(&mut config)?.run_as_username = "default-user".to_owned();
    let id = c.run(&pod, &config).await?;
    let before = c.sh(&id, "id -u; id -g").await?;
    let pid = process::with_argument(marker)?;
    std::fs::write(format!("/proc/{pid}/root/etc/passwd"), "default-user:x:0:0::/:/bin/sh\n")?;
    equal("after", c.sh(&id, "id -u; id -g").await?, before)
}

async fn longest_argument(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let script = ["sh", "-c", "echo ${#1}", "sh"];
    let longest = "x".repeat(LONGEST - 1);
    let with = |argument: &str| -> Vec<String> {
        script.iter().map(|word| (*word).to_owned()).chain([argument.to_owned()]).collect()
    };
    let command = with(&longest);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer = c.exec_for(&id, &command, 30).await?;
    equal("its length", &answer.stdout[..], format!("{}\n", LONGEST - 1).as_bytes())?;
    let command = with(&(longest + "x"));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let error = refusal(c.exec_for(&id, &command, 30).await)?.to_string();
    let said = error.to_lowercase();
    ensure!(said.contains("too long"), "it does not say why: {error:.400}");
    let short = error.len() < 4096 || c.runtime.kind == Kind::Containerd;
    ensure!(short, "an error of {} bytes", error.len());
    Ok(())
}

/// 1 MiB of environment is the container's and its commands'.
async fn large_environment(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let large = |number: usize| KeyValue {
        key: format!("LARGE_{number}"),
        value: number.to_string().repeat(100_000).into(),
    };
    let config = ContainerConfig { envs: (1..10).map(large).collect(), ..c.waiting() };
    let id = c.run(&pod, &config).await?;
    let length = "cat /proc/self/environ | wc -c; echo ${#LARGE_1} ${#LARGE_9}";
    let text = c.sh(&id, length).await?;
    let (all, both) = text.split_once('\n').context("not two lines")?;
    ensure!(all.parse::<usize>()? > 900_000, "{all} bytes");
    equal("the first and the last", both, "100000 100000")?;
    let first = c.sh(&id, "tr '\\0' '\\n' < /proc/1/environ | grep -c LARGE_").await?;
    equal("its own", first, "9")
}

/// Many and long destinations: together more than any 16 bits count.
async fn many_mounts(c: &Context) -> Result<()> {
    const MOUNTS: usize = 300;
    let pod = c.plain_pod().await?;
    let dir = c.directory()?;
    std::fs::write(dir.join("file"), "here")?;
    let mut config = c.script("cat /many/*/*/file | wc -c; grep -c ' /many/' /proc/self/mounts");
    for number in 0..MOUNTS {
        config.mounts.push(cri_proto::v1::Mount {
            host_path: dir.display().to_string(),
            container_path: format!("/many/{}/{number}", "long".repeat(60)),
            ..cri_proto::v1::Mount::default()
        });
    }
    equal("the files and mounts", c.output(&pod, &config).await?, "1200\n300")
}

/// A command that ends does not wait for its input's end.
async fn endless_input(c: &Context) -> Result<()> {
    const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    let (_, id) = c.waiting_container().await?;
    let address = exec_address(c, &id, &["sh", "-c", "read x; exit 6"], ALL).await?;
    let mut session = begin(&address, ALL, Transport::Spdy).await?;
    let stdin = session.stdin.take().context("no input")?;
    stdin.send(Bytes::from_static(b"one\ntwo\n")).await;
    let outcome = tokio::time::timeout(patient(PATIENCE), session.ended()).await?;
    equal("the end", outcome, Outcome::Exited(6))?;
    drop(stdin);
    Ok(())
}

/// Thousands of sizes neither hold the session up nor end it; the last one stands.
async fn storm(c: &Context) -> Result<()> {
    const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    let (_, id) = c.waiting_container().await?;
    let script = "trap : WINCH; until test \"$(stty size)\" = '77 222'; do sleep 0.1; done; exit 8";
    let address = exec_address(c, &id, &["sh", "-c", script], TERMINAL).await?;
    let mut session = begin(&address, TERMINAL, Transport::Spdy).await?;
    let resize = session.resize.take().context("no sizes")?;
    let (stdin, mut stdout) = (session.stdin.take(), session.stdout.take().context("no output")?);
    let storm = async {
        for number in 0..5000_u16 {
            resize
                .send_size(TerminalSize { width: 10 + number % 200, height: 5 + number % 50 })
                .await;
        }
        resize.send_size(TerminalSize { width: 222, height: 77 }).await;
    };
    let reading = async { while stdout.recv().await.is_some() {} };
    let everything = async { tokio::join!(storm, reading, session.ended()).2 };
    let outcome = tokio::time::timeout(patient(PATIENCE * 2), everything).await?;
    equal("the end", outcome, Outcome::Exited(8))?;
    drop(stdin);
    Ok(())
}
