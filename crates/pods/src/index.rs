//! What List and Status answer from: the records, in memory, published by the
//! tasks that own the pods. Locks are held for look-ups only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;
use types::{ContainerId, SandboxId};

use crate::{
    error::{Error, Result},
    record::{ContainerRecord, ContainerState, SandboxRecord},
    task::PodHandle,
};

/// The records of all pods.
#[derive(Debug, Default)]
pub(crate) struct Index {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sandboxes: BTreeMap<SandboxId, (Arc<SandboxRecord>, PodHandle)>,
    containers: BTreeMap<ContainerId, Arc<ContainerRecord>>,
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

impl Index {
    pub(crate) fn publish_sandbox(&self, record: Arc<SandboxRecord>, handle: PodHandle) {
        self.inner.write().sandboxes.insert(record.id.clone(), (record, handle));
    }

    pub(crate) fn publish_container(&self, record: Arc<ContainerRecord>) {
        self.inner.write().containers.insert(record.id.clone(), record);
    }

    pub(crate) fn forget_sandbox(&self, id: &SandboxId) {
        self.inner.write().sandboxes.remove(id);
    }

    pub(crate) fn forget_container(&self, id: &ContainerId) {
        self.inner.write().containers.remove(id);
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

    pub(crate) fn is_empty(&self) -> bool {
        self.inner.read().sandboxes.is_empty()
    }
}
