//! One stream of a connection: a reader and a writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::connection::Shared;
use super::frame::{Frame, Status};
use super::headers::Headers;

/// How much of a stream is sent in one frame: other streams get their turn between.
const MAX_SENT: usize = 32 << 10;

/// How a stream ended, other than by its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it.
    #[error("the peer reset the stream ({})", .0.0)]
    Reset(Status),
    /// The connection is at its end.
    #[error("the connection is closed")]
    Closed,
}

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Incoming {
    Data(Bytes),
    Fin,
    Reset(Status),
}

/// What the connection's tasks and a stream's halves share.
#[derive(Debug)]
pub(crate) struct StreamState {
    /// Bytes that have arrived and were not read.
    pub(crate) queued: AtomicUsize,
    /// Bytes that may be sent.
    pub(crate) window: AtomicI64,
    /// Told when bytes were read, or when more may be sent.
    pub(crate) changed: Notify,
}

impl StreamState {
    pub(crate) fn new(window: i64) -> Arc<Self> {
        Arc::new(Self {
            queued: AtomicUsize::new(0),
            window: AtomicI64::new(window),
            changed: Notify::new(),
        })
    }
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// The headers that opened it.
    pub headers: Headers,
    /// What arrives.
    pub reader: StreamReader,
    /// What is sent.
    pub writer: StreamWriter,
}

/// The arriving half. Dropped, what still arrives is thrown away.
#[derive(Debug)]
pub struct StreamReader {
    pub(crate) id: u32,
    pub(crate) incoming: mpsc::UnboundedReceiver<Incoming>,
    pub(crate) state: Arc<StreamState>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) unacknowledged: u32,
    pub(crate) ended: Option<Result<(), StreamError>>,
}

impl StreamReader {
    /// The stream's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits for bytes; `None` at the stream's end.
    ///
    /// # Errors
    /// When it was reset, or the connection broke.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        if let Some(ended) = self.ended {
            return ended.map(|()| None);
        }
        match self.incoming.recv().await {
            Some(Incoming::Data(bytes)) => {
                self.read(bytes.len());
                Ok(Some(bytes))
            }
            Some(Incoming::Fin) => self.end(Ok(())),
            Some(Incoming::Reset(status)) => self.end(Err(StreamError::Reset(status))),
            None => self.end(Err(StreamError::Closed)),
        }
    }

    /// Ends the stream at once, in both directions.
    pub fn reset(&self, status: Status) {
        self.shared.reset(self.id, status);
    }

    fn end(&mut self, how: Result<(), StreamError>) -> Result<Option<Bytes>, StreamError> {
        self.ended = Some(how);
        how.map(|()| None)
    }

    fn read(&mut self, count: usize) {
        self.state.queued.fetch_sub(count, Ordering::AcqRel);
        self.shared.room.notify_one();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.unacknowledged = self.unacknowledged.saturating_add(count);
        if self.shared.peer_has_flow_control()
            && self.unacknowledged >= super::connection::WINDOW / 2
        {
            let delta = std::mem::take(&mut self.unacknowledged);
            self.shared.control(Frame::WindowUpdate { stream: self.id, delta });
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.shared.reader_gone(self.id);
    }
}

/// The sending half. Dropped before [`StreamWriter::finish`], the stream is reset.
#[derive(Debug)]
pub struct StreamWriter {
    pub(crate) id: u32,
    pub(crate) state: Arc<StreamState>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) finished: bool,
}

impl StreamWriter {
    /// Sends bytes; waits while the peer does not take them.
    ///
    /// # Errors
    /// When the stream was reset, or the connection broke.
    ///
    /// # Cancellation
    /// A part may have been sent.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let count = self.room(bytes.len().min(MAX_SENT)).await?;
            let piece = bytes.split_to(count);
            self.shared.data(Frame::Data { stream: self.id, fin: false, bytes: piece }).await?;
        }
        Ok(())
    }

    /// Ends the sending half.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn finish(mut self) -> Result<(), StreamError> {
        self.finished = true;
        let bytes = Bytes::new();
        self.shared.data(Frame::Data { stream: self.id, fin: true, bytes }).await?;
        self.shared.local_fin(self.id);
        Ok(())
    }

    /// Ends the stream at once, in both directions.
    pub fn reset(mut self, status: Status) {
        self.finished = true;
        self.shared.reset(self.id, status);
    }

    /// Waits until something may be sent, at most `wanted`, and takes it off the windows.
    async fn room(&self, wanted: usize) -> Result<usize, StreamError> {
        loop {
            let (mine, everybody) = (self.state.changed.notified(), self.shared.window_changed());
            tokio::pin!(mine, everybody);
            mine.as_mut().enable();
            everybody.as_mut().enable();
            if !self.shared.is_open(self.id) {
                return Err(StreamError::Closed);
            }
            if let Some(count) = self.shared.take_window(&self.state, wanted) {
                return Ok(count);
            }
            tokio::select! { () = mine => {} () = everybody => {} }
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.reset(self.id, Status::CANCEL);
        }
    }
}
