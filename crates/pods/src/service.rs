//! The front of this crate: what the API layer calls.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use cgroups::Cgroups;
use images::Images;
use monitor_client::Monitors;
use network::Network;
use oci_spec::runtime::PosixRlimit;
use snapshots::Snapshots;
use state::{Durability, Store};
use tokio::task::spawn_blocking;
use tracing::{Instrument, error, info};
use types::{ContainerConfig, ContainerId, Profile, SandboxConfig, SandboxId};

use crate::{
    clock::Clock,
    error::{Error, Result},
    files::make_dir,
    filters::Filters,
    handlers::Handler,
    index::{ContainerFilter, Index, Known, SandboxFilter},
    log,
    names::{Claim, Names},
    parents::Parents,
    record::{ContainerRecord, SandboxRecord},
    retire::Work,
    task::{Asked, Command, PodHandle, PodTask},
};

/// The version of the records on disk.
const RECORD_VERSION: u32 = 1;

/// What the crate is told at start.
#[derive(Debug, Clone)]
pub struct Options {
    /// What outlives a reboot: records.
    pub root: PathBuf,
    /// What lasts as long as the kernel runs.
    pub state: PathBuf,
    /// This boot's id.
    pub boot_id: String,
    /// The parent of pods whose configuration names none, and of the monitors' cgroup.
    pub cgroup_parent: String,
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// A longer line of a log is split.
    pub max_log_line_bytes: usize,
    /// The size at which a log is put aside by its monitor; 0 for never.
    pub max_log_bytes: u64,
    /// The most files of a log then.
    pub max_log_files: u32,
    /// The size of a pod's `/dev/shm`.
    pub shm_size_bytes: u64,
    /// Whether a command with streams goes on when its client or the daemon is gone.
    pub leave_orphaned_execs: bool,
    /// The seccomp profile of a container that asks for none.
    pub unset_seccomp: Profile,
    /// Whether SELinux options are passed over where SELinux is not active.
    pub ignores_inactive_selinux: bool,
    /// Where vendors describe their devices.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The limits of a container that asks for none.
    pub rlimits: Vec<PosixRlimit>,
    /// Handlers that run a program, by name.
    pub handlers: BTreeMap<String, Handler>,
    /// Whether every sandbox has a process and a cgroup of its own, as those have that share a
    /// PID namespace: by them cAdvisor finds a pod's network.
    pub sandbox_processes: bool,
}

/// The services that pods are made with.
#[derive(Debug, Clone)]
pub struct Services {
    /// Images.
    pub images: Arc<Images>,
    /// Root file systems.
    pub snapshots: Snapshots,
    /// The pod network.
    pub network: Arc<Network>,
    /// Control groups.
    pub cgroups: Arc<Cgroups>,
    /// Monitors.
    pub monitors: Arc<Monitors>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) services: Services,
    pub(crate) index: Index,
    pub(crate) names: Names,
    pub(crate) parents: Parents,
    pub(crate) clock: Arc<Clock>,
    pub(crate) work: Work,
    pub(crate) filters: Filters,
    pub(crate) sandbox_store: Store,
    pub(crate) container_store: Store,
    /// Whether containers can have user namespaces here, or why not; tried at start.
    pub(crate) user_namespaces: OnceLock<std::result::Result<(), String>>,
    /// Held for reading while a monitor is put into the monitors' cgroup, for writing
    /// while that is removed.
    pub(crate) monitors_cgroup: tokio::sync::RwLock<()>,
}

