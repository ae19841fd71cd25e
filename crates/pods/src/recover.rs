//! Recovery: what a new daemon makes of what the old one left.
//!
//! The assumptions: a record is on disk before what it stands for is done; after
//! another boot no process, mount or namespace of ours exists; a monitor that
//! lives tells the truth about its containers, and one that is dead has written
//! every exit that it saw. Nothing that fails to load is dropped: it is listed as
//! not ready or unknown, so that it can be removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use monitor_client::{ContainerPhase, ContainerState as Report, MonitorState};
use tracing::{Instrument, info, warn};
use types::{
    ContainerConfig, ContainerId, ContainerMetadata, ContainerSecurity, Digest, ImageId, ImageSpec,
    LinuxResources, SandboxConfig, SandboxId, SandboxMetadata, SandboxSecurity,
};

use crate::{
    error::{Error, Result},
    record::{ContainerRecord, ContainerState, Exit, ImageRef, SandboxPhase, SandboxRecord, User},
    service::{Inner, Pods, blocking},
    task::{PodTask, Slot},
};

/// What a recovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Sandboxes that go on being ready.
    pub ready: usize,
    /// Sandboxes that are listed as not ready.
    pub not_ready: usize,
    /// Sandboxes whose making was interrupted and has been undone.
    pub undone: usize,
    /// Records that could not be read.
    pub damaged: usize,
    /// What belonged to no sandbox, by its kind.
    pub leaks: [Leaks; 3],
}

/// What belonged to nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaks {
    /// `network`, `root` (of a container) or `directory` (of a sandbox).
    pub kind: &'static str,
    /// How many were removed.
    pub removed: usize,
    /// How many could not be.
    pub left: usize,
}

impl Leaks {
    fn of(kind: &'static str) -> Self {
        Self { kind, removed: 0, left: 0 }
    }

    /// Counts one, whose removal was tried.
    fn count<E>(&mut self, removal: std::result::Result<(), E>) -> std::result::Result<(), E> {
        *if removal.is_ok() { &mut self.removed } else { &mut self.left } += 1;
        removal
    }
}

/// One pod's records.
struct Found {
    sandbox: SandboxRecord,
    containers: Vec<ContainerRecord>,
}

impl Pods {
    /// Takes up what another daemon left. To be called once, before anything is asked.
    ///
    /// # Errors
    /// Fails only where the directories of records cannot be read at all.
    pub async fn recover(&self) -> Result<Recovered> {
        self.inner.try_user_namespaces().await;
        let inner = self.inner.clone();
        let (found, damaged) = blocking(move || load(&inner)).await?;
        let known: Vec<SandboxId> = found.keys().cloned().collect();
        let mut pods = tokio::task::JoinSet::new();
        for (_, pod) in found {
            let inner = self.inner.clone();
            let span = crate::log::pod_span(&pod.sandbox);
            pods.spawn(async move { recover_pod(&inner, pod).await }.instrument(span));
        }
        let mut recovered = Recovered { damaged, ..Recovered::default() };
        while let Some(result) = pods.join_next().await {
            match result.map_err(|_| Error::Stopping)? {
                Outcome::Ready => recovered.ready += 1,
                Outcome::NotReady => recovered.not_ready += 1,
                Outcome::Undone => recovered.undone += 1,
            }
        }
        recovered.leaks = self.sweep(known).await;
        self.inner.end_of_recovery();
        Ok(recovered)
    }

