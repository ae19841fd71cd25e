//! What happens to pods, as it happens, for everyone who listens.
//!
//! An event follows from a change of what the index publishes, under the index' lock: its time,
//! its order among all events and the statuses that it carries are those of that change. So none
//! can be forgotten by who changes a record, and after a stop the statuses say that it stopped.
//!
//! Nobody waits for a listener. Each has a bounded queue; who lets it run full is let go with an
//! error, and lists anew. Where nobody listens nothing is made.
//!
//! ```text
//!   container:  Created ──► Started ──► Stopped ──► Deleted
//!                  └────────────────────────▲          (not startable: no Started)
//!   sandbox:    Created, Started ──► Stopped ──► Deleted   (ready, not ready, gone)
//! ```
//!
//! What a new daemon finds changed is told to all who begin to listen within
//! [`RECOVERED_FOR`] of its start: the connections that would have carried it went with the
//! daemon before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    error::{Error, Result},
    index::StateKind,
    record::{ContainerRecord, SandboxRecord},
    service::{Inner, Pods},
};

/// How many events wait for one listener: as many as the kubelet itself lets wait.
const QUEUE: usize = 1024;

/// How many may listen at a time. A node has one kubelet and a few tools.
const LISTENERS: usize = 4096;

/// How long what a recovery found is told to those who begin to listen.
const RECOVERED_FOR: Duration = Duration::from_secs(300);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is listed from now on.
    Created,
    /// It runs; a sandbox is ready.
    Started,
    /// It has ended; a sandbox is not ready any more.
    Stopped,
    /// It is not listed any more.
    Deleted,
}

/// Something that happened to a container or a sandbox.
#[derive(Debug, Clone)]
pub struct PodEvent {
    /// The container's id, or the sandbox' own.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// When, in nanoseconds since 1970; later than all events before it.
    pub at_ns: i64,
    /// The pod's sandbox, as it is with this event; of a deleted one, as it was last.
    pub sandbox: Arc<SandboxRecord>,
    /// All containers of the pod, as they are with this event.
    pub containers: Vec<Arc<ContainerRecord>>,
}

/// How events are listened to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventFigures {
    /// How many listen now.
    pub listeners: usize,
    /// How many events were told since the daemon began.
    pub told: u64,
    /// How many listeners were let go because they were too slow.
    pub overrun: u64,
}

/// The steps that a container has made, from what was published of it before.
pub(crate) fn container_steps(old: Option<StateKind>, new: StateKind) -> &'static [EventKind] {
    use EventKind::{Created, Started, Stopped};
    use StateKind as S;
    match (old, new) {
        (None, S::Created) => &[Created],
        (None, S::Running) => &[Created, Started],
        (None, S::Exited | S::Unknown) => &[Created, Stopped],
        (Some(S::Created | S::Unknown), S::Running) => &[Started],
        (Some(S::Created | S::Running | S::Unknown), S::Exited) => &[Stopped],
        // What is not known is not told: it may run.
        (Some(_), _) => &[],
    }
}

/// The steps that a sandbox has made, from whether it was ready before.
pub(crate) fn sandbox_steps(old: Option<bool>, new: bool) -> &'static [EventKind] {
    use EventKind::{Created, Started, Stopped};
    match (old, new) {
        (None, true) => &[Created, Started],
        (None, false) => &[Created, Stopped],
        (Some(false), true) => &[Started],
        (Some(true), false) => &[Stopped],
        (Some(true), true) | (Some(false), false) => &[],
    }
}

/// Who listens; a part of the index, and under its lock.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    all: Vec<Listener>,
    next: u64,
    /// What the recovery found, in order; `Some` as long as it is told.
    recovered: Option<Vec<Arc<PodEvent>>>,
    is_closed: bool,
    told: u64,
    overrun: u64,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    queue: mpsc::Sender<Arc<PodEvent>>,
    is_overrun: Arc<AtomicBool>,
}

/// The end of a listener's queue that the listener has.
#[derive(Debug)]
pub(crate) struct Queue {
    number: u64,
    recovered: std::vec::IntoIter<Arc<PodEvent>>,
    events: mpsc::Receiver<Arc<PodEvent>>,
    is_overrun: Arc<AtomicBool>,
}

