//! The pod network as the core sees it: which chain serves, and what is owed.

mod attach;
mod clean;
mod detach;
mod filters;
mod going;
mod status;
mod watch;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use types::SandboxId;

use self::{filters::Unfiltered, going::Going, status::StatusMemory};
use crate::{
    AttachRequest, Attachment, DetachRequest, NetworkError, NetworkFigures, NetworkOptions,
    NetworkStatus, NodeDevice, RecoverReport, Subnet,
    cni::{Chain, Directory, Loaded, NetworkList, ResultCache, Runtime},
    figures::Figures,
    files, namespace,
    native::{Native, Plan, conflist},
    options::check_subnets,
    records::{Engine, Record, Records},
};

/// The pod network of a node.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    directory: Directory,
    /// Those of pods of certain runtime handlers.
    handler_directories: BTreeMap<String, Directory>,
    native: Native,
    records: Records,
    results: ResultCache,
    status: StatusMemory,
    /// Pods whose interfaces the kernel takes away.
    going: Going,
    /// Pods with `firewall` that were made where nothing filters.
    unfiltered: Unfiltered,
    /// The default network's subnets, as the kubelet has said.
    pod_cidr: Mutex<Option<Vec<Subnet>>>,
    /// Read while an attach writes down what it intends, written while garbage is
    /// collected: what begins meanwhile would not be known to be valid.
    collecting: Arc<tokio::sync::RwLock<()>>,
    figures: Figures,
}

/// A chain that serves, and who runs it.
#[derive(Debug, Clone)]
struct Chosen {
    list: NetworkList,
    engine: Engine,
    /// How it is run, unless by programs.
    plan: Option<Plan>,
}

impl Network {
    /// Opens the network: makes its directories and reads the configuration.
    ///
    /// # Errors
    ///
    /// Where the state directories cannot be made or the options are not usable. A
    /// missing or invalid CNI configuration is no error: [`Network::status`] tells it.
    pub fn new(options: NetworkOptions) -> Result<Arc<Self>, NetworkError> {
        options.validate()?;
        let records = Records::new(&options.cache_dir);
        let results = ResultCache::new(&options.cache_dir);
        for dir in [records.dir(), results.dir(), &options.ipam_dir] {
            files::make_dir(dir)?;
        }
        let open = |dir: &Path| Directory::new(dir.to_owned(), options.network.clone());
        let directory = open(&options.conf_dir);
        directory.current(Duration::ZERO);
        let handlers = options.handler_conf_dirs.iter();
        let handler_directories = handlers.map(|(name, dir)| (name.clone(), open(dir))).collect();
        Ok(Arc::new(Self {
            directory,
            handler_directories,
            native: Native::new(&options.table, &options.ipam_dir),
            records,
            results,
            status: StatusMemory::default(),
            going: Going::default(),
            unfiltered: Unfiltered::default(),
            pod_cidr: Mutex::new(clean::read_pod_cidr(&options.cache_dir)),
            collecting: Arc::default(),
            figures: Figures::default(),
            options,
        }))
    }

    /// Reports whether pods can be attached. Answers from memory; the configuration is
    /// looked at at most once a second, and the plugins are asked (STATUS) in the background.
    pub async fn status(self: &Arc<Self>) -> NetworkStatus {
        self.current_status().await
    }

    /// Sets `lo` of a network namespace up.
    ///
    /// # Errors
    ///
    /// Where the namespace cannot be entered or the kernel refuses.
    pub async fn setup_loopback(&self, netns: &Path) -> Result<(), NetworkError> {
        let netns = netns.to_owned();
        blocking("loopback", move || namespace::setup_loopback(&netns)).await
    }

    /// Moves devices of the node into a pod's network, which they leave with its namespace.
    /// What is there by an earlier call is left as it is.
    ///
    /// # Errors
    ///
    /// Where a device is not there, or another has its name in the pod.
    pub async fn take_devices(
        &self,
        netns: &Path,
        devices: Vec<NodeDevice>,
    ) -> Result<(), NetworkError> {
        let netns = netns.to_owned();
        blocking("devices", move || crate::devices::take(&netns, &devices)).await
    }

    /// Gives a pod its network, `lo` included. What failed has been undone as far as
    /// possible; what could not be undone is owed and settled by [`Network::detach`] or
    /// [`Network::recover`].
    ///
    /// One call a sandbox at a time.
    ///
    /// # Cancellation
    ///
    /// The work goes on when the caller leaves.
    ///
    /// # Errors
    ///
    /// Where no network is ready or a step fails; the text names plugin and step.
    pub async fn attach(
        self: &Arc<Self>,
        request: &AttachRequest,
    ) -> Result<Attachment, NetworkError> {
        let (network, request) = (Arc::clone(self), request.clone());
        detached("attach", async move { network.attach_all(request).await }).await
    }

