//! `corten port-forward`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cri_proto::v1::PortForwardRequest;
use streaming::client::Ports;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::interactive::TransportArgs;
use crate::output::Output;
use crate::session::Session;

/// How many messages of connections wait to be shown.
const MESSAGE_QUEUE: usize = 64;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Listen on this address [default: both loopbacks]; may be given again
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
    #[command(flatten)]
    transport: TransportArgs,
    /// The pod
    #[arg(value_name = "POD-ID")]
    id: String,
    /// The port here and the pod's: 8080:80, 80 for the same, :80 for any here
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    ports: Vec<Pair>,
}

/// A port here, 0 for any, and one of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(format!("{text} is no port"))
        };
        let (local, remote) = match text.split_once(':') {
            None => (port(text)?, port(text)?),
            Some(("" | "0", remote)) => (0, port(remote)?),
            Some((local, remote)) => (port(local)?, port(remote)?),
        };
        Ok(Self { local, remote })
    }
}

/// Forwards until it is interrupted or the runtime is gone.
pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { address, transport, id, ports: pairs } = args;
    let request = PortForwardRequest {
        pod_sandbox_id: id,
        port: pairs.iter().map(|pair| i32::from(pair.remote)).collect(),
    };
    let url = session.runtime().await?.port_forward(request).await?.url;
    let ports = Ports::connect(&url, transport.transport(), &transport.trust()).await?;
    let ports = Arc::new(ports);
    let (say, mut said) = mpsc::channel::<String>(MESSAGE_QUEUE);
    let mut tasks = JoinSet::new();
    for pair in pairs {
        for listener in listen(&address, pair).await? {
            let local = listener.local_addr()?;
            writeln!(output.out, "Forwarding from {local} -> {}", pair.remote)?;
            tasks.spawn(accept(listener, pair.remote, ports.clone(), say.clone()));
        }
    }
    output.out.flush()?;
    let mut closed = ports.closed();
    loop {
        tokio::select! {
            message = said.recv() => if let Some(message) = message {
                writeln!(output.err, "corten: {message}")?;
            },
            () = closed.wait() => bail!("the connection to the runtime ended"),
        }
    }
}

async fn listen(addresses: &[IpAddr], pair: Pair) -> anyhow::Result<Vec<TcpListener>> {
    if !addresses.is_empty() {
        let mut listeners = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(*address, pair.local);
            let bound = TcpListener::bind(address).await;
            listeners.push(bound.with_context(|| format!("failed to listen on {address}"))?);
        }
        return Ok(listeners);
    }
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), pair.local);
    let first = TcpListener::bind(address).await;
    let first = first.with_context(|| format!("failed to listen on {address}"))?;
    // A machine may have no IPv6.
    let port = first.local_addr()?.port();
    let second = TcpListener::bind(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).await.ok();
    Ok([Some(first), second].into_iter().flatten().collect())
}

async fn accept(listener: TcpListener, port: u16, ports: Arc<Ports>, say: mpsc::Sender<String>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(forward(socket, port, ports.clone(), say.clone()));
                }
                Err(error) => {
                    let _ = say.send(format!("a connection was not accepted: {error}")).await;
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(socket: TcpStream, port: u16, ports: Arc<Ports>, say: mpsc::Sender<String>) {
    let _ = socket.set_nodelay(true);
    if let Err(error) = ports.forward(port, socket).await {
        let _ = say.send(format!("{:#}", anyhow::Error::from(error))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_in_three_ways() {
        for (text, local, remote) in
            [("80", 80, 80), ("8080:80", 8080, 80), (":80", 0, 80), ("0:80", 0, 80)]
        {
            assert_eq!(text.parse(), Ok(Pair { local, remote }), "{text}");
        }
        for bad in ["", ":", "0", "80:", "80:0", "70000", "a:b", "1:2:3"] {
            assert!(bad.parse::<Pair>().is_err(), "{bad}");
        }
    }
}