impl Listeners {
    /// Whether an event is of use to anybody.
    pub(crate) fn wanted(&self, recovering: bool) -> bool {
        recovering || !self.all.is_empty()
    }

    /// Gives an event to all who listen, without waiting.
    pub(crate) fn tell(&mut self, event: PodEvent, recovering: bool) {
        let event = Arc::new(event);
        self.told += 1;
        if recovering {
            self.recovered.get_or_insert_default().push(event.clone());
        }
        let overrun = &mut self.overrun;
        self.all.retain(|listener| match listener.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                listener.is_overrun.store(true, Ordering::Release);
                *overrun += 1;
                false
            }
        });
    }

    pub(crate) fn join(&mut self) -> Result<Queue> {
        if self.is_closed {
            return Err(Error::Stopping);
        }
        if self.all.len() >= LISTENERS {
            return Err(Error::TooManyListeners(LISTENERS));
        }
        let (queue, events) = mpsc::channel(QUEUE);
        let is_overrun = Arc::new(AtomicBool::new(false));
        let number = self.next;
        self.next += 1;
        self.all.push(Listener { number, queue, is_overrun: is_overrun.clone() });
        let recovered = self.recovered.clone().unwrap_or_default().into_iter();
        Ok(Queue { number, recovered, events, is_overrun })
    }

    pub(crate) fn leave(&mut self, number: u64) {
        self.all.retain(|listener| listener.number != number);
    }

    /// Lets everybody go who has heard all; nobody may listen from now on.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.all.clear();
    }

    pub(crate) fn forget_recovered(&mut self) {
        self.recovered = None;
    }

    pub(crate) fn figures(&self) -> EventFigures {
        EventFigures { listeners: self.all.len(), told: self.told, overrun: self.overrun }
    }
}

impl Queue {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<PodEvent>>>> {
        if let Some(event) = self.recovered.next() {
            return Poll::Ready(Some(Ok(event)));
        }
        match std::task::ready!(self.events.poll_recv(cx)) {
            Some(event) => Poll::Ready(Some(Ok(event))),
            // What was queued is told first; the error is told once.
            None if self.is_overrun.swap(false, Ordering::AcqRel) => {
                Poll::Ready(Some(Err(Error::Overrun(QUEUE))))
            }
            None => Poll::Ready(None),
        }
    }
}

/// Someone who listens; who drops it has left.
pub struct EventFeed {
    inner: Arc<Inner>,
    queue: Queue,
}

impl std::fmt::Debug for EventFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventFeed").field("number", &self.queue.number).finish_non_exhaustive()
    }
}

impl EventFeed {
    /// Gives the next event: `None` when the daemon ends, an error when the listener did not
    /// take its events in time.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<PodEvent>>>> {
        self.queue.poll_next(cx)
    }
}

impl Drop for EventFeed {
    fn drop(&mut self) {
        self.inner.index.leave(self.queue.number);
    }
}

impl Pods {
    /// Listens to what happens from now on, and to what the recovery found if that was lately.
    ///
    /// # Errors
    /// Fails where too many listen, or the daemon ends.
    pub fn listen(&self) -> Result<EventFeed> {
        let queue = self.inner.index.join()?;
        Ok(EventFeed { inner: self.inner.clone(), queue })
    }

    /// Ends all feeds once what is queued was taken: the daemon ends, and its successor tells
    /// what comes.
    pub fn end_events(&self) {
        self.inner.index.close();
    }

    /// How events are listened to.
    pub fn event_figures(&self) -> EventFigures {
        self.inner.index.figures()
    }
}

impl Inner {
    /// From now on events are those of this daemon; those of its recovery are told for a while.
    pub(crate) fn end_of_recovery(self: &Arc<Self>) {
        if !self.index.end_of_recovery() {
            return;
        }
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(RECOVERED_FOR).await;
            if let Some(inner) = inner.upgrade() {
                inner.index.forget_recovered();
            }
        });
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
