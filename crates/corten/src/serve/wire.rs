//! The daemon's parts, made of its settings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use cgroups::Cgroups;
use config::{CgroupDriver, Config};
use cri_server::{Gate, Info, RpcFigures, Server};
use images::{Images, ImagesOptions};
use monitor_client::{MonitorProgram, Monitors};
use network::{BuiltinOptions, Network, NetworkOptions, Subnet};
use pods::{Handler, Options, Pods, Services};
use snapshots::Snapshots;
use stats::Stats;
use streaming::server::{ServerOptions, StreamingServer, TlsFiles};
use tokio::sync::Semaphore;
use tracing::info;
use types::Profile;

use super::{figures::Figures, metrics::MetricsServer};

/// The daemon's parts.
pub(crate) struct Daemon {
    /// Whether this is the first daemon since the machine started.
    pub(crate) is_new_boot: bool,
    pub(crate) images: Arc<Images>,
    pub(crate) pods: Pods,
    pub(crate) network: Arc<Network>,
    pub(crate) server: Server,
    pub(crate) streaming: StreamingServer,
    pub(super) metrics: Option<MetricsServer>,
}

impl Daemon {
    /// Opens everything that the settings name. Nothing of a pod is touched yet.
    pub(crate) async fn open(settings: &Config, gate: Gate) -> anyhow::Result<Self> {
        let boot_id = state::boot_id()?;
        let is_new_boot = mark_boot(&settings.root, &boot_id)?;
        if state::prepare_state_dir(&settings.state, "pods", &boot_id)? {
            info!("the machine was restarted: live state of the last boot is thrown away");
        }
        close_dirs(settings)?;
        let root = settings.root.join("snapshots");
        let snapshots = Snapshots::open(&root).context("failed to open the root file systems")?;
        let images = Images::open(image_options(settings), snapshots.clone())
            .context("failed to open the images")?;
        let network =
            Network::new(network_options(settings)?).context("failed to set up the pod network")?;
        let program = monitor_program(&settings.monitor.program)?;
        let cgroups = Arc::new(cgroups(settings, &program).await?);
        let monitors = Monitors::new(MonitorProgram::load(&program)?);
        let cgroup_parent = cgroups
            .top(settings.cgroups.parent())
            .context("the configuration's cgroups.parent is not valid")?;
        info!(cgroups = ?cgroups.mode(), driver = cgroups.driver().name(), monitor = %program.display(), "opened");
        let services = Services {
            images: images.clone(),
            snapshots: snapshots.clone(),
            network: network.clone(),
            cgroups: cgroups.clone(),
            monitors: Arc::new(monitors),
        };
        let options = Options {
            root: settings.root.clone(),
            state: settings.state.clone(),
            boot_id,
            cgroup_parent,
            netns_dir: settings.network.netns_dir.clone(),
            max_log_line_bytes: settings.containers.max_log_line_bytes,
            max_log_bytes: log_bytes(&settings.containers)?,
            max_log_files: settings.containers.max_log_files,
            shm_size_bytes: settings.containers.shm_size_bytes,
            leave_orphaned_execs: settings.streaming.orphaned_execs == config::OrphanedExecs::Leave,
            ignores_inactive_selinux: settings.containers.ignore_inactive_selinux,
            unset_seccomp: profile(&settings.containers.unset_seccomp_profile),
            cdi_spec_dirs: settings.containers.cdi_spec_dirs.clone(),
            rlimits: pods::container_rlimits(&settings.containers.rlimits)?,
            handlers: handlers(settings).await,
            sandbox_processes: !settings.server.containerd_socket.is_empty(),
        };
        let pods = Pods::open(options, services)?;
        let metrics = MetricsServer::bind(&settings.metrics)
            .await
            .context("failed to open the endpoint for metrics")?;
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: verbose_config(settings)?,
            dirs: vec![settings.root.clone(), settings.state.clone()],
            metrics: metrics.as_ref().map(|server| server.address().to_owned()),
        };
        let streaming = StreamingServer::bind(streaming_options(&settings.streaming)?)
            .await
            .context("failed to open the streaming server")?;
        let addresses = streaming.addresses();
        let stats = Stats::new(pods.clone(), cgroups, snapshots);
        let server = Server::new(
            pods.clone(),
            images.clone(),
            network.clone(),
            stats,
            addresses,
            gate,
            info,
        );
        Ok(Self { is_new_boot, images, pods, network, server, streaming, metrics })
    }

    /// Where the figures of the daemon come from; calls are counted by who takes them.
    pub(super) fn figures(&self, rpcs: Arc<RpcFigures>) -> Figures {
        Figures {
            pods: self.pods.clone(),
            images: self.images.clone(),
            network: self.network.clone(),
            rpcs,
            sessions: self.streaming.counts(),
            recovered: OnceLock::new(),
            asking: Arc::new(Semaphore::new(1)),
        }
    }
}

