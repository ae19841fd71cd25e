//! Power cuts in the middle of pulls and of pods' lives: the daemon starts without help, every
//! image that it lists is whole, what it answered before is so, and all pods can be removed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerFilter, ContainerState, PodSandboxState};
use testing::audit::{Scope, Snapshot};

use super::builtin;
use crate::case;
use crate::case::{Case, Need};
use crate::catalog::BUSYBOX;
use crate::context::{Context, equal, image_spec};
use crate::power::{Record, Recorder};
use crate::runtime::Runtime;

pub(super) const CASES: &[Case] = &[
    case!("power.cut_anywhere_leaves_whole_images", some).alone().ours().needs(&[Need::Recorder]),
    case!("power.cut_everywhere_leaves_whole_images", all).ours().long().needs(&[Need::Recorder]),
];

const DISK_BYTES: u64 = 192 << 20;

/// How much is tried.
#[derive(Clone, Copy)]
struct Extent {
    /// How often what happens to the disk does.
    rounds: usize,
    /// How many cuts, about.
    cuts: usize,
}

const SOME: Extent = Extent { rounds: 1, cuts: 40 };
const ALL: Extent = Extent { rounds: 4, cuts: 1000 };

const LAYERED: &str = "docker.io/e2e/layered:1";
const ZSTD: &str = "docker.io/e2e/zstd:1";

/// How long after the answer of a pull the power fails for good.
const SOON: Duration = Duration::from_secs(1);

async fn some(c: &Context) -> Result<()> {
    cut(c, SOME).await
}

async fn all(c: &Context) -> Result<()> {
    cut(c, ALL).await
}

/// What was asked of an image, between two moments of the disk's life, and what holds after it.
struct Act {
    image: &'static str,
    begun: usize,
    ended: usize,
    present: bool,
}

/// A daemon on a recorded disk, and what it answered.
struct Story {
    runtime: Arc<Runtime>,
    small: Context,
    recorder: Recorder,
    acts: Vec<Act>,
}

impl Story {
    async fn pull(&mut self, image: &'static str) -> Result<()> {
        let begun = self.recorder.position()?;
        self.small.pull(image).await?;
        let ended = self.recorder.position()?;
        self.acts.push(Act { image, begun, ended, present: true });
        Ok(())
    }

    async fn remove(&mut self, image: &'static str) -> Result<()> {
        let begun = self.recorder.position()?;
        self.small.remove_image(image).await?;
        let ended = self.recorder.position()?;
        self.acts.push(Act { image, begun, ended, present: false });
        Ok(())
    }
}

async fn cut(c: &Context, extent: Extent) -> Result<()> {
    let (ground, name) = builtin::ground()?;
    let root = ground.make(&format!("{name}/root"))?;
    let recorder = Recorder::mount(&ground.make("record")?, DISK_BYTES, &root)?;
    let runtime = Arc::new(builtin::on(c, Arc::clone(&ground), false).await?);
    let small = Context::new(Arc::clone(&runtime), "power");
    let mut story = Story { runtime, small, recorder, acts: Vec::new() };
    let before = Snapshot::take(&scope(&story.runtime, &root))?;
    for _ in 0..extent.rounds {
        live(&mut story).await?;
    }

    let Story { runtime, small, recorder, acts } = story;
    // A second after the last answer, with what the kernel wrote by itself until then.
    let last = recorder.position()?;
    runtime.kill()?;
    testing::cgroup::remove_tree(&ground.cgroup());
    let record = recorder.end()?;
    let cuts = choose(&record, &acts, last, extent.cuts);
    let mut listed = 0;
    for cut in &cuts {
        let world = World { runtime: &runtime, small: &small, root: &root, before: &before };
        let told = Box::pin(world.after(&record, *cut, &acts)).await;
        listed += told.with_context(|| format!("after {cut} of {} writes", record.len()))?;
    }
    c.figure(&format!(
        "{} cuts in {} writes with {} flushes: {listed} images were listed, all whole",
        cuts.len(),
        record.len(),
        record.flushes().len(),
    ));
    Ok(())
}

/// What happens to the disk: pulls, removals, and pods' lives among them.
async fn live(story: &mut Story) -> Result<()> {
    story.small.clean_up().await?;
    for image in [ZSTD, LAYERED] {
        story.remove(image).await?;
    }
    story.pull(BUSYBOX).await?;
    story.pull(LAYERED).await?;
    let (pod, first) = story.small.waiting_container().await?;
    let second = story.small.create(&pod, &of(&story.small, LAYERED)).await?;
    story.small.start(&second).await?;
    story.small.stop(&first, 10).await?;
    story.small.remove(&first).await?;
    story.remove(LAYERED).await?;
    story.small.clean_up().await?;
    story.pull(ZSTD).await?;
    story.remove(ZSTD).await?;
    let begun = story.recorder.position()?;
    tokio::try_join!(story.small.pull(ZSTD), story.small.pull(LAYERED))?;
    let ended = story.recorder.position()?;
    for image in [ZSTD, LAYERED] {
        story.acts.push(Act { image, begun, ended, present: true });
    }
    story.small.waiting_container().await?;
    tokio::time::sleep(SOON).await;
    Ok(())
}

