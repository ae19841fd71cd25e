//! How many pods and containers there are, and how many came and went.
//!
//! The first is counted when it is asked for, of what the index has; the second by the index,
//! under its lock, with each change that it publishes.

use std::collections::BTreeMap;

use crate::{
    DEFAULT_HANDLER,
    events::EventKind,
    index::StateKind,
    record::{ContainerRecord, ContainerState, SandboxRecord},
    service::Pods,
};

/// Why containers end, as their statuses say; what is none of these is the last.
const REASONS: [&str; 6] = ["Completed", "Error", "OOMKilled", "StartError", "Unknown", "other"];

/// What there is at one moment, and what there was since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// By the name of the runtime handler; the native one is always there.
    pub handlers: BTreeMap<String, HandlerCensus>,
    /// Sandboxes whose record could not be read.
    pub damaged_sandboxes: usize,
    /// Containers whose record could not be read.
    pub damaged_containers: usize,
    /// What came and went.
    pub turnover: Turnover,
}

/// What there is of one runtime handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerCensus {
    /// Sandboxes that are ready.
    pub ready: usize,
    /// Sandboxes that are not.
    pub not_ready: usize,
    /// Containers that were made, and not started.
    pub created: usize,
    /// Containers that run.
    pub running: usize,
    /// Containers that have ended.
    pub exited: usize,
    /// Containers of which nothing is known.
    pub unknown: usize,
}

/// What came and went since the daemon started. What ended while there was none counts when it
/// is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Sandboxes that got ready.
    pub sandbox_starts: u64,
    /// Containers whose first process was started.
    pub container_starts: u64,
    exits: [u64; REASONS.len()],
}

impl Turnover {
    /// How many containers ended, by the reason that their statuses tell: all reasons.
    pub fn container_exits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.exits)
    }

    /// Counts what a sandbox did.
    pub(crate) fn sandbox(&mut self, steps: &[EventKind]) {
        self.sandbox_starts += u64::from(steps.contains(&EventKind::Started));
    }

    /// Counts what a container did.
    pub(crate) fn container(&mut self, steps: &[EventKind], record: &ContainerRecord) {
        self.container_starts += u64::from(steps.contains(&EventKind::Started));
        if let ContainerState::Exited(exit) = &record.state
            && steps.contains(&EventKind::Stopped)
        {
            let known = REASONS.iter().position(|reason| *reason == exit.reason);
            self.exits[known.unwrap_or(REASONS.len() - 1)] += 1;
        }
    }
}

impl Census {
    pub(crate) fn new(turnover: Turnover) -> Self {
        let handlers = BTreeMap::from([(DEFAULT_HANDLER.to_owned(), HandlerCensus::default())]);
        Self { handlers, damaged_sandboxes: 0, damaged_containers: 0, turnover }
    }

    pub(crate) fn add_sandbox(&mut self, record: &SandboxRecord) {
        let handler = self.handler(Some(record));
        *if record.is_ready() { &mut handler.ready } else { &mut handler.not_ready } += 1;
        self.damaged_sandboxes += usize::from(!record.damage.is_empty());
    }

    pub(crate) fn add_container(
        &mut self,
        record: &ContainerRecord,
        sandbox: Option<&SandboxRecord>,
    ) {
        let handler = self.handler(sandbox);
        *match StateKind::of(&record.state) {
            StateKind::Created => &mut handler.created,
            StateKind::Running => &mut handler.running,
            StateKind::Exited => &mut handler.exited,
            StateKind::Unknown => &mut handler.unknown,
        } += 1;
        self.damaged_containers += usize::from(!record.damage.is_empty());
    }

    fn handler(&mut self, sandbox: Option<&SandboxRecord>) -> &mut HandlerCensus {
        let name = sandbox.map_or("", |sandbox| &sandbox.config.runtime_handler);
        let name = if name.is_empty() { DEFAULT_HANDLER } else { name };
        self.handlers.entry(name.to_owned()).or_default()
    }
}

impl Pods {
    /// Counts pods and containers. From memory.
    pub fn census(&self) -> Census {
        self.inner.index.census()
    }
}