    /// Takes a pod's network away by the records of [`Network::attach`]: idempotent, and
    /// works without the namespace and without the configuration.
    ///
    /// Where this process runs the chain, nobody is led to the pod any more when the call
    /// returns, but its interfaces go with its namespace: its addresses are given back
    /// when they are gone, see [`Network::settled`].
    ///
    /// # Cancellation
    ///
    /// The work goes on when the caller leaves.
    ///
    /// # Errors
    ///
    /// Where a step fails. The debt stays on disk: the caller may retry, or remove the pod
    /// and leave the debt to [`Network::recover`].
    pub async fn detach(self: &Arc<Self>, request: &DetachRequest) -> Result<(), NetworkError> {
        let (network, request) = (Arc::clone(self), request.clone());
        detached("detach", async move {
            network.settle_detach(request.sandbox_id, request.netns.unwrap_or_default()).await
        })
        .await
    }

    /// Waits until no interface of a detached pod is left and all their addresses are
    /// given back.
    pub async fn settled(self: &Arc<Self>) {
        let network = Arc::clone(self);
        let waited = blocking("settling", move || {
            network.going.wait_until_empty();
            Ok(())
        });
        if let Err(error) = waited.await {
            tracing::warn!(%error, "detached pods may have interfaces still");
        }
    }

    /// How giving and taking networks went since the start, by operation and way. From memory.
    pub fn figures(&self) -> Vec<NetworkFigures> {
        self.figures.read()
    }

    /// Asks the plugins whether a pod's network is as it was made (CHECK).
    ///
    /// # Errors
    ///
    /// Where the pod has no network or a plugin finds fault.
    pub async fn check(self: &Arc<Self>, sandbox_id: &SandboxId) -> Result<(), NetworkError> {
        let not_attached = || NetworkError::NotAttached { sandbox_id: sandbox_id.clone() };
        let record = self.load(sandbox_id.clone()).await?.ok_or_else(not_attached)?;
        let attachment = record.attachment.clone().ok_or_else(not_attached)?;
        let (list, runtime) = self.chain_of(&record)?;
        if record.engine == Engine::Programs {
            let chain = self.chain(&list, &runtime, self.options.add_deadline);
            return chain.check(&attachment.result).await;
        }
        let (network, sandbox_id) = (Arc::clone(self), sandbox_id.clone());
        blocking("check", move || {
            let changed = |problem| NetworkError::Changed { sandbox_id, problem };
            Plan::read(&list)
                .and_then(|plan| network.native.check(&plan, &record.netns, &attachment.result))
                .map_err(changed)
        })
        .await
    }

    /// Returns what a sandbox got from [`Network::attach`], from the records.
    ///
    /// # Errors
    ///
    /// Where the record cannot be read.
    pub async fn attachment(
        self: &Arc<Self>,
        sandbox_id: &SandboxId,
    ) -> Result<Option<Attachment>, NetworkError> {
        if self.records.is_going(sandbox_id) {
            return Ok(None);
        }
        Ok(self.load(sandbox_id.clone()).await?.and_then(|record| record.attachment))
    }

    /// Takes away all that belongs to no known sandbox, and makes the rules of the known
    /// ones anew. To be called at start, before the first attach, and then at will: it is
    /// what retries the debts of removed pods.
    ///
    /// Every sandbox that is being attached or detached must be among the known ones.
    /// Takes as long as the plugins take that owe something.
    ///
    /// # Errors
    ///
    /// Where the records cannot be listed or the default network cannot be restored. What
    /// single sandboxes still owe is in the report.
    pub async fn recover(
        self: &Arc<Self>,
        known: &[SandboxId],
    ) -> Result<RecoverReport, NetworkError> {
        self.recover_all(known).await
    }

