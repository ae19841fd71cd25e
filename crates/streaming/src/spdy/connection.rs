//! A connection: one task reads frames, one writes them, streams hang between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::frame::{Decoder, Encoder, Frame, FrameError, Status};
use super::headers::Headers;
use super::stream::{Incoming, Stream, StreamError, StreamReader, StreamState, StreamWriter};
use crate::activity::Activity;
use crate::task::Task;

/// The bytes of a stream that a peer with flow control may send before they are read.
pub(crate) const WINDOW: u32 = 256 << 10;

/// What the draft says where no settings were sent.
const DEFAULT_WINDOW: i64 = 64 << 10;

/// The unread bytes of a stream after which the whole connection is not read any further: the
/// limit for peers without flow control.
const MAX_QUEUED: usize = 1 << 20;

/// How many data frames wait to be written.
const DATA_QUEUE: usize = 16;

/// The most control frames that wait for a peer that does not read.
const MAX_CONTROL_QUEUE: usize = 16 << 10;

/// How much is read at a time.
const READ_BYTES: usize = 64 << 10;

/// How long a peer has to accept a stream.
const REPLY_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client has to hang up after the goodbye. Some throw away what they have received and
/// not yet looked at when the server hangs up.
pub(super) const HANG_UP: Duration = Duration::from_secs(1);

/// How long a peer has to take what was sent, and to close, at the end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Which end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It opens streams of odd numbers.
    Client,
    /// It opens streams of even numbers.
    Server,
}

/// What a peer may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most streams that are open at a time.
    pub streams: usize,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection is at its end.
    #[error("the connection is closed")]
    Closed,
    /// The peer does not want the stream.
    #[error("the peer refused the stream")]
    Refused,
    /// The peer does not answer.
    #[error("the peer did not accept the stream within 30 s")]
    Silent,
}

/// A connection. Dropped, it ends at once.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Stream>,
    writer: Task,
    _reader: Task,
}

/// Waits for a connection's end.
#[derive(Debug, Clone)]
pub struct Closed(watch::Receiver<bool>);

impl Closed {
    /// Returns when the peer has closed the connection, or it broke.
    ///
    /// # Cancellation
    /// May be called again.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|closed| *closed).await;
    }

    /// Whether it is so.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.0.borrow()
    }

    /// Makes one that `sender` closes.
    pub(crate) fn of(sender: &watch::Sender<bool>) -> Self {
        Self(sender.subscribe())
    }
}

/// What the tasks and all streams share.
#[derive(Debug)]
pub(crate) struct Shared {
    streams: Mutex<HashMap<u32, Entry>>,
    next: Mutex<u32>,
    /// The last stream that the peer opened and that was taken.
    last_taken: AtomicU32,
    data: mpsc::Sender<Out>,
    control: mpsc::UnboundedSender<Frame>,
    waiting_control: AtomicUsize,
    /// Whether the peer has sent settings.
    flow_control: AtomicBool,
    /// The window of a new stream.
    initial_window: AtomicI64,
    /// The connection's window, and who waits for it.
    window: AtomicI64,
    window_changed: Notify,
    /// Told when a stream was read.
    pub(crate) room: Notify,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
enum Out {
    Frame(Frame),
    Close,
}

/// An open stream.
#[derive(Debug)]
struct Entry {
    incoming: Option<mpsc::UnboundedSender<Incoming>>,
    state: Arc<StreamState>,
    reply: Option<oneshot::Sender<bool>>,
    local_open: bool,
    remote_open: bool,
}

impl Connection {
    /// Starts to speak on a connection whose upgrade is done.
    pub fn start<T>(io: T, role: Role, limits: Limits, activity: Activity) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (data, data_queue) = mpsc::channel(DATA_QUEUE);
        let (control, control_queue) = mpsc::unbounded_channel();
        let (accepted, incoming) = mpsc::channel(limits.streams.max(1));
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            next: Mutex::new(if role == Role::Client { 1 } else { 2 }),
            last_taken: AtomicU32::new(0),
            data,
            control,
            waiting_control: AtomicUsize::new(0),
            flow_control: AtomicBool::new(false),
            initial_window: AtomicI64::new(DEFAULT_WINDOW),
            window: AtomicI64::new(DEFAULT_WINDOW),
            window_changed: Notify::new(),
            room: Notify::new(),
            closed: watch::Sender::new(false),
        });
        if role == Role::Client {
            shared.control(Frame::Settings { initial_window: Some(WINDOW) });
        }
        let (read, write) = tokio::io::split(io);
        let reader = Reader { shared: shared.clone(), role, limits, accepted, last: 0, activity };
        let writer = write_frames(write, shared.clone(), data_queue, control_queue);
        let (reader, writer) = (Task::spawn(reader.run(read)), Task::spawn(writer));
        Self { role, shared, incoming, writer, _reader: reader }
    }

    /// Waits for a stream that the peer opens; `None` at the connection's end.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Opens a stream and waits until the peer accepts it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn open(&self, headers: Headers) -> Result<Stream, ConnectionError> {
        let (reply, accepted) = oneshot::channel();
        let stream = {
            // Numbers go out in their order.
            let mut next = lock(&self.shared.next);
            let stream = self.shared.add(*next, headers.clone(), Some(reply));
            self.shared.control(Frame::SynStream { stream: *next, fin: false, headers });
            *next += 2;
            stream
        };
        if self.is_closed() {
            return Err(ConnectionError::Closed);
        }
        match tokio::time::timeout(REPLY_PATIENCE, accepted).await {
            Ok(Ok(true)) => Ok(stream),
            Ok(Ok(false)) => Err(ConnectionError::Refused),
            Ok(Err(_)) => Err(ConnectionError::Closed),
            Err(_) => Err(ConnectionError::Silent),
        }
    }

    /// Whether the connection is at its end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.shared.closed.borrow()
    }

    /// Something that waits for the connection's end.
    #[must_use]
    pub fn closed(&self) -> Closed {
        Closed::of(&self.shared.closed)
    }

    /// Says goodbye, has everything written, and waits a little for the peer to close; a client
    /// may do so first.
    pub async fn close(mut self) {
        let goodbye = async {
            // A peer may take every stream above it for one that was never looked at.
            let last = self.shared.last_taken.load(Ordering::Acquire);
            let _ = self.shared.data.send(Out::Frame(Frame::GoAway { last })).await;
            if self.role == Role::Server {
                let _ = tokio::time::timeout(HANG_UP, self.closed().wait()).await;
            }
            let _ = self.shared.data.send(Out::Close).await;
            self.writer.ended().await;
            self.closed().wait().await;
        };
        let _ = tokio::time::timeout(CLOSE_PATIENCE, goodbye).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What reads and writes ends with its fields, also for a peer that takes nothing.
        self.shared.end();
    }
}

