//! Sessions when the daemon dies or is replaced; a monitor after many sessions.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use streaming::client::{Ports, RemoteCommand, Transport, Trust};
use streaming::{Outcome, Streams};
use testing::wait::patient;
use tokio::io::AsyncReadExt as _;

use super::restart::monitor_of;
use super::streaming::{attach_address, begin, exec_address, served};
use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, equal, until};
use crate::logs;

pub(super) const CASES: &[Case] = &[
    case!("streaming.sessions_end_with_a_killed_daemon", killed).alone().ours(),
    case!("streaming.sessions_go_on_beside_a_successor", replaced).alone().ours(),
    case!("streaming.a_monitor_stays_small", small).alone().ours(),
    case!("streaming.a_monitor_stays_small_for_long", small_for_long).ours().long(),
];

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

async fn says(session: &mut RemoteCommand, text: &str) -> Result<()> {
    let stdout = session.stdout.as_mut().context("no output")?;
    let mut seen = String::new();
    let reading = async {
        while let Some(bytes) = stdout.recv().await {
            seen += &String::from_utf8_lossy(&bytes);
            if seen.contains(text) {
                return true;
            }
        }
        false
    };
    let found = tokio::time::timeout(patient(PATIENCE), reading).await.unwrap_or(false);
    ensure!(found, "{text:?} does not come: {seen:?}");
    Ok(())
}

/// The clients see an end at once; commands are killed, containers and their logs go on.
async fn killed(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    served(c, &pod, "127.0.0.1", 8087).await?;
    let config = cri_proto::v1::ContainerConfig {
        stdin: true,
        ..c.script("while read line; do echo got $line; done; echo no more")
    };
    let id = c.run(&pod, &config).await?;
    for transport in [Transport::Spdy, Transport::WebSocket] {
        let command = ["sh", "-c", "echo here; sleep 4327"];
        let address = exec_address(c, &id, &command, ALL).await?;
        let mut executing = begin(&address, ALL, transport).await?;
        says(&mut executing, "here").await?;
        let address = attach_address(c, &id, ALL).await?;
        let mut attached = begin(&address, ALL, transport).await?;
        let stdin = attached.stdin.as_ref().context("no input")?;
        stdin.send(Bytes::from_static(b"before\n")).await;
        says(&mut attached, "got before").await?;
        let request =
            cri_proto::v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: Vec::new() };
        let address = c.runtime.pods.port_forward(request).await?.url;
        let ports = Ports::connect(&address, transport, &Trust::default()).await?;
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut closed = ports.closed();
        let forwarding = tokio::spawn(async move { ports.forward(8087, theirs).await });

        c.runtime.kill()?;

        for (what, session) in [("exec", executing), ("attach", attached)] {
            let outcome =
                tokio::time::timeout(patient(PATIENCE), session.ended()).await.context(what)?;
            ensure!(matches!(outcome, Outcome::Failed(_)), "{what}: {outcome:?}");
        }
        tokio::time::timeout(patient(PATIENCE), closed.wait()).await.context("port-forward")?;
        let read = tokio::time::timeout(patient(PATIENCE), ours.read(&mut [0; 16])).await;
        equal("the forwarded connection", read.context("it stays open")??, 0)?;
        forwarding.abort();
        c.runtime.launch().await?;
        until(PATIENCE, "the command's end", || async {
            let found = c.sh(&id, "ps -o args | grep '[s]leep 4327' || true").await?;
            Ok(found.is_empty().then_some(()))
        })
        .await?;
        let address = attach_address(c, &id, ALL).await?;
        let mut again = begin(&address, ALL, transport).await?;
        let stdin = again.stdin.as_ref().context("no input")?;
        stdin.send(Bytes::from_static(b"after\n")).await;
        says(&mut again, "got after").await?;
    }
    let log = logs::read(&pod, &config)?.text();
    equal("the log", log, "got before\ngot after\n".repeat(2))
}

