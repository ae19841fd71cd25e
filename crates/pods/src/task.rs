//! The task that owns a pod: its sandbox and its containers.
//!
//! Calls, exits and timers reach it as messages; nothing else changes the pod.
//! What takes long (a grace period, a kill that does not end) is not waited for
//! in the task but kept as an [`Ending`] with its waiters, so that the pod's other
//! containers go on being served.
//!
//! What must never happen: a container's process is started twice for one
//! StartContainer; a container is reported as ended while its process lives; a
//! client that gave up turns a grace period into a kill.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use monitor_client::{Event, Events, ExitRecord, FailureKind, Monitor, Notice};
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{Instrument, Span, info, warn};
use types::{ContainerConfig, ContainerId, LinuxResources, PidMode, SandboxId};

use crate::{
    ending::{Ending, Next},
    error::{Error, Result},
    files::PodFiles,
    record::{ContainerRecord, ContainerState, Exit, SandboxPhase, SandboxRecord},
    service::Inner,
    update_sandbox::PodResources,
};

/// How many commands wait for one pod. The kubelet has a few calls a pod in flight.
const COMMAND_QUEUE: usize = 64;

/// How long a monitor has for an exit that the kernel has not reported yet, once
/// everything in the container was killed.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What is asked of a pod.
#[derive(Debug)]
pub(crate) enum Command {
    Create { config: Box<ContainerConfig>, reply: Reply<ContainerId> },
    Start { id: ContainerId, reply: Reply<()> },
    StopContainer { id: ContainerId, grace: Duration, reply: Reply<()> },
    RemoveContainer { id: ContainerId, reply: Reply<()> },
    Update { id: ContainerId, resources: Box<LinuxResources>, reply: Reply<()> },
    UpdateSandbox { change: Box<PodResources>, reply: Reply<()> },
    StopSandbox { reply: Reply<()> },
    RemoveSandbox { reply: Reply<()> },
}

/// A command, with the span of the call that it came from.
#[derive(Debug)]
pub(crate) struct Asked {
    command: Command,
    call: Span,
}

/// How others reach a pod's task.
#[derive(Debug, Clone)]
pub(crate) struct PodHandle {
    commands: mpsc::Sender<Asked>,
    monitor: Arc<RwLock<Option<Monitor>>>,
}

impl PodHandle {
    /// Makes a handle and the queue's other end.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        (Self { commands, monitor: Arc::default() }, queue)
    }

    /// Sends a command and waits for its answer. `None` means that the pod is gone.
    pub(crate) async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Option<Result<T>> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked { command: make(reply), call: Span::current() };
        self.commands.send(asked).await.ok()?;
        answer.await.ok()
    }

    /// The pod's monitor, where it lives.
    pub(crate) fn monitor(&self) -> Option<Monitor> {
        self.monitor.read().clone()
    }

    pub(crate) fn set_monitor(&self, monitor: Option<Monitor>) {
        *self.monitor.write() = monitor;
    }
}

/// A container as its task keeps it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) record: Arc<ContainerRecord>,
    pub(crate) ending: Option<Ending>,
    /// Whether its cgroup was removed, after which none is made.
    pub(crate) cgroup_is_gone: bool,
}

impl Slot {
    pub(crate) fn new(record: Arc<ContainerRecord>) -> Self {
        Self { record, ending: None, cgroup_is_gone: false }
    }
}

/// A pod's task.
pub(crate) struct PodTask {
    pub(crate) inner: Arc<Inner>,
    pub(crate) record: Arc<SandboxRecord>,
    pub(crate) files: PodFiles,
    pub(crate) handle: PodHandle,
    pub(crate) containers: BTreeMap<ContainerId, Slot>,
    pub(crate) events: Option<Events>,
    stop_waiters: Vec<Reply<()>>,
    remove_waiters: Vec<Reply<()>>,
    /// How often taking the network back has failed.
    pub(crate) detach_failures: u32,
}

/// What wakes the task.
enum Wake {
    Command(Option<Asked>),
    Event(Option<Event>),
    Timer,
}

impl PodTask {
    pub(crate) fn new(inner: Arc<Inner>, record: SandboxRecord, handle: PodHandle) -> Self {
        let files = PodFiles::new(&inner.options.state, &record.id);
        Self {
            inner,
            record: Arc::new(record),
            files,
            handle,
            containers: BTreeMap::new(),
            events: None,
            stop_waiters: Vec::new(),
            remove_waiters: Vec::new(),
            detach_failures: 0,
        }
    }

    pub(crate) fn id(&self) -> &SandboxId {
        &self.record.id
    }

