//! RunPodSandbox: the steps that make a sandbox, and their undoing.
//!
//! Every name that a step uses follows from the sandbox's id, and the record is
//! written before the first step, and synced before the first one whose work outlives a
//! power cut, the network's: so the undoing needs no list of what was
//! done. It is the sandbox's ordinary stop and removal, each step of which takes
//! "it is not there" for done.

use std::{path::Path, sync::Arc};

use monitor_client::{CgroupPlacement, Failure, Features, MakeSandbox, ReaperRequest, UserRequest};
use network::{AttachRequest, DetachRequest};
use tokio::sync::oneshot;
use tracing::{info, warn};
use types::{LinuxResources, NamespaceMode, PidMode, SandboxConfig, SandboxId};

use crate::{
    error::{Error, Result},
    files::{PodFiles, make_public_dir},
    namespaces,
    record::{SandboxPhase, SandboxRecord},
    service::{Inner, blocking},
    task::PodTask,
};

/// The leaf of the monitors' cgroup, beside the pods': a pod's memory limit must
/// not kill the process that tells how its containers ended.
const MONITORS_CGROUP: &str = "monitors";

/// How long a monitor that was told to end is waited for.
const MONITOR_END: std::time::Duration = std::time::Duration::from_secs(2);

/// Refuses what cannot be, before a name is claimed.
pub(crate) fn validate(inner: &Inner, config: &SandboxConfig) -> Result<()> {
    let namespaces = &config.security.namespaces;
    if let Some(handler) = inner.handler(config)? {
        handler.check(&config.runtime_handler)?;
        if namespaces.user.is_some() && !handler.features.user_namespaces {
            let name = &config.runtime_handler;
            let text = format!("runtime handler \"{name}\" does not support user namespaces");
            return Err(Error::Invalid(text));
        }
    }
    if namespaces.user.is_some()
        && let Err(why) = inner.user_namespaces()
    {
        return Err(Error::Invalid(format!("user namespaces do not work here: {why}")));
    }
    if let PidMode::Target(_) = namespaces.pid {
        return Err(Error::Invalid(
            "a sandbox cannot use the PID namespace of a container".to_owned(),
        ));
    }
    cgroups::validate_parent(inner.services.cgroups.driver(), &config.cgroup_parent)
        .map_err(|e| Error::Invalid(format!("cgroup_parent: {e}")))?;
    container_spec::validate_sandbox(config).map_err(|e| Error::Invalid(telemetry::chain(&e)))?;
    if !config.log_directory.is_empty() && !Path::new(&config.log_directory).is_absolute() {
        return Err(Error::Invalid(format!(
            "log_directory: \"{}\" is not an absolute path",
            config.log_directory
        )));
    }
    crate::selinux::check(inner, config.security.selinux.as_ref())
}

/// Whose the files of a pod are on the host: its root's.
pub(crate) fn owner(config: &SandboxConfig) -> (u32, u32) {
    let Some(user) = &config.security.namespaces.user else { return (0, 0) };
    // Both are checked to be there.
    (user.host_uid(0).unwrap_or(0), user.host_gid(0).unwrap_or(0))
}

/// Makes a sandbox and starts its task.
pub(crate) async fn create(inner: &Arc<Inner>, config: &SandboxConfig) -> Result<SandboxId> {
    let record = plan(inner, config)?;
    let id = record.id.clone();
    crate::log::name_sandbox(&record);
    let result = begin(inner, record.clone()).await;
    let _making = inner.index.making(&record);
    let (mut task, queue) = inner.task(record);
    match async {
        result?;
        build(&mut task).await
    }
    .await
    {
        Ok(()) => {
            info!(ips = ?task.record.ips(), "ready");
            task.spawn(queue);
            Ok(id)
        }
        Err(error) => {
            if let Err(undo) = undo(&mut task).await {
                // It stays, listed as not ready, and can be removed later.
                warn!(error = %telemetry::chain(&undo), "undoing a failed start is not complete");
                task.set_phase(SandboxPhase::NotReady).await;
                inner.names.found(&config.metadata, &id);
                task.spawn(queue);
            }
            Err(error)
        }
    }
}