impl Shared {
    /// Puts a frame before all data. A peer that does not read but has us answer loses the
    /// connection.
    pub(crate) fn control(&self, frame: Frame) {
        if self.waiting_control.fetch_add(1, Ordering::AcqRel) >= MAX_CONTROL_QUEUE {
            self.end();
            return;
        }
        let _ = self.control.send(frame);
    }

    /// Queues a data frame.
    pub(crate) async fn data(&self, frame: Frame) -> Result<(), StreamError> {
        let mut closed = Closed::of(&self.closed);
        tokio::select! {
            sent = self.data.send(Out::Frame(frame)) => sent.map_err(|_| StreamError::Closed),
            () = closed.wait() => Err(StreamError::Closed),
        }
    }

    pub(crate) fn peer_has_flow_control(&self) -> bool {
        self.flow_control.load(Ordering::Acquire)
    }

    /// Takes what may be sent off both windows; nothing where one of them is used up. Who has no
    /// flow control has no limit, but is counted: settings may come late.
    pub(crate) fn take_window(&self, state: &StreamState, wanted: usize) -> Option<usize> {
        let mut count = i64::try_from(wanted).unwrap_or(i64::MAX);
        if self.peer_has_flow_control() {
            let stream = state.window.load(Ordering::Acquire);
            count = count.min(stream).min(self.window.load(Ordering::Acquire));
            if count <= 0 {
                return None;
            }
        }
        // Writers of one connection may race for its window and overdraw it by a frame each: a
        // peer that counts bytes allows for what is on its way.
        state.window.fetch_sub(count, Ordering::AcqRel);
        self.window.fetch_sub(count, Ordering::AcqRel);
        usize::try_from(count).ok()
    }

