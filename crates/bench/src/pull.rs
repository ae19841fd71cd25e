//! Pulls from a registry on loopback, by Corten and by Debian's containerd in turn, so
//! that both meet the same machine.
//!
//! Debian's containerd (1.6) has no option to sync what it unpacks; newer ones have
//! `image_pull_with_sync_fs`, off by default. What it would cost is measured by a sync of
//! the file system after the pull, in a column of its own.
//!
//! Times are worth little on a machine that others use: beside them is the time for which
//! the daemons had a processor. What the kernel writes out for them is not in that.
//!
//! The images lie below `TMPDIR`. It should be a file system like a node's, with a journal:
//! an ext4 without one looks for each new file at all inodes that were freed within the last
//! minute, so that pulling 40,000 files again takes minutes, of either runtime.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cri_client::{Endpoint, ImageClient, Options};
use cri_proto::v1::{ImageSpec, PullImageRequest, RemoveImageRequest};
use testing::image::{Compression, Image, Layout};
use testing::{Containerd, Daemon, DaemonOptions, Ground, Registry};

use crate::material;

/// How long containerd may take to give up what was removed.
const SETTLE: Duration = Duration::from_secs(2);

/// The unit of processes' times (`USER_HZ`, 100 on all architectures that we know).
const TICKS_A_SECOND: f64 = 100.0;

/// One image of the benchmark.
struct Subject {
    title: &'static str,
    name: &'static str,
}

/// Runs and prints a table.
pub fn run(program: &Path, rounds: usize) -> Result<()> {
    let ground = Ground::new()?;
    let registry = Registry::start(&ground)?;
    let subjects = publish(&ground, &registry)?;
    let options = DaemonOptions {
        program: program.to_owned(),
        certs_dir: registry.certs_dir().to_owned(),
        ..DaemonOptions::default()
    };
    let daemon = Daemon::start(&ground, "corten", options)?;
    let containerd = Containerd::start(&ground, registry.certs_dir())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sockets = (daemon.image_socket(), containerd.socket());
    let of = |directory: &str| ground.path().join(directory).join("config.toml");
    let ours = Puller { socket: sockets.0, mark: of("corten") };
    let theirs = Puller { socket: sockets.1, mark: of("containerd") };
    runtime.block_on(compare(&ground, &ours, &theirs, &subjects, rounds))
}

/// A daemon that pulls.
struct Puller {
    socket: PathBuf,
    /// What its command line has.
    mark: PathBuf,
}

impl Puller {
    async fn client(&self) -> Result<ImageClient> {
        let endpoint: Endpoint = format!("unix://{}", self.socket.display()).parse()?;
        Ok(ImageClient::connect(endpoint, Options::default()).await?)
    }

    /// For how long it and the programs that it has run had a processor, in seconds.
    fn processor_time(&self) -> Result<f64> {
        let pids = e2e::process::all_with_argument(&self.mark.display().to_string())?;
        let pid = pids.first().context("the daemon is not there")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Its name may have spaces; the numbers come after it (proc(5)).
        let (_, numbers) = stat.rsplit_once(')').context("no numbers")?;
        let ticks = numbers.split_whitespace().skip(11).take(4).map(str::parse::<f64>);
        let ticks: f64 = ticks.sum::<std::result::Result<f64, _>>()?;
        Ok(ticks / TICKS_A_SECOND)
    }
}

fn publish(ground: &Ground, registry: &Registry) -> Result<Vec<Subject>> {
    let mut layout = Layout::new(&ground.make("layout")?)?;
    let six = Image::new(material::layers(6, 66 << 20)?, testing_config());
    let many = Image::new(vec![material::small_files(40_000)?], testing_config());
    let images = [
        ("6 layers, 400 MiB, gzip", "bench/gzip:1", six.stored(Compression::Gzip)),
        ("the same, zstd", "bench/zstd:1", six.stored(Compression::Zstd)),
        ("1 layer, 40,000 files", "bench/files:1", many.stored(Compression::Gzip)),
    ];
    let mut subjects = Vec::new();
    for (title, name, image) in images {
        let tag = name.replace(['/', ':'], "-");
        layout.add(&tag, &image)?;
        registry.push(layout.path(), &tag, name)?;
        subjects.push(Subject { title, name });
    }
    Ok(subjects)
}

fn testing_config() -> serde_json::Value {
    serde_json::json!({ "Cmd": ["/bin/true"] })
}

async fn compare(
    ground: &Ground,
    ours: &Puller,
    theirs: &Puller,
    subjects: &[Subject],
    rounds: usize,
) -> Result<()> {
    println!("medians of {rounds} rounds; containerd is {}", Containerd::version()?);
    println!(
        "{:<26} {:>8} {:>11} {:>7} {:>12} {:>7} {:>10} {:>11}",
        "image",
        "corten",
        "containerd",
        "ratio",
        "with a sync",
        "ratio",
        "processor",
        "containerd's"
    );
    for subject in subjects {
        let mut times = [const { Vec::new() }; 5];
        for _ in 0..rounds {
            let pulled = pull(ground, ours, subject.name).await?;
            times[0].push(pulled.answered);
            times[3].push(pulled.processor);
            let pulled = pull(ground, theirs, subject.name).await?;
            times[1].push(pulled.answered);
            times[2].push(pulled.synced);
            times[4].push(pulled.processor);
        }
        let [ours, theirs, synced, our_processor, their_processor] = times.map(median);
        println!(
            "{:<26} {:>7.2}s {:>10.2}s {:>7.2} {:>11.2}s {:>7.2} {:>9.2}s {:>10.2}s",
            subject.title,
            ours,
            theirs,
            ours / theirs,
            synced,
            ours / synced,
            our_processor,
            their_processor
        );
    }
    Ok(())
}

/// What a pull took, in seconds.
struct Pulled {
    answered: f64,
    /// Until what it wrote was on disk.
    synced: f64,
    /// Of the daemon.
    processor: f64,
}

/// Pulls and removes.
async fn pull(ground: &Ground, puller: &Puller, name: &str) -> Result<Pulled> {
    let client = puller.client().await?;
    let image = ImageSpec { image: format!("docker.io/{name}"), ..ImageSpec::default() };
    sync(ground)?;
    let before = puller.processor_time()?;
    let begun = Instant::now();
    let request = PullImageRequest { image: Some(image.clone()), ..PullImageRequest::default() };
    client.pull_image(request).await.with_context(|| format!("failed to pull {name}"))?;
    let answered = begun.elapsed().as_secs_f64();
    let processor = puller.processor_time()? - before;
    sync(ground)?;
    let synced = begun.elapsed().as_secs_f64();
    client.remove_image(RemoveImageRequest { image: Some(image) }).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(Pulled { answered, synced, processor })
}

fn sync(ground: &Ground) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(ground.path())?)?)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