/// What is below the root and below the state directory, and nobody else's business.
const CLOSED: [&str; 6] = ["images", "snapshots", "sandboxes", "containers", "volumes", "pods"];

/// Closes our directories to others. The root and the state directory themselves are what the
/// administrator says, and are made closed.
fn close_dirs(settings: &Config) -> anyhow::Result<()> {
    for dir in [&settings.root, &settings.state] {
        for name in CLOSED {
            let dir = dir.join(name);
            let closed = state::close_dir(&dir);
            if closed.with_context(|| format!("failed to close {} to others", dir.display()))? {
                tracing::warn!(directory = %dir.display(), "it was open to others, and is closed");
            }
        }
    }
    Ok(())
}

/// Remembers below the root, which outlives the machine's restart, for which boot it was
/// opened. Returns whether that is another one than last time: then what lies there may
/// have met a power cut.
fn mark_boot(root: &Path, boot_id: &str) -> anyhow::Result<bool> {
    let mark = root.join("boot-id");
    let before = std::fs::read_to_string(&mark).unwrap_or_default();
    if before.trim() == boot_id {
        return Ok(false);
    }
    std::fs::create_dir_all(root).context("failed to make the root directory")?;
    if let Err(error) = std::fs::write(&mark, boot_id) {
        // A full disk costs another look at the next start, and not the start.
        tracing::warn!(%error, "the boot was not marked");
    }
    Ok(true)
}

/// The size of a log at which it is put aside: none, or one that a few lines do not reach.
fn log_bytes(containers: &config::Containers) -> anyhow::Result<u64> {
    const LEAST: u64 = 64 << 10;
    let asked = containers.max_log_bytes;
    anyhow::ensure!(
        asked == 0 || asked >= LEAST.max(containers.max_log_line_bytes as u64 * 2),
        "the configuration's containers.max_log_bytes is too small: 0 is for none, otherwise at \
         least {LEAST} and two of the longest lines"
    );
    Ok(asked)
}

/// The certificate, its key and the roots of clients that a section of the settings names.
pub(super) fn tls_files(
    section: &str,
    [certificate, key, client_roots]: [&PathBuf; 3],
) -> anyhow::Result<Option<TlsFiles>> {
    let given = |path: &PathBuf| (path != Path::new("")).then(|| path.clone());
    match (given(certificate), given(key)) {
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsFiles { certificate, key, client_roots: given(client_roots) }))
        }
        (None, None) => Ok(None),
        _ => anyhow::bail!(
            "the configuration's {section}.cert_file and {section}.key_file go together"
        ),
    }
}

fn streaming_options(streaming: &config::Streaming) -> anyhow::Result<ServerOptions> {
    let files = [&streaming.cert_file, &streaming.key_file, &streaming.client_ca_file];
    let tls = tls_files("streaming", files)?;
    Ok(ServerOptions {
        listen: streaming.listen,
        advertise: (!streaming.advertise.is_empty()).then(|| streaming.advertise.clone()),
        tls,
        idle_timeout: Duration::from_secs(streaming.idle_timeout_s),
        session_timeout: Duration::from_secs(streaming.session_timeout_s),
        max_sessions: streaming.max_sessions,
    })
}

/// The machine's cgroups, by the driver that is configured.
async fn cgroups(settings: &Config, holder: &Path) -> anyhow::Result<Cgroups> {
    let cgroups = Cgroups::detect().context("failed to find the control groups")?;
    match settings.cgroups.driver {
        CgroupDriver::Cgroupfs => Ok(cgroups),
        CgroupDriver::Systemd => cgroups
            .with_systemd(holder.to_owned())
            .await
            .context("failed to use the systemd cgroup driver"),
    }
}

