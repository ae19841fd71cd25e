//! The daemon's parts, made of its settings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use cgroups::Cgroups;
use config::{CgroupDriver, Config};
use cri_server::{Gate, Info, Server};
use images::{Images, ImagesOptions};
use monitor_client::{MonitorProgram, Monitors};
use network::{BuiltinOptions, Network, NetworkOptions};
use pods::{Handler, Options, Pods, Services};
use snapshots::Snapshots;
use tracing::info;
use types::Profile;

/// The daemon's parts.
pub(crate) struct Daemon {
    pub(crate) pods: Pods,
    pub(crate) server: Server,
}

impl Daemon {
    /// Opens everything that the settings name. Nothing of a pod is touched yet.
    pub(crate) async fn open(settings: &Config, gate: Gate) -> anyhow::Result<Self> {
        let boot_id = state::boot_id()?;
        if state::prepare_state_dir(&settings.state, "pods", &boot_id)? {
            info!("the machine was restarted: live state of the last boot is thrown away");
        }
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
            snapshots,
            network: network.clone(),
            cgroups,
            monitors: Arc::new(monitors),
        };
        let options = Options {
            root: settings.root.clone(),
            state: settings.state.clone(),
            boot_id,
            cgroup_parent,
            netns_dir: settings.network.netns_dir.clone(),
            max_log_line_bytes: settings.containers.max_log_line_bytes,
            shm_size_bytes: settings.containers.shm_size_bytes,
            unset_seccomp: profile(&settings.containers.unset_seccomp_profile),
            cdi_spec_dirs: settings.containers.cdi_spec_dirs.clone(),
            rlimits: pods::container_rlimits(&settings.containers.rlimits)?,
            handlers: handlers(settings).await,
        };
        let pods = Pods::open(options, services)?;
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: verbose_config(settings)?,
        };
        let server = Server::new(pods.clone(), images, network, gate, info);
        Ok(Self { pods, server })
    }
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

fn image_options(settings: &Config) -> ImagesOptions {
    ImagesOptions {
        certs_dirs: settings.images.certs_dirs.clone(),
        max_parallel_layers: settings.images.max_parallel_layers,
        pinned: settings.images.pinned.clone(),
        ..ImagesOptions::new(settings.root.join("images"))
    }
}

fn network_options(settings: &Config) -> anyhow::Result<NetworkOptions> {
    let network = &settings.network;
    let subnet =
        network.subnet.parse().context("the configuration's network.subnet is not valid")?;
    let deadline = Duration::from_secs(network.plugin_timeout_s);
    Ok(NetworkOptions {
        conf_dir: network.conf_dir.clone(),
        bin_dirs: network.bin_dirs.clone(),
        builtin: network.builtin.then(|| BuiltinOptions {
            bridge: network.bridge.clone(),
            table: network.bridge.clone(),
            subnet,
            ..BuiltinOptions::default()
        }),
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
