//! A client's streams, whatever carries them.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::channel::Coding;
use crate::spdy::{Closed, StreamReader, StreamWriter};

/// The client is gone, or has reset the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// What a client sends on a stream.
#[derive(Debug)]
pub(crate) enum Input {
    Spdy(StreamReader),
    Channel(mpsc::Receiver<Bytes>),
}

impl Input {
    /// Waits for bytes; `None` at the end, however it came.
    pub(crate) async fn recv(&mut self) -> Option<Bytes> {
        match self {
            Self::Spdy(reader) => reader.recv().await.ok().flatten(),
            Self::Channel(receiver) => receiver.recv().await,
        }
    }
}

/// What is sent to a client on a stream.
#[derive(Debug)]
pub(crate) enum Output {
    Spdy(StreamWriter),
    Channel { channel: u8, coding: Coding, messages: mpsc::Sender<Message> },
}

impl Output {
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Self::Spdy(writer) => writer.send(bytes).await.map_err(|_| Gone),
            Self::Channel { channel, coding, messages } => {
                messages.send(coding.encode(*channel, &bytes)).await.map_err(|_| Gone)
            }
        }
    }

    /// Ends the stream. A channel has no end of its own.
    pub(crate) async fn finish(self) {
        if let Self::Spdy(writer) = self {
            let _ = writer.finish().await;
        }
    }
}

/// The streams of a remote command.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    pub(crate) error: Output,
    pub(crate) resize: Option<Input>,
    pub(crate) closed: Closed,
}
