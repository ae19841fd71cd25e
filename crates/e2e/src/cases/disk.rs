//! A full disk: what cannot be done is refused and leaves nothing; what is there can
//! still be listed, stopped and removed, and frees space.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ContainerFilter, ContainerState, ListImagesRequest};
use testing::audit::Snapshot;

use super::builtin;
use crate::case;
use crate::case::Case;
use crate::catalog::{BUSYBOX, WEB};
use crate::context::{Context, code, equal, refusal, until};
use crate::disk::{Disk, Lack};
use crate::runtime::Runtime;

pub(super) const CASES: &[Case] = &[
    case!("disk.full_pull_is_refused_and_leaves_nothing", pull).alone().ours(),
    case!("disk.full_pods_can_be_stopped_and_removed", pods).alone().ours(),
    case!("disk.nearly_full_every_step_is_undone", sweep).alone().ours(),
    case!("disk.without_inodes_pods_can_be_stopped_and_removed", without_inodes).alone().ours(),
    case!("disk.over_its_quota_pods_can_be_stopped_and_removed", over_quota).alone().ours(),
    case!("disk.full_what_was_stopped_stays_so_after_a_kill", journalled).alone().ours(),
];

/// Room for the small image and some records, not for the large image.
const SIZE: &str = "size=6m";

/// Room for the reserve that is kept for removals, too.
const EXT4_BYTES: u64 = 96 << 20;

/// Inodes for the small image and some pods.
const INODES: &str = "1024";

/// What the quota allows: a part of that reserve.
const QUOTA_BYTES: u64 = 64 << 20;

/// A daemon whose root and state lie on a small disk.
async fn on_a_disk(
    c: &Context,
    make: impl FnOnce(&Path, &Path) -> Result<Disk>,
) -> Result<(Arc<Runtime>, Disk)> {
    let (ground, name) = builtin::ground()?;
    let disk = make(&ground.path().join("disk"), &ground.make(name)?)?;
    Ok((Arc::new(builtin::on(c, ground, false).await?), disk))
}

fn in_memory(_: &Path, place: &Path) -> Result<Disk> {
    Disk::mount(place, SIZE)
}

fn journalling(file: &Path, place: &Path) -> Result<Disk> {
    Disk::ext4(file, EXT4_BYTES, &[], place)
}

async fn pull(c: &Context) -> Result<()> {
    let (runtime, disk) = on_a_disk(c, in_memory).await?;
    let small = Context::new(Arc::clone(&runtime), "disk");
    let id = small.pull(BUSYBOX).await?;
    let used = disk.used()?;
    is_for_want(Lack::Space, small.pull(WEB).await)?;
    let images = runtime.images.list_images(ListImagesRequest::default()).await?.images;
    equal("the images", images.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), vec![&*id])?;
    // Directories that were made on the way may keep a block each.
    let more = disk.used()?.saturating_sub(used);
    ensure!(more <= 64 << 10, "{more} bytes of the refused image remain");
    small.plain_pod().await?;
    small.clean_up().await
}

async fn pods(c: &Context) -> Result<()> {
    stopped_and_removed(c, in_memory, Lack::Space).await
}

async fn without_inodes(c: &Context) -> Result<()> {
    let few = |file: &Path, place: &Path| Disk::ext4(file, EXT4_BYTES, &["-N", INODES], place);
    stopped_and_removed(c, few, Lack::Inodes).await
}

async fn over_quota(c: &Context) -> Result<()> {
    let limited = |file: &Path, place: &Path| Disk::with_quota(file, QUOTA_BYTES, place);
    stopped_and_removed(c, limited, Lack::Quota).await
}

