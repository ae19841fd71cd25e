//! Port-forward: pairs of streams to connections of a sandbox, each on its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::backend::Backend;
use super::process::Times;
use super::session::{Gone, Output};
use crate::channel::Coding;
use crate::spdy::{Connection, Limits, Role, Status, Stream, StreamReader, StreamWriter};
use crate::task::Task;
use crate::{Activity, messages};

/// The most streams of a connection: two a forwarded connection.
const MAX_STREAMS: usize = 4096;

/// How long the second stream of a pair may take.
const PAIR_PATIENCE: Duration = Duration::from_secs(30);

/// How long a WebSocket's client may take to take what is left, and to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// How much is read at a time.
const CHUNK: usize = 32 << 10;

/// How many messages wait for a port's connection.
const INPUT_QUEUE: usize = 16;

/// Streams that wait for their other half.
#[derive(Default)]
struct Half {
    data: Option<Stream>,
    error: Option<Stream>,
    since: Option<Instant>,
}

/// Serves a client that speaks SPDY, also through a WebSocket.
pub(crate) async fn over_spdy<B, T>(backend: &B, sandbox: &str, io: T, times: Times)
where
    B: Backend,
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let activity = Activity::default();
    let limits = Limits { streams: MAX_STREAMS };
    let mut connection = Connection::start(io, Role::Server, limits, activity.clone());
    let (mut waiting, mut pairs) = (HashMap::<String, Half>::new(), JoinSet::new());
    let over = times.over(&activity);
    tokio::pin!(over);
    let mut look = tokio::time::interval(PAIR_PATIENCE);
    loop {
        tokio::select! {
            stream = connection.accept() => {
                let Some(stream) = stream else { break };
                if let Some((port, data, error)) = pair(&mut waiting, stream) {
                    let (backend, sandbox) = (backend.clone(), sandbox.to_owned());
                    let activity = activity.clone();
                    pairs.spawn(async move {
                        forward(&backend, &sandbox, port, data, error, &activity).await;
                    });
                }
            }
            Some(_) = pairs.join_next() => {}
            _ = look.tick() => waiting.retain(|_, half| {
                half.since.is_some_and(|since| since.elapsed() < PAIR_PATIENCE)
            }),
            why = &mut over => {
                tracing::debug!(%sandbox, "port-forward ends: {why}");
                break;
            }
        }
    }
    pairs.shutdown().await;
    connection.close().await;
}

/// Puts a stream to its other half; gives both with their port.
fn pair(waiting: &mut HashMap<String, Half>, stream: Stream) -> Option<(u16, Stream, Stream)> {
    let headers = &stream.headers;
    let port: Option<u16> = headers.get("port").and_then(|port| port.parse().ok());
    let kind = headers.get("streamtype").unwrap_or_default().to_owned();
    // Old clients open the error stream, then the data stream, and give no number.
    let id = match headers.get("requestid") {
        Some(id) => id.to_owned(),
        None if kind == "error" => stream.reader.id().to_string(),
        None => stream.reader.id().saturating_sub(2).to_string(),
    };
    let Some(port) = port.filter(|port| *port > 0) else {
        stream.writer.reset(Status::PROTOCOL_ERROR);
        return None;
    };
    let half = waiting.entry(id.clone()).or_default();
    let place = match kind.as_str() {
        "data" => &mut half.data,
        "error" => &mut half.error,
        _ => {
            stream.writer.reset(Status::PROTOCOL_ERROR);
            return None;
        }
    };
    if place.is_some() {
        stream.writer.reset(Status::PROTOCOL_ERROR);
        return None;
    }
    *place = Some(stream);
    half.since.get_or_insert_with(Instant::now);
    if half.data.is_none() || half.error.is_none() {
        return None;
    }
    let Half { data, error, .. } = waiting.remove(&id)?;
    data.zip(error).map(|(data, error)| (port, data, error))
}

/// One forwarded connection. What goes wrong in it ends it and nothing else.
async fn forward<B: Backend>(
    backend: &B,
    sandbox: &str,
    port: u16,
    data: Stream,
    error: Stream,
    activity: &Activity,
) {
    let Stream { reader, writer, .. } = data;
    match backend.connect(sandbox, port).await {
        Ok(socket) => {
            let (from, to) = socket.into_split();
            let there = pass_there(reader, to);
            let back = pass_back(from, writer, activity);
            // A client that gives up ends both; an ended direction leaves the other.
            let _ = tokio::try_join!(there, back);
        }
        Err(reason) => {
            let text = format!("failed to forward port {port} of sandbox {sandbox}: {reason}");
            let _ = error.writer.send(text.into()).await;
            let _ = writer.finish().await;
        }
    }
    let _ = error.writer.finish().await;
}

