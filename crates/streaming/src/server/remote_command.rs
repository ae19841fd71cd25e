//! Exec and attach: from an upgraded connection to a process, and the end told to the client.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::backend::{Backend, Wanted};
use super::process::{self, ATTACH_BEHIND, EXEC_BEHIND, Times};
use super::session::{Channels, Input, Output};
use crate::channel::{CLOSE, Coding, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use crate::protocol::Version;
use crate::spdy::{Closed, Connection, Limits, Role, Status, Stream};
use crate::{Activity, Outcome, Streams, messages};

/// How long a client has to open its streams.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// The most streams of a remote command's connection: five, and some that come twice.
const MAX_STREAMS: usize = 16;

/// The input that waits for a process, in messages of its client.
const INPUT_QUEUE: usize = 16;

/// How long a client may take to hear of the end, and a WebSocket's to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves a client that speaks SPDY.
pub(crate) async fn over_spdy<B: Backend>(
    backend: &B,
    wanted: &Wanted,
    streams: Streams,
    io: TokioIo<Upgraded>,
    version: Version,
    times: Times,
) {
    let activity = Activity::default();
    let limits = Limits { streams: MAX_STREAMS };
    let mut connection = Connection::start(io, Role::Server, limits, activity.clone());
    let opened = collect(&mut connection, streams, version);
    let Ok(Some(mut channels)) = tokio::time::timeout(OPEN_PATIENCE, opened).await else {
        tracing::debug!("a streaming client did not open its streams");
        return connection.close().await;
    };
    // What the client opens beyond is refused.
    let refusing = async { while connection.accept().await.is_some() {} };
    let outcome = tokio::select! {
        outcome = run(backend, wanted, &mut channels, times, &activity) => outcome,
        () = refusing => None,
    };
    tell(outcome, version, channels.error).await;
    connection.close().await;
}

/// Waits for the streams that the client must open.
async fn collect(
    connection: &mut Connection,
    streams: Streams,
    version: Version,
) -> Option<Channels> {
    let closed = connection.closed();
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let wants_resize = streams.tty && version >= Version::V3;
    loop {
        let complete = error.is_some()
            && stdin.is_some() == streams.stdin
            && stdout.is_some() == streams.stdout
            && stderr.is_some() == streams.stderr
            && resize.is_some() == wants_resize;
        if complete {
            let error = error.take()?;
            return Some(Channels { stdin, stdout, stderr, error, resize, closed });
        }
        let Stream { headers, reader, writer } = connection.accept().await?;
        // The other direction of each stream stays unused. An input's is ended, so that who waits
        // for its end does not wait.
        match headers.get("streamtype") {
            Some("stdin") if streams.stdin => {
                let _ = writer.finish().await;
                stdin = Some(Input::Spdy(reader));
            }
            Some("resize") if wants_resize => {
                let _ = writer.finish().await;
                resize = Some(Input::Spdy(reader));
            }
            Some("stdout") if streams.stdout => stdout = Some(Output::Spdy(writer)),
            Some("stderr") if streams.stderr => stderr = Some(Output::Spdy(writer)),
            Some("error") => error = Some(Output::Spdy(writer)),
            _ => writer.reset(Status::REFUSED_STREAM),
        }
    }
}

/// Starts what is wanted and connects it; `None` when the client has left.
async fn run<B: Backend>(
    backend: &B,
    wanted: &Wanted,
    channels: &mut Channels,
    times: Times,
    activity: &Activity,
) -> Option<Outcome> {
    let (started, behind) = match wanted {
        Wanted::Exec { container, command, streams } => {
            (backend.exec(container, command.clone(), *streams).await, EXEC_BEHIND)
        }
        Wanted::Attach { container, streams } => {
            (backend.attach(container, *streams).await, ATTACH_BEHIND)
        }
        Wanted::PortForward { .. } => return None,
    };
    match started {
        Ok(process) => process::connect(process, channels, behind, times, activity).await,
        Err(reason) => Some(Outcome::Failed(reason)),
    }
}

/// Tells the end to a client, if that listens.
async fn tell(outcome: Option<Outcome>, version: Version, error: Output) {
    let Some(outcome) = outcome else { return };
    let telling = async {
        if let Some(text) = outcome.to_wire(version)
            && error.send(text.into()).await.is_err()
        {
            return;
        }
        error.finish().await;
    };
    let _ = tokio::time::timeout(GOODBYE, telling).await;
}

/// Serves a client that speaks WebSocket.
pub(crate) async fn over_websocket<B: Backend>(
    backend: &B,
    wanted: &Wanted,
    streams: Streams,
    socket: WebSocketStream<TokioIo<Upgraded>>,
    (version, coding): (Version, Coding),
    times: Times,
) {
    let activity = Activity::default();
    let (sink, mut source) = socket.split();
    let (messages, mut writing) = messages::write(sink);
    let closed = watch::Sender::new(false);
    let output = |channel| Output::Channel { channel, coding, messages: messages.clone() };
    let (stdin, stdin_input) = channel(streams.stdin);
    let (resize, resize_input) = channel(streams.tty);
    let mut channels = Channels {
        stdin: stdin_input,
        stdout: streams.stdout.then(|| output(STDOUT)),
        stderr: streams.stderr.then(|| output(STDERR)),
        error: output(ERROR),
        resize: resize_input,
        closed: Closed::of(&closed),
    };
    // An empty message tells the client that the session stands.
    let first = channels.stdout.as_ref().or(channels.stderr.as_ref()).unwrap_or(&channels.error);
    let _ = first.send(Bytes::new()).await;
    drop(messages);
    {
        let reading = async {
            let mut inputs = [(STDIN, stdin), (RESIZE, resize)];
            while let Some(Ok(message)) = source.next().await {
                activity.touch();
                if message.is_close() || !take(message, coding, &mut inputs).await {
                    break;
                }
            }
            closed.send_replace(true);
            // Until the session has seen it.
            std::future::pending::<()>().await;
        };
        let session = async {
            let outcome = run(backend, wanted, &mut channels, times, &activity).await;
            tell(outcome, version, channels.error).await;
        };
        tokio::select! { () = session => {} () = reading => {} }
    }
    let goodbye = async {
        writing.ended().await;
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

type Sender = Option<mpsc::Sender<Bytes>>;

fn channel(wanted: bool) -> (Sender, Option<Input>) {
    if !wanted {
        return (None, None);
    }
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    (Some(sender), Some(Input::Channel(receiver)))
}

/// Puts a client's message where it belongs; false where it is none.
async fn take(message: Message, coding: Coding, inputs: &mut [(u8, Sender); 2]) -> bool {
    let data = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return true,
    };
    let Ok(decoded) = coding.decode(data) else { return false };
    let Some((channel, bytes)) = decoded else { return true };
    if channel == CLOSE {
        let ended = bytes.first();
        inputs.iter_mut().filter(|(known, _)| Some(known) == ended).for_each(|(_, to)| *to = None);
        return true;
    }
    let to = inputs.iter().find(|(known, _)| *known == channel).and_then(|(_, to)| to.as_ref());
    if let Some(to) = to.filter(|_| !bytes.is_empty()) {
        // Who takes no more input has gone; the session goes on.
        let _ = to.send(bytes).await;
    }
    true
}
