//! Exec and attach.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;

use super::{ClientError, Transport, Trust, dial};
use crate::channel::{CLOSE, Coding, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use crate::protocol::{self, SPDY_COMMAND, Version, WS_COMMAND};
use crate::spdy::{
    Connection, Headers, Limits, Role, Stream, StreamError, StreamReader, StreamWriter,
};
use crate::task::Task;
use crate::{Activity, Outcome, Streams, TerminalSize, messages};

/// How many messages wait, each way.
const MESSAGE_QUEUE: usize = 16;

/// The longest text about the end.
const MAX_END: usize = 64 << 10;

/// What is said where the server says nothing.
const NO_END: &str = "the connection ended before the end was told: is the runtime still running?";

/// What a client sends on a stream.
#[derive(Debug)]
pub struct Writer(Write);

#[derive(Debug)]
enum Write {
    Spdy(StreamWriter),
    Channel { channel: u8, version: Version, messages: mpsc::Sender<Message> },
}

impl Writer {
    /// Sends bytes; false when nobody takes them any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        match &self.0 {
            Write::Spdy(writer) => writer.send(bytes).await.is_ok(),
            Write::Channel { channel, messages, .. } => {
                messages.send(Coding::Binary.encode(*channel, &bytes)).await.is_ok()
            }
        }
    }

    /// Sends a terminal's size.
    pub async fn send_size(&self, size: TerminalSize) -> bool {
        let text = serde_json::to_vec(&size).unwrap_or_default();
        self.send(text.into()).await
    }

    /// Ends the stream. Before v5 a WebSocket's channel has no end.
    pub async fn finish(self) {
        match self.0 {
            Write::Spdy(writer) => drop(writer.finish().await),
            Write::Channel { channel, version, messages } => {
                if version >= Version::V5 {
                    let _ = messages.send(Coding::Binary.encode(CLOSE, &[channel])).await;
                }
            }
        }
    }
}

/// What a server sends on a stream.
#[derive(Debug)]
pub struct Reader(Read);

#[derive(Debug)]
enum Read {
    Spdy(StreamReader),
    Channel(mpsc::Receiver<Bytes>),
}

impl Reader {
    /// Waits for bytes; `None` at the end.
    pub async fn recv(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Read::Spdy(reader) => reader.recv().await.ok().flatten(),
            Read::Channel(receiver) => receiver.recv().await,
        }
    }
}

/// A session: its streams, and its end.
#[derive(Debug)]
pub struct RemoteCommand {
    /// Standard input.
    pub stdin: Option<Writer>,
    /// Standard output.
    pub stdout: Option<Reader>,
    /// Standard error.
    pub stderr: Option<Reader>,
    /// Terminal sizes.
    pub resize: Option<Writer>,
    end: End,
}

#[derive(Debug)]
enum End {
    Spdy {
        connection: Connection,
        version: Version,
        error: StreamReader,
    },
    /// With what writes and reads the WebSocket: dropped, the connection ends.
    Channel(oneshot::Receiver<Outcome>, [Task; 2]),
}

impl RemoteCommand {
    /// Begins the session of an address that the runtime has given.
    ///
    /// # Errors
    /// When the streaming server cannot be reached, or refuses.
    pub async fn begin(
        address: &str,
        streams: Streams,
        transport: Transport,
        trust: &Trust,
    ) -> Result<Self, ClientError> {
        match transport {
            Transport::Spdy => over_spdy(address, streams, trust).await,
            Transport::WebSocket => over_websocket(address, streams, trust).await,
        }
    }

    /// Waits for the end. The output must be read meanwhile.
    pub async fn ended(self) -> Outcome {
        // An input that is still open must not be taken back before the end.
        let Self { stdin, resize, stdout, stderr, end } = self;
        match end {
            End::Spdy { connection, version, mut error } => {
                let outcome = read_end(&mut error, version).await;
                drop((stdin, resize, stdout, stderr));
                connection.close().await;
                outcome
            }
            End::Channel(end, _tasks) => {
                end.await.unwrap_or_else(|_| Outcome::Failed(NO_END.to_owned()))
            }
        }
    }
}

