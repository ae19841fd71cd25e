//! Clients whose connection breaks, or that stop reading.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tests::{BOTH, Ground, PIPES, ground, options};
use super::*;
use crate::client::{Ports, RemoteCommand, Transport, Trust};
use crate::{Outcome, Streams};
use testing::Between;

const LIMIT: Duration = Duration::from_secs(60);

/// An address that leads through something between.
fn through(address: &str) -> (String, SocketAddr, Between) {
    let (_, rest) = address.split_once("://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let server = host.parse().unwrap();
    let between = Between::new(server).unwrap();
    (format!("http://{}/{path}", between.address()), server, between)
}

impl Ground {
    async fn exec_through(
        &self,
        script: &str,
        transport: Transport,
    ) -> (RemoteCommand, SocketAddr, Between) {
        let streams = Streams { stdin: true, ..PIPES };
        let (address, server, between) = through(&self.exec(script, streams));
        let session = RemoteCommand::begin(&address, streams, transport, &self.trust).await;
        (session.unwrap(), server, between)
    }

    async fn ports_through(&self, transport: Transport) -> (Ports, SocketAddr, Between) {
        let wanted = Wanted::PortForward { sandbox: "s".to_owned(), ports: Vec::new() };
        let (address, server, between) = through(&self.addresses.issue(wanted).unwrap());
        let ports = Ports::connect(&address, transport, &self.trust).await;
        (ports.unwrap(), server, between)
    }
}

/// Waits until the server's side of a connection is nobody's any more: what the kernel still has
/// to send is not the server's.
async fn given_back(server: SocketAddr, client: SocketAddr) {
    let ends = [server, client].map(|end| format!(":{:04X}", end.port()));
    let begun = Instant::now();
    loop {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1].ends_with(&ends[0]) && row[2].ends_with(&ends[1]));
        // One without a file has the number 0.
        match row {
            Some(row) if row[9] != "0" => {
                assert!(begun.elapsed() < LIMIT, "the connection is kept: {row:?}");
            }
            _ => return,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_reset_leaves_nothing() {
    let ground = ground(options(), Trust::default()).await;
    for transport in BOTH {
        for script in ["echo here; sleep 1000", "yes", "echo here; cat"] {
            let (mut session, server, between) = ground.exec_through(script, transport).await;
            let mut stdout = session.stdout.take().unwrap();
            stdout.recv().await.unwrap();
            let client = between.client().unwrap();
            drop(between);
            given_back(server, client).await;
            ground.idle().await;
            // Output that is not read holds our end up.
            drop((stdout, session.stderr.take()));
            let outcome = tokio::time::timeout(LIMIT, session.ended()).await.unwrap();
            assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        }
    }
}

/// Its ports' connections are closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_client_leaves_its_ports() {
    let ground = ground(options(), Trust::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for transport in BOTH {
        let (ports, server, between) = ground.ports_through(transport).await;
        let (mut ours, theirs) = tokio::io::duplex(1024);
        let forwarding = tokio::spawn(async move { ports.forward(port, theirs).await });
        ours.write_all(b"hello").await.unwrap();
        let (mut pod, _) = listener.accept().await.unwrap();
        let mut heard = [0; 5];
        pod.read_exact(&mut heard).await.unwrap();
        let client = between.client().unwrap();
        drop(between);
        given_back(server, client).await;
        let read = tokio::time::timeout(LIMIT, pod.read(&mut heard)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        forwarding.await.unwrap().ok();
    }
}

/// What has a limit ends at it, also for a client that takes nothing, not even the goodbye.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_left() {
    let brief = ServerOptions { session_timeout: Duration::from_secs(2), ..options() };
    let ground = ground(brief, Trust::default()).await;
    let port = endless().await;
    let stalling = BOTH.map(|transport| {
        let ground = &ground;
        async move {
            let (session, server, between) = ground.exec_through("yes", transport).await;
            let client = between.client().unwrap();
            between.stall();
            let (ports, _, other) = ground.ports_through(transport).await;
            let other_client = other.client().unwrap();
            let (_ours, theirs) = tokio::io::duplex(1 << 20);
            let forwarding = tokio::spawn(async move { ports.forward(port, theirs).await });
            other.stall();
            given_back(server, client).await;
            given_back(server, other_client).await;
            drop((session, between, other));
            forwarding.abort();
        }
    });
    futures_util::future::join_all(stalling).await;
    ground.idle().await;
    // And nothing of all that stands in the way of others.
    let (mut session, _, _between) = ground.exec_through("echo fine", Transport::Spdy).await;
    assert_eq!(session.stdout.as_mut().unwrap().recv().await.unwrap(), "fine\n");
}

/// A port that says things without an end.
async fn endless() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move { while socket.write_all(&[0; 4096]).await.is_ok() {} });
        }
    });
    port
}
