//! A session with a container: our streams to its, until one of them ends.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::ValueEnum;
use streaming::client::{Identity, Reader, RemoteCommand, Transport, Trust, Writer};
use streaming::{Outcome, Streams};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Exit, Output};
use crate::terminal::{self, RawMode};

/// How much of standard input is read at a time.
const CHUNK: usize = 32 << 10;

/// How streams reach the runtime.
#[derive(clap::Args, Clone, Debug)]
pub struct TransportArgs {
    /// What carries the streams
    #[arg(long, short = 'r', value_name = "TRANSPORT", default_value = "spdy")]
    transport: TransportName,
    /// Trust the certificates in this file in place of the system's
    #[arg(long, alias = "tls-ca-file", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Show the certificate in this file to a runtime that asks for one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the runtime's certificate must have [default: the host of the
    /// address that it gives]
    #[arg(long, visible_alias = "tls-sni", value_name = "NAME")]
    tls_server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TransportName {
    Spdy,
    Websocket,
}

impl TransportArgs {
    pub fn transport(&self) -> Transport {
        match self.transport {
            TransportName::Spdy => Transport::Spdy,
            TransportName::Websocket => Transport::WebSocket,
        }
    }

    pub fn trust(&self) -> Trust {
        let Self { transport: _, tls_ca, tls_cert, tls_key, tls_server_name } = self;
        let files = tls_cert.clone().zip(tls_key.clone());
        Trust {
            roots: tls_ca.clone(),
            server_name: tls_server_name.clone(),
            identity: files.map(|(certificate, key)| Identity { certificate, key }),
        }
    }
}

/// Runs a session at an address that the runtime has given; its exit code becomes ours.
pub async fn run(
    address: &str,
    streams: Streams,
    transport: &TransportArgs,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut session =
        RemoteCommand::begin(address, streams, transport.transport(), &transport.trust()).await?;
    let raw = if streams.tty && streams.stdin {
        Some(RawMode::enter().context("failed to set the terminal raw")?)
    } else {
        None
    };
    let stdin = session.stdin.take().map(|writer| tokio::spawn(pass_input(writer)));
    let sizes = session.resize.take().map(|writer| tokio::spawn(pass_sizes(writer)));
    let readers = (session.stdout.take(), session.stderr.take());
    let (shown, outcome) = tokio::join!(show(readers, output), session.ended());
    for task in stdin.into_iter().chain(sizes) {
        task.abort();
    }
    drop(raw);
    shown?;
    match outcome {
        Outcome::Exited(0) => Ok(()),
        // Codes are a byte; what is not is an error of its own.
        Outcome::Exited(code) => Err(Exit(u8::try_from(code).unwrap_or(u8::MAX)).into()),
        Outcome::Failed(reason) => bail!("{reason}"),
    }
}

/// Writes what comes, as it comes.
async fn show(
    (mut stdout, mut stderr): (Option<Reader>, Option<Reader>),
    output: &mut Output<'_>,
) -> std::io::Result<()> {
    let mut result = Ok(());
    while stdout.is_some() || stderr.is_some() {
        let (is_error, bytes) = tokio::select! {
            bytes = next(&mut stdout) => (false, bytes),
            bytes = next(&mut stderr) => (true, bytes),
        };
        match bytes {
            // Read to the end all the same: the session's end comes after it.
            Some(bytes) if result.is_ok() => {
                let to = if is_error { &mut output.err } else { &mut output.out };
                result = to.write_all(&bytes).and_then(|()| to.flush());
            }
            Some(_) => return result,
            None if is_error => stderr = None,
            None => stdout = None,
        }
    }
    result
}

async fn next(reader: &mut Option<Reader>) -> Option<Bytes> {
    match reader {
        Some(reader) => reader.recv().await,
        None => std::future::pending().await,
    }
}

async fn pass_input(writer: Writer) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        if !writer.send(bytes).await {
            return;
        }
    }
    writer.finish().await;
}

/// Tells the terminal's size now and when it changes.
async fn pass_sizes(writer: Writer) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some(size) = terminal::size()
            && !writer.send_size(size).await
        {
            return;
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}
