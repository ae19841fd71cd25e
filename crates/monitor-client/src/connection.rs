//! One connection to a monitor: requests go out, answers find their callers.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use monitor_proto::{
    AttachEnd, ExecId, Failure, Features, Hello, HelloReply, MAX_FRAME, Message, Op,
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Received, Reply, Request,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use types::SandboxId;

use crate::exec_sync::ExecEnd;
use crate::monitor::DEFAULT_DEADLINE;
use crate::spawn::Child;
use crate::watch::watch;
use crate::{Event, MonitorError, reader};

/// How long to wait before a connection is tried again that the monitor's backlog has no room for.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

pub(crate) type Answer = (Result<Reply, Failure>, Vec<OwnedFd>);

/// What callers and the reader share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) socket: AsyncFd<OwnedFd>,
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    execs: Mutex<HashMap<ExecId, oneshot::Sender<ExecEnd>>>,
    attached: Mutex<HashMap<ExecId, oneshot::Sender<AttachEnd>>>,
    lost: AtomicBool,
    dead: AtomicBool,
}

/// A connection that has greeted; its reader runs as long as it exists.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sandbox: SandboxId,
    pub(crate) hello: HelloReply,
    pub(crate) pidfd: Arc<OwnedFd>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    reader: tokio::task::AbortHandle,
}

/// A socket on which the version is settled.
pub(crate) struct Greeting {
    sandbox: SandboxId,
    socket: AsyncFd<OwnedFd>,
    hello: HelloReply,
    pidfd: OwnedFd,
}

/// Connects to a monitor that runs.
pub(crate) async fn connect(
    sandbox: &SandboxId,
    state_dir: &Path,
) -> Result<OwnedFd, MonitorError> {
    let attempt = async {
        loop {
            match monitor_proto::connect(state_dir) {
                // The backlog is full: it has more to accept than it accepts.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(CONNECT_RETRY).await;
                }
                other => return other,
            }
        }
    };
    let result = within(sandbox, "connect", DEFAULT_DEADLINE, attempt).await?;
    result.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            MonitorError::NotRunning { sandbox: sandbox.clone(), source }
        }
        _ => MonitorError::Connect { sandbox: sandbox.clone(), source },
    })
}

/// Checks who is there and settles the version.
pub(crate) async fn handshake(
    sandbox: &SandboxId,
    socket: OwnedFd,
) -> Result<Greeting, MonitorError> {
    let failed = |source| MonitorError::Connect { sandbox: sandbox.clone(), source };
    let uid = monitor_proto::peer_uid(socket.as_fd()).map_err(failed)?;
    if uid != rustix::process::geteuid().as_raw() {
        return Err(MonitorError::Peer { sandbox: sandbox.clone(), uid });
    }
    let socket = watch(socket).map_err(failed)?;
    within(sandbox, "hello", DEFAULT_DEADLINE, greet(sandbox, socket)).await?
}

async fn greet(sandbox: &SandboxId, socket: AsyncFd<OwnedFd>) -> Result<Greeting, MonitorError> {
    let hello = Op::Hello(Hello {
        min_version: PROTOCOL_VERSION_MIN,
        max_version: PROTOCOL_VERSION,
        features: Features::default(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    });
    send(sandbox, "hello", &socket, &Request { id: 0, op: hello }, &[]).await?;
    let (result, mut descriptors) = first_answer(sandbox, &socket).await?;
    let stranger = |reason: &str| MonitorError::Stranger {
        sandbox: sandbox.clone(),
        reason: reason.to_owned(),
    };
    let hello = match result.map_err(|failure| MonitorError::Refused { failure })? {
        Reply::Hello(hello) => hello,
        _ => return Err(stranger("it did not greet")),
    };
    if hello.sandbox != *sandbox {
        return Err(stranger("it serves another sandbox"));
    }
    if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&hello.version) {
        return Err(stranger("it chose a version that was not offered"));
    }
    let pidfd = descriptors.pop().ok_or_else(|| stranger("it gave no handle of itself"))?;
    Ok(Greeting { sandbox: sandbox.clone(), socket, hello, pidfd })
}

/// Waits for the answer to the greeting; news that came before it are repeated after it.
async fn first_answer(
    sandbox: &SandboxId,
    socket: &AsyncFd<OwnedFd>,
) -> Result<Answer, MonitorError> {
    let failed = |source| MonitorError::Connect { sandbox: sandbox.clone(), source };
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let mut ready = socket.readable().await.map_err(failed)?;
        let received =
            match ready.try_io(|fd| monitor_proto::receive(fd.get_ref().as_fd(), &mut buffer)) {
                Ok(received) => received.map_err(failed)?,
                Err(_would_block) => continue,
            };
        let Received::Frame { length, descriptors, .. } = received else {
            return Err(MonitorError::Gone { sandbox: sandbox.clone() });
        };
        match monitor_proto::decode_message(&buffer[..length]) {
            Ok(Message::Reply { id: 0, result }) => return Ok((result, descriptors)),
            Ok(_) => {}
            Err(error) => {
                return Err(MonitorError::Stranger {
                    sandbox: sandbox.clone(),
                    reason: error.to_string(),
                });
            }
        }
    }
}

