//! The rewriter on a live connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::rewriter::{Outcome, Rewriter};

/// What is read of the client at once while frames are looked at.
const READ_SIZE: usize = 8 * 1024;

/// Wraps the server's side of a connection so that clients with a bad
/// `:authority` are served; see the crate's description.
pub fn accept<T>(stream: T) -> AuthorityStream<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let looking = Looking { rewriter: Rewriter::new(), input: vec![0; READ_SIZE] };
    AuthorityStream {
        inner: stream,
        reading: Reading::Looking(Box::new(looking)),
        output: Vec::new(),
        given: 0,
    }
}

/// The server's side of a connection. Reading gives what the client sent, with
/// bad authorities replaced; writing is the stream's own.
pub struct AuthorityStream<T> {
    inner: T,
    reading: Reading,
    /// Bytes for the server, of which `given` were read already. More is taken
    /// from the client only when all were, so a slow server slows the client.
    output: Vec<u8>,
    given: usize,
}

enum Reading {
    Looking(Box<Looking>),
    Passing,
    Ended,
}

struct Looking {
    rewriter: Rewriter,
    input: Vec<u8>,
}

impl<T> AuthorityStream<T> {
    /// The stream that is wrapped.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.output[self.given..];
        let part = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(part);
        self.given += part.len();
        if self.given == self.output.len() {
            // An idle connection keeps no buffer of its largest block.
            self.output = Vec::new();
            self.given = 0;
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AuthorityStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !this.output.is_empty() {
                this.give(buf);
                return Poll::Ready(Ok(()));
            }
            let Reading::Looking(looking) = &mut this.reading else {
                return match this.reading {
                    Reading::Passing => Pin::new(&mut this.inner).poll_read(cx, buf),
                    _ => Poll::Ready(Ok(())),
                };
            };
            let mut read = ReadBuf::new(&mut looking.input);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            match looking.rewriter.feed(read.filled(), &mut this.output) {
                Outcome::Continue => {}
                Outcome::Pass => this.reading = Reading::Passing,
                Outcome::End => this.reading = Reading::Ended,
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AuthorityStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: Connected> Connected for AuthorityStream<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}