async fn pass_there(
    mut reader: StreamReader,
    mut to: tokio::net::tcp::OwnedWriteHalf,
) -> Result<(), Gone> {
    while let Some(bytes) = reader.recv().await.map_err(|_| Gone)? {
        // Who takes no more may still have an answer on its way.
        if to.write_all(&bytes).await.is_err() {
            return Ok(());
        }
    }
    let _ = to.shutdown().await;
    Ok(())
}

async fn pass_back(
    mut from: tokio::net::tcp::OwnedReadHalf,
    writer: StreamWriter,
    activity: &Activity,
) -> Result<(), Gone> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let read = from.read_buf(&mut buffer).await;
        if !matches!(read, Ok(1..)) {
            // One that breaks is ended too, and not reset: that could overtake what it said before.
            let finished = writer.finish().await;
            return read.map(drop).map_err(|_| Gone).and(finished.map_err(|_| Gone));
        }
        writer.send(buffer.split().freeze()).await.map_err(|_| Gone)?;
        activity.touch();
    }
}

/// Serves a client that tunnels SPDY in the messages of a WebSocket.
pub(crate) async fn through_websocket<B: Backend>(
    backend: &B,
    sandbox: &str,
    socket: WebSocketStream<TokioIo<Upgraded>>,
    times: Times,
) {
    let (inner, passing) = crate::tunnel::open(socket);
    let mut passing = Task::spawn(passing);
    over_spdy(backend, sandbox, inner, times).await;
    let _ = tokio::time::timeout(GOODBYE, passing.ended()).await;
}

/// Serves a client that has two channels a port.
pub(crate) async fn over_websocket<B: Backend>(
    backend: &B,
    sandbox: &str,
    ports: &[u16],
    socket: WebSocketStream<TokioIo<Upgraded>>,
    coding: Coding,
    times: Times,
) {
    let activity = Activity::default();
    let (sink, mut source) = socket.split();
    let (messages, mut writing) = messages::write(sink);
    let (mut inputs, mut forwards) = (HashMap::new(), JoinSet::new());
    for (number, port) in ports.iter().enumerate() {
        let Ok(data) = u8::try_from(number * 2) else { break };
        let output = |channel| Output::Channel { channel, coding, messages: messages.clone() };
        let (output, error) = (output(data), output(data.saturating_add(1)));
        let (sender, input) = mpsc::channel(INPUT_QUEUE);
        inputs.insert(data, sender);
        let (backend, sandbox, port) = (backend.clone(), sandbox.to_owned(), *port);
        forwards.spawn(async move {
            // The port, the low byte first, tells the client that the channel stands.
            let mark = Bytes::copy_from_slice(&port.to_le_bytes());
            if output.send(mark.clone()).await.is_ok() && error.send(mark).await.is_ok() {
                port_channel(&backend, &sandbox, port, input, &output, &error).await;
            }
        });
    }
    drop(messages);
    let reading = async {
        while let Some(Ok(message)) = source.next().await {
            activity.touch();
            let data = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => return,
                _ => continue,
            };
            let Ok(Some((channel, bytes))) = coding.decode(data) else { return };
            if let Some(input) = inputs.get(&channel).filter(|_| !bytes.is_empty()) {
                let _ = input.send(bytes).await;
            }
        }
    };
    let all = async { while forwards.join_next().await.is_some() {} };
    tokio::select! { () = reading => {} () = all => {} _ = times.over(&activity) => {} }
    forwards.shutdown().await;
    let _ = tokio::time::timeout(GOODBYE, writing.ended()).await;
}

async fn port_channel<B: Backend>(
    backend: &B,
    sandbox: &str,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    output: &Output,
    error: &Output,
) {
    let socket: TcpStream = match backend.connect(sandbox, port).await {
        Ok(socket) => socket,
        Err(reason) => {
            let text = format!("failed to forward port {port} of sandbox {sandbox}: {reason}");
            let _ = error.send(text.into()).await;
            return;
        }
    };
    let (mut from, mut to) = socket.into_split();
    let there = async {
        while let Some(bytes) = input.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return Ok(());
            }
        }
        let _ = to.shutdown().await;
        Ok(())
    };
    let back = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            if from.read_buf(&mut buffer).await.map_err(|_| Gone)? == 0 {
                // A channel cannot tell its end: the connection does.
                return Err::<(), Gone>(Gone);
            }
            output.send(buffer.split().freeze()).await?;
        }
    };
    let _ = tokio::try_join!(there, back);
}