    /// Takes back what belongs to no pod any more.
    async fn sweep(&self, known: Vec<SandboxId>) -> [Leaks; 3] {
        let mut networks = Leaks::of("network");
        match self.inner.services.network.recover(&known).await {
            Ok(report) => {
                (networks.removed, networks.left) = (report.detached.len(), report.owed.len());
                for id in report.detached {
                    info!(sandbox = %id, "took back the network of a sandbox that is gone");
                }
                for (id, error) in report.owed {
                    warn!(sandbox = %id, error = %telemetry::chain(&error), "the network of a removed sandbox is still owed");
                }
            }
            Err(error) => warn!(error = %telemetry::chain(&error), "the network was not swept"),
        }
        let inner = self.inner.clone();
        let kept: BTreeSet<ContainerId> = self
            .containers(&crate::ContainerFilter::default())
            .iter()
            .map(|r| r.id.clone())
            .collect();
        let swept = blocking(move || {
            let mut roots = Leaks::of("root");
            for id in inner.services.snapshots.actives() {
                if !kept.contains(&id)
                    && let Err(error) = roots.count(inner.services.snapshots.remove(&id))
                {
                    warn!(container = %id, error = %telemetry::chain(&error), "a root file system that is nobody's remains");
                }
            }
            Ok((roots, sweep_directories(&inner, &known)))
        })
        .await;
        let (roots, directories) = swept.unwrap_or_else(|error| {
            warn!(error = %telemetry::chain(&error), "root file systems were not swept");
            (Leaks::of("root"), Leaks::of("directory"))
        });
        self.inner.tidy_cgroups().await;
        [networks, roots, directories]
    }
}

/// Deletes state directories of sandboxes that have no record.
fn sweep_directories(inner: &Inner, known: &[SandboxId]) -> Leaks {
    let mut leaks = Leaks::of("directory");
    let Ok(entries) = std::fs::read_dir(inner.options.state.join("pods")) else { return leaks };
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<SandboxId>().ok()) else {
            continue;
        };
        if known.contains(&id) {
            continue;
        }
        let files = crate::files::PodFiles::new(&inner.options.state, &id);
        let removed = files.release(Some(&inner.netns_path(&id))).and_then(|()| files.remove());
        if let Err(error) = leaks.count(removed) {
            warn!(sandbox = %id, error = %telemetry::chain(&error), "a directory that is nobody's remains");
        }
    }
    leaks
}

fn load(inner: &Inner) -> Result<(BTreeMap<SandboxId, Found>, usize)> {
    let failed = |what: &'static str| move |source| Error::Record { what: what.to_owned(), source };
    let mut found = BTreeMap::new();
    let mut damaged = 0;
    for loaded in
        inner.sandbox_store.load_all::<SandboxRecord>().map_err(failed("the sandboxes"))?
    {
        let Ok(id) = loaded.name.parse::<SandboxId>() else { continue };
        let sandbox = match loaded.value {
            Ok(record) if record.id == id => record,
            other => {
                damaged += 1;
                let why = other
                    .err()
                    .map_or_else(|| "names another sandbox".to_owned(), |e| telemetry::chain(&e));
                warn!(sandbox = %id, "its record {why}; it is listed as not ready");
                stand_in_sandbox(inner, &id, loaded.modified_ns, &why)
            }
        };
        inner.clock.observe(sandbox.created_at_ns);
        if sandbox.owns_cgroup_parent {
            inner.parents.adopt(&sandbox.cgroup_parent);
        }
        found.insert(id, Found { sandbox, containers: Vec::new() });
    }
    for loaded in
        inner.container_store.load_all::<ContainerRecord>().map_err(failed("the containers"))?
    {
        let Some((sandbox_id, id)) = parse_key(&loaded.name) else { continue };
        let record = match loaded.value {
            Ok(record) if record.id == id && record.sandbox_id == sandbox_id => record,
            other => {
                damaged += 1;
                let why = other
                    .err()
                    .map_or_else(|| "names another container".to_owned(), |e| telemetry::chain(&e));
                warn!(container = %id, "its record {why}; it is listed as unknown");
                stand_in_container(&sandbox_id, &id, loaded.modified_ns, &why)
            }
        };
        inner.clock.observe(record.created_at_ns);
        found
            .entry(sandbox_id.clone())
            .or_insert_with(|| Found {
                sandbox: stand_in_sandbox(inner, &sandbox_id, record.created_at_ns, "is missing"),
                containers: Vec::new(),
            })
            .containers
            .push(record);
    }
    Ok((found, damaged))
}

fn parse_key(name: &str) -> Option<(SandboxId, ContainerId)> {
    let (sandbox, container) = name.split_once('-')?;
    Some((sandbox.parse().ok()?, container.parse().ok()?))
}

