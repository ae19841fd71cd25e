//! Many forwarded connections at once.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::PortForwardRequest;
use futures_util::StreamExt as _;
use streaming::client::{Ports, Transport, Trust};
use testing::wait::patient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::python;
use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, Pod, until};
use crate::logs;

pub(super) const CASES: &[Case] = &[
    case!("streaming.a_hundred_ports_at_once", bounded).alone().ours(),
    case!("streaming.a_thousand_ports_at_once", long).ours().long(),
];

/// Says back what it is told, to any number of clients.
const ECHO: &str = r#"
import asyncio
async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 8090, backlog=4096)
    print("listening")
    await server.serve_forever()
asyncio.run(main())
"#;

const PORT: u16 = 8090;

/// How many sessions are begun at a time where each has one connection.
const SESSIONS_AT_ONCE: usize = 16;

async fn bounded(c: &Context) -> Result<()> {
    forwards(c, 100).await
}

async fn long(c: &Context) -> Result<()> {
    forwards(c, 1000).await?;
    c.figure(
        "1000 connections at once through one session, and 1000 sessions of one connection, over \
         SPDY and over WebSocket: each said back all it was told, no descriptor is left open",
    );
    Ok(())
}

async fn forwards(c: &Context, count: usize) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = python::script(c, ECHO, &[]);
    c.run(&pod, &config).await?;
    until(PATIENCE, "the server", || async {
        let log = logs::read(&pod, &config).map_or_else(|_| String::new(), |log| log.text());
        Ok(log.contains("listening").then_some(()))
    })
    .await?;
    let daemon = c.runtime.with_daemon(|daemon| daemon.pid())?;
    let descriptors = || fs::read_dir(format!("/proc/{daemon}/fd")).map(Iterator::count);
    // What the first session makes and keeps is not counted.
    at_once(c, &pod, Transport::Spdy, 1).await?;
    let before = descriptors()?;
    for transport in [Transport::Spdy, Transport::WebSocket] {
        at_once(c, &pod, transport, count).await?;
        one_each(c, &pod, transport, count).await?;
    }
    until(PATIENCE, "closed descriptors", || async { Ok((descriptors()? <= before).then_some(())) })
        .await
}

async fn session(c: &Context, pod: &Pod, transport: Transport) -> Result<Ports> {
    let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: Vec::new() };
    let address = c.runtime.pods.port_forward(request).await?.url;
    Ok(Ports::connect(&address, transport, &Trust::default()).await?)
}

/// One session; all its connections are open at the same time.
async fn at_once(c: &Context, pod: &Pod, transport: Transport, count: usize) -> Result<()> {
    let ports = session(c, pod, transport).await?;
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..count).map(|_| tokio::io::duplex(4096)).unzip();
    let forwarding = futures_util::future::try_join_all(
        theirs.into_iter().map(|theirs| ports.forward(PORT, theirs)),
    );
    let talking = async {
        let said = ours.into_iter().enumerate().map(|(number, io)| hello(io, number));
        let open = futures_util::future::try_join_all(said).await?;
        ensure!(open.len() == count, "{} of {count} connections", open.len());
        // Only now each may end.
        futures_util::future::try_join_all(open.into_iter().map(goodbye)).await?;
        Ok(())
    };
    let both = async { tokio::join!(forwarding, talking) };
    let (forwarded, talked) = tokio::time::timeout(patient(PATIENCE * 4), both).await?;
    talked?;
    forwarded.context("a connection failed")?;
    Ok(())
}

/// Sessions with one connection each.
async fn one_each(c: &Context, pod: &Pod, transport: Transport, count: usize) -> Result<()> {
    let one = async |number: usize| {
        let ports = session(c, pod, transport).await?;
        let (ours, theirs) = tokio::io::duplex(4096);
        let talking = async { goodbye(hello(ours, number).await?).await };
        let both = async { tokio::join!(ports.forward(PORT, theirs), talking) };
        let (forwarded, talked) = tokio::time::timeout(patient(PATIENCE), both).await?;
        talked?;
        forwarded.map_err(anyhow::Error::from)
    };
    let mut sessions =
        futures_util::stream::iter(0..count).map(one).buffer_unordered(SESSIONS_AT_ONCE);
    while let Some(session) = sessions.next().await {
        session?;
    }
    Ok(())
}

/// Tells the server something of this connection's own and hears it back.
async fn hello(mut io: DuplexStream, number: usize) -> Result<DuplexStream> {
    let text = format!("I am {number:06}");
    io.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    io.read_exact(&mut answer).await.with_context(|| format!("connection {number}"))?;
    ensure!(answer == text.as_bytes(), "connection {number} got another's answer");
    Ok(io)
}

/// Ends what is said and waits for the server's end.
async fn goodbye(mut io: DuplexStream) -> Result<()> {
    io.shutdown().await?;
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await?;
    ensure!(rest.is_empty(), "the server says more than it was told");
    Ok(())
}
