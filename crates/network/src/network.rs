//! The pod network as the core sees it: which network serves, and what is owed.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use types::SandboxId;

use crate::{
    AttachRequest, Attachment, BuiltinOptions, DetachRequest, NetworkError, NetworkOptions,
    NetworkStatus, RecoverReport,
    builtin::{Builtin, KnownPod},
    cni::{
        self, Chain, Directory, Loaded, NetworkList, ResultCache, Runtime, arguments,
        capability_arguments, minimal_arguments,
    },
    files, namespace,
    records::{Owed, Record, Records},
};

/// How old a status may be: configurations are looked at again after this long.
const STATUS_AGE: Duration = Duration::from_secs(1);
/// The reason that the kubelet knows.
const NOT_READY: &str = "NetworkPluginNotReady";

/// The pod network of a node.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    directory: Directory,
    builtin: Option<Builtin>,
    records: Records,
    results: ResultCache,
    status: Mutex<Option<(Instant, NetworkStatus)>>,
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
        let directory = Directory::new(options.conf_dir.clone());
        directory.current(Duration::ZERO);
        let builtin =
            options.builtin.as_ref().map(|builtin| Builtin::new(builtin, &options.ipam_dir));
        let status = Mutex::new(None);
        Ok(Arc::new(Self { options, directory, builtin, records, results, status }))
    }

    /// Reports whether pods can be attached. Answers from memory; the configuration is
    /// looked at at most once a second.
    pub async fn status(self: &Arc<Self>) -> NetworkStatus {
        let known = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, status)) = known
            && at.elapsed() < STATUS_AGE
        {
            return status;
        }
        let network = Arc::clone(self);
        let looked = blocking("status", move || {
            let status = network.look();
            let mut known = network.status.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some((Instant::now(), status.clone()));
            Ok(status)
        });
        looked.await.unwrap_or_else(|error| not_ready(error.to_string(), Value::Null))
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
        let netns = Some(request.netns.unwrap_or_default());
        detached("detach", async move { network.settle(request.sandbox_id, netns).await }).await
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
        let Some((list, runtime)) = self.chain_of(&record)? else { return Ok(()) };
        self.chain(&list, &runtime, self.options.add_deadline).check(&attachment.result).await
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
    /// Where the records cannot be listed or the built-in network cannot be restored. What
    /// single sandboxes still owe is in the report.
    pub async fn recover(
        self: &Arc<Self>,
        known: &[SandboxId],
    ) -> Result<RecoverReport, NetworkError> {
        let network = Arc::clone(self);
        let owing = blocking("recovery", move || network.records.list()).await?;
        let mut report = RecoverReport::default();
        for id in owing.into_iter().filter(|id| !known.contains(id)) {
            let (network, owing) = (Arc::clone(self), id.clone());
            match detached("recovery", async move { network.settle(owing, None).await }).await {
                Ok(()) => report.detached.push(id),
                Err(error) => report.owed.push((id, error)),
            }
        }
        let (network, known) = (Arc::clone(self), known.to_vec());
        blocking("recovery", move || network.recover_builtin(&known)).await?;
        Ok(report)
    }

    async fn attach_all(
        self: Arc<Self>,
        request: AttachRequest,
    ) -> Result<Attachment, NetworkError> {
        // What an earlier attempt left would be in the way, and its record overwritten.
        Arc::clone(&self).settle(request.sandbox_id.clone(), None).await?;
        let network = Arc::clone(&self);
        let loaded =
            blocking("attach", move || Ok(network.directory.current(Duration::ZERO))).await?;
        match (&loaded.selected, &self.builtin) {
            (Some((_, list)), _) => self.attach_chain(&request, list).await,
            (None, Some(_)) if loaded.is_blank() => self.attach_builtin(request).await,
            _ => Err(NetworkError::NotReady { message: self.missing(&loaded) }),
        }
    }

    async fn attach_builtin(
        self: &Arc<Self>,
        request: AttachRequest,
    ) -> Result<Attachment, NetworkError> {
        let network = Arc::clone(self);
        blocking("attach", move || {
            let Some(builtin) = &network.builtin else {
                return Err(NetworkError::NotReady { message: "no network".to_owned() });
            };
            let id = &request.sandbox_id;
            let mappings = request.port_mappings;
            let owed = Owed::Builtin { port_mappings: mappings.clone() };
            let mut record = Record::new(id.clone(), request.netns.clone(), owed);
            network.records.store(&record)?;
            let attached = builtin.attach(id, &request.netns, &mappings).and_then(|attachment| {
                record.attachment = Some(attachment.clone());
                network.records.store(&record).map(|()| attachment)
            });
            if attached.is_err()
                && let Err(error) = network.settle_builtin(&record)
            {
                tracing::warn!(%error, sandbox_id = %id, "a failed attach is not undone yet");
            }
            attached
        })
        .await
    }

    async fn attach_chain(
        self: &Arc<Self>,
        request: &AttachRequest,
        list: &NetworkList,
    ) -> Result<Attachment, NetworkError> {
        let runtime = Runtime {
            container_id: request.sandbox_id.to_string(),
            netns: request.netns.clone(),
            arguments: arguments(request)?,
            capabilities: capability_arguments(request),
        };
        let chain = self.chain(list, &runtime, self.options.add_deadline);
        // Before anything is owed: what cannot begin needs no undoing.
        chain.find_programs("ADD")?;
        let owed = Owed::Cni {
            conf: list.raw.clone(),
            arguments: runtime.arguments.clone(),
            capabilities: runtime.capabilities.clone(),
        };
        let mut record = Record::new(request.sandbox_id.clone(), request.netns.clone(), owed);
        let (network, first) = (Arc::clone(self), record.clone());
        blocking("attach", move || {
            namespace::setup_loopback(&first.netns)?;
            network.records.store(&first)
        })
        .await?;
        let failure = match chain.add().await {
            Ok(result) => match self.seal(&mut record, list, &runtime, &result).await {
                Ok(attachment) => return Ok(attachment),
                Err(error) => cni::ChainFailure { error, result: Some(result) },
            },
            Err(failure) => failure,
        };
        self.undo(&record, list, &runtime, failure.result.as_ref()).await;
        Err(failure.error)
    }

    /// Writes down what ADD gave.
    async fn seal(
        self: &Arc<Self>,
        record: &mut Record,
        list: &NetworkList,
        runtime: &Runtime,
        result: &Value,
    ) -> Result<Attachment, NetworkError> {
        let ips = cni::pod_addresses(result);
        let network = list.name.clone();
        if ips.is_empty() {
            let sandbox_id = record.sandbox_id.clone();
            return Err(NetworkError::NoAddress { network, sandbox_id });
        }
        let attachment = Attachment { ips, network, builtin: false, result: result.clone() };
        record.attachment = Some(attachment.clone());
        let (network, record) = (Arc::clone(self), record.clone());
        let (list, runtime) = (list.clone(), runtime.clone());
        blocking("attach", move || {
            network.results.store(&list, &runtime, &attachment.result)?;
            network.records.store(&record)?;
            Ok(attachment)
        })
        .await
    }

    /// Runs DEL after a failed ADD. Where that fails too, the debt stays.
    async fn undo(
        self: &Arc<Self>,
        record: &Record,
        list: &NetworkList,
        runtime: &Runtime,
        result: Option<&Value>,
    ) {
        let deleted = self.chain(list, runtime, self.options.del_deadline).delete(result).await;
        let (network, name) = (Arc::clone(self), list.name.clone());
        let id = record.sandbox_id.clone();
        let forgotten = match deleted {
            Ok(()) => blocking("attach", move || network.forget(Some(&name), &id)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            let id = &record.sandbox_id;
            tracing::warn!(%error, sandbox_id = %id, "a failed attach is not undone yet");
        }
    }

    /// Pays what a sandbox owes. `netns` replaces the record's namespace; an empty path
    /// means that it is gone.
    async fn settle(
        self: Arc<Self>,
        id: SandboxId,
        netns: Option<PathBuf>,
    ) -> Result<(), NetworkError> {
        let mut record = match self.load(id.clone()).await {
            Ok(Some(record)) => record,
            // A crash may have left a file aside.
            Ok(None) => return blocking("detach", move || self.forget(None, &id)).await,
            Err(damage @ NetworkError::DamagedRecord { .. }) => {
                self.salvage(id.clone(), &damage).await?
            }
            Err(error) => return Err(error),
        };
        if let Some(netns) = netns {
            record.netns = netns;
        }
        let chain = match self.chain_of(&record) {
            Ok(chain) => chain,
            Err(damage) => {
                record = self.salvage(id, &damage).await?;
                self.chain_of(&record)?
            }
        };
        let Some((list, runtime)) = chain else {
            return blocking("detach", move || self.settle_builtin(&record)).await;
        };
        let result = record.attachment.as_ref().map(|attachment| &attachment.result);
        self.chain(&list, &runtime, self.options.del_deadline).delete(result).await?;
        blocking("detach", move || self.forget(Some(&list.name), &record.sandbox_id)).await
    }

    /// Makes up the record of a sandbox whose own is damaged: what the built-in network
    /// holds is found by the id, and the present chain is asked to let go of it.
    async fn salvage(
        self: &Arc<Self>,
        id: SandboxId,
        damage: &NetworkError,
    ) -> Result<Record, NetworkError> {
        tracing::warn!(error = %damage, sandbox_id = %id, "taking the network away without record");
        let network = Arc::clone(self);
        blocking("detach", move || {
            network.detach_builtin(&id, None)?;
            let loaded = network.directory.current(Duration::ZERO);
            let owed = match &loaded.selected {
                None => Owed::Builtin { port_mappings: Vec::new() },
                Some((_, list)) => Owed::Cni {
                    conf: list.raw.clone(),
                    arguments: minimal_arguments(&id),
                    capabilities: Map::new(),
                },
            };
            Ok(Record::new(id, PathBuf::new(), owed))
        })
        .await
    }

    fn settle_builtin(&self, record: &Record) -> Result<(), NetworkError> {
        self.detach_builtin(&record.sandbox_id, record.builtin_address())?;
        self.forget(None, &record.sandbox_id)
    }

    /// Takes the built-in network away, also where it has been switched off since.
    fn detach_builtin(
        &self,
        id: &SandboxId,
        address: Option<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        match &self.builtin {
            Some(builtin) => builtin.detach(id, address),
            None => {
                Builtin::new(&BuiltinOptions::default(), &self.options.ipam_dir).detach(id, address)
            }
        }
    }

    fn forget(&self, network: Option<&str>, id: &SandboxId) -> Result<(), NetworkError> {
        if let Some(network) = network {
            self.results.remove(network, id.as_str())?;
        }
        self.records.remove(id)
    }

    fn recover_builtin(&self, known: &[SandboxId]) -> Result<(), NetworkError> {
        let Some(builtin) = &self.builtin else { return Ok(()) };
        let mut pods = Vec::new();
        for id in known {
            let mut pod = KnownPod { id: id.clone(), address: None, port_mappings: Vec::new() };
            match self.records.load(id) {
                Ok(Some(Record { network: Owed::Cni { .. }, .. })) => continue,
                Ok(Some(record)) => {
                    pod.address = record.builtin_address();
                    if let Owed::Builtin { port_mappings } = record.network {
                        pod.port_mappings = port_mappings;
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, sandbox_id = %id, "host ports are not known"),
            }
            pods.push(pod);
        }
        builtin.recover(&pods)
    }

    async fn load(self: &Arc<Self>, id: SandboxId) -> Result<Option<Record>, NetworkError> {
        let network = Arc::clone(self);
        blocking("records", move || network.records.load(&id)).await
    }

    /// Returns the chain of a record, or `None` for the built-in network.
    fn chain_of(&self, record: &Record) -> Result<Option<(NetworkList, Runtime)>, NetworkError> {
        let Owed::Cni { conf, arguments, capabilities } = &record.network else { return Ok(None) };
        let list = NetworkList::from_value(conf.clone()).map_err(|problem| {
            let path = self.records.dir().join(record.sandbox_id.as_str());
            NetworkError::DamagedRecord { path, source: serde::de::Error::custom(problem) }
        })?;
        let runtime = Runtime {
            container_id: record.sandbox_id.to_string(),
            netns: record.netns.clone(),
            arguments: arguments.clone(),
            capabilities: capabilities.clone(),
        };
        Ok(Some((list, runtime)))
    }

    fn chain<'a>(
        &'a self,
        list: &'a NetworkList,
        runtime: &'a Runtime,
        limit: Duration,
    ) -> Chain<'a> {
        Chain { list, runtime, bin_dirs: &self.options.bin_dirs, limit }
    }

    fn look(&self) -> NetworkStatus {
        let loaded = self.directory.current(STATUS_AGE);
        let config = self.summary(&loaded);
        match (&loaded.selected, &self.builtin) {
            (Some((file, list)), _) => match cni::find_programs(list, &self.options.bin_dirs) {
                Err((plugin, failure)) => {
                    let file = file.display();
                    not_ready(format!("{file}: plugin \"{plugin}\": {failure}"), config)
                }
                Ok(()) => ready(config),
            },
            (None, Some(_)) if loaded.is_blank() => ready(config),
            _ => not_ready(self.missing(&loaded), config),
        }
    }

    fn missing(&self, loaded: &Loaded) -> String {
        if let Some(problem) = &loaded.unreadable {
            return format!("CNI configuration cannot be read: {problem}");
        }
        match loaded.invalid.first() {
            Some((file, problem)) => format!("{} is not valid: {problem}", file.display()),
            None => format!("no CNI configuration in {}", self.directory.path().display()),
        }
    }

    fn summary(&self, loaded: &Loaded) -> Value {
        let invalid: Vec<_> = loaded
            .invalid
            .iter()
            .map(|(file, problem)| json!({ "file": file, "problem": problem }))
            .collect();
        let builtin = self.builtin.as_ref().filter(|_| loaded.is_blank()).map(Builtin::name);
        json!({
            "confDir": self.options.conf_dir,
            "binDirs": self.options.bin_dirs,
            "file": loaded.selected.as_ref().map(|(file, _)| file),
            "config": loaded.selected.as_ref().map(|(_, list)| &list.raw),
            "builtinNetwork": builtin,
            "invalid": invalid,
        })
    }
}

fn ready(config: Value) -> NetworkStatus {
    NetworkStatus { ready: true, reason: String::new(), message: String::new(), config }
}

fn not_ready(message: String, config: Value) -> NetworkStatus {
    NetworkStatus { ready: false, reason: NOT_READY.to_owned(), message, config }
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
