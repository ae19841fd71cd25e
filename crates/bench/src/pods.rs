//! The life of pods, of Corten and of Debian's containerd (or of another build of Corten) in
//! turn, beside the budgets: one run, so that both meet the same machine.
//!
//! Both have the network that kubeadm's users have (bridge, host-local, portmap); Corten runs
//! that chain in its own process. Memory is that of daemons, monitors and shims; containerd's
//! pause processes come on top of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::catalog::Catalog;
use futures_util::future::try_join_all;
use testing::{Containerd, Ground};

use crate::report::{Budget, Samples, heading, row};
use crate::side::Side;

/// How many clients ask at the same time.
const AT_ONCE: usize = 4;
/// How many pods stand while memory is measured.
const STANDING: usize = 30;
/// How many pods stand while lists are measured: a handful.
const LISTED: usize = 5;
/// How many calls of the quick kinds there are for each pod of a round.
const CALLS_A_ROUND: usize = 10;
/// How often the work of many clients is measured.
const BATCHES: usize = 3;
/// The size of the log that is written.
const LOG_BYTES: usize = 64 << 20;
/// The length of a log's lines.
const LINE_BYTES: usize = 128;

const MIB: f64 = 1024.0 * 1024.0;

/// Measures all and prints a table.
#[tokio::main(flavor = "current_thread")]
pub async fn run(program: &Path, beside: Option<&Path>, rounds: usize, pods: usize) -> Result<()> {
    let ground = Ground::new()?;
    let catalog = Arc::new(Catalog::build(&ground)?);
    let ours = Side::corten(&catalog, &built(program)?).await?;
    let (theirs, other) = match beside {
        Some(other) => (Side::corten(&catalog, &built(other)?).await?, "the other".to_owned()),
        None => {
            (Side::containerd(&catalog).await?, format!("containerd {}", Containerd::version()?))
        }
    };
    let sides = [ours, theirs];
    println!("medians of {rounds} rounds, {pods} pods for rates, both runtimes in turn");
    heading([&format!("corten {}", env!("CARGO_PKG_VERSION")), &other]);
    // A node has pods: what is made with the first one, and goes with the last, is not measured.
    let mut first = Vec::new();
    for side in &sides {
        first.push(stand(side, 1).await?);
    }
    let lives = one_by_one(&sides, rounds).await?;
    lives.print();
    for (side, pods) in sides.iter().zip(first) {
        fall(side, pods).await?;
    }
    quick_calls(&sides, rounds * CALLS_A_ROUND).await?;
    many_pods(&sides, pods).await?;
    logs(&sides, &ground).await?;
    memory(&sides).await
}

fn built(program: &Path) -> Result<PathBuf> {
    let missing = || format!("{} is not built: run `make build`", program.display());
    program.canonicalize().with_context(missing)
}

/// The times of pods' making and ending.
#[derive(Default)]
struct Lives {
    up: Samples,
    up_parts: [Samples; 3],
    down: Samples,
    down_parts: [Samples; 4],
}

impl Lives {
    fn print(&self) {
        row("pod up", "ms", &self.up, Budget::AtMost(10.0));
        let titles = ["  RunPodSandbox", "  CreateContainer", "  StartContainer"];
        for (title, samples) in titles.iter().zip(&self.up_parts) {
            row(title, "ms", samples, Budget::None);
        }
        row("pod down", "ms", &self.down, Budget::AtMost(15.0));
        let titles =
            ["  StopContainer(0)", "  RemoveContainer", "  StopPodSandbox", "  RemovePodSandbox"];
        for (title, samples) in titles.iter().zip(&self.down_parts) {
            row(title, "ms", samples, Budget::None);
        }
    }
}

async fn one_by_one(sides: &[Side; 2], rounds: usize) -> Result<Lives> {
    let mut lives = Lives::default();
    for _ in 0..rounds {
        for (which, side) in sides.iter().enumerate() {
            let (pod, id, up) = side.up().await?;
            let down = side.down(&pod, &id).await?;
            lives.up.0[which].push(ms(up.iter().sum()));
            lives.down.0[which].push(ms(down.iter().sum()));
            for (samples, took) in lives.up_parts.iter_mut().zip(up) {
                samples.0[which].push(ms(took));
            }
            for (samples, took) in lives.down_parts.iter_mut().zip(down) {
                samples.0[which].push(ms(took));
            }
        }
    }
    Ok(lives)
}

