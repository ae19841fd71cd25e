//! A full disk: what cannot be done is refused and leaves nothing; what is there can
//! still be listed, stopped and removed, and frees space.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ContainerFilter, ContainerState, ListImagesRequest};
use testing::audit::Snapshot;
use testing::program;

use super::builtin;
use crate::case;
use crate::case::Case;
use crate::catalog::{BUSYBOX, WEB};
use crate::context::{Context, code, equal, refusal};
use crate::runtime::Runtime;

pub(super) const CASES: &[Case] = &[
    case!("disk.full_pull_is_refused_and_leaves_nothing", pull).alone().ours(),
    case!("disk.full_pods_can_be_stopped_and_removed", pods).alone().ours(),
    case!("disk.full_what_was_stopped_stays_so_after_a_kill", journalled).alone().ours(),
];

/// Room for the small image and some records, not for the large image.
const SIZE: &str = "size=6m";

/// Room for the reserve that is kept for removals, too.
const EXT4_BYTES: u64 = 96 << 20;

/// A small file system; unmounted when it is dropped.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// In memory.
    pub(super) fn mount(place: &Path, size: &str) -> Result<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(place);
        program::output(&mut mount)?;
        Ok(Self(place.to_owned()))
    }

    /// The same as nodes have it: with a journal, where a record that changes needs a block.
    fn mount_ext4(file: &Path, place: &Path) -> Result<Self> {
        fs::File::create(file)?.set_len(EXT4_BYTES)?;
        program::output(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(file))?;
        program::output(Command::new("mount").args(["-o", "loop"]).arg(file).arg(place))?;
        Ok(Self(place.to_owned()))
    }

    fn used(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }

    pub(super) fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no block free.
    pub(super) fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.filler())?;
        let block = [0_u8; 4096];
        let full = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{full}");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = program::output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// A daemon whose root and state lie on a small disk.
async fn on_a_small_disk(c: &Context) -> Result<(Arc<Runtime>, Disk)> {
    let (ground, name) = builtin::ground()?;
    let disk = Disk::mount(&ground.make(name)?, SIZE)?;
    Ok((Arc::new(builtin::on(c, ground, false).await?), disk))
}

async fn pull(c: &Context) -> Result<()> {
    let (runtime, disk) = on_a_small_disk(c).await?;
    let small = Context::new(Arc::clone(&runtime), "disk");
    let id = small.pull(BUSYBOX).await?;
    let used = disk.used()?;
    is_for_want_of_space(small.pull(WEB).await)?;
    let images = runtime.images.list_images(ListImagesRequest::default()).await?.images;
    equal("the images", images.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), vec![&*id])?;
    // Directories that were made on the way may keep a block each.
    let more = disk.used()?.saturating_sub(used);
    ensure!(more <= 64 << 10, "{more} bytes of the refused image remain");
    small.plain_pod().await?;
    small.clean_up().await
}

async fn pods(c: &Context) -> Result<()> {
    let (runtime, disk) = on_a_small_disk(c).await?;
    let small = Context::new(Arc::clone(&runtime), "disk");
    let image = small.pull(BUSYBOX).await?;
    small.plain_pod().await?;
    small.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    let (pod, running) = small.waiting_container().await?;
    let created = small.create(&pod, &small.waiting()).await?;
    disk.fill()?;

    is_for_want_of_space(small.plain_pod().await)?;
    is_for_want_of_space(small.create(&pod, &small.waiting()).await)?;
    equal("the pods", small.runtime.pods.pod_sandboxes(None).await?.len(), 1)?;
    equal("the containers", small.containers(ContainerFilter::default()).await?.len(), 2)?;
    equal(
        "the running one",
        small.status(&running).await?.state(),
        ContainerState::ContainerRunning,
    )?;

    small.stop(&running, 10).await?;
    let status = small.status(&running).await?;
    equal("the stopped one", status.state(), ContainerState::ContainerExited)?;
    equal("its code", status.exit_code, 0)?;
    small.remove(&running).await?;
    small.remove(&created).await?;
    small.clean_up().await?;
    let full = disk.used()?;
    small.remove_image(&image).await?;
    ensure!(small.image(BUSYBOX).await?.is_none(), "the image is still there");
    ensure!(disk.used()? < full, "removing the image freed nothing");

    fs::remove_file(disk.filler()).context("the filler")?;
    small.pull(BUSYBOX).await?;
    let (_, id) = small.waiting_container().await?;
    small.sh(&id, "true").await?;
    small.clean_up().await?;
    before.with_scope(runtime.audit_scope()).audit()
}

async fn journalled(c: &Context) -> Result<()> {
    let (ground, name) = builtin::ground()?;
    let disk = Disk::mount_ext4(&ground.path().join("disk"), &ground.make(name)?)?;
    let runtime = Arc::new(builtin::on(c, ground, false).await?);
    let small = Context::new(Arc::clone(&runtime), "disk");
    let image = small.pull(BUSYBOX).await?;
    let (pod, first) = small.waiting_container().await?;
    let second = small.create(&pod, &small.waiting()).await?;
    small.start(&second).await?;
    disk.fill()?;
    is_for_want_of_space(small.create(&pod, &small.waiting()).await)?;

    small.stop(&first, 10).await?;
    runtime.kill()?;
    runtime.launch().await?;
    let status = small.status(&first).await?;
    equal("the stopped one", status.state(), ContainerState::ContainerExited)?;
    equal("its code", status.exit_code, 0)?;
    let running = small.status(&second).await?.state();
    equal("the running one", running, ContainerState::ContainerRunning)?;
    small.remove(&first).await?;
    small.stop_pod(&pod.id).await?;
    runtime.kill()?;
    runtime.launch().await?;
    equal("the pods", small.runtime.pods.pod_sandboxes(None).await?.len(), 1)?;
    equal("the second", small.status(&second).await?.state(), ContainerState::ContainerExited)?;
    small.remove_pod(&pod.id).await?;
    let full = disk.used()?;
    small.remove_image(&image).await?;
    ensure!(small.image(BUSYBOX).await?.is_none(), "the image is still there");
    ensure!(disk.used()? < full, "removing the image freed nothing");
    fs::remove_file(disk.filler()).context("the filler")?;
    small.pull(BUSYBOX).await?;
    small.clean_up().await
}

fn is_for_want_of_space<T>(result: Result<T>) -> Result<()> {
    let error = refusal(result)?;
    let text = format!("{error:#}");
    ensure!(text.to_lowercase().contains("no space left"), "it does not say why: {text}");
    equal(&text, code::<()>(Err(error))?, Code::ResourceExhausted)
}