    /// Runs the task until its sandbox is removed.
    pub(crate) fn spawn(self, queue: mpsc::Receiver<Asked>) {
        let span = crate::log::pod_span(&self.record);
        tokio::spawn(self.run(queue).instrument(span));
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Asked>) {
        let (work, _going) = (self.inner.work.clone(), self.inner.work.begin());
        // The handle in the index keeps the queue open for as long as the pod exists.
        loop {
            let timer = self.next_timer();
            let wake = tokio::select! {
                command = queue.recv() => Wake::Command(command),
                event = next_event(&mut self.events) => Wake::Event(event),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Wake::Timer,
                // The pod is another daemon's from now on.
                () = work.retired() => return,
            };
            let gone = match wake {
                Wake::Command(Some(Asked { command, call })) => {
                    self.command(command).instrument(call).await
                }
                Wake::Command(None) => true,
                Wake::Event(Some(Event::Notice(notice))) => self.notice(notice).await,
                Wake::Event(Some(Event::Lost { dead: true })) => self.monitor_died().await,
                Wake::Event(Some(Event::Lost { dead: false }) | None) => self.reconnect().await,
                Wake::Timer => self.timer().await,
            };
            if gone {
                break;
            }
        }
    }

    /// Does a command; true means that the sandbox is gone.
    async fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Create { config, reply } => {
                let result = self.create_container(*config).await;
                let _ = reply.send(result);
            }
            Command::Start { id, reply } => {
                let result = self.start_container(&id).await;
                let _ = reply.send(result);
            }
            Command::StopContainer { id, grace, reply } => {
                self.stop_container(&id, grace, reply).await
            }
            Command::Update { id, resources, reply } => {
                let result = self.update_container(&id, *resources).await;
                let _ = reply.send(result);
            }
            Command::UpdateSandbox { change, reply } => {
                let result = self.update_sandbox(*change).await;
                let _ = reply.send(result);
            }
            Command::RemoveContainer { id, reply } => self.remove_container(&id, reply).await,
            Command::StopSandbox { reply } => {
                self.stop_waiters.push(reply);
                self.begin_stop_sandbox().await;
                return self.settle().await;
            }
            Command::RemoveSandbox { reply } => {
                self.remove_waiters.push(reply);
                self.begin_stop_sandbox().await;
                return self.settle().await;
            }
        }
        false
    }

    async fn notice(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::ContainerExited { container: id, exit } => {
                self.exited(&id, self.exit_of(&id, &exit)).await;
                self.acknowledge(&id).await;
            }
            // Sessions are watched by those who began them.
            Notice::ExecExited { .. } | Notice::AttachEnded { .. } => {}
            Notice::ReaperExited { .. } => {
                self.process_died().await;
            }
            Notice::LogTrouble { container, message } => warn!(%container, "log: {message}"),
        }
        self.settle().await
    }

    /// The sandbox's own process died, and the pod's PID namespace with it if it has one.
    async fn process_died(&mut self) {
        self.update(|r| r.process = None).await;
        if self.record.config.security.namespaces.pid == PidMode::Pod {
            warn!("the first process of the pod's PID namespace died");
            self.no_longer_ready().await;
        } else {
            warn!("the sandbox's own process died: cAdvisor has no figures of its network now");
        }
    }

    async fn acknowledge(&self, id: &ContainerId) {
        if let Some(monitor) = self.handle.monitor()
            && let Err(error) = monitor.ack_exit(id).await
        {
            warn!(container = %id, error = %telemetry::chain(&error), "the monitor did not take the acknowledgement");
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        self.containers.values().filter_map(|s| s.ending.as_ref().map(Ending::next_at)).min()
    }

    async fn timer(&mut self) -> bool {
        let now = Instant::now();
        let due: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, s)| s.ending.as_ref().is_some_and(|e| e.next_at() <= now))
            .map(|(id, _)| id.clone())
            .collect();
        let sandbox_ends = self.sandbox_ends();
        for id in due {
            let Some(slot) = self.containers.get_mut(&id) else { continue };
            let Some(ending) = slot.ending.as_mut() else { continue };
            match ending.step(now, sandbox_ends) {
                Next::Wait => {}
                Next::Abandon => slot.ending = None,
                Next::Kill => {
                    info!(container = %id, "killing");
                    self.kill(&id).await;
                }
                Next::GiveUp => {
                    if let Some(ending) = slot.ending.take() {
                        ending.fail(&id, KILL_DEADLINE);
                    }
                    self.fail_sandbox_waiters(&id);
                }
            }
        }
        self.settle().await
    }

    fn fail_sandbox_waiters(&mut self, id: &ContainerId) {
        let error =
            || Error::Timeout { what: format!("killing container {id}"), within: KILL_DEADLINE };
        for waiter in self.stop_waiters.drain(..).chain(self.remove_waiters.drain(..)) {
            let _ = waiter.send(Err(error()));
        }
    }

    pub(crate) fn removal_is_asked(&self) -> bool {
        !self.remove_waiters.is_empty()
    }

    fn sandbox_ends(&self) -> bool {
        !self.stop_waiters.is_empty() || !self.remove_waiters.is_empty()
    }

    /// Begins to end a container: its signal now, SIGKILL after `grace`.
    pub(crate) async fn stop_container(
        &mut self,
        id: &ContainerId,
        grace: Duration,
        reply: Reply<()>,
    ) {
        let Some(slot) = self.containers.get_mut(id).filter(|s| s.record.may_run()) else {
            let _ = reply.send(Ok(()));
            return;
        };
        let signal = slot.record.stop_signal;
        let first = slot.ending.is_none();
        let ending = slot.ending.get_or_insert_with(|| Ending::new(KILL_DEADLINE));
        ending.stop_waiters.push(reply);
        ending.kill_within(grace);
        if grace.is_zero() {
            self.timer().await;
        } else if first && let Some(monitor) = self.handle.monitor() {
            info!(container = %id, signal, "stopping");
            if let Err(error) = monitor.signal(id, signal, false).await {
                warn!(container = %id, error = %telemetry::chain(&error), "the stop signal was not sent");
            }
        }
    }

    async fn remove_container(&mut self, id: &ContainerId, reply: Reply<()>) {
        let Some(slot) = self.containers.get_mut(id) else {
            let _ = reply.send(Ok(()));
            return;
        };
        if slot.record.may_run() {
            let ending = slot.ending.get_or_insert_with(|| Ending::new(KILL_DEADLINE));
            ending.remove_waiters.push(reply);
            ending.kill_within(Duration::ZERO);
            self.timer().await;
            return;
        }
        let result = self.delete_container(id).await;
        let _ = reply.send(result);
    }

    async fn kill(&self, id: &ContainerId) {
        let Some(slot) = self.containers.get(id) else { return };
        let path = slot.record.cgroup.clone();
        let monitor = self.handle.monitor();
        let by_monitor = async {
            match &monitor {
                Some(monitor) => monitor.signal(id, 9, true).await,
                None => Ok(()),
            }
        };
        let (killed, told) = tokio::join!(self.inner.kill_cgroup(path), by_monitor);
        if let Err(error) = killed {
            warn!(container = %id, error = %telemetry::chain(&error), "killing failed; it is tried again");
        }
        if let Err(error) = told
            // It has ended already, and the notice of that is on its way.
            && !error.is_kind(FailureKind::NotRunning)
            && !error.is_kind(FailureKind::NotFound)
        {
            warn!(container = %id, error = %telemetry::chain(&error), "the monitor did not kill");
        }
    }

    /// Takes note that a container ended.
    async fn exited(&mut self, id: &ContainerId, exit: Exit) {
        // What is told to have ended has no root any more.
        self.unmount_root(id).await;
        let Some(slot) = self.containers.get_mut(id) else { return };
        if !matches!(slot.record.state, ContainerState::Exited(_)) {
            info!(container = %id, code = exit.code, reason = %exit.reason, "exited");
            let mut record = (*slot.record).clone();
            record.state = ContainerState::Exited(exit);
            slot.record = Arc::new(record);
            let record = slot.record.clone();
            let (inner, cgroup) = (self.inner.clone(), record.cgroup.clone());
            let kept = async {
                inner.keep_container(&record).await;
                inner.index.publish_container(record.clone());
            };
            let ((), removed) = tokio::join!(kept, inner.remove_cgroup(cgroup));
            match (removed, self.containers.get_mut(id)) {
                (Ok(()), Some(slot)) => slot.cgroup_is_gone = true,
                (Err(error), _) => {
                    warn!(container = %id, error = %telemetry::chain(&error), "its cgroup remains for now");
                }
                (Ok(()), None) => {}
            }
        }
        let Some(ending) = self.containers.get_mut(id).and_then(|s| s.ending.take()) else {
            return;
        };
        for waiter in ending.stop_waiters {
            let _ = waiter.send(Ok(()));
        }
        for waiter in ending.remove_waiters {
            let result = self.delete_container(id).await;
            let _ = waiter.send(result);
        }
    }

    /// The monitor is dead: its containers' pipes died with it. They are killed, and
    /// what it wrote of their exits is all that is known.
    async fn monitor_died(&mut self) -> bool {
        self.events = None;
        self.handle.set_monitor(None);
        if self.record.phase == SandboxPhase::Ready {
            warn!("the monitor died: its containers are killed");
        }
        self.no_longer_ready().await;
        let exits = self.exit_records().await;
        let live: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, s)| s.record.may_run())
            .map(|(id, _)| id.clone())
            .collect();
        for id in live {
            self.kill(&id).await;
            if let Some(slot) = self.containers.get(&id) {
                // It goes with the last process in it, and not before that has the container
                // ended; what fails here is tried, and told, once more when it has.
                let _ = self.inner.remove_cgroup(slot.record.cgroup.clone()).await;
            }
            let exit = match exits.iter().find(|e| e.container == id) {
                Some(known) => self.exit_of(&id, &known.exit),
                None => self.unknown_exit("its monitor died"),
            };
            self.exited(&id, exit).await;
        }
        self.settle().await
    }

    /// What the monitor wrote of exits.
    pub(crate) async fn exit_records(&self) -> Vec<ExitRecord> {
        let dir = self.files.dir().to_owned();
        let read =
            tokio::task::spawn_blocking(move || monitor_client::read_exit_records(&dir)).await;
        match read {
            Ok(Ok(found)) => {
                for bad in found.unreadable {
                    warn!(container = %bad.container, "its exit record cannot be used: {}", bad.reason);
                }
                found.records
            }
            Ok(Err(error)) => {
                warn!(%error, "the exit records cannot be read");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// The connection to a living monitor broke: it is made anew, and what happened in
    /// between is asked for.
    async fn reconnect(&mut self) -> bool {
        self.events = None;
        self.handle.set_monitor(None);
        match self.adopt().await {
            Some(state) => {
                self.take_up(Some(&state), true).await;
                self.settle().await
            }
            None => self.monitor_died().await,
        }
    }

    /// Marks the sandbox as not ready: it runs nothing new from now on.
    pub(crate) async fn no_longer_ready(&mut self) {
        if self.record.phase == SandboxPhase::Ready {
            self.set_phase(SandboxPhase::NotReady).await;
        }
    }

    pub(crate) async fn set_phase(&mut self, phase: SandboxPhase) {
        self.update(|r| r.phase = phase).await;
    }

    /// Changes the sandbox's record, keeps it and publishes it.
    pub(crate) async fn update(&mut self, change: impl FnOnce(&mut SandboxRecord)) {
        let mut record = (*self.record).clone();
        change(&mut record);
        self.record = Arc::new(record);
        self.inner.keep_sandbox(&self.record).await;
        self.inner.index.publish_sandbox(self.record.clone(), self.handle.clone());
    }

    /// Marks the sandbox and kills what runs in it.
    async fn begin_stop_sandbox(&mut self) {
        self.no_longer_ready().await;
        for slot in self.containers.values_mut().filter(|s| s.record.may_run()) {
            slot.ending
                .get_or_insert_with(|| Ending::new(KILL_DEADLINE))
                .kill_within(Duration::ZERO);
        }
        if self.containers.values().any(|s| s.record.may_run()) {
            Box::pin(self.timer()).await;
        }
    }

    /// Ends the sandbox's stop and removal once nothing of it runs; true means that it is gone.
    async fn settle(&mut self) -> bool {
        if !self.sandbox_ends() || self.containers.values().any(|s| s.record.may_run()) {
            return false;
        }
        let released = self.release().await;
        if self.remove_waiters.is_empty() || released.is_err() {
            let shared = released.map_err(Arc::new);
            for waiter in self.stop_waiters.drain(..).chain(self.remove_waiters.drain(..)) {
                let _ = waiter.send(shared.clone().map_err(Error::Joined));
            }
            return false;
        }
        for waiter in self.stop_waiters.drain(..) {
            let _ = waiter.send(Ok(()));
        }
        let removed = self.delete().await.map_err(Arc::new);
        for waiter in self.remove_waiters.drain(..) {
            let _ = waiter.send(removed.clone().map_err(Error::Joined));
        }
        if removed.is_ok() {
            info!("removed");
        }
        removed.is_ok()
    }

    fn exit_of(&self, id: &ContainerId, exit: &monitor_client::Exit) -> Exit {
        let started = self.containers.get(id).map_or(0, |s| s.record.started_at_ns);
        Exit::from_monitor(exit, started)
    }

    pub(crate) fn unknown_exit(&self, why: &str) -> Exit {
        Exit::unknown(why, self.inner.clock.now_ns())
    }
}

async fn next_event(events: &mut Option<Events>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