impl Connection {
    /// Starts the reader.
    pub(crate) fn run(
        greeting: Greeting,
        child: Option<Child>,
        events: mpsc::Sender<Event>,
    ) -> Arc<Self> {
        let Greeting { sandbox, socket, hello, pidfd } = greeting;
        if let Some(child) = child {
            child.release();
        }
        let pidfd = Arc::new(pidfd);
        let shared = Arc::new(Shared {
            socket,
            pending: Mutex::default(),
            execs: Mutex::default(),
            attached: Mutex::default(),
            lost: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
        let task = reader::run(sandbox.clone(), shared.clone(), pidfd.clone(), events);
        let reader = tokio::spawn(task).abort_handle();
        Arc::new(Self { sandbox, hello, pidfd, shared, next_id: AtomicU64::new(1), reader })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Acquire)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        operation: &'static str,
        op: Op,
        descriptors: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), MonitorError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared.pending).insert(id, sender);
        let _entry = PendingEntry { shared: &self.shared, id };
        // Checked after the entry is there: the reader sets it before it takes all entries away.
        if self.shared.lost.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        let exchange = async {
            let request = Request { id, op };
            send(&self.sandbox, operation, &self.shared.socket, &request, descriptors).await?;
            receiver.await.map_err(|_| self.gone())
        };
        let (result, received) = within(&self.sandbox, operation, deadline, exchange).await??;
        let reply = result.map_err(|failure| MonitorError::Refused { failure })?;
        Ok((reply, received))
    }

    /// Has the end of an exec session told to the receiver in place of the events.
    pub(crate) fn watch_exec(&self, exec: &ExecId) -> oneshot::Receiver<ExecEnd> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared.execs).insert(exec.clone(), sender);
        if self.shared.lost.load(Ordering::Acquire) {
            self.forget_exec(exec);
        }
        receiver
    }

    pub(crate) fn forget_exec(&self, exec: &ExecId) {
        lock(&self.shared.execs).remove(exec);
    }

    /// Has the end of an attached session told to the receiver.
    pub(crate) fn watch_attached(&self, session: &ExecId) -> oneshot::Receiver<AttachEnd> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared.attached).insert(session.clone(), sender);
        if self.shared.lost.load(Ordering::Acquire) {
            self.forget_attached(session);
        }
        receiver
    }

    pub(crate) fn forget_attached(&self, session: &ExecId) {
        lock(&self.shared.attached).remove(session);
    }

    pub(crate) fn gone(&self) -> MonitorError {
        MonitorError::Gone { sandbox: self.sandbox.clone() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    /// Gives an answer to its caller, who may have left.
    pub(crate) fn answer(&self, id: u64, answer: Answer) {
        if let Some(caller) = lock(&self.pending).remove(&id) {
            let _ = caller.send(answer);
        }
    }

    /// Tells the end of an exec session to who watches it; false when nobody does.
    pub(crate) fn exec_ended(&self, exec: &ExecId, end: ExecEnd) -> bool {
        match lock(&self.execs).remove(exec) {
            Some(watcher) => watcher.send(end).is_ok(),
            None => false,
        }
    }

    /// Tells the end of an attached session to who watches it; it may have left.
    pub(crate) fn attach_ended(&self, session: &ExecId, why: AttachEnd) {
        if let Some(watcher) = lock(&self.attached).remove(session) {
            let _ = watcher.send(why);
        }
    }

    /// Ends every call and every watch.
    pub(crate) fn lose(&self, dead: bool) {
        self.dead.store(dead, Ordering::Release);
        self.lost.store(true, Ordering::Release);
        lock(&self.pending).clear();
        lock(&self.execs).clear();
        lock(&self.attached).clear();
    }
}

/// Takes a caller's entry away when the caller leaves.
struct PendingEntry<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for PendingEntry<'_> {
    fn drop(&mut self) {
        lock(&self.shared.pending).remove(&self.id);
    }
}

async fn send(
    sandbox: &SandboxId,
    operation: &'static str,
    socket: &AsyncFd<OwnedFd>,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), MonitorError> {
    let frame = monitor_proto::encode_request(request).map_err(|source| MonitorError::Frame {
        sandbox: sandbox.clone(),
        operation,
        source,
    })?;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            MonitorError::Gone { sandbox: sandbox.clone() }
        }
        _ => MonitorError::Send { sandbox: sandbox.clone(), operation, source },
    };
    loop {
        let mut ready = socket.writable().await.map_err(failed)?;
        match ready.try_io(|fd| monitor_proto::send(fd.get_ref().as_fd(), &frame, descriptors)) {
            Ok(result) => return result.map_err(failed),
            Err(_would_block) => {}
        }
    }
}

async fn within<T>(
    sandbox: &SandboxId,
    operation: &'static str,
    deadline: Duration,
    work: impl Future<Output = T>,
) -> Result<T, MonitorError> {
    tokio::time::timeout(deadline, work).await.map_err(|_| MonitorError::Deadline {
        sandbox: sandbox.clone(),
        operation,
        deadline,
    })
}

/// A lock that is held for a map operation and nothing else; a panic in between leaves the map whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