/// A daemon that is asked to end lets its successor have the pods, and keeps its sessions.
async fn replaced(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = cri_proto::v1::ContainerConfig {
        stdin: true,
        ..c.script("while read line; do echo got $line; done")
    };
    let id = c.run(&pod, &config).await?;
    let command = ["sh", "-c", "echo ready; while read line; do echo heard $line; done; exit 5"];
    let address = exec_address(c, &id, &command, ALL).await?;
    let mut executing = begin(&address, ALL, Transport::Spdy).await?;
    says(&mut executing, "ready").await?;
    let mut attached =
        begin(&attach_address(c, &id, ALL).await?, ALL, Transport::WebSocket).await?;

    let mut old = c.runtime.with_daemon(testing::Daemon::succeed)?;
    c.runtime.settle().await?;

    let stdin = executing.stdin.take().context("no input")?;
    stdin.send(Bytes::from_static(b"me\n")).await;
    says(&mut executing, "heard me").await?;
    attached.stdin.as_ref().context("no input")?.send(Bytes::from_static(b"old\n")).await;
    says(&mut attached, "got old").await?;
    // The successor changes the pod meanwhile; what the old one wrote would show.
    let address = attach_address(c, &id, ALL).await?;
    let mut newer = begin(&address, ALL, Transport::Spdy).await?;
    newer.stdin.as_ref().context("no input")?.send(Bytes::from_static(b"new\n")).await;
    says(&mut newer, "got new").await?;
    says(&mut attached, "got new").await?;
    let ended = c.run(&pod, &c.script("exit 4")).await?;
    equal("a new one's code", c.exited(&ended).await?.exit_code, 4)?;

    stdin.finish().await;
    equal("the old session's end", executing.ended().await, Outcome::Exited(5))?;
    drop(attached);
    let status = tokio::task::spawn_blocking(move || old.wait(Duration::from_secs(30)));
    ensure!(status.await??.success(), "the old daemon failed");
    equal("the new one's code", c.status(&ended).await?.exit_code, 4)?;
    c.remove_pod(&pod.id).await?;
    // Not even a record comes back.
    c.runtime.kill()?;
    c.runtime.launch().await?;
    let pods = c.runtime.pods.pod_sandboxes(None).await?;
    ensure!(!pods.iter().any(|one| one.id == pod.id), "the removed pod is back");
    Ok(())
}

/// Private memory of a process, in KiB.
fn private_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no figure")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(of("Private_Clean:")? + of("Private_Dirty:")?)
}

async fn small(c: &Context) -> Result<()> {
    stays_small(c, 1000).await.map(drop)
}

async fn small_for_long(c: &Context) -> Result<()> {
    let (before, after) = stays_small(c, 12_500).await?;
    c.figure(&format!(
        "12500 sessions, 10000 of them commands that ran: the monitor's private memory was {before} KiB and \
         is {after} KiB, no descriptor is left open"
    ));
    Ok(())
}

/// Memory and descriptors of the monitor are the same after many sessions of all kinds. Gives its
/// memory before and after.
async fn stays_small(c: &Context, count: usize) -> Result<(u64, u64)> {
    let (pod, id) = c.waiting_container().await?;
    let monitor = monitor_of(&pod.id)?;
    let sessions = async |count: usize| -> Result<()> {
        let mut calls = futures_util::stream::iter(0..count)
            .map(|number| {
                let id = id.clone();
                async move {
                    match number % 10 {
                        0 => {
                            let address = exec_address(c, &id, &["true"], ALL).await?;
                            begin(&address, ALL, Transport::Spdy).await?.ended().await;
                        }
                        1 => drop(
                            begin(&attach_address(c, &id, ALL).await?, ALL, Transport::Spdy)
                                .await?,
                        ),
                        2 => drop(c.exec_for(&id, &["/no/such"], 5).await),
                        _ => drop(c.exec_for(&id, &["true"], 30).await?),
                    }
                    Ok::<_, anyhow::Error>(())
                }
            })
            .buffer_unordered(8);
        while let Some(one) = calls.next().await {
            one?;
        }
        Ok(())
    };
    sessions(200).await?;
    let descriptors = || fs::read_dir(format!("/proc/{monitor}/fd")).map(Iterator::count);
    let (memory, open) = (private_kib(monitor)?, descriptors()?);
    sessions(count).await?;
    until(PATIENCE, "closed descriptors", || async { Ok((descriptors()? <= open).then_some(())) })
        .await?;
    let after = private_kib(monitor)?;
    let grown = after.saturating_sub(memory);
    ensure!(grown <= 64, "the monitor grew by {grown} KiB from {memory}");
    Ok((memory, after))
}
