//! What List and Status answer from: the records, in memory, published by the
//! tasks that own the pods. Locks are held for look-ups only, and for giving the events
//! that follow from a change to the queues of those who listen ([`crate::events`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;
use types::{ContainerId, SandboxId};

use crate::{
    census::{Census, Turnover},
    clock::Clock,
    error::{Error, Result},
    events::{EventFigures, EventKind, Listeners, PodEvent, Queue, container_steps, sandbox_steps},
    record::{ContainerRecord, ContainerState, SandboxRecord},
    task::PodHandle,
};

/// The records of all pods.
#[derive(Debug)]
pub(crate) struct Index {
    inner: RwLock<Inner>,
    clock: Arc<Clock>,
}

#[derive(Debug)]
struct Inner {
    sandboxes: BTreeMap<SandboxId, (Arc<SandboxRecord>, PodHandle)>,
    containers: BTreeMap<ContainerId, Arc<ContainerRecord>>,
    listeners: Listeners,
    /// Whether what another daemon left is being taken up.
    recovering: bool,
    /// Sandboxes that are being made. No list has them.
    making: BTreeMap<SandboxId, Arc<SandboxRecord>>,
    turnover: Turnover,
}

/// What an id stands for.
#[derive(Debug, Clone)]
pub enum Known {
    /// A sandbox, also one that is being made.
    Sandbox(Arc<SandboxRecord>),
    /// A container, and its sandbox.
    Container(Arc<ContainerRecord>, Option<Arc<SandboxRecord>>),
}

/// Keeps a sandbox that is being made known to those who meet its cgroup.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    index: &'a Index,
    id: SandboxId,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.index.inner.write().making.remove(&self.id);
    }
}

/// Which sandboxes are wanted; all conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// An id, or the start of one; empty for all.
    pub id: String,
    /// Ready ones, or not ready ones.
    pub ready: Option<bool>,
    /// Labels and their values.
    pub labels: HashMap<String, String>,
}

/// The states that a list can be restricted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// Not known.
    Unknown,
}

impl StateKind {
    /// The kind that a state is reported as: a container that is being started has
    /// not run yet.
    pub fn of(state: &ContainerState) -> Self {
        match state {
            ContainerState::Created | ContainerState::Starting => Self::Created,
            ContainerState::Running { .. } => Self::Running,
            ContainerState::Exited(_) => Self::Exited,
            ContainerState::Unknown => Self::Unknown,
        }
    }
}

/// Which containers are wanted; all conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// An id, or the start of one; empty for all.
    pub id: String,
    /// A sandbox's id, or the start of one; empty for all.
    pub sandbox_id: String,
    /// The state.
    pub state: Option<StateKind>,
    /// Labels and their values.
    pub labels: HashMap<String, String>,
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Finds the one entry whose id is, or starts with, `id`.
fn find<'a, K, V>(
    map: &'a BTreeMap<K, V>,
    id: &str,
    text: impl Fn(&K) -> &str,
) -> Result<Option<(&'a K, &'a V)>>
where
    K: Ord,
{
    if id.is_empty() {
        return Ok(None);
    }
    let mut matching = map.iter().filter(|(k, _)| text(k).starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(_), Some(_)) => Err(Error::Ambiguous(id.to_owned())),
        (one, _) => Ok(one),
    }
}

impl Inner {
    fn of_pod(&self, sandbox: &SandboxId) -> Vec<Arc<ContainerRecord>> {
        self.containers.values().filter(|r| r.sandbox_id == *sandbox).cloned().collect()
    }

    /// Tells what has just been changed here.
    fn tell(&mut self, clock: &Clock, sandbox: &SandboxId, id: &str, steps: &[EventKind]) {
        if steps.is_empty() || !self.listeners.wanted(self.recovering) {
            return;
        }
        // A container without its sandbox is one that a recovery has not listed yet.
        let Some((sandbox, _)) = self.sandboxes.get(sandbox).cloned() else { return };
        self.tell_of(clock, &sandbox, id, steps);
    }

    fn tell_of(
        &mut self,
        clock: &Clock,
        sandbox: &Arc<SandboxRecord>,
        id: &str,
        steps: &[EventKind],
    ) {
        let containers = self.of_pod(&sandbox.id);
        for kind in steps {
            let event = PodEvent {
                id: id.to_owned(),
                kind: *kind,
                at_ns: clock.now_ns(),
                sandbox: sandbox.clone(),
                containers: containers.clone(),
            };
            self.listeners.tell(event, self.recovering);
        }
    }
}

