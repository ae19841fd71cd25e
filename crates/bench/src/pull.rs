//! Pulls from a registry on loopback, by Corten and by Debian's containerd in turn, so
//! that both meet the same machine.
//!
//! Debian's containerd (1.6) has no option to sync what it unpacks; newer ones have
//! `image_pull_with_sync_fs`, off by default. What it would cost is measured by a sync of
//! the file system after the pull, in a column of its own.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cri_client::{Endpoint, ImageClient, Options};
use cri_proto::v1::{ImageSpec, PullImageRequest, RemoveImageRequest};
use testing::image::{Compression, Image, Layout};
use testing::{Containerd, Daemon, DaemonOptions, Ground, Registry};

use crate::material;

/// How long containerd may take to give up what was removed.
const SETTLE: Duration = Duration::from_secs(2);

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
    runtime.block_on(compare(&ground, &sockets.0, &sockets.1, &subjects, rounds))
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
    corten: &Path,
    containerd: &Path,
    subjects: &[Subject],
    rounds: usize,
) -> Result<()> {
    let client = |socket: &Path| {
        let endpoint: Result<Endpoint, _> = format!("unix://{}", socket.display()).parse();
        async move { anyhow::Ok(ImageClient::connect(endpoint?, Options::default()).await?) }
    };
    let (ours, theirs) = (client(corten).await?, client(containerd).await?);
    println!("medians of {rounds} rounds; containerd is {}", Containerd::version()?);
    println!(
        "{:<26} {:>8} {:>11} {:>7} {:>12} {:>7}",
        "image", "corten", "containerd", "ratio", "with a sync", "ratio"
    );
    for subject in subjects {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            let (pulled, _) = pull(ground, &ours, subject.name).await?;
            times[0].push(pulled);
            let (pulled, synced) = pull(ground, &theirs, subject.name).await?;
            times[1].push(pulled);
            times[2].push(synced);
        }
        let [ours, theirs, synced] = times.map(median);
        println!(
            "{:<26} {:>7.2}s {:>10.2}s {:>7.2} {:>11.2}s {:>7.2}",
            subject.title,
            ours,
            theirs,
            ours / theirs,
            synced,
            ours / synced
        );
    }
    Ok(())
}

/// Pulls and removes. Returns the pull's time, and that with a sync after it.
async fn pull(ground: &Ground, client: &ImageClient, name: &str) -> Result<(f64, f64)> {
    let image = ImageSpec { image: format!("docker.io/{name}"), ..ImageSpec::default() };
    sync(ground)?;
    let begun = Instant::now();
    let request = PullImageRequest { image: Some(image.clone()), ..PullImageRequest::default() };
    client.pull_image(request).await.with_context(|| format!("failed to pull {name}"))?;
    let pulled = begun.elapsed();
    sync(ground)?;
    let synced = begun.elapsed();
    client.remove_image(RemoveImageRequest { image: Some(image) }).await?;
    tokio::time::sleep(SETTLE).await;
    Ok((pulled.as_secs_f64(), synced.as_secs_f64()))
}

fn sync(ground: &Ground) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(ground.path())?)?)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