    pub(crate) fn window_changed(&self) -> Notified<'_> {
        self.window_changed.notified()
    }

    pub(crate) fn is_open(&self, id: u32) -> bool {
        lock(&self.streams).get(&id).is_some_and(|entry| entry.local_open)
    }

    /// Adds a stream.
    fn add(
        self: &Arc<Self>,
        id: u32,
        headers: Headers,
        reply: Option<oneshot::Sender<bool>>,
    ) -> Stream {
        let (sender, incoming) = mpsc::unbounded_channel();
        let state = StreamState::new(self.initial_window.load(Ordering::Acquire));
        let entry = Entry {
            incoming: Some(sender),
            state: state.clone(),
            reply,
            local_open: true,
            remote_open: true,
        };
        lock(&self.streams).insert(id, entry);
        let reader = StreamReader {
            id,
            incoming,
            state: state.clone(),
            shared: self.clone(),
            unacknowledged: 0,
            ended: None,
        };
        let writer = StreamWriter { id, state, shared: self.clone(), finished: false };
        Stream { headers, reader, writer }
    }

    /// Changes a stream, and forgets it when both directions have ended.
    fn with<R>(&self, id: u32, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let mut streams = lock(&self.streams);
        let entry = streams.get_mut(&id)?;
        let result = change(entry);
        if !entry.local_open && !entry.remote_open {
            entry.state.changed.notify_waiters();
            streams.remove(&id);
        }
        Some(result)
    }

    pub(crate) fn local_fin(&self, id: u32) {
        self.with(id, |entry| entry.local_open = false);
    }

    pub(crate) fn reader_gone(&self, id: u32) {
        self.with(id, |entry| {
            entry.incoming = None;
            entry.state.queued.store(0, Ordering::Release);
        });
        self.room.notify_one();
    }

    /// Ends a stream at once.
    pub(crate) fn reset(&self, id: u32, status: Status) {
        let was_open = self.with(id, |entry| {
            (entry.local_open, entry.remote_open) = (false, false);
            if let Some(incoming) = &entry.incoming {
                let _ = incoming.send(Incoming::Reset(status));
            }
        });
        self.room.notify_one();
        if was_open.is_some() {
            self.control(Frame::Reset { stream: id, status });
        }
    }

    /// Ends everything.
    fn end(&self) {
        self.closed.send_replace(true);
        for (_, entry) in lock(&self.streams).drain() {
            entry.state.changed.notify_waiters();
        }
        self.window_changed.notify_waiters();
        self.room.notify_one();
    }
}

/// The task that reads.
struct Reader {
    shared: Arc<Shared>,
    role: Role,
    limits: Limits,
    accepted: mpsc::Sender<Stream>,
    /// The last stream that the peer opened.
    last: u32,
    activity: Activity,
}

impl Reader {
    async fn run<T: AsyncRead>(mut self, mut io: ReadHalf<T>) {
        let mut closed = Closed::of(&self.shared.closed);
        tokio::select! {
            result = self.read(&mut io) => if let Err(error) = result {
                tracing::debug!(%error, "a streaming connection is given up");
            },
            () = closed.wait() => {}
        }
        self.shared.end();
    }