impl Index {
    /// Makes an index of nothing, which is being recovered.
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        let inner = Inner {
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            making: BTreeMap::new(),
            listeners: Listeners::default(),
            recovering: true,
            turnover: Turnover::default(),
        };
        Self { inner: RwLock::new(inner), clock }
    }

    /// Publishes a pod as its records have it: nothing has happened to it.
    pub(crate) fn found(
        &self,
        record: Arc<SandboxRecord>,
        handle: PodHandle,
        containers: impl IntoIterator<Item = Arc<ContainerRecord>>,
    ) {
        let mut inner = self.inner.write();
        inner.sandboxes.insert(record.id.clone(), (record, handle));
        inner.containers.extend(containers.into_iter().map(|record| (record.id.clone(), record)));
    }

    pub(crate) fn making(&self, record: &SandboxRecord) -> Making<'_> {
        let id = record.id.clone();
        self.inner.write().making.insert(id.clone(), Arc::new(record.clone()));
        Making { index: self, id }
    }

    pub(crate) fn update_making(&self, record: &Arc<SandboxRecord>) {
        if let Some(known) = self.inner.write().making.get_mut(&record.id) {
            *known = record.clone();
        }
    }

    pub(crate) fn known(&self, id: &str) -> Option<Known> {
        let inner = self.inner.read();
        let listed = |id: &SandboxId| inner.sandboxes.get(id).map(|(record, _)| record.clone());
        if let Ok(id) = id.parse::<ContainerId>()
            && let Some(record) = inner.containers.get(&id)
        {
            return Some(Known::Container(record.clone(), listed(&record.sandbox_id)));
        }
        let id = id.parse::<SandboxId>().ok()?;
        listed(&id).or_else(|| inner.making.get(&id).cloned()).map(Known::Sandbox)
    }

    pub(crate) fn publish_sandbox(&self, record: Arc<SandboxRecord>, handle: PodHandle) {
        let mut inner = self.inner.write();
        let (id, ready) = (record.id.clone(), record.is_ready());
        let old = inner.sandboxes.insert(id.clone(), (record, handle));
        let steps = sandbox_steps(old.map(|(old, _)| old.is_ready()), ready);
        inner.turnover.sandbox(steps);
        inner.tell(&self.clock, &id, id.as_str(), steps);
    }

    pub(crate) fn publish_container(&self, record: Arc<ContainerRecord>) {
        let mut inner = self.inner.write();
        let (id, sandbox) = (record.id.clone(), record.sandbox_id.clone());
        let new = StateKind::of(&record.state);
        let old = inner.containers.insert(id.clone(), record.clone());
        let steps = container_steps(old.map(|old| StateKind::of(&old.state)), new);
        inner.turnover.container(steps, &record);
        inner.tell(&self.clock, &sandbox, id.as_str(), steps);
    }

    pub(crate) fn forget_sandbox(&self, id: &SandboxId) {
        let mut inner = self.inner.write();
        let Some((record, _)) = inner.sandboxes.remove(id) else { return };
        if inner.listeners.wanted(inner.recovering) {
            inner.tell_of(&self.clock, &record, id.as_str(), &[EventKind::Deleted]);
        }
    }

    pub(crate) fn forget_container(&self, id: &ContainerId) {
        let mut inner = self.inner.write();
        let Some(record) = inner.containers.remove(id) else { return };
        inner.tell(&self.clock, &record.sandbox_id, id.as_str(), &[EventKind::Deleted]);
    }

    pub(crate) fn join(&self) -> Result<Queue> {
        self.inner.write().listeners.join()
    }

    pub(crate) fn leave(&self, number: u64) {
        self.inner.write().listeners.leave(number);
    }

    /// Lets all go who listen.
    pub(crate) fn close(&self) {
        self.inner.write().listeners.close();
    }

    /// Ends the recovery; tells whether that was not done before.
    pub(crate) fn end_of_recovery(&self) -> bool {
        std::mem::replace(&mut self.inner.write().recovering, false)
    }

    pub(crate) fn forget_recovered(&self) {
        self.inner.write().listeners.forget_recovered();
    }

    pub(crate) fn figures(&self) -> EventFigures {
        self.inner.read().listeners.figures()
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Option<(Arc<SandboxRecord>, PodHandle)>> {
        let inner = self.inner.read();
        Ok(find(&inner.sandboxes, id, SandboxId::as_str)?.map(|(_, (r, h))| (r.clone(), h.clone())))
    }

    pub(crate) fn container(
        &self,
        id: &str,
    ) -> Result<Option<(Arc<ContainerRecord>, Option<PodHandle>)>> {
        let inner = self.inner.read();
        Ok(find(&inner.containers, id, ContainerId::as_str)?
            .map(|(_, r)| (r.clone(), inner.sandboxes.get(&r.sandbox_id).map(|(_, h)| h.clone()))))
    }

    pub(crate) fn sandboxes(&self, filter: &SandboxFilter) -> Vec<Arc<SandboxRecord>> {
        let inner = self.inner.read();
        let wanted = |r: &SandboxRecord| {
            r.id.as_str().starts_with(&filter.id)
                && filter.ready.is_none_or(|ready| ready == r.is_ready())
                && has_labels(&r.config.labels, &filter.labels)
        };
        inner.sandboxes.values().filter(|(r, _)| wanted(r)).map(|(r, _)| r.clone()).collect()
    }

    pub(crate) fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        let inner = self.inner.read();
        let wanted = |r: &ContainerRecord| {
            r.id.as_str().starts_with(&filter.id)
                && r.sandbox_id.as_str().starts_with(&filter.sandbox_id)
                && filter.state.is_none_or(|s| s == StateKind::of(&r.state))
                && has_labels(&r.config.labels, &filter.labels)
        };
        inner.containers.values().filter(|r| wanted(r)).cloned().collect()
    }

    /// Counts what there is; nothing is copied under the lock but names of handlers.
    pub(crate) fn census(&self) -> Census {
        let inner = self.inner.read();
        let mut census = Census::new(inner.turnover.clone());
        for (record, _) in inner.sandboxes.values() {
            census.add_sandbox(record);
        }
        for record in inner.containers.values() {
            let sandbox = inner.sandboxes.get(&record.sandbox_id).map(|(sandbox, _)| &**sandbox);
            census.add_container(record, sandbox);
        }
        census
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inner.read().sandboxes.is_empty()
    }
}