/// Calls that change nothing, with a handful of pods.
async fn quick_calls(sides: &[Side; 2], calls: usize) -> Result<()> {
    let (mut exec, mut execs) = (Samples::default(), Samples::default());
    let (mut list, mut status) = (Samples::default(), Samples::default());
    let mut standing = Vec::new();
    for side in sides {
        standing.push(stand(side, LISTED).await?);
    }
    for call in 0..calls {
        for (which, side) in sides.iter().enumerate() {
            let id = &standing[which][call % LISTED].1;
            exec.0[which].push(ms(side.exec(id).await?));
            list.0[which].push(ms(side.list(LISTED).await?));
            status.0[which].push(ms(side.status(id).await?));
        }
    }
    for _ in 0..BATCHES {
        for (which, side) in sides.iter().enumerate() {
            let id = &standing[which][0].1;
            let rate = rate(calls, async || side.exec(id).await.map(drop)).await?;
            execs.0[which].push(rate);
        }
    }
    for (side, pods) in sides.iter().zip(standing) {
        fall(side, pods).await?;
    }
    row("ExecSync true", "ms", &exec, Budget::AtMost(2.0));
    row("ExecSync true, 4 at a time", "/s", &execs, Budget::AtLeast(1000.0));
    row("ListContainers, 5 containers", "ms", &list, Budget::AtMost(0.3));
    row("ContainerStatus", "ms", &status, Budget::AtMost(0.3));
    Ok(())
}

/// Whole lives of pods at the same time.
async fn many_pods(sides: &[Side; 2], pods: usize) -> Result<()> {
    let mut rates = Samples::default();
    for _ in 0..BATCHES {
        for (which, side) in sides.iter().enumerate() {
            let life = async || {
                let (pod, id, _) = side.up().await?;
                side.down(&pod, &id).await.map(drop)
            };
            rates.0[which].push(rate(pods.div_ceil(BATCHES), life).await?);
        }
    }
    row("pods up and down, 4 at a time", "/s", &rates, Budget::AtLeast(40.0));
    Ok(())
}

async fn logs(sides: &[Side; 2], ground: &Ground) -> Result<()> {
    let lines = write_lines(ground)?;
    let mut rates = Samples::default();
    for _ in 0..BATCHES {
        for (which, side) in sides.iter().enumerate() {
            let took = side.log(&lines).await?;
            #[expect(clippy::cast_precision_loss)]
            rates.0[which].push(LOG_BYTES as f64 / MIB / took.as_secs_f64());
        }
    }
    row("log of 128-byte lines", "MiB/s", &rates, Budget::AtLeast(250.0));
    Ok(())
}

fn write_lines(ground: &Ground) -> Result<PathBuf> {
    let path = ground.path().join("lines");
    let line = "x".repeat(LINE_BYTES - 1) + "\n";
    fs::write(&path, line.repeat(LOG_BYTES / LINE_BYTES)).context("failed to write lines")?;
    Ok(path)
}

async fn memory(sides: &[Side; 2]) -> Result<()> {
    let (mut pod, mut daemon) = (Samples::default(), Samples::default());
    for (which, side) in sides.iter().enumerate() {
        let before = side.memory()?;
        let pods = stand(side, STANDING).await?;
        #[expect(clippy::cast_precision_loss)]
        pod.0[which].push((side.memory()? - before) / STANDING as f64);
        daemon.0[which].push(side.daemon_memory()?);
        fall(side, pods).await?;
    }
    row("memory a pod (PSS)", "MiB", &pod, Budget::AtMost(0.25));
    row("daemon at 30 pods (PSS)", "MiB", &daemon, Budget::AtMost(25.0));
    Ok(())
}

/// Pods that stay.
async fn stand(side: &Side, count: usize) -> Result<Vec<(e2e::context::Pod, String)>> {
    let mut pods = Vec::new();
    for _ in 0..count {
        let (pod, id, _) = side.up().await?;
        pods.push((pod, id));
    }
    Ok(pods)
}

async fn fall(side: &Side, pods: Vec<(e2e::context::Pod, String)>) -> Result<()> {
    for (pod, id) in pods {
        side.down(&pod, &id).await?;
    }
    Ok(())
}

/// How often something is done in a second by several clients at the same time, of which each
/// does its share of `count` one after the other.
async fn rate(count: usize, act: impl AsyncFn() -> Result<()>) -> Result<f64> {
    let each = count.div_ceil(AT_ONCE);
    let client = async |_| {
        for _ in 0..each {
            act().await?;
        }
        anyhow::Ok(())
    };
    let begun = Instant::now();
    try_join_all((0..AT_ONCE).map(client)).await?;
    #[expect(clippy::cast_precision_loss)]
    Ok((each * AT_ONCE) as f64 / begun.elapsed().as_secs_f64())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
