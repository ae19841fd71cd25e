//! `corten serve`: the daemon. Wires the crates up, recovers, serves, drains.
//!
//! The order is what counts: the root directory is locked before anything in it is
//! read; the sockets open when Version and ImageFsInfo can answer; all other calls
//! wait at a gate until every pod is taken up.

mod calls;
pub(crate) mod config;
mod figures;
pub(crate) mod fsck;
mod metrics;
mod notify;
mod wire;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use cri_server::{Endpoint, GateKeeper, RpcFigures};
use images::Images;
use rustix::fs::Mode;
use state::RootLock;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tonic::{service::Routes, transport::Server as Transport};
use tracing::{error, info, warn};

use self::calls::{Calls, Connection};
use self::wire::Daemon;

/// How long what is being done with pods may take before a successor is let in.
const RETIRE_PATIENCE: Duration = Duration::from_secs(5);

/// How long clients may take to hang up once all calls are answered. What they were told is on its
/// way by then: one that takes longer is not there.
const HANG_UP: Duration = Duration::from_secs(3);

/// How many calls one connection may have in flight: the kubelet has one connection a service.
const MAX_CALLS_A_CONNECTION: u32 = 4096;

/// Arguments of `corten serve`.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where images, root file systems and records are kept.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where live state is kept, until the machine restarts.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The socket of RuntimeService, and of ImageService unless it has one of its own.
    #[arg(long, value_name = "unix://PATH")]
    pub listen: Option<String>,
    /// A socket of its own for ImageService.
    #[arg(long, value_name = "unix://PATH")]
    pub image_listen: Option<String>,
    /// How much is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Nothing that is made is writable by others.
const UMASK: u32 = 0o022;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Fails where it cannot start, and says what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let settings = settings(args)?;
    // Before there are threads. Files of containers have exactly their modes, whoever starts us.
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    telemetry::init(&settings.log.level, settings.log.format == ::config::LogFormat::Json)?;
    let lock = RootLock::take(&settings.root)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("corten")
        .build()
        .context("failed to start the async runtime")?;
    let result = runtime.block_on(serve(settings, lock));
    // What still runs belongs to calls that the drain has given up on.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(drop)
}

fn settings(args: Args) -> anyhow::Result<::config::Config> {
    let Args { config: file, root, state, listen, image_listen, log_level } = args;
    let mut settings = match &file {
        Some(path) => ::config::load(path, true)?,
        None => ::config::load(::config::DEFAULT_PATH.as_ref(), false)?,
    };
    if let Some(root) = root {
        settings.root = std::path::absolute(&root).context("--root is not a path")?;
    }
    if let Some(state) = state {
        settings.state = std::path::absolute(&state).context("--state is not a path")?;
    }
    settings.server.listen = listen.unwrap_or(settings.server.listen);
    settings.server.image_listen = image_listen.unwrap_or(settings.server.image_listen);
    settings.log.level = log_level.unwrap_or(settings.log.level);
    Ok(settings)
}

/// Serves until told to stop. Gives the root's lock back to be held until nothing runs any more,
/// unless a successor was let in.
async fn serve(settings: ::config::Config, lock: RootLock) -> anyhow::Result<Option<RootLock>> {
    let mut endpoint = Endpoint::parse(&settings.server.listen)?;
    let mut image_endpoint = match settings.server.image_listen.as_str() {
        "" => None,
        same if same == settings.server.listen => None,
        other => Some(Endpoint::parse(other)?),
    };
    let mut containerd_endpoint = match settings.server.containerd_socket.as_str() {
        "" => None,
        path => Some(Endpoint::parse(path)?).filter(|other| other.path() != endpoint.path()),
    };
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
    let (keeper, gate) = GateKeeper::new();
    let daemon = Daemon::open(&settings, gate).await?;

    let (stop, stopped) = watch::channel(false);
    let rpcs = RpcFigures::new();
    let doors = Doors {
        calls: Calls::new(rpcs.clone()),
        stopped: stopped.clone(),
        cut: watch::Sender::new(false),
    };
    let figures = Arc::new(daemon.figures(rpcs));
    let metrics = daemon.metrics.map(|server| {
        // Also while pods are taken up, which may take long.
        tokio::spawn(server.serve(figures.clone(), stopped.clone()))
    });
    let mut servers = JoinSet::new();
    let mut routes = daemon.server.runtime_routes(Routes::default());
    routes = daemon.server.containerd_routes(routes);
    if let Some(image_endpoint) = &mut image_endpoint {
        let listener = image_endpoint.listen()?;
        info!(socket = %image_endpoint.path().display(), "serving ImageService");
        servers.spawn(doors.answer(listener, daemon.server.image_routes(Routes::default())));
    } else {
        routes = daemon.server.image_routes(routes);
    }
    if let Some(listener) = containerd_endpoint.as_mut().and_then(listen_for_cadvisor) {
        let routes = daemon.server.containerd_routes(Routes::default());
        servers.spawn(doors.answer(listener, routes));
    }
    let listener = endpoint.listen()?;
    info!(socket = %endpoint.path().display(), version = env!("CARGO_PKG_VERSION"), "serving RuntimeService");
    servers.spawn(doors.answer(listener, routes));
    let streaming = tokio::spawn(daemon.streaming.serve(daemon.pods.clone(), stopped));

    if daemon.is_new_boot {
        verify(&daemon.images).await?;
    }
    let recovered = daemon.pods.recover().await.context("failed to read the records of pods")?;
    info!(
        ready = recovered.ready,
        not_ready = recovered.not_ready,
        undone = recovered.undone,
        damaged = recovered.damaged,
        "recovered"
    );
    let _ = figures.recovered.set(recovered);
    keeper.open();
    let pause = Duration::from_secs(settings.network.gc_interval_s);
    let mut background = JoinSet::new();
    let network = daemon.network.clone();
    background.spawn(async move { network.keep_rules().await });
    let network = daemon.network.clone();
    background.spawn(async move { network.watch_configuration().await });
    if !pause.is_zero() {
        let network = daemon.network.clone();
        background.spawn(async move { network.keep_clean(pause).await });
    }
    notify::tell("READY=1");

    tokio::select! {
        _ = terminate.recv() => info!("told to stop"),
        _ = interrupt.recv() => info!("interrupted"),
        Some(ended) = servers.join_next() => {
            ended.context("a server died")??;
            anyhow::bail!("a server ended before it was told to");
        }
    }
    notify::tell("STOPPING=1");
    stop.send_replace(true);
    // Streams without an end of their own would hold the drain up.
    daemon.pods.end_events();
    let patience = Duration::from_secs(settings.server.drain_timeout_s);
    let answered = doors.drain(servers, patience).await;
    let sessions = streaming.await.context("the streaming server died")?;
    if let Some(metrics) = metrics
        && metrics.await.is_err()
    {
        error!("the metrics server died");
    }
    let patience = Duration::from_secs(settings.streaming.drain_timeout_s);
    // A pull that goes on without its client still writes to the store.
    let is_busy = !answered || !daemon.images.pulls().is_empty();
    if sessions.count() == 0 || patience.is_zero() || is_busy {
        return Ok(Some(lock));
    }
    // What a successor makes is unknown here, and would be taken for garbage.
    background.shutdown().await;
    // From here on a successor may have the pods; this daemon has its sessions alone.
    if !daemon.pods.retire(RETIRE_PATIENCE).await {
        return Ok(Some(lock));
    }
    drop((endpoint, image_endpoint, containerd_endpoint, lock));
    info!(sessions = sessions.count(), "streaming sessions go on; a successor may start");
    if tokio::time::timeout(patience, sessions.ended()).await.is_err() {
        warn!(sessions = sessions.count(), "streaming sessions are cut off");
    }
    Ok(None)
}