/// Writes the record, then makes the directories.
async fn begin(inner: &Arc<Inner>, record: SandboxRecord) -> Result<()> {
    let inner = inner.clone();
    blocking(move || {
        inner.put_sandbox(&record)?;
        PodFiles::new(&inner.options.state, &record.id).create()?;
        match record.netns {
            Some(_) => make_public_dir(&inner.options.netns_dir),
            None => Ok(()),
        }
    })
    .await
}

fn plan(inner: &Inner, config: &SandboxConfig) -> Result<SandboxRecord> {
    let id = SandboxId::random();
    let own_network = config.security.namespaces.network == NamespaceMode::Pod;
    let cgroup_parent = inner
        .services
        .cgroups
        .parent(&config.cgroup_parent, &inner.options.cgroup_parent, id.as_str())
        .map_err(|e| Error::Invalid(format!("cgroup_parent: {e}")))?;
    let owns_cgroup_parent =
        inner.parents.claim(&cgroup_parent, || inner.cgroup_exists(&cgroup_parent));
    Ok(SandboxRecord {
        config: config.clone(),
        created_at_ns: inner.clock.now_ns(),
        phase: SandboxPhase::Creating,
        boot_id: inner.options.boot_id.clone(),
        netns: own_network.then(|| inner.netns_path(&id)),
        network_owed: own_network,
        attachment: None,
        cgroup_parent,
        owns_cgroup_parent,
        limits: LinuxResources::default(),
        process: None,
        damage: String::new(),
        id,
    })
}

/// Does all steps; where one fails the caller undoes them. All that were begun have ended then.
///
/// The network needs no process of the pod, and the process no network; both need the namespaces.
async fn build(task: &mut PodTask) -> Result<()> {
    let (tell, told) = oneshot::channel();
    let (attached, started) = if namespaces::are_plain(&task.record) {
        let namespaces = namespaces::make(task);
        let network = network(task, async move {
            namespaces.await?;
            // Nobody who waited is no error here.
            let _ = tell.send(());
            Ok(true)
        });
        tokio::join!(network, start(task, told))
    } else {
        let network = network(task, async move { Ok(told.await.is_ok()) });
        tokio::join!(network, start_and_make(task, tell))
    };
    let attachment = attached?;
    started?;
    let mut record = (*task.record).clone();
    record.attachment = attachment;
    record.phase = SandboxPhase::Ready;
    finish(task, Arc::new(record)).await
}

/// Writes the file that names the sandbox's addresses, then that the sandbox is ready.
async fn finish(task: &mut PodTask, record: Arc<SandboxRecord>) -> Result<()> {
    let (inner, files, ready) = (task.inner.clone(), task.files.clone(), record.clone());
    blocking(move || {
        if let Some(attachment) = &ready.attachment {
            let text = container_spec::files::hosts(&hostname(&ready.config), &attachment.ips);
            files.write_public(&files.hosts(), &text)?;
            files.give(owner(&ready.config))?;
        }
        inner.keep_sandbox_here(&ready);
        Ok(())
    })
    .await?;
    task.record = record;
    task.inner.index.publish_sandbox(task.record.clone(), task.handle.clone());
    Ok(())
}

/// Attaches the sandbox once its namespaces are there and its record outlives a power cut: what is
/// made meanwhile is the kernel's and the state directory's, and of another boot neither is left.
/// Where the namespaces are told not to come, somebody else has failed. The task is not borrowed.
fn network<N: Future<Output = Result<bool>>>(
    task: &PodTask,
    namespaces: N,
) -> impl Future<Output = Result<Option<network::Attachment>>> + use<N> {
    let synced = task.inner.sync_sandbox(task.id());
    let attached = attach(task);
    async move {
        let (synced, are_there) = tokio::join!(synced, namespaces);
        synced?;
        if are_there? { attached.await } else { Ok(None) }
    }
}