    /// Cleans up, again and again: lets plugins collect garbage (GC), pays what is still
    /// owed by pods that went, and makes rules anew that another program has removed.
    /// Never returns; ends when it is dropped.
    pub async fn keep_clean(self: &Arc<Self>, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            self.clean().await;
        }
    }

    /// Cleans up once, see [`Network::keep_clean`].
    pub async fn clean(self: &Arc<Self>) {
        self.clean_once().await;
    }

    /// Makes rules anew at once where another program takes them away: a flush of all, a
    /// firewall that is loaded again. Where something begins to filter what is forwarded,
    /// makes pods with `firewall` known to it by the plugin's program. Never returns; ends
    /// when it is dropped.
    pub async fn keep_rules(self: &Arc<Self>) {
        tokio::join!(self.keep_rules_for_ever(), self.follow_filters());
    }

    /// Notices at once when configurations come, go and change. Never returns, unless the
    /// kernel has no watches left; ends when it is dropped. Without it they are seen by who
    /// asks: [`Network::status`] looks once a second, [`Network::attach`] always.
    pub async fn watch_configuration(self: &Arc<Self>) {
        self.watch_directories().await;
    }

    /// Takes over the node's range of pod addresses (the kubelet's `podCIDR`), one or one
    /// of each family, separated by a comma. Pods of the default network that come later
    /// get addresses of it; those that are there keep theirs. CNI configurations say
    /// their ranges themselves.
    ///
    /// # Errors
    ///
    /// Where the text is no such range or cannot be written down.
    pub async fn set_pod_cidr(self: &Arc<Self>, text: &str) -> Result<(), NetworkError> {
        let invalid = |problem: String| NetworkError::InvalidOption { option: "pod CIDR", problem };
        let subnets: Vec<Subnet> = text
            .split(',')
            .map(|part| Subnet::for_pods(part.trim()).map_err(|error| invalid(error.to_string())))
            .collect::<Result<_, _>>()?;
        check_subnets("pod CIDR", &subnets)?;
        let network = Arc::clone(self);
        blocking("pod CIDR", move || network.take_over(subnets)).await
    }

    /// Returns the default network's configuration list, where there is a default network.
    pub fn default_conflist(&self) -> Option<Value> {
        let builtin = self.options.builtin.as_ref()?;
        let said = self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let subnets = said.unwrap_or_else(|| builtin.subnets.clone());
        Some(conflist(builtin, &subnets, &self.options.ipam_dir))
    }

    /// Returns what the directory of a handler's pods holds.
    fn loaded(&self, handler: &str, max_age: Duration) -> Arc<Loaded> {
        self.directory_of(handler).current(max_age)
    }

    fn directory_of(&self, handler: &str) -> &Directory {
        self.handler_directories.get(handler).unwrap_or(&self.directory)
    }

    /// Chooses the chain that serves pods, and who runs it.
    fn choose(&self, handler: &str, max_age: Duration) -> Result<Chosen, NetworkError> {
        let loaded = self.loaded(handler, max_age);
        let missing = || NetworkError::NotReady { message: self.missing(&loaded, handler) };
        // Where something certain is wanted, nothing else takes its place.
        let any =
            self.options.network.is_empty() && !self.handler_directories.contains_key(handler);
        let (list, standard) = match (&loaded.selected, self.default_conflist()) {
            (Some((_, list)), _) => (list.clone(), false),
            (None, Some(conf)) if loaded.is_blank() && any => {
                let list = NetworkList::from_value(conf);
                (list.map_err(|message| NetworkError::NotReady { message })?, true)
            }
            _ => return Err(missing()),
        };
        Ok(self.engine_of(list, standard))
    }

    fn engine_of(&self, list: NetworkList, standard: bool) -> Chosen {
        let plan = if self.options.in_process {
            Plan::read(&list)
        } else {
            Err("chains in this process are switched off".to_owned())
        };
        let plan = plan.and_then(|plan| match Native::needs_programs(&plan) {
            Some(why) => Err(why.to_owned()),
            None => Ok(plan),
        });
        match plan {
            Ok(plan) => {
                let engine = if standard { Engine::Standard } else { Engine::Native };
                Chosen { list, engine, plan: Some(plan) }
            }
            Err(why) => {
                tracing::debug!(network = list.name, why, "the chain is run by programs");
                Chosen { list, engine: Engine::Programs, plan: None }
            }
        }
    }

    fn missing(&self, loaded: &Loaded, handler: &str) -> String {
        if let Some(problem) = &loaded.unreadable {
            return format!("CNI configuration cannot be read: {problem}");
        }
        let dir = self.directory_of(handler).path().display();
        match (loaded.invalid.first(), self.options.network.as_str()) {
            (Some((file, problem)), _) => format!("{} is not valid: {problem}", file.display()),
            (None, "") => format!("no CNI configuration in {dir}"),
            (None, name) => format!("no CNI configuration of network \"{name}\" in {dir}"),
        }
    }

    async fn load(self: &Arc<Self>, id: SandboxId) -> Result<Option<Record>, NetworkError> {
        let network = Arc::clone(self);
        blocking("records", move || network.records.load(&id)).await
    }

    /// Returns the chain of a record.
    fn chain_of(&self, record: &Record) -> Result<(NetworkList, Runtime), NetworkError> {
        let list = NetworkList::from_value(record.conf.clone()).map_err(|problem| {
            let path = self.records.dir().join(record.sandbox_id.as_str());
            NetworkError::DamagedRecord { path, source: serde::de::Error::custom(problem) }
        })?;
        let runtime = Runtime {
            container_id: record.sandbox_id.to_string(),
            netns: record.netns.clone(),
            arguments: record.arguments.clone(),
            capabilities: record.capabilities.clone(),
        };
        Ok((list, runtime))
    }

    fn chain<'a>(
        &'a self,
        list: &'a NetworkList,
        runtime: &'a Runtime,
        limit: Duration,
    ) -> Chain<'a> {
        Chain { list, runtime, bin_dirs: &self.options.bin_dirs, limit }
    }

    fn forget(&self, network: Option<&str>, id: &SandboxId) -> Result<(), NetworkError> {
        match network {
            Some(network) => self.results.remove(network, id.as_str())?,
            None => self.results.retain(|other| other != id.as_str())?,
        }
        self.records.remove(id)
    }
}

/// An error with its causes.
fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Runs on a thread that may wait for the kernel or a disk.
async fn blocking<T: Send + 'static>(
    task: &'static str,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(NetworkError::Worker { task, source: error.into() }))
}

/// Runs to the end even when the caller leaves.
async fn detached<T: Send + 'static>(
    task: &'static str,
    work: impl Future<Output = Result<T, NetworkError>> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(NetworkError::Worker { task, source: error.into() }))
}
