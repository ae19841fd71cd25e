//! Figures of containers and pods, read from the kernel when they are asked for.
//!
//! Joins what three services know: cgroups (processors, memory, processes), snapshots (what
//! a container has written) and the network (interfaces). Nothing runs in between: there is
//! no collector. What is remembered from one reading to the next is the time on the
//! processors, for rates ([`rates`]), and what a large tree came to ([`layers`]).
//!
//! What is read is the kernel's and ours, never a container's: one that hangs holds nothing
//! up. What is not there (a container that has ended has no cgroup) is left out.
#![forbid(unsafe_code)]

mod layers;
mod rates;
mod read;

use std::{io, sync::Arc};

use cgroups::{Cgroups, MemoryStats};
use network::InterfaceUsage;
use pods::{ContainerFilter, ContainerRecord, Pods, SandboxFilter, SandboxRecord};
use snapshots::Snapshots;

/// Figures of all containers and pods.
#[derive(Debug, Clone)]
pub struct Stats {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pods: Pods,
    cgroups: Arc<Cgroups>,
    rates: rates::Rates,
    layers: layers::Layers,
}

/// Time on the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// When it was read, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Used since the beginning, in nanoseconds.
    pub usage_ns: u64,
    /// Billionths of one processor in use, over a second or more (over less where it has not
    /// run for longer), if that is known.
    pub nano_cores: Option<u64>,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// When it was read, in nanoseconds since 1970.
    pub at_ns: i64,
    /// The figures.
    pub stats: MemoryStats,
}

/// What a container has written into its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritableLayer {
    /// When it was added up, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Disk space, in bytes.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// A container's figures. Those of a cgroup are there while it runs.
#[derive(Debug, Clone)]
pub struct ContainerFigures {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// Time on the processors.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// What it has written, unless that takes long to add up and was not yet.
    pub writable_layer: Option<WritableLayer>,
}

/// What a pod's interfaces have carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// When it was read, in nanoseconds since 1970.
    pub at_ns: i64,
    /// The interface that the pod's address is on.
    pub default: Option<InterfaceUsage>,
    /// The others; never the loopback.
    pub others: Vec<InterfaceUsage>,
}

/// How many processes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes {
    /// When they were counted, in nanoseconds since 1970.
    pub at_ns: i64,
    /// How many.
    pub count: u64,
}

/// A pod's figures.
#[derive(Debug, Clone)]
pub struct PodFigures {
    /// The sandbox.
    pub record: Arc<SandboxRecord>,
    /// Time on the processors.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes.
    pub processes: Option<Processes>,
    /// Its interfaces, unless it is on the node's network.
    pub network: Option<Interfaces>,
    /// Its containers.
    pub containers: Vec<ContainerFigures>,
}

impl Stats {
    /// Makes the reader.
    pub fn new(pods: Pods, cgroups: Arc<Cgroups>, snapshots: Snapshots) -> Self {
        let layers = layers::Layers::new(snapshots);
        Self { inner: Arc::new(Inner { pods, cgroups, rates: rates::Rates::default(), layers }) }
    }

    /// Reads the figures of a container, by its id or the start of it.
    ///
    /// # Errors
    /// [`pods::Error::NoContainer`] where there is none.
    pub async fn container(&self, id: &str) -> Result<ContainerFigures, pods::Error> {
        let record = self.inner.pods.container(id)?;
        self.blocking(move |inner| inner.container(record)).await
    }

    /// Reads the figures of containers.
    ///
    /// # Errors
    /// Fails where no thread can be had.
    pub async fn containers(
        &self,
        filter: &ContainerFilter,
    ) -> Result<Vec<ContainerFigures>, pods::Error> {
        let records = self.inner.pods.containers(filter);
        self.blocking(move |inner| {
            inner.forget();
            records.into_iter().map(|record| inner.container(record)).collect()
        })
        .await
    }

    /// Reads the figures of a pod, by its sandbox's id or the start of it.
    ///
    /// # Errors
    /// [`pods::Error::NoSandbox`] where there is none.
    pub async fn pod(&self, id: &str) -> Result<PodFigures, pods::Error> {
        let record = self.inner.pods.sandbox(id)?;
        let pods = self.blocking(move |inner| inner.pods(vec![record])).await?;
        pods.into_iter().next().ok_or_else(|| pods::Error::NoSandbox(id.to_owned()))
    }

    /// Reads the figures of pods.
    ///
    /// # Errors
    /// Fails where no thread can be had.
    pub async fn pods(&self, filter: &SandboxFilter) -> Result<Vec<PodFigures>, pods::Error> {
        let records = self.inner.pods.sandboxes(filter);
        self.blocking(move |inner| {
            inner.forget();
            inner.pods(records)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> T + Send + 'static,
    ) -> Result<T, pods::Error> {
        let inner = self.inner.clone();
        let span = tracing::Span::current();
        let done = tokio::task::spawn_blocking(move || span.in_scope(|| work(&inner))).await;
        done.map_err(|error| pods::Error::File {
            what: "read the figures of",
            path: "/sys/fs/cgroup".into(),
            source: io::Error::other(error),
        })
    }
}