/// Starts the monitor and the reaper of a sandbox whose namespaces are made meanwhile, and writes
/// its files.
async fn start(task: &mut PodTask, namespaces: oneshot::Receiver<()>) -> Result<()> {
    let (files, place) = (write_files(task), reaper_place(task));
    let (spawned, files, place, there) =
        tokio::join!(spawn_monitor(task), files, place, namespaces);
    let place = place?;
    let placement = place.as_ref().map(|place| place.placement.clone());
    let made = match spawned.and(files) {
        // Without namespaces it is the network's error that is told.
        Ok(()) if there.is_err() => Ok(()),
        Ok(()) => ask_for_namespaces(task, true, placement).await,
        Err(error) => Err(error),
    };
    release(place.and_then(|place| place.holder)).await;
    made
}

/// Starts the monitor, has it make the namespaces, which it tells, and start the reaper; and writes
/// the sandbox's files.
async fn start_and_make(task: &mut PodTask, tell: oneshot::Sender<()>) -> Result<()> {
    let (files, place) = (write_files(task), reaper_place(task));
    let (spawned, files, place) = tokio::join!(spawn_monitor(task), files, place);
    let place = place?;
    let is_late = task.handle.monitor().is_some_and(|m| m.features().has(Features::LATE_REAPER));
    let placement = place.as_ref().filter(|_| !is_late).map(|place| place.placement.clone());
    let made = match spawned.and(files) {
        Ok(()) => ask_for_namespaces(task, false, placement).await,
        Err(error) => Err(error),
    };
    if made.is_ok() {
        // Nobody who waited is no error here.
        let _ = tell.send(());
    }
    match (made, place) {
        (Ok(()), Some(place)) if is_late => start_reaper(task, place).await,
        (made, place) => {
            release(place.and_then(|place| place.holder)).await;
            made
        }
    }
}

/// Writes what needs no network; the task is not borrowed.
fn write_files(task: &PodTask) -> impl Future<Output = Result<()>> + use<> {
    let (files, record, size) =
        (task.files.clone(), task.record.clone(), task.inner.options.shm_size_bytes);
    blocking(move || {
        let config = &record.config;
        if let Some(text) = container_spec::files::resolv_conf(config.dns.as_ref())
            .map_err(|e| Error::Invalid(telemetry::chain(&e)))?
        {
            files.write_public(&files.resolv_conf(), &text)?;
        } else {
            files.copy_public(Path::new("/etc/resolv.conf"), &files.resolv_conf())?;
        }
        files.write_public(&files.hostname(), &format!("{}\n", hostname(config)))?;
        if config.security.namespaces.ipc == NamespaceMode::Pod {
            files.mount_shm(size, owner(config))?;
        }
        files.give(owner(config))
    })
}

/// The pod's host name: what was asked for, else the node's.
pub(crate) fn hostname(config: &SandboxConfig) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn spawn_monitor(task: &mut PodTask) -> Result<()> {
    let inner = task.inner.clone();
    let _kept = inner.monitors_cgroup.read().await;
    let place = inner.ensure_cgroup(inner.monitors_path()).await?;
    let spawned =
        inner.services.monitors.spawn(task.id(), task.files.dir(), &place.placement).await;
    release(place.holder).await;
    let (monitor, events) = spawned.map_err(|source| Error::Monitor {
        what: format!("start the monitor of sandbox {}", task.id()),
        source: Box::new(source),
    })?;
    task.handle.set_monitor(Some(monitor));
    task.events = Some(events);
    Ok(())
}

/// Has the monitor start the reaper.
async fn start_reaper(task: &mut PodTask, place: Place) -> Result<()> {
    let started = match task.handle.monitor() {
        Some(monitor) => monitor.start_reaper(ReaperRequest { cgroup: place.placement }).await,
        None => return Err(Error::Stopping),
    };
    release(place.holder).await;
    let made = started.map_err(|source| Error::Monitor {
        what: format!("start the process of sandbox {}", task.id()),
        source: Box::new(source),
    })?;
    know_process(task, made.reaper_pid);
    Ok(())
}