/// All pods of this node.
#[derive(Clone)]
pub struct Pods {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Pods {
    /// Opens the records. [`Pods::recover`] comes next, before anything is asked.
    ///
    /// # Errors
    /// Fails where the directories cannot be made.
    pub fn open(options: Options, services: Services) -> Result<Self> {
        let open = |name: &str, kind: &str| {
            Store::open(&options.root.join(name), kind, RECORD_VERSION)
                .map_err(|source| Error::Record { what: format!("the {kind}s"), source })
        };
        let (sandbox_store, container_store) =
            (open("sandboxes", "sandbox")?, open("containers", "container")?);
        make_dir(&options.state.join("pods"))?;
        make_dir(&options.root.join("volumes"))?;
        let clock = Arc::new(Clock::default());
        let inner = Inner {
            options,
            services,
            index: Index::new(clock.clone()),
            names: Names::default(),
            parents: Parents::default(),
            clock,
            work: Work::default(),
            filters: Filters::default(),
            sandbox_store,
            container_store,
            user_namespaces: OnceLock::new(),
            monitors_cgroup: tokio::sync::RwLock::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether containers can have user namespaces here; before [`Pods::recover`] is done nobody
    /// knows, and it is said that they cannot.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn user_namespaces(&self) -> std::result::Result<(), String> {
        self.inner.user_namespaces().map_err(str::to_owned)
    }

    /// Makes a sandbox. The same request again joins the first or gets its result;
    /// one for the name of a sandbox that is no longer ready replaces that one.
    ///
    /// # Errors
    /// Where a step fails all steps before it have been undone.
    ///
    /// # Cancellation
    /// The work goes on; a sandbox that gets ready is listed.
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId> {
        crate::run::validate(&self.inner, &config)?;
        let config = Arc::new(config);
        loop {
            let (claim, ours) = self.inner.names.claim(&config)?;
            let id = match (claim, ours) {
                (Claim::Join(join), _) => return join.wait().await,
                (Claim::Ours(sender), Some(join)) => {
                    let (inner, config) = (self.inner.clone(), config.clone());
                    let going = inner.work.begin();
                    let span = tracing::Span::current();
                    tokio::spawn(
                        async move {
                            let result =
                                crate::run::create(&inner, &config).await.map_err(Arc::new);
                            inner.names.settle(&config.metadata, &sender, result);
                            drop(going);
                        }
                        .instrument(span),
                    );
                    return join.wait().await;
                }
                (Claim::Ours(_), None) => return Err(Error::Stopping),
                (Claim::Taken(id), _) => id,
            };
            match self.inner.index.sandbox(id.as_str())? {
                Some((record, _)) if record.is_ready() && record.config == *config => {
                    return Ok(id);
                }
                Some((record, _)) if record.is_ready() => {
                    return Err(Error::NameTaken(format!(
                        "sandbox {id} is attempt {} of pod {}/{} already: remove it first",
                        config.metadata.attempt, config.metadata.namespace, config.metadata.name
                    )));
                }
                Some(_) => self.remove_sandbox(id.as_str()).await?,
                None => self.inner.names.free(&config.metadata, &id),
            }
        }
    }

    /// Ends all that runs in a sandbox and takes its network back. One that is
    /// stopped already, or unknown, is no error.
    ///
    /// # Errors
    /// Fails where a container does not end or the network is not taken back.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let Some((record, handle)) = self.inner.index.sandbox(id)? else { return Ok(()) };
        log::name_sandbox(&record);
        handle.ask(|reply| Command::StopSandbox { reply }).await.unwrap_or(Ok(()))
    }

    /// Stops a sandbox and removes it with its containers. An unknown one is no error.
    ///
    /// # Errors
    /// Fails where a container does not end or something of it cannot be removed.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Some((record, handle)) = self.inner.index.sandbox(id)? else { return Ok(()) };
        log::name_sandbox(&record);
        handle.ask(|reply| Command::RemoveSandbox { reply }).await.unwrap_or(Ok(()))
    }

    /// Returns a sandbox, by its id or the start of it.
    ///
    /// # Errors
    /// [`Error::NoSandbox`] where there is none.
    pub fn sandbox(&self, id: &str) -> Result<Arc<SandboxRecord>> {
        self.inner.index.sandbox(id)?.map(|(r, _)| r).ok_or_else(|| Error::NoSandbox(id.to_owned()))
    }

    /// Lists sandboxes.
    pub fn sandboxes(&self, filter: &SandboxFilter) -> Vec<Arc<SandboxRecord>> {
        self.inner.index.sandboxes(filter)
    }