async fn over_spdy(
    address: &str,
    streams: Streams,
    trust: &Trust,
) -> Result<RemoteCommand, ClientError> {
    let names = SPDY_COMMAND.map(|(name, _)| name);
    let (io, chosen) = dial::spdy(address, &names, trust).await?;
    let version = match chosen {
        None => Version::V1,
        Some(name) => match protocol::choose(&[name.as_str()], &SPDY_COMMAND) {
            Some((_, version)) => version,
            None => return Err(ClientError::Protocol(name)),
        },
    };
    let limits = Limits { streams: 16 };
    let connection = Connection::start(io, Role::Client, limits, Activity::default());
    let Stream { reader: error, writer, .. } = open(&connection, "error").await?;
    let _ = writer.finish().await;
    let mut session = RemoteCommand {
        stdin: None,
        stdout: None,
        stderr: None,
        resize: None,
        end: End::Spdy { connection, version, error },
    };
    let End::Spdy { connection, .. } = &session.end else {
        return Err(ClientError::Protocol(String::new()));
    };
    let to = |stream: Stream| Writer(Write::Spdy(stream.writer));
    if streams.stdin {
        session.stdin = Some(to(open(connection, "stdin").await?));
    }
    if streams.stdout {
        session.stdout = Some(read_only(open(connection, "stdout").await?).await);
    }
    if streams.stderr && !streams.tty {
        session.stderr = Some(read_only(open(connection, "stderr").await?).await);
    }
    if streams.tty && version >= Version::V3 {
        session.resize = Some(to(open(connection, "resize").await?));
    }
    Ok(session)
}

async fn open(connection: &Connection, name: &'static str) -> Result<Stream, ClientError> {
    let headers = Headers::new([("streamtype", name)]);
    connection.open(headers).await.map_err(|source| ClientError::Stream { name, source })
}

/// Ends the direction of an output that is not used.
async fn read_only(stream: Stream) -> Reader {
    let _ = stream.writer.finish().await;
    Reader(Read::Spdy(stream.reader))
}

async fn read_end(error: &mut StreamReader, version: Version) -> Outcome {
    let mut text = BytesMut::new();
    loop {
        match error.recv().await {
            Ok(Some(bytes)) if text.len() + bytes.len() <= MAX_END => {
                text.extend_from_slice(&bytes);
            }
            Ok(Some(_)) => {}
            Ok(None) if text.is_empty() && version >= Version::V4 => break,
            Ok(None) => return Outcome::from_wire(version, &text),
            // Some servers reset what they have ended.
            Err(StreamError::Reset(_) | StreamError::Closed) if !text.is_empty() => {
                return Outcome::from_wire(version, &text);
            }
            Err(StreamError::Reset(_)) if version < Version::V4 => return Outcome::Exited(0),
            Err(_) => break,
        }
    }
    Outcome::Failed(NO_END.to_owned())
}

async fn over_websocket(
    address: &str,
    streams: Streams,
    trust: &Trust,
) -> Result<RemoteCommand, ClientError> {
    let offer = "v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io";
    let (socket, chosen) = dial::websocket(address, offer, trust).await?;
    let Some((_, (version, Coding::Binary))) = protocol::choose(&[chosen.as_str()], &WS_COMMAND)
    else {
        return Err(ClientError::Protocol(chosen));
    };
    let (sink, mut source) = socket.split();
    let (messages, writing) = messages::write(sink);
    let writer = |wanted: bool, channel| {
        wanted.then(|| Writer(Write::Channel { channel, version, messages: messages.clone() }))
    };
    let (stdout, stdout_reader) = reader(streams.stdout);
    let (stderr, stderr_reader) = reader(streams.stderr && !streams.tty);
    let (tell, end) = oneshot::channel();
    let (stdin, resize) = (writer(streams.stdin, STDIN), writer(streams.tty, RESIZE));
    let reading = Task::spawn(async move {
        let (mut text, mut told) = (BytesMut::new(), false);
        let outputs = [(STDOUT, stdout), (STDERR, stderr)];
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => {
                    told = true;
                    break;
                }
                _ => continue,
            };
            let Ok(Some((channel, bytes))) = Coding::Binary.decode(data) else { continue };
            if channel == ERROR && text.len() + bytes.len() <= MAX_END {
                text.extend_from_slice(&bytes);
            }
            let to = outputs.iter().find(|(known, _)| *known == channel);
            if let Some((_, Some(to))) = to.filter(|_| !bytes.is_empty()) {
                let _ = to.send(bytes).await;
            }
        }
        let is_end = !text.is_empty() || (told && version < Version::V4);
        let outcome = match is_end {
            true => Outcome::from_wire(version, &text),
            false => Outcome::Failed(NO_END.to_owned()),
        };
        // Goodbye is said once the streams are dropped.
        drop((messages, outputs));
        let _ = tell.send(outcome);
    });
    Ok(RemoteCommand {
        stdin,
        stdout: stdout_reader,
        stderr: stderr_reader,
        resize,
        end: End::Channel(end, [writing, reading]),
    })
}

fn reader(wanted: bool) -> (Option<mpsc::Sender<Bytes>>, Option<Reader>) {
    if !wanted {
        return (None, None);
    }
    let (sender, receiver) = mpsc::channel(MESSAGE_QUEUE);
    (Some(sender), Some(Reader(Read::Channel(receiver))))
}
