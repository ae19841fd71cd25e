//! Port-forward.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{ClientError, Transport, Trust, dial};
use crate::Activity;
use crate::protocol::{PORT_FORWARD, TUNNEL};
use crate::spdy::{
    Closed, Connection, Headers, Limits, Role, Status, Stream, StreamError, StreamReader,
};

/// How much is read at a time.
const CHUNK: usize = 32 << 10;

/// The longest text of an error.
const MAX_TEXT: usize = 4096;

/// A connection on which ports of one sandbox are forwarded.
#[derive(Debug)]
pub struct Ports {
    connection: Connection,
    next: AtomicU64,
}

impl Ports {
    /// Connects to an address that the runtime has given.
    ///
    /// # Errors
    /// When the streaming server cannot be reached, or refuses.
    pub async fn connect(
        address: &str,
        transport: Transport,
        trust: &Trust,
    ) -> Result<Self, ClientError> {
        let limits = Limits { streams: 16 };
        let connection = match transport {
            Transport::Spdy => {
                let (io, chosen) = dial::spdy(address, &[PORT_FORWARD], trust).await?;
                if let Some(other) = chosen.filter(|name| name != PORT_FORWARD) {
                    return Err(ClientError::Protocol(other));
                }
                Connection::start(io, Role::Client, limits, Activity::default())
            }
            Transport::WebSocket => {
                let (socket, chosen) = dial::websocket(address, TUNNEL, trust).await?;
                if chosen != TUNNEL {
                    return Err(ClientError::Protocol(chosen));
                }
                let (inner, passing) = crate::tunnel::open(socket);
                tokio::spawn(passing);
                Connection::start(inner, Role::Client, limits, Activity::default())
            }
        };
        Ok(Self { connection, next: AtomicU64::new(0) })
    }

    /// Something that waits for the connection's end.
    #[must_use]
    pub fn closed(&self) -> Closed {
        self.connection.closed()
    }

    /// Passes one connection's bytes to a port and back, to the end of both directions.
    ///
    /// # Errors
    /// When the port does not answer, or the connection to the server broke. Other connections
    /// go on.
    pub async fn forward<T>(&self, port: u16, local: T) -> Result<(), ClientError>
    where
        T: AsyncRead + AsyncWrite,
    {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let error = self.open("error", port, number).await?;
        let _ = error.writer.finish().await;
        let mut error = error.reader;
        let Stream { mut reader, writer, .. } = self.open("data", port, number).await?;
        let (mut from, mut to) = tokio::io::split(local);
        let there = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(CHUNK);
                match from.read_buf(&mut buffer).await {
                    Ok(0) => {
                        let _ = writer.finish().await;
                        return Ok(());
                    }
                    Ok(_) => writer.send(buffer.split().freeze()).await?,
                    Err(_) => {
                        writer.reset(Status::CANCEL);
                        return Ok(());
                    }
                }
            }
        };
        let back = async {
            while let Ok(Some(bytes)) = reader.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    // Nobody reads it here any more.
                    reader.reset(Status::CANCEL);
                    return;
                }
            }
            let _ = to.shutdown().await;
        };
        // The server ends the error stream when both directions have ended, or one has broken.
        let ended = async {
            back.await;
            read_reason(&mut error).await
        };
        let there = async {
            let _: Result<(), StreamError> = there.await;
            std::future::pending().await
        };
        let text: String = tokio::select! { text = ended => text, text = there => text };
        if text.is_empty() { Ok(()) } else { Err(ClientError::Forward(text)) }
    }

    async fn open(&self, name: &'static str, port: u16, id: u64) -> Result<Stream, ClientError> {
        let headers = Headers::new([
            ("streamtype", name.to_owned()),
            ("port", port.to_string()),
            ("requestid", id.to_string()),
        ]);
        self.connection.open(headers).await.map_err(|source| ClientError::Stream { name, source })
    }
}

/// What a server says of a connection, to the end of it; nothing where all went well.
async fn read_reason(error: &mut StreamReader) -> String {
    let mut text = BytesMut::new();
    while let Ok(Some(bytes)) = error.recv().await {
        if text.len() + bytes.len() <= MAX_TEXT {
            text.extend_from_slice(&bytes);
        }
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}