    /// Makes a container in a sandbox that is ready. The same request again gets the
    /// container that it made, as long as that was not started.
    ///
    /// # Errors
    /// Where a step fails all steps before it have been undone.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        let (record, handle) = self
            .inner
            .index
            .sandbox(sandbox)?
            .ok_or_else(|| Error::NoSandbox(sandbox.to_owned()))?;
        log::name_sandbox(&record);
        let config = Box::new(config);
        handle
            .ask(|reply| Command::Create { config, reply })
            .await
            .unwrap_or_else(|| Err(Error::NoSandbox(record.id.to_string())))
    }

    /// Starts a container that was made and not started.
    ///
    /// # Errors
    /// Fails where it is in another state, or where its process cannot be started; it
    /// has then exited with the reason `StartError`.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let (record, handle) = self.owned(id)?.ok_or_else(|| Error::NoContainer(id.to_owned()))?;
        let container = record.id.clone();
        handle
            .ask(|reply| Command::Start { id: container, reply })
            .await
            .unwrap_or_else(|| Err(Error::NoContainer(id.to_owned())))
    }

    /// Stops a container: its signal, and SIGKILL to all of it after `grace`. A
    /// second call can only shorten the time. One that does not run, or is
    /// unknown, is no error.
    ///
    /// # Errors
    /// Fails where it does not end when it is killed.
    ///
    /// # Cancellation
    /// Where all callers left within the grace period, the container is not killed.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let Some((record, handle)) = self.owned(id)? else { return Ok(()) };
        let id = record.id.clone();
        handle.ask(|reply| Command::StopContainer { id, grace, reply }).await.unwrap_or(Ok(()))
    }

    /// Removes a container, killing it where it runs. An unknown one is no error.
    ///
    /// # Errors
    /// Fails where it does not end, or something of it cannot be removed.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let Some((record, handle)) = self.owned(id)? else { return Ok(()) };
        let id = record.id.clone();
        handle.ask(|reply| Command::RemoveContainer { id, reply }).await.unwrap_or(Ok(()))
    }

    /// Returns a container, by its id or the start of it.
    ///
    /// # Errors
    /// [`Error::NoContainer`] where there is none.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerRecord>> {
        self.inner
            .index
            .container(id)?
            .map(|(r, _)| r)
            .ok_or_else(|| Error::NoContainer(id.to_owned()))
    }

    /// Tells what a whole id stands for; one that is being removed or made counts.
    pub fn known(&self, id: &str) -> Option<Known> {
        self.inner.index.known(id)
    }

    /// Who makes cgroups.
    pub fn cgroup_driver(&self) -> cgroups::Driver {
        self.inner.services.cgroups.driver()
    }

    /// Lists containers.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        self.inner.index.containers(filter)
    }

    pub(crate) fn owned(&self, id: &str) -> Result<Option<(Arc<ContainerRecord>, PodHandle)>> {
        let Some((record, handle)) = self.inner.index.container(id)? else { return Ok(None) };
        let sandbox = self.inner.index.sandbox(record.sandbox_id.as_str()).ok().flatten();
        log::name_both(&record, sandbox.as_ref().map(|(sandbox, _)| &**sandbox));
        Ok(handle.map(|handle| (record, handle)))
    }
}

impl Inner {
    /// Tries once whether containers can have user namespaces here.
    pub(crate) async fn try_user_namespaces(&self) {
        let result = self.probe_user_namespaces().await;
        match &result {
            Ok(()) => info!("user namespaces work"),
            Err(why) => info!("user namespaces are not offered: {why}"),
        }
        let _ = self.user_namespaces.set(result);
    }

    /// The layers' file system is tried: whether it can map owners is its own matter.
    async fn probe_user_namespaces(&self) -> std::result::Result<(), String> {
        let scratch = self.services.snapshots.root().join("new").join("user-namespaces");
        make_dir(&scratch).map_err(|error| telemetry::chain(&error))?;
        let result = self.services.monitors.probe_user_namespaces(&scratch).await;
        if let Err(error) = crate::files::remove_dir(&scratch) {
            tracing::warn!(error = %telemetry::chain(&error), "what was tried remains");
        }
        result
    }

    pub(crate) fn user_namespaces(&self) -> std::result::Result<(), &str> {
        match self.user_namespaces.get() {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(why),
            None => Err("they were not tried yet"),
        }
    }

    /// Keeps a sandbox's record. A full disk gives up its reserve for it. A disk that
    /// refuses is logged: the kernel and the monitor still hold the truth, and the object
    /// stays removable.
    pub(crate) async fn keep_sandbox(self: &Arc<Self>, record: &Arc<SandboxRecord>) {
        let (inner, record) = (self.clone(), record.clone());
        let kept = blocking(move || {
            inner.keep_sandbox_here(&record);
            Ok(())
        });
        if let Err(error) = kept.await {
            error!(error = %telemetry::chain(&error), "a change of the sandbox is not on disk");
        }
    }