/// Tells of the sandbox's own process before the sandbox is ready.
fn know_process(task: &mut PodTask, process: Option<i32>) {
    let mut record = (*task.record).clone();
    record.process = process;
    task.record = Arc::new(record);
    task.inner.index.update_making(&task.record);
}

/// Makes the cgroup of the sandbox's own process, the reaper, where it has one; the task is not borrowed.
fn reaper_place(task: &PodTask) -> impl Future<Output = Result<Option<Place>>> + use<> {
    let wanted = task.inner.options.sandbox_processes
        || task.record.config.security.namespaces.pid == PidMode::Pod;
    let path = task.inner.leaf(&task.record.cgroup_parent, task.id().as_str());
    let inner = task.inner.clone();
    async move {
        if !wanted {
            return Ok(None);
        }
        inner.ensure_cgroup(path).await.map(Some)
    }
}

/// Has the monitor make the namespaces, or open those that are given, and start the reaper.
async fn ask_for_namespaces(
    task: &mut PodTask,
    given: bool,
    reaper: Option<CgroupPlacement>,
) -> Result<()> {
    let namespaces = &task.record.config.security.namespaces;
    let monitor = task.handle.monitor().ok_or(Error::Stopping)?;
    if given && !monitor.features().has(Features::GIVEN_NAMESPACES) {
        let text = "corten-monitor is of an earlier release than the daemon: install them together";
        return Err(Error::WrongState(text.to_owned()));
    }
    let wanted = namespaces::wanted(task)?;
    let request = MakeSandbox {
        sandbox: task.id().clone(),
        user: namespaces
            .user
            .clone()
            .map(|mappings| Box::new(UserRequest { pin: task.files.user_ns(), mappings })),
        given,
        net: wanted.net,
        ipc: wanted.ipc,
        uts: wanted.uts,
        hostname: wanted.hostname,
        sysctls: wanted.sysctls,
        reaper: reaper.map(|cgroup| ReaperRequest { cgroup }),
    };
    let made = monitor.make_sandbox(request).await.map_err(|source| {
        let what = format!("make the namespaces of sandbox {}", task.id());
        match source.failure().filter(|failure| is_bad_sysctl(failure)) {
            Some(failure) => Error::Invalid(format!("failed to {what}: {failure}")),
            None => Error::Monitor { what, source: Box::new(source) },
        }
    })?;
    know_process(task, made.reaper_pid);
    Ok(())
}

/// Whether a kernel parameter is none here, or does not take the value that was asked for.
fn is_bad_sysctl(failure: &Failure) -> bool {
    failure.step.as_deref() == Some("sysctl") && namespaces::is_bad_value(failure.errno)
}

/// Attaches the sandbox to its network, where it has one; the task is not borrowed.
fn attach(task: &PodTask) -> impl Future<Output = Result<Option<network::Attachment>>> + use<> {
    let (inner, record) = (task.inner.clone(), task.record.clone());
    async move {
        let Some(request) = attach_request(&record) else { return Ok(None) };
        let attached = inner.services.network.attach(&request).await;
        attached.map(Some).map_err(|source| Error::Network {
            what: "set up",
            id: record.id.to_string(),
            source: Box::new(source),
        })
    }
}

fn attach_request(record: &SandboxRecord) -> Option<AttachRequest> {
    let (netns, config) = (record.netns.clone()?, &record.config);
    Some(AttachRequest {
        sandbox_id: record.id.clone(),
        netns,
        namespace: config.metadata.namespace.clone(),
        name: config.metadata.name.clone(),
        uid: config.metadata.uid.clone(),
        port_mappings: config.port_mappings.clone(),
        dns: config.dns.clone(),
        annotations: config.annotations.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        hostname: config.hostname.clone(),
        handler: config.runtime_handler.clone(),
    })
}

/// A cgroup to place a process in.
pub(crate) struct Place {
    pub(crate) placement: CgroupPlacement,
    /// What keeps it until the process is there.
    pub(crate) holder: Option<cgroups::Holder>,
}

