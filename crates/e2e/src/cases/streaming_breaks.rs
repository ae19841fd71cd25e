//! Clients that are reset, or that leave without a word: nothing of them stays.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerConfig, PortForwardRequest};
use streaming::client::{Ports, RemoteCommand, Transport, Trust};
use streaming::{Outcome, Streams};
use testing::Between;
use testing::wait::patient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::restart::monitor_of;
use super::streaming::{attach_address, begin, exec_address, served};
use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, Pod, equal, until};

pub(super) const CASES: &[Case] =
    &[case!("streaming.a_client_that_is_reset_leaves_nothing", reset).alone().ours()];

/// How often each kind of session breaks.
const ROUNDS: usize = 10;

/// What the first sessions open for all others: connections between daemon and monitor. Less than
/// what one kind of session would leave.
const KEPT: usize = 6;

const PORT: u16 = 8090;
const TRANSPORTS: [Transport; 2] = [Transport::Spdy, Transport::WebSocket];
const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
const TERMINAL: Streams = Streams { stderr: false, tty: true, ..ALL };

/// What a process has open.
fn open_files(pid: u32) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile is not open.
        files.extend(fs::read_link(entry?.path()));
    }
    files.sort();
    Ok(files)
}

/// An address that leads through something between.
fn through(address: &str) -> Result<(String, Between)> {
    let (scheme, rest) = address.split_once("://").context("no address")?;
    let (host, path) = rest.split_once('/').context("no path")?;
    let between = Between::new(host.parse::<SocketAddr>()?)?;
    Ok((format!("{scheme}://{}/{path}", between.address()), between))
}

/// Where sessions break.
struct Breaking<'a> {
    c: &'a Context,
    pod: Pod,
    container: String,
    parrot: String,
}

impl Breaking<'_> {
    /// A command is reset while it waits, or while it writes.
    async fn exec(&self, script: &str, streams: Streams, transport: Transport) -> Result<()> {
        let command = ["sh", "-c", script];
        let address = exec_address(self.c, &self.container, &command, streams).await?;
        let (address, between) = through(&address)?;
        broken(begin(&address, streams, transport).await?, between).await
    }

    /// Nothing breaks.
    async fn whole(&self, transport: Transport) -> Result<()> {
        let address = exec_address(self.c, &self.container, &["true"], ALL).await?;
        let ended = begin(&address, ALL, transport).await?.ended();
        let outcome = tokio::time::timeout(patient(PATIENCE), ended).await;
        equal("the end", outcome.context("it does not end")?, Outcome::Exited(0))
    }

    async fn attach(&self, transport: Transport) -> Result<()> {
        let address = attach_address(self.c, &self.parrot, ALL).await?;
        let (address, between) = through(&address)?;
        let session = begin(&address, ALL, transport).await?;
        session.stdin.as_ref().context("no input")?.send("words\n".into()).await;
        broken(session, between).await
    }

    /// A forwarded connection is reset in the middle of a request.
    async fn forward(&self, transport: Transport) -> Result<()> {
        let request = PortForwardRequest { pod_sandbox_id: self.pod.id.clone(), port: Vec::new() };
        let address = self.c.runtime.pods.port_forward(request).await?.url;
        let (address, between) = through(&address)?;
        let ports = Ports::connect(&address, transport, &Trust::default()).await?;
        let (mut ours, theirs) = tokio::io::duplex(64);
        let forwarding = tokio::spawn(async move { ports.forward(PORT, theirs).await });
        ours.write_all(b"GET / HTTP/1.0\r\n").await?;
        until(PATIENCE, "the connection in the pod", || async {
            let found = self.connections().await?;
            Ok((found > 0).then_some(()))
        })
        .await?;
        tokio::task::spawn_blocking(move || drop(between)).await?;
        let read = tokio::time::timeout(patient(PATIENCE), ours.read(&mut [0; 16])).await;
        equal("the forwarded connection", read.context("it stays open")??, 0)?;
        forwarding.abort();
        until(PATIENCE, "the end of the connection in the pod", || async {
            let found = self.connections().await?;
            Ok((found == 0).then_some(()))
        })
        .await
    }

    /// How many connections a server in the pod has.
    async fn connections(&self) -> Result<usize> {
        let looked = format!("netstat -tn | grep -c ':{PORT} .*ESTABLISHED' || true");
        Ok(self.c.sh(&self.container, &looked).await?.parse()?)
    }
}

/// Resets a session in which something has been said.
async fn broken(mut session: RemoteCommand, between: Between) -> Result<()> {
    let mut stdout = session.stdout.take().context("no output")?;
    let first = tokio::time::timeout(patient(PATIENCE), stdout.recv()).await;
    ensure!(first.context("nothing is said")?.is_some(), "it ends with nothing said");
    tokio::task::spawn_blocking(move || drop(between)).await?;
    // Output that is not read holds our end up.
    drop((stdout, session.stderr.take()));
    let ended = tokio::time::timeout(patient(PATIENCE), session.ended()).await;
    let outcome = ended.context("the client is not told")?;
    ensure!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    Ok(())
}

async fn reset(c: &Context) -> Result<()> {
    let (pod, container) = c.waiting_container().await?;
    served(c, &pod, "127.0.0.1", PORT).await?;
    let config =
        ContainerConfig { stdin: true, ..c.script("while read line; do echo got $line; done") };
    let parrot = c.run(&pod, &config).await?;
    let monitor = monitor_of(&pod.id)?;
    let breaking = Breaking { c, pod, container, parrot };
    let daemon = c.runtime.with_daemon(|daemon| daemon.pid())?;
    let before = [open_files(daemon)?, open_files(monitor)?];
    for _ in 0..ROUNDS {
        for transport in TRANSPORTS {
            for script in ["echo here; sleep 4340", "yes 4340"] {
                breaking.exec(script, ALL, transport).await.context(script)?;
                breaking.exec(script, TERMINAL, transport).await.context(script)?;
            }
            breaking.whole(transport).await.context("one that ends by itself")?;
            breaking.attach(transport).await.context("attach")?;
            breaking.forward(transport).await.context("port-forward")?;
        }
    }
    until(PATIENCE, "the commands' end", || async {
        let left = c.sh(&breaking.container, "ps -o args | grep '[4]340' || true").await?;
        Ok(left.is_empty().then_some(()))
    })
    .await?;
    for (pid, before) in [daemon, monitor].into_iter().zip(before) {
        let count = before.len();
        let given_back = until(PATIENCE, "its files", || async move {
            Ok((open_files(pid)?.len() <= count + KEPT).then_some(()))
        });
        given_back.await.with_context(|| format!("{before:?} became {:?}", open_files(pid)))?;
    }
    equal("it still runs", c.sh(&breaking.parrot, "echo yes").await?.as_str(), "yes")
}