    /// The same on a thread that may block.
    pub(crate) fn keep_sandbox_here(&self, record: &SandboxRecord) {
        let put = || self.sandbox_store.put(record.id.as_str(), record, Durability::Process);
        if let Err(error) = self.services.images.with_reserve(put) {
            error!(error = %telemetry::chain(&error), "a change of the sandbox is not on disk");
        }
    }

    /// Writes a sandbox's record for the first time.
    pub(crate) fn put_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        self.sandbox_store
            .put(record.id.as_str(), record, Durability::Process)
            .map_err(|source| Error::Record { what: format!("sandbox {}", record.id), source })
    }

    /// Makes a sandbox's record outlive a power cut; nothing is borrowed.
    pub(crate) fn sync_sandbox(
        self: &Arc<Self>,
        id: &SandboxId,
    ) -> impl Future<Output = Result<()>> + use<> {
        let (inner, id) = (self.clone(), id.clone());
        blocking(move || {
            inner
                .sandbox_store
                .sync(id.as_str())
                .map_err(|source| Error::Record { what: format!("sandbox {id}"), source })
        })
    }

    pub(crate) async fn keep_container(self: &Arc<Self>, record: &Arc<ContainerRecord>) {
        let (inner, container) = (self.clone(), record.clone());
        let put = move || {
            let key = container_key(&container.sandbox_id, &container.id);
            let put = || inner.container_store.put(&key, &*container, Durability::Process);
            inner.services.images.with_reserve(put).map_err(|source| Error::Record {
                what: format!("container {}", container.id),
                source,
            })
        };
        if let Err(error) = blocking(put).await {
            error!(container = %record.id, error = %telemetry::chain(&error), "a change of the container is not on disk");
        }
    }

    pub(crate) async fn write_container(
        self: &Arc<Self>,
        record: Arc<ContainerRecord>,
    ) -> Result<()> {
        let inner = self.clone();
        blocking(move || {
            inner
                .container_store
                .put(&container_key(&record.sandbox_id, &record.id), &*record, Durability::Process)
                .map_err(|source| Error::Record {
                    what: format!("container {}", record.id),
                    source,
                })
        })
        .await
    }

    /// Whether a cgroup is there; a path that is none counts as one that somebody has.
    pub(crate) fn cgroup_exists(&self, path: &str) -> bool {
        path.parse().map_or(true, |path| self.services.cgroups.open(&path).exists())
    }

    /// Kills everything in a cgroup.
    pub(crate) async fn kill_cgroup(self: &Arc<Self>, path: String) -> Result<()> {
        self.cgroup_step("kill everything in cgroup", path, |group| group.kill()).await
    }

    /// Removes a cgroup; one that is gone already is no error.
    pub(crate) async fn remove_cgroup(self: &Arc<Self>, path: String) -> Result<()> {
        self.cgroup_step("remove cgroup", path, |group| group.remove()).await
    }

    pub(crate) async fn cgroup_step(
        self: &Arc<Self>,
        what: &'static str,
        path: String,
        step: impl FnOnce(&cgroups::Cgroup) -> std::result::Result<(), cgroups::CgroupError>
        + Send
        + 'static,
    ) -> Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let inner = self.clone();
        blocking(move || {
            let failed = |source| Error::Cgroup { what: format!("{what} {path}"), source };
            let group = inner.services.cgroups.open(&path.parse().map_err(failed)?);
            step(&group).map_err(failed)
        })
        .await
    }

    pub(crate) fn task(
        self: &Arc<Self>,
        record: SandboxRecord,
    ) -> (PodTask, tokio::sync::mpsc::Receiver<Asked>) {
        let (handle, queue) = PodHandle::new();
        (PodTask::new(self.clone(), record, handle), queue)
    }
}

/// The name of a container's record: the sandbox comes first, so that a record that
/// cannot be read still tells where it belongs.
pub(crate) fn container_key(sandbox: &SandboxId, container: &ContainerId) -> String {
    format!("{sandbox}-{container}")
}

/// Runs what blocks off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => Err(Error::Stopping),
    }
}