/// Ends what kept a cgroup: a process was placed in it, or will not be.
pub(crate) async fn release(holder: Option<cgroups::Holder>) {
    if let Some(holder) = holder {
        let ended = blocking(move || {
            drop(holder);
            Ok(())
        });
        // Nothing in it fails.
        let _ = ended.await;
    }
}

/// Undoes a start that failed.
pub(crate) async fn undo(task: &mut PodTask) -> Result<()> {
    task.release().await?;
    task.delete().await
}

impl PodTask {
    /// Takes back all that only a ready sandbox needs: network, monitor, namespaces,
    /// mounts, cgroups. Every step is done, also where one before it failed; the
    /// first error is returned.
    pub(crate) async fn release(&mut self) -> Result<()> {
        let network = self.detach_and_shut_down().await;
        let (files, netns) = (self.files.clone(), self.record.netns.clone());
        let mounts = blocking(move || files.release(netns.as_deref()));
        let own = self.inner.leaf(&self.record.cgroup_parent, self.id().as_str());
        let (mounts, cgroup) = tokio::join!(mounts, self.remove_own_cgroup(own));
        let parent = self.leave_parent().await;
        network.and(mounts).and(cgroup).and(parent)
    }

    /// Removes the pod's cgroup where it is ours and nothing is in it: another pod may use it
    /// by now, and a container's may remain until the container is deleted.
    async fn leave_parent(&self) -> Result<()> {
        let path = self.record.cgroup_parent.clone();
        if !self.record.owns_cgroup_parent {
            return Ok(());
        }
        if self.inner.cgroup_exists(&path) {
            let remove = |group: &cgroups::Cgroup| {
                group.remove_if_empty();
                Ok(())
            };
            self.inner.cgroup_step("remove cgroup", path.clone(), remove).await?;
        }
        self.inner.parents.leave(&path, || self.inner.cgroup_exists(&path));
        Ok(())
    }

    /// Removes the cgroup of the sandbox's own process, which a monitor that died leaves behind.
    async fn remove_own_cgroup(&self, path: String) -> Result<()> {
        self.inner
            .cgroup_step("remove cgroup", path, |group| {
                if !group.is_empty()? {
                    group.kill()?;
                }
                group.remove()
            })
            .await
    }

    /// Takes the network back while the monitor ends, which needs none. A plugin that keeps
    /// failing does not keep the pod: from the second failure on, what is owed is tried again
    /// in the background.
    async fn detach_and_shut_down(&mut self) -> Result<()> {
        if !self.record.network_owed {
            self.shut_monitor_down().await;
            return Ok(());
        }
        let metadata = &self.record.config.metadata;
        let request = DetachRequest {
            sandbox_id: self.id().clone(),
            netns: self.record.netns.clone().filter(|p| p.exists()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        };
        let network = self.inner.services.network.clone();
        let (detached, ()) = tokio::join!(network.detach(&request), self.shut_monitor_down());
        match detached {
            Ok(()) => {}
            Err(source) if self.detach_failures == 0 && !self.removal_is_asked() => {
                self.detach_failures += 1;
                return Err(Error::Network {
                    what: "tear down",
                    id: self.id().to_string(),
                    source: Box::new(source),
                });
            }
            Err(error) => {
                warn!(error = %telemetry::chain(&error), "the network is still owed; it is tried again in the background");
                self.inner.clone().owe(request);
            }
        }
        self.record_released_network().await;
        Ok(())
    }

    async fn record_released_network(&mut self) {
        if self.record.phase == SandboxPhase::Creating {
            let mut record = (*self.record).clone();
            record.network_owed = false;
            self.record = Arc::new(record);
            return;
        }
        self.update(|r| {
            r.network_owed = false;
            r.attachment = None;
        })
        .await;
    }

    async fn shut_monitor_down(&mut self) {
        let Some(monitor) = self.handle.monitor() else { return };
        self.handle.set_monitor(None);
        let events = self.events.take();
        if let Err(error) = monitor.shutdown().await {
            warn!(error = %telemetry::chain(&error), "the monitor did not stop when told; it is killed");
            if let Err(error) = monitor.kill() {
                warn!(error = %telemetry::chain(&error), "the monitor was not killed");
            }
        }
        // No process outlives its pod: the end of the connection is the monitor's own.
        if let Some(mut events) = events {
            let gone = async { while events.recv().await.is_some() {} };
            if tokio::time::timeout(MONITOR_END, gone).await.is_err() {
                warn!("the monitor has not ended yet");
            }
        }
    }

    /// Deletes what is left of a released sandbox: containers, directory, record.
    pub(crate) async fn delete(&mut self) -> Result<()> {
        if self.record.phase != SandboxPhase::Creating {
            self.set_phase(SandboxPhase::Removing).await;
        }
        let containers: Vec<_> = self.containers.keys().cloned().collect();
        for id in containers {
            self.delete_container(&id).await?;
        }
        self.leave_parent().await?;
        let (files, inner, id) = (self.files.clone(), self.inner.clone(), self.id().clone());
        blocking(move || {
            files.remove()?;
            inner.sandbox_store.remove(id.as_str()).map_err(|source| Error::Record {
                what: format!("the removal of sandbox {id}"),
                source,
            })
        })
        .await?;
        self.inner.index.forget_sandbox(self.id());
        self.inner.names.free(&self.record.config.metadata, self.id());
        self.inner.tidy_cgroups().await;
        Ok(())
    }
}

impl Inner {
    /// Where a sandbox's network namespace is pinned.
    pub(crate) fn netns_path(&self, id: &SandboxId) -> std::path::PathBuf {
        self.options.netns_dir.join(format!("corten-{id}"))
    }

