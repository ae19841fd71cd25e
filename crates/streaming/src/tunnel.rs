//! A stream of bytes in the binary messages of a WebSocket.

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How much is on its way inside.
const BUFFER: usize = 64 << 10;

/// Makes the inner stream, and what passes bytes as long as it is polled.
pub(crate) fn open<T>(
    socket: WebSocketStream<T>,
) -> (DuplexStream, impl Future<Output = ()> + Send + 'static)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (inner, outer) = tokio::io::duplex(BUFFER);
    (inner, pass(socket, outer))
}

async fn pass<T>(socket: WebSocketStream<T>, outer: DuplexStream)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut source) = socket.split();
    let (mut from, mut to) = tokio::io::split(outer);
    let inwards = async {
        while let Some(Ok(message)) = source.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) | Message::Text(_) => break,
                _ => continue,
            };
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let outwards = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER);
            match from.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {}
                _ => break,
            }
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::join!(inwards, outwards);
}