async fn stopped_and_removed(
    c: &Context,
    make: impl FnOnce(&Path, &Path) -> Result<Disk>,
    lack: Lack,
) -> Result<()> {
    let (runtime, disk) = on_a_disk(c, make).await?;
    let small = Context::new(Arc::clone(&runtime), "disk");
    let image = small.pull(BUSYBOX).await?;
    small.plain_pod().await?;
    small.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    let (pod, running) = small.waiting_container().await?;
    let created = small.create(&pod, &small.waiting()).await?;
    let (other, _) = small.waiting_container().await?;
    disk.fill(lack)?;

    is_for_want(lack, small.plain_pod().await)?;
    is_for_want(lack, small.create(&pod, &small.waiting()).await)?;
    is_for_want(lack, small.pull(WEB).await)?;
    equal("the pods", small.runtime.pods.pod_sandboxes(None).await?.len(), 2)?;
    equal("the containers", small.containers(ContainerFilter::default()).await?.len(), 3)?;
    let state = small.status(&running).await?.state();
    equal("the running one", state, ContainerState::ContainerRunning)?;

    // As a whole, before anything that is removed has made room.
    small.stop_pod(&other.id).await?;
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
    frees(&disk, full).await?;

    disk.relieve()?;
    small.pull(BUSYBOX).await?;
    let (_, id) = small.waiting_container().await?;
    small.sh(&id, "true").await?;
    small.clean_up().await?;
    before.with_scope(runtime.audit_scope()).audit()
}

/// How much room there is, in blocks: none, and a little more each time, until all of a pod's life
/// has room.
const ROOM: std::ops::Range<u64> = 0..40;

/// A disk that becomes full at any step of making a pod and a container: the step is refused, what
/// was made is undone, and what could be made can be stopped and removed.
async fn sweep(c: &Context) -> Result<()> {
    let (runtime, disk) = on_a_disk(c, in_memory).await?;
    let small = Context::new(Arc::clone(&runtime), "disk");
    small.pull(BUSYBOX).await?;
    small.plain_pod().await?;
    small.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    let mut reached = [0; 4];
    for blocks in ROOM {
        disk.fill_but(blocks)?;
        let step = match life(&small).await {
            Ok(()) => 3,
            Err((step, error)) => {
                is_for_want(Lack::Space, Err::<(), _>(error))?;
                step
            }
        };
        reached[step] += 1;
        small.clean_up().await?;
        disk.relieve()?;
        before.with_scope(runtime.audit_scope()).audit()?;
    }
    let [pod, container, start, all] = reached;
    c.figure(&format!("full at the pod {pod}, at the container {container}, at the start {start}"));
    ensure!(pod > 0 && all > 0 && pod + all < 40, "it was full at one step only: {reached:?}");
    Ok(())
}

/// Makes a pod and a container and starts it. Tells at which step it was refused.
async fn life(small: &Context) -> std::result::Result<(), (usize, anyhow::Error)> {
    let pod = small.plain_pod().await.map_err(|error| (0, error))?;
    let id = small.create(&pod, &small.waiting()).await.map_err(|error| (1, error))?;
    small.start(&id).await.map_err(|error| (2, error))?;
    small.stop(&id, 10).await.map_err(|error| (3, error))
}

/// Some file systems give blocks back only when they next write a transaction.
async fn frees(disk: &Disk, full: u64) -> Result<()> {
    let limit = Duration::from_secs(60);
    until(limit, "the space of the image that was removed", || async {
        Ok((disk.used()? < full).then_some(()))
    })
    .await
}

async fn journalled(c: &Context) -> Result<()> {
    let (runtime, disk) = on_a_disk(c, journalling).await?;
    let small = Context::new(Arc::clone(&runtime), "disk");
    let image = small.pull(BUSYBOX).await?;
    let (pod, first) = small.waiting_container().await?;
    let second = small.create(&pod, &small.waiting()).await?;
    small.start(&second).await?;
    disk.fill(Lack::Space)?;
    is_for_want(Lack::Space, small.create(&pod, &small.waiting()).await)?;

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
    disk.relieve()?;
    small.pull(BUSYBOX).await?;
    small.clean_up().await
}

fn is_for_want<T>(lack: Lack, result: Result<T>) -> Result<()> {
    let error = refusal(result)?;
    let text = format!("{error:#}");
    let word = match lack {
        Lack::Space | Lack::Inodes => "no space left",
        Lack::Quota => "quota exceeded",
    };
    ensure!(text.to_lowercase().contains(word), "it does not say why: {text}");
    equal(&text, code::<()>(Err(error))?, Code::ResourceExhausted)
}