    /// The cgroup of what is called `name` below a parent.
    pub(crate) fn leaf(&self, parent: &str, name: &str) -> String {
        self.services.cgroups.leaf(parent, name)
    }

    fn monitors_path(&self) -> String {
        self.leaf(&self.options.cgroup_parent, MONITORS_CGROUP)
    }

    /// Makes a cgroup without limits, where it is missing.
    pub(crate) async fn ensure_cgroup(self: &Arc<Self>, path: String) -> Result<Place> {
        let inner = self.clone();
        blocking(move || {
            let failed = |source| Error::Cgroup { what: format!("create cgroup {path}"), source };
            let path = path.parse().map_err(failed)?;
            let created = inner
                .services
                .cgroups
                .create(&path, &cgroups::Resources::default())
                .map_err(failed)?;
            Ok(Place { placement: crate::spec::placement(&created.cgroup), holder: created.holder })
        })
        .await
    }

    /// Removes the cgroup of the monitors and our parent, where nothing is left in them.
    pub(crate) async fn tidy_cgroups(self: &Arc<Self>) {
        // A pod that is being made holds the lock from the cgroup's making to its use.
        let Ok(_alone) = self.monitors_cgroup.try_write() else { return };
        if !self.index.is_empty() {
            return;
        }
        let path = self.monitors_path();
        let Ok(top) = self.options.cgroup_parent.parse::<cgroups::CgroupPath>() else { return };
        let tidied = self.cgroup_step("remove cgroup", path, move |group| {
            if group.is_empty()? {
                group.remove_if_empty();
                group.remove_empty_parents(&top);
            }
            Ok(())
        });
        if let Err(error) = tidied.await {
            warn!(error = %telemetry::chain(&error), "the monitors' cgroup remains");
        }
    }

    /// Tries to take a removed sandbox's network back until that works. What is owed is
    /// also in the network's own journal, for the time after a restart.
    fn owe(self: Arc<Self>, request: DetachRequest) {
        tokio::spawn(async move {
            let mut pause = std::time::Duration::from_secs(5);
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.work.retired() => return,
                }
                match self.services.network.detach(&request).await {
                    Ok(()) => return,
                    Err(error) => {
                        warn!(sandbox = %request.sandbox_id, error = %telemetry::chain(&error), "the network is still owed");
                    }
                }
                pause = (pause * 2).min(std::time::Duration::from_secs(300));
            }
        });
    }
}