/// What is listed for a sandbox whose record cannot be read: all that the kubelet
/// checks is there, and everything that a removal needs follows from the id.
fn stand_in_sandbox(inner: &Inner, id: &SandboxId, created_at_ns: i64, why: &str) -> SandboxRecord {
    SandboxRecord {
        config: stand_in_config(id),
        created_at_ns: created_at_ns.max(1),
        phase: SandboxPhase::NotReady,
        boot_id: inner.options.boot_id.clone(),
        netns: Some(inner.netns_path(id)),
        network_owed: true,
        attachment: None,
        cgroup_parent: inner
            .services
            .cgroups
            .parent("", &inner.options.cgroup_parent, id.as_str())
            .unwrap_or_default(),
        owns_cgroup_parent: true,
        process: None,
        limits: LinuxResources::default(),
        damage: why.to_owned(),
        id: id.clone(),
    }
}

pub(crate) fn stand_in_config(id: &SandboxId) -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: format!("damaged-{}", id.short()),
            uid: id.to_string(),
            namespace: "corten-damaged".to_owned(),
            attempt: 0,
        },
        hostname: String::new(),
        log_directory: String::new(),
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::new(),
        overhead: None,
        resources: None,
        security: SandboxSecurity::default(),
        runtime_handler: String::new(),
    }
}

pub(crate) fn stand_in_container(
    sandbox_id: &SandboxId,
    id: &ContainerId,
    created_at_ns: i64,
    why: &str,
) -> ContainerRecord {
    let none = ImageId(Digest::from_bytes([0; 32]));
    ContainerRecord {
        config: ContainerConfig {
            metadata: ContainerMetadata { name: format!("damaged-{}", id.short()), attempt: 0 },
            image: ImageSpec { image: none.to_string(), ..ImageSpec::default() },
            command: Vec::new(),
            args: Vec::new(),
            working_dir: String::new(),
            envs: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            log_path: String::new(),
            stdin: false,
            stdin_once: false,
            tty: false,
            cdi_devices: Vec::new(),
            stop_signal: None,
            resources: LinuxResources::default(),
            security: ContainerSecurity::default(),
        },
        image: ImageRef {
            id: none,
            reference: none.to_string(),
            name: none.to_string(),
            layers: Vec::new(),
        },
        created_at_ns: created_at_ns.max(1),
        started_at_ns: 0,
        state: ContainerState::Unknown,
        log_path: String::new(),
        user: User::default(),
        stop_signal: 15,
        cgroup: String::new(),
        removing: false,
        volume_images: BTreeMap::new(),
        net_devices: Vec::new(),
        damage: why.to_owned(),
        id: id.clone(),
        sandbox_id: sandbox_id.clone(),
    }
}

enum Outcome {
    Ready,
    NotReady,
    Undone,
}

async fn recover_pod(inner: &Arc<Inner>, found: Found) -> Outcome {
    let same_boot = found.sandbox.boot_id == inner.options.boot_id;
    let (mut task, queue) = inner.task(found.sandbox);
    for record in found.containers {
        let record = Arc::new(record);
        task.containers.insert(record.id.clone(), Slot::new(record));
    }
    let interrupted = matches!(task.record.phase, SandboxPhase::Creating | SandboxPhase::Removing);
    let reports = if same_boot { task.adopt().await } else { None };
    // One that was being made was never listed: its end is no event.
    if task.record.phase != SandboxPhase::Creating {
        task.publish_as_found();
    }
    if interrupted {
        task.kill_all().await;
        match crate::run::undo(&mut task).await {
            Ok(()) => return Outcome::Undone,
            Err(error) => {
                warn!(error = %telemetry::chain(&error), "completing an interrupted change failed; it is listed")
            }
        }
    }
    task.publish_as_found();
    task.take_up(reports.as_ref(), same_boot).await;
    let ready = task.record.is_ready();
    inner.names.found(&task.record.config.metadata, task.id());
    task.spawn(queue);
    if ready { Outcome::Ready } else { Outcome::NotReady }
}

impl PodTask {
    /// Publishes the records as they are, so that what has changed since is an event.
    fn publish_as_found(&self) {
        let containers = self.containers.values().map(|slot| slot.record.clone());
        self.inner.index.found(self.record.clone(), self.handle.clone(), containers);
    }