/// Listens where cAdvisor dials. That is containerd's own path: where that runs, or where the
/// path cannot be had, pods are served all the same.
fn listen_for_cadvisor(endpoint: &mut Endpoint) -> Option<UnixListener> {
    match endpoint.listen() {
        Ok(listener) => {
            info!(socket = %endpoint.path().display(), "answering cAdvisor");
            Some(listener)
        }
        Err(error) => {
            let why = telemetry::chain(&error);
            warn!("cAdvisor is not answered on a socket of its own: {why}");
            None
        }
    }
}

/// After a restart of the machine, which may have been a power cut, images are listed only
/// when their layers were looked at.
async fn verify(images: &Arc<Images>) -> anyhow::Result<()> {
    let images = images.clone();
    let begun = std::time::Instant::now();
    let lost = tokio::task::spawn_blocking(move || images.verify()).await??;
    info!(lost, ms = begun.elapsed().as_millis(), "looked at all images after the restart");
    Ok(())
}

/// What all sockets share: the calls that come in by them, and what ends them.
struct Doors {
    calls: Calls,
    stopped: watch::Receiver<bool>,
    cut: watch::Sender<bool>,
}

impl Doors {
    /// Answers calls on a socket until told to stop; then those in flight.
    fn answer(
        &self,
        listener: UnixListener,
        routes: Routes,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
        let (service, cut) = (self.calls.of(routes.prepare()), self.cut.subscribe());
        // A client that cannot be accepted (too many open files) must not end the server.
        let incoming =
            UnixListenerStream::new(listener).filter_map(move |connection| match connection {
                Ok(socket) => {
                    let connection = Connection::new(socket, cut.clone());
                    Some(Ok::<_, std::io::Error>(authority::accept(connection)))
                }
                Err(error) => {
                    warn!(%error, "a connection was not accepted");
                    None
                }
            });
        let mut stopped = self.stopped.clone();
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let server = Transport::builder().max_concurrent_streams(MAX_CALLS_A_CONNECTION);
        async move {
            let serving = server.serve_with_incoming_shutdown(service, incoming, stop);
            serving.await.context("failed to serve")
        }
    }

    /// Waits for calls in flight, and cuts connections whose clients do not hang up after them.
    /// Work that is not done by then goes on being found on disk by the next daemon, which
    /// completes or undoes it. Tells whether all calls were answered.
    async fn drain(&self, mut servers: JoinSet<anyhow::Result<()>>, patience: Duration) -> bool {
        let all = async {
            while let Some(ended) = servers.join_next().await {
                if let Ok(Err(error)) = ended {
                    error!("{error:#}");
                }
            }
        };
        tokio::pin!(all);
        let answered = tokio::select! {
            () = &mut all => true,
            () = self.calls.none_for(HANG_UP.min(patience / 2)) => {
                info!("clients that do not hang up are cut off");
                self.cut.send_replace(true);
                // Each of them fails at once.
                tokio::time::timeout(patience, all).await.is_ok()
            }
            () = tokio::time::sleep(patience) => false,
        };
        if !answered {
            warn!(seconds = patience.as_secs(), "calls are still in flight: stopping all the same");
        } else {
            info!("all calls are answered: stopping");
        }
        answered
    }
}