pub(crate) fn image_options(settings: &Config) -> ImagesOptions {
    let images = &settings.images;
    ImagesOptions {
        certs_dirs: images.certs_dirs.clone(),
        registries_conf: images.registries_conf.clone(),
        policy: images.policy.clone(),
        max_parallel_layers: images.max_parallel_layers,
        abandoned_timeout: Duration::from_secs(images.abandoned_pull_timeout_s),
        keep_blobs: images.keep_blobs,
        resume_min_bytes: images.resume_min_bytes,
        content_dirs: images.content_dirs.clone(),
        reserve_bytes: images.reserve_bytes,
        pinned: images.pinned.clone(),
        network: images::NetworkOptions {
            dial_timeout: Duration::from_secs(images.dial_timeout_s),
            mirror_dial_timeout: Duration::from_secs(images.mirror_dial_timeout_s),
            progress_timeout: Duration::from_secs(images.progress_timeout_s),
            max_downloads: images.max_parallel_downloads,
            max_downloads_per_registry: images.max_parallel_per_registry,
            range_min_bytes: images.range_min_bytes,
            ..images::NetworkOptions::default()
        },
        ..ImagesOptions::new(settings.root.join("images"))
    }
}

pub(crate) fn network_options(settings: &Config) -> anyhow::Result<NetworkOptions> {
    let network = &settings.network;
    let subnets = subnets(network)?;
    let deadline = Duration::from_secs(network.plugin_timeout_s);
    Ok(NetworkOptions {
        conf_dir: network.conf_dir.clone(),
        handler_conf_dirs: network.handler_conf_dirs.clone(),
        network: network.network.clone(),
        bin_dirs: network.bin_dirs.clone(),
        builtin: network.builtin.then(|| BuiltinOptions {
            bridge: network.bridge.clone(),
            subnets,
            ..BuiltinOptions::default()
        }),
        in_process: network.in_process,
        table: network.bridge.clone(),
        ip_preference: network.ip_preference,
        status_grace: Duration::from_secs(network.status_grace_s),
        add_deadline: deadline,
        del_deadline: deadline,
        ..NetworkOptions::under(&settings.root)
    })
}

/// A profile as the settings name it; what they may say is checked when they are read.
fn profile(text: &str) -> Profile {
    match text {
        "runtime/default" => Profile::RuntimeDefault,
        text => match text.strip_prefix("localhost/") {
            Some(path) => Profile::Localhost(path.to_owned()),
            None => Profile::Unconfined,
        },
    }
}

/// How long a handler's program has where the settings do not say.
const HANDLER_TIMEOUT_S: u64 = 30;

/// Asks the programs of all handlers at once what they can do.
async fn handlers(settings: &Config) -> BTreeMap<String, Handler> {
    let mut asked = tokio::task::JoinSet::new();
    for (name, handler) in settings.handlers.clone() {
        let config::Handler { program, options, annotations, timeout_s } = handler;
        let seconds = if timeout_s == 0 { HANDLER_TIMEOUT_S } else { timeout_s };
        let timeout = Duration::from_secs(seconds);
        asked.spawn(async move {
            (name.clone(), Handler::ask(&name, program, options, annotations, timeout).await)
        });
    }
    asked.join_all().await.into_iter().collect()
}

/// The built-in network's subnets: one, or one of each family.
pub(crate) fn subnets(network: &config::Network) -> anyhow::Result<Vec<Subnet>> {
    let named = [("subnet", &network.subnet), ("subnet6", &network.subnet6)];
    let given = named.into_iter().filter(|(_, text)| !text.is_empty());
    given
        .map(|(key, text)| {
            let subnet = Subnet::for_pods(text)
                .with_context(|| format!("the configuration's network.{key} is not valid"))?;
            let right = subnet.is_ipv6() == (key == "subnet6");
            anyhow::ensure!(right, "network.{key} {text} is of the other family");
            Ok(subnet)
        })
        .collect()
}

/// The monitor's program: as configured, or beside the daemon's own.
fn monitor_program(configured: &Path) -> anyhow::Result<PathBuf> {
    if configured != Path::new("") {
        return Ok(configured.to_owned());
    }
    let own = std::env::current_exe().context("failed to find the daemon's own program")?;
    Ok(own.with_file_name("corten-monitor"))
}

/// The settings as verbose Status tells them; tools look for `stateDir` and `rootDir`.
fn verbose_config(settings: &Config) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(settings).context("failed to describe the settings")?;
    if let Some(object) = value.as_object_mut() {
        object.insert("stateDir".to_owned(), serde_json::json!(settings.state));
        object.insert("rootDir".to_owned(), serde_json::json!(settings.root));
    }
    Ok(value)
}