    /// Connects to the pod's monitor and asks what runs. `None` means that it is dead.
    pub(crate) async fn adopt(&mut self) -> Option<MonitorState> {
        let asked = async {
            let (monitor, events) =
                self.inner.services.monitors.adopt(self.id(), self.files.dir()).await?;
            let state = monitor.state().await?;
            Ok::<_, monitor_client::MonitorError>((monitor, events, state))
        };
        match asked.await {
            Ok((monitor, events, state)) => {
                self.handle.set_monitor(Some(monitor));
                self.events = Some(events);
                Some(state)
            }
            Err(error) => {
                if self.record.phase == SandboxPhase::Ready {
                    warn!(error = %telemetry::chain(&error), "its monitor does not answer");
                }
                None
            }
        }
    }

    /// Compares the records with what the monitor and its files tell, and publishes.
    pub(crate) async fn take_up(&mut self, reports: Option<&MonitorState>, same_boot: bool) {
        let exits = self.exit_records().await;
        let ids: Vec<ContainerId> = self.containers.keys().cloned().collect();
        for id in ids {
            let Some(record) = self.containers.get(&id).map(|s| s.record.clone()) else { continue };
            let report = reports.and_then(|r| r.containers.iter().find(|r| r.id == id));
            let exit = exits.iter().find(|e| e.container == id).map(|e| &e.exit);
            let state = self.state_after(&record, report, exit, same_boot);
            if state == record.state {
                self.inner.index.publish_container(record);
                continue;
            }
            let now = self.inner.clock.now_ns();
            let started = if record.started_at_ns == 0 { now } else { record.started_at_ns };
            if matches!(state, ContainerState::Exited(_)) {
                self.end_remains(&record).await;
            }
            self.change_container(&id, |r| {
                r.state = state;
                r.started_at_ns = started;
            })
            .await;
        }
        let reaper = reports.and_then(|r| r.reaper.as_ref()).filter(|reaper| reaper.alive);
        let process = reaper.map(|reaper| reaper.pid);
        if reports.is_none() || !same_boot {
            self.no_longer_ready().await;
        } else if self.record.process != process {
            self.update(|r| r.process = process).await;
        }
        self.inner.index.publish_sandbox(self.record.clone(), self.handle.clone());
    }

    /// What became of a container while nobody looked.
    fn state_after(
        &self,
        record: &ContainerRecord,
        report: Option<&Report>,
        exit: Option<&monitor_client::Exit>,
        same_boot: bool,
    ) -> ContainerState {
        let ended = |exit: &monitor_client::Exit| {
            ContainerState::Exited(Exit::from_monitor(exit, record.started_at_ns))
        };
        match (&record.state, report, exit) {
            (
                ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown,
                _,
                _,
            ) => record.state.clone(),
            (
                _,
                Some(Report {
                    phase: ContainerPhase::Starting | ContainerPhase::Running, pid, ..
                }),
                _,
            ) => ContainerState::Running { pid: *pid },
            (_, Some(Report { phase: ContainerPhase::Exited(exit), .. }), _)
            | (_, _, Some(exit)) => ended(exit),
            _ if !same_boot => {
                ContainerState::Exited(self.unknown_exit("the machine was restarted"))
            }
            (ContainerState::Starting, _, _) => ContainerState::Exited(
                self.unknown_exit("the daemon was interrupted while it started the container"),
            ),
            _ => ContainerState::Exited(self.unknown_exit("its monitor is gone")),
        }
    }

    /// Kills and removes what a container that has ended may have left.
    async fn end_remains(&self, record: &ContainerRecord) {
        let kill = self.inner.kill_cgroup(record.cgroup.clone()).await;
        if let Err(error) = kill.and(self.inner.remove_cgroup(record.cgroup.clone()).await) {
            warn!(container = %record.id, error = %telemetry::chain(&error), "its cgroup remains for now");
        }
        self.unmount_root(&record.id).await;
    }

    /// Kills all of a pod that is to be undone.
    async fn kill_all(&mut self) {
        let records: Vec<_> = self.containers.values().map(|s| s.record.clone()).collect();
        for record in records {
            if let Err(error) = self.inner.kill_cgroup(record.cgroup.clone()).await {
                warn!(container = %record.id, error = %telemetry::chain(&error), "killing failed");
            }
        }
    }
}