fn of(c: &Context, image: &str) -> cri_proto::v1::ContainerConfig {
    let mut config = c.waiting();
    config.image = Some(image_spec(image));
    config
}

/// What the audit looks at, without the disk, which is another each time.
fn scope(runtime: &Runtime, root: &std::path::Path) -> Scope {
    let mut scope = runtime.audit_scope();
    let record = runtime.ground.path().join("record");
    scope.standing.push(format!("mount {} ext4", root.display()));
    for kept in [format!("{}/lost+found", root.display()), record.display().to_string()] {
        scope.standing.push(kept);
    }
    scope
}

/// The moments after flushes, in equal steps if there are too many, or all moments if there are
/// too few; and in any case right after each answer, and at the end.
fn choose(record: &Record, acts: &[Act], last: usize, most: usize) -> Vec<usize> {
    let flushes = record.flushes();
    let among = if flushes.len() < most { (1..=record.len()).collect() } else { flushes };
    let step = among.len().div_ceil(most).max(1);
    let mut cuts: Vec<usize> = among.into_iter().step_by(step).collect();
    cuts.extend(acts.iter().map(|act| act.ended));
    cuts.push(last);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// What is looked at after a cut.
struct World<'a> {
    runtime: &'a Runtime,
    small: &'a Context,
    root: &'a PathBuf,
    before: &'a Snapshot,
}

impl World<'_> {
    /// Starts the daemon as after a restart of the machine. Tells how many images it lists.
    async fn after(&self, record: &Record, cut: usize, acts: &[Act]) -> Result<usize> {
        let disk = record.mount_after(cut, self.root)?;
        let state = self.runtime.with_daemon(|daemon| Ok(daemon.state()))?;
        let _ = fs::remove_dir_all(&state);
        // What the daemon takes for the sign of another boot.
        fs::write(self.root.join("boot-id"), "another")?;
        self.runtime.launch().await?;
        let listed = self.images_are_whole(cut, acts).await?;
        self.pods_can_be_removed().await?;
        self.small.pull(LAYERED).await?;
        self.small.pull(BUSYBOX).await?;
        let pod = self.small.plain_pod().await?;
        let id = self.small.run(&pod, &of(self.small, LAYERED)).await?;
        equal("a file", self.small.sh(&id, "cat /data/changed").await?, "upper")?;
        self.small.clean_up().await?;
        self.before.with_scope(scope(self.runtime, self.root)).audit()?;
        self.runtime.kill()?;
        disk.unmount()?;
        Ok(listed)
    }

    async fn images_are_whole(&self, cut: usize, acts: &[Act]) -> Result<usize> {
        let (program, socket) = self
            .runtime
            .with_daemon(|daemon| Ok((daemon.program().to_owned(), daemon.image_socket())))?;
        let endpoint = format!("unix://{}", socket.display());
        let mut fsck = Command::new(program);
        fsck.args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
        let checked = fsck.args(["fsck", "--read"]).output()?;
        let told = [checked.stdout, checked.stderr].concat();
        ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&told));
        for image in [BUSYBOX, LAYERED, ZSTD] {
            let mut of_it = acts.iter().filter(|act| act.image == image && act.begun < cut);
            let Some(last) = of_it.next_back() else { continue };
            // What was under way may be either.
            let is_over =
                acts.iter().all(|act| act.image != image || act.begun >= cut || act.ended <= cut);
            // A removal is not synced: what comes back is whole, and can be removed again.
            if is_over && last.present {
                self.small.present(image).await?;
            }
        }
        Ok(self.runtime.images.images(None).await?.len())
    }

    async fn pods_can_be_removed(&self) -> Result<()> {
        let pods = self.runtime.pods.pod_sandboxes(None).await?;
        for pod in &pods {
            equal("a pod", pod.state(), PodSandboxState::SandboxNotready)?;
        }
        for container in self.small.containers(ContainerFilter::default()).await? {
            let state = container.state();
            ensure!(state != ContainerState::ContainerRunning, "{} runs", container.id);
            self.small.stop(&container.id, 0).await?;
            self.small.remove(&container.id).await?;
        }
        for pod in pods {
            self.small.stop_pod(&pod.id).await?;
            self.small.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}