    async fn read<T: AsyncRead>(&mut self, io: &mut ReadHalf<T>) -> Result<(), FrameError> {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.decode(&mut input)? {
                self.activity.touch();
                self.take(frame).await;
            }
            input.reserve(READ_BYTES);
            match io.read_buf(&mut input).await {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => return Ok(()),
            }
        }
    }

    async fn take(&mut self, frame: Frame) {
        let shared = &self.shared;
        match frame {
            Frame::Data { stream, fin, bytes } => self.data(stream, fin, bytes).await,
            Frame::SynStream { stream, fin, headers } => self.opened(stream, fin, headers),
            Frame::SynReply { stream, fin, .. } => {
                let reply = shared.with(stream, |entry| entry.reply.take()).flatten();
                reply.map(|reply| reply.send(true));
                if fin {
                    self.fin(stream);
                }
            }
            Frame::Reset { stream, status } => {
                shared.with(stream, |entry| {
                    (entry.local_open, entry.remote_open) = (false, false);
                    entry.reply.take().map(|reply| reply.send(false));
                    entry.incoming.take().map(|incoming| incoming.send(Incoming::Reset(status)));
                });
            }
            Frame::Settings { initial_window } => self.settings(initial_window),
            // Those of our own kind would be answers; we do not ask.
            Frame::Ping(id) if self.is_of_peer(id) => shared.control(Frame::Ping(id)),
            Frame::WindowUpdate { stream, delta } => self.window(stream, delta),
            Frame::Headers { stream, fin: true, .. } => self.fin(stream),
            Frame::Ping(_) | Frame::GoAway { .. } | Frame::Headers { .. } | Frame::Unknown(_) => {}
        }
    }

    fn is_of_peer(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.role == Role::Server)
    }

    fn opened(&mut self, stream: u32, fin: bool, headers: Headers) {
        if !self.is_of_peer(stream) || stream <= self.last {
            return self.shared.control(Frame::Reset { stream, status: Status::PROTOCOL_ERROR });
        }
        self.last = stream;
        let refuse = || Frame::Reset { stream, status: Status::REFUSED_STREAM };
        if lock(&self.shared.streams).len() >= self.limits.streams {
            return self.shared.control(refuse());
        }
        let Ok(place) = self.accepted.try_reserve() else {
            return self.shared.control(refuse());
        };
        let opened = self.shared.add(stream, headers, None);
        self.shared.last_taken.store(stream, Ordering::Release);
        self.shared.control(Frame::SynReply { stream, fin: false, headers: Headers::default() });
        place.send(opened);
        if fin {
            self.fin(stream);
        }
    }

    async fn data(&self, stream: u32, fin: bool, bytes: Bytes) {
        let count = bytes.len();
        if self.shared.peer_has_flow_control() && count > 0 {
            // The connection's window is no limit here; that of each stream is.
            let delta = u32::try_from(count).unwrap_or(u32::MAX);
            self.shared.control(Frame::WindowUpdate { stream: 0, delta });
        }
        let state = self.shared.with(stream, |entry| {
            if let Some(incoming) = entry.incoming.as_ref().filter(|_| count > 0) {
                entry.state.queued.fetch_add(count, Ordering::AcqRel);
                if incoming.send(Incoming::Data(bytes)).is_ok() {
                    return Some(entry.state.clone());
                }
            }
            None
        });
        if fin {
            self.fin(stream);
        }
        match state {
            Some(Some(state)) => self.wait_for_room(&state, stream).await,
            Some(None) => {}
            // A reset may be on its way to the peer: data for it is no error.
            None if stream > self.last && self.is_of_peer(stream) => {
                self.shared.control(Frame::Reset { stream, status: Status::INVALID_STREAM });
            }
            None => {}
        }
    }

    /// Waits while a stream is full, as long as somebody reads it.
    async fn wait_for_room(&self, state: &StreamState, stream: u32) {
        while state.queued.load(Ordering::Acquire) > MAX_QUEUED {
            let is_read = |entry: &mut Entry| {
                entry.incoming.as_ref().is_some_and(|incoming| !incoming.is_closed())
            };
            if !self.shared.with(stream, is_read).unwrap_or(false) {
                return;
            }
            self.shared.room.notified().await;
        }
    }

    fn fin(&self, stream: u32) {
        self.shared.with(stream, |entry| {
            entry.remote_open = false;
            entry.incoming.as_ref().map(|incoming| incoming.send(Incoming::Fin));
        });
    }

    fn settings(&self, initial_window: Option<u32>) {
        let shared = &self.shared;
        if let Some(window) = initial_window {
            let window = i64::from(window);
            let delta = window - shared.initial_window.swap(window, Ordering::AcqRel);
            for entry in lock(&shared.streams).values() {
                entry.state.window.fetch_add(delta, Ordering::AcqRel);
                entry.state.changed.notify_waiters();
            }
        }
        if !shared.flow_control.swap(true, Ordering::AcqRel) && self.role == Role::Server {
            shared.control(Frame::Settings { initial_window: Some(WINDOW) });
        }
    }

    fn window(&self, stream: u32, delta: u32) {
        let grow = |window: &AtomicI64| {
            // A peer must not make it overflow.
            let _ = window.try_update(Ordering::AcqRel, Ordering::Acquire, |window| {
                Some(window.saturating_add(i64::from(delta)).min(i64::from(u32::MAX)))
            });
        };
        if stream == 0 {
            grow(&self.shared.window);
            return self.shared.window_changed.notify_waiters();
        }
        self.shared.with(stream, |entry| {
            grow(&entry.state.window);
            entry.state.changed.notify_waiters();
        });
    }
}

/// The task that writes: control frames first.
async fn write_frames<T: AsyncWrite>(
    mut io: WriteHalf<T>,
    shared: Arc<Shared>,
    mut data: mpsc::Receiver<Out>,
    mut control: mpsc::UnboundedReceiver<Frame>,
) {
    let (mut encoder, mut head) = (Encoder::default(), Vec::new());
    loop {
        let next = tokio::select! {
            biased;
            Some(frame) = control.recv() => {
                shared.waiting_control.fetch_sub(1, Ordering::AcqRel);
                Out::Frame(frame)
            }
            Some(out) = data.recv() => out,
            else => break,
        };
        let Out::Frame(frame) = next else { break };
        head.clear();
        if encoder.head(&frame, &mut head).is_err() {
            break;
        }
        let body = if let Frame::Data { bytes, .. } = frame { bytes } else { Bytes::new() };
        let written = async {
            io.write_all(&head).await?;
            io.write_all(&body).await?;
            if data.is_empty() && control.is_empty() { io.flush().await } else { Ok(()) }
        };
        if written.await.is_err() {
            return shared.end();
        }
    }
    let _ = io.shutdown().await;
}

/// A lock that is held for a map operation and nothing else.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
