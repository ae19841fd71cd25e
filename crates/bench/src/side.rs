//! One of the runtimes that are compared: what is asked of it, and how long it takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerFilter, Mount};
use e2e::catalog::{BUSYBOX, Catalog};
use e2e::context::{Context, Pod};
use e2e::runtime::{Control, Kind, Runtime};
use testing::{Containerd, Daemon, DaemonOptions, Ground};

/// The arguments of a process that does nothing for as long as it is let.
const WAITING: [&str; 2] = ["sleep", "1000000"];

/// A runtime and what it runs on.
pub struct Side {
    context: Context,
    /// What the command lines of all its processes have.
    mark: PathBuf,
    /// The same of the daemon's alone.
    daemon_mark: PathBuf,
}

/// How long the calls of a pod's making or ending took, in their order.
pub type Parts<const N: usize> = [Duration; N];

impl Side {
    /// Starts ours, with the network that containerd has too.
    pub async fn corten(catalog: &Arc<Catalog>, program: &Path) -> Result<Self> {
        let ground = Arc::new(Ground::new()?);
        let network = testing::write_network(&ground, &ground.make("plugins")?)?;
        let options = DaemonOptions {
            program: program.to_owned(),
            certs_dir: catalog.registry.certs_dir().to_owned(),
            cni_conf_dir: Some(network),
            quiet: true,
            ..DaemonOptions::default()
        };
        let control = Control::Corten(Box::new(Daemon::start(&ground, "corten", options)?));
        Self::new(Kind::Corten, ground, catalog, control, "corten").await
    }

    /// Starts Debian's containerd.
    pub async fn containerd(catalog: &Arc<Catalog>) -> Result<Self> {
        let ground = Arc::new(Ground::new()?);
        let containerd = Containerd::start(&ground, catalog.registry.certs_dir())?;
        let control = Control::Containerd(containerd);
        Self::new(Kind::Containerd, ground, catalog, control, "containerd").await
    }

    async fn new(
        kind: Kind,
        ground: Arc<Ground>,
        catalog: &Arc<Catalog>,
        control: Control,
        directory: &str,
    ) -> Result<Self> {
        let mark = ground.path().join(directory);
        let daemon_mark = mark.join("config.toml");
        let runtime = Runtime::connect(kind, ground, Arc::clone(catalog), control).await?;
        let context = Context::new(Arc::new(runtime), "bench");
        context.pull(BUSYBOX).await?;
        Ok(Self { context, mark, daemon_mark })
    }

    /// RunPodSandbox, CreateContainer, StartContainer.
    pub async fn up(&self) -> Result<(Pod, String, Parts<3>)> {
        let (sandbox, container) = (self.context.pod()?, self.context.command(&WAITING));
        let mut clock = Clock::new();
        let pod = self.context.run_pod(sandbox).await?;
        let run = clock.lap();
        let id = self.context.create(&pod, &container).await?;
        let create = clock.lap();
        self.context.start(&id).await?;
        Ok((pod, id, [run, create, clock.lap()]))
    }

    /// StopContainer(0), RemoveContainer, StopPodSandbox, RemovePodSandbox.
    pub async fn down(&self, pod: &Pod, id: &str) -> Result<Parts<4>> {
        let mut clock = Clock::new();
        self.context.stop(id, 0).await?;
        let stop = clock.lap();
        self.context.remove(id).await?;
        let remove = clock.lap();
        self.context.stop_pod(&pod.id).await?;
        let stop_pod = clock.lap();
        self.context.remove_pod(&pod.id).await?;
        Ok([stop, remove, stop_pod, clock.lap()])
    }

    /// ExecSync of `true`.
    pub async fn exec(&self, id: &str) -> Result<Duration> {
        let mut clock = Clock::new();
        let answer = self.context.exec_for(id, &["true"], 10).await?;
        ensure!(answer.exit_code == 0, "true ended with {}", answer.exit_code);
        Ok(clock.lap())
    }

    /// ListContainers, of which there must be `count`.
    pub async fn list(&self, count: usize) -> Result<Duration> {
        let mut clock = Clock::new();
        let found = self.context.containers(ContainerFilter::default()).await?;
        let took = clock.lap();
        ensure!(found.len() == count, "{} containers are listed, not {count}", found.len());
        Ok(took)
    }

    /// ContainerStatus.
    pub async fn status(&self, id: &str) -> Result<Duration> {
        let mut clock = Clock::new();
        self.context.status(id).await?;
        Ok(clock.lap())
    }

    /// A container writes a file of the host's to its log. Gives how long it ran.
    pub async fn log(&self, lines: &Path) -> Result<Duration> {
        let pod = self.context.plain_pod().await?;
        let mut config = self.context.command(&["cat", "/lines"]);
        config.mounts.push(Mount {
            host_path: lines.display().to_string(),
            container_path: "/lines".to_owned(),
            readonly: true,
            ..Mount::default()
        });
        let id = self.context.run(&pod, &config).await?;
        let status = self.context.exited(&id).await?;
        ensure!(status.exit_code == 0, "cat ended with {}", status.exit_code);
        let written = std::fs::metadata(&status.log_path).context("there is no log")?.len();
        ensure!(written > std::fs::metadata(lines)?.len(), "the log has {written} bytes only");
        self.down(&pod, &id).await?;
        std::fs::remove_file(&status.log_path).context("failed to remove the log")?;
        let ran = status.finished_at.saturating_sub(status.started_at);
        Ok(Duration::from_nanos(u64::try_from(ran).context("it ended before it began")?))
    }

    /// The daemon's memory, in MiB.
    pub fn daemon_memory(&self) -> Result<f64> {
        memory(&self.daemon_mark)
    }

    /// The memory of the daemon and of all that it keeps running beside containers, in MiB.
    pub fn memory(&self) -> Result<f64> {
        memory(&self.mark)
    }
}

/// The proportional set size of the processes whose arguments hold a path, in MiB.
fn memory(mark: &Path) -> Result<f64> {
    let pids = e2e::process::all_with_argument(&mark.display().to_string())?;
    ensure!(!pids.is_empty(), "no process has the argument {}", mark.display());
    let sizes = pids.iter().map(|pid| {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
        size.with_context(|| format!("{path} has no size"))?.parse::<f64>().context("no number")
    });
    Ok(sizes.sum::<Result<f64>>()? / 1024.0)
}

/// Tells how long it is since it was last asked.
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let took = self.0.elapsed();
        self.0 = Instant::now();
        took
    }
}
