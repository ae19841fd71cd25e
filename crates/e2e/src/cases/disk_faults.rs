//! Disks that become read-only, and disks that are slow: what runs goes on, what is asked is
//! answered, and all is as before when it is over.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerFilter, ContainerState, RuntimeCondition, StatusRequest};
use testing::audit::Snapshot;
use testing::program::Program;
use testing::wait::patient;
use testing::{Ground, program, wait};

use super::builtin;
use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, equal, refusal, until};
use crate::disk::Disk;
use crate::runtime::Runtime;

pub(super) const CASES: &[Case] = &[
    case!("disk.read_only_is_told_and_heals", read_only).alone().ours(),
    case!("disk.with_an_error_is_told", with_an_error).alone().ours(),
    case!("disk.sync_error_fails_the_call", sync_error).alone().ours(),
    case!("disk.slow_holds_no_answer_up", slow).alone().ours(),
    case!("disk.slow_for_long_holds_no_answer_up", slow_for_long).ours().long(),
];

const BYTES: u64 = 96 << 20;

/// A daemon whose root lies on a disk of its own; its state does not.
struct Place {
    runtime: Arc<Runtime>,
    small: Context,
    root: PathBuf,
    file: PathBuf,
    disk: Disk,
}

impl Place {
    async fn new(c: &Context) -> Result<Self> {
        let (ground, name) = builtin::ground()?;
        let (file, root) = (ground.path().join("disk"), ground.make(&format!("{name}/root"))?);
        let disk = Disk::ext4(&file, BYTES, &["-e", "remount-ro"], &root)?;
        let runtime = Arc::new(builtin::on(c, ground, false).await?);
        let small = Context::new(Arc::clone(&runtime), "disk");
        small.pull(BUSYBOX).await?;
        small.plain_pod().await?;
        small.clean_up().await?;
        Ok(Self { runtime, small, root, file, disk })
    }

    /// What Status says of the runtime.
    async fn condition(&self) -> Result<RuntimeCondition> {
        let answer = self.runtime.pods.status(StatusRequest { verbose: false }).await?;
        let mut conditions = answer.status.context("no status")?.conditions.into_iter();
        conditions.find(|condition| condition.r#type == "RuntimeReady").context("no condition")
    }

    async fn until_ready(&self, ready: bool) -> Result<RuntimeCondition> {
        let limit = Duration::from_secs(30);
        until(limit, &format!("RuntimeReady to be {ready}"), || async {
            let condition = self.condition().await?;
            Ok((condition.status == ready).then_some(condition))
        })
        .await
    }

    /// It is not ready, says why, makes nothing, and what runs does not care.
    async fn makes_nothing(&self, running: &str) -> Result<()> {
        let RuntimeCondition { reason, message, .. } = self.until_ready(false).await?;
        equal("the reason", reason.as_str(), "DiskNotWritable")?;
        let root = self.root.display().to_string();
        for word in [root.as_str(), "Read-only file system"] {
            ensure!(message.contains(word), "{word} is not in: {message}");
        }
        equal("what runs", self.small.sh(running, "echo it runs").await?, "it runs")?;
        equal("the pods", self.small.runtime.pods.pod_sandboxes(None).await?.len(), 1)?;
        let containers = self.small.containers(ContainerFilter::default()).await?;
        equal("the containers", containers.len(), 1)?;
        self.small.present(BUSYBOX).await?;
        let name = "docker.io/e2e/layered:1";
        let refused = [
            refusal(self.small.plain_pod().await)?.to_string(),
            refusal(self.small.pull(name).await)?.to_string(),
        ];
        for text in refused {
            ensure!(text.contains("Read-only file system") && !text.contains('\n'), "{text}");
        }
        ensure!(self.small.image(name).await?.is_none(), "the image is there");
        Ok(())
    }
}

async fn read_only(c: &Context) -> Result<()> {
    let place = Place::new(c).await?;
    let small = &place.small;
    let before = Snapshot::take(&place.runtime.audit_scope())?;
    let (_, running) = small.waiting_container().await?;
    ensure!(place.condition().await?.status, "it is not ready at first");
    place.disk.remount("ro")?;
    place.makes_nothing(&running).await?;
    small.stop(&running, 10).await?;
    let state = small.status(&running).await?.state();
    equal("the stopped one", state, ContainerState::ContainerExited)?;

    place.disk.remount("rw")?;
    let RuntimeCondition { reason, message, .. } = place.until_ready(true).await?;
    equal("what is said", (reason.as_str(), message.as_str()), ("", ""))?;
    let (_, again) = small.waiting_container().await?;
    small.sh(&again, "true").await?;
    small.clean_up().await?;
    before.with_scope(place.runtime.audit_scope()).audit()
}

/// The file system finds an error in itself and refuses all writing from then on, which neither
/// its options nor its permissions show. It has to be mounted anew.
async fn with_an_error(c: &Context) -> Result<()> {
    let place = Place::new(c).await?;
    let (_, running) = place.small.waiting_container().await?;
    fs::write(trigger(&place.file)?, "an error of the tests")?;
    place.makes_nothing(&running).await?;
    let Place { runtime, small, root, file, disk } = place;
    // As after a restart of the machine.
    runtime.kill()?;
    testing::cgroup::remove_tree(&runtime.ground.cgroup());
    drop(disk);
    program::output(Command::new("umount").arg("--lazy").arg(&root)).ok();
    let checked = Command::new("fsck.ext4").arg("-fp").arg(&file).output()?;
    // 1: errors were corrected.
    let code = checked.status.code();
    ensure!(matches!(code, Some(0 | 1)), "fsck: {}", String::from_utf8_lossy(&checked.stdout));
    let _disk = Disk::of_file(&file, &root)?;
    runtime.launch().await?;
    let (_, id) = small.waiting_container().await?;
    small.sh(&id, "true").await?;
    small.clean_up().await
}

/// The file by which an ext4 is told that it has an error.
fn trigger(file: &Path) -> Result<PathBuf> {
    let mut losetup = Command::new("losetup");
    let listed = program::output(losetup.args(["--noheadings", "-O", "NAME", "-j"]).arg(file))?;
    let device = Path::new(listed.trim()).file_name().context("no loop device")?.to_owned();
    Ok(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"))
}

/// How long a sync takes on the slow disk, and an unmount.
#[derive(Clone, Copy)]
struct Delays {
    sync: Duration,
    unmount: Duration,
}

const SHORT: Delays = Delays { sync: Duration::from_secs(1), unmount: Duration::from_secs(2) };
const LONG: Delays = Delays { sync: Duration::from_secs(5), unmount: Duration::from_secs(12) };

impl Delays {
    /// As long as all else takes on this machine.
    fn patient(self) -> Self {
        Self { sync: patient(self.sync), unmount: patient(self.unmount) }
    }
}

/// How often a client asks again that a pod be stopped or removed.
const TRIES: usize = 5;

/// What List and Status may take meanwhile.
const ANSWER: Duration = Duration::from_millis(100);

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(20);

/// A program that holds up the daemon's calls to the kernel, or has them fail.
pub(super) struct Slow {
    strace: Program,
    seen: PathBuf,
}

impl Slow {
    /// Holds these calls up from now on.
    pub(super) fn delay(ground: &Ground, pid: u32, calls: &str, time: Duration) -> Result<Self> {
        Self::attach(ground, pid, calls, &format!("delay_enter={}", time.as_micros()))
    }

    fn attach(ground: &Ground, pid: u32, calls: &str, what: &str) -> Result<Self> {
        let seen = ground.path().join("slow");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:{what}")]);
        command.arg("-o").arg(&seen).args(["-p", &pid.to_string()]);
        let mut strace = Program::start(&mut command, &ground.log("strace"))?;
        strace.until(Duration::from_secs(30), "strace to have every thread", || {
            is_traced(pid).unwrap_or(false)
        })?;
        Ok(Self { strace, seen })
    }

    /// How many calls were held up.
    fn held_up(&self) -> usize {
        self.marked("(DELAYED)")
    }

    /// How many calls have such a mark.
    fn marked(&self, mark: &str) -> usize {
        let seen = fs::read_to_string(&self.seen).unwrap_or_default();
        seen.lines().filter(|line| line.ends_with(mark)).count()
    }

    /// What the daemon calls from here on is as quick as the disk.
    pub(super) fn detach(mut self, pid: u32) -> Result<()> {
        self.strace.signal(rustix::process::Signal::TERM)?;
        self.strace.wait(patient(LONG.unmount * 2))?;
        wait::until(Duration::from_secs(10), "the daemon to be let go", || {
            Ok((!is_traced(pid)?).then_some(()))
        })
    }
}

/// A disk that does not say that it has what was written. What must be on it is refused, and not
/// tried again as if the second sync told of the first; what need not be goes on.
async fn sync_error(c: &Context) -> Result<()> {
    let place = Place::new(c).await?;
    let small = &place.small;
    let before = Snapshot::take(&place.runtime.audit_scope())?;
    let (_, running) = small.waiting_container().await?;
    let pid = place.runtime.with_daemon(|daemon| daemon.pid())?;
    let calls = "fsync,fdatasync,syncfs";
    let broken = Slow::attach(&place.runtime.ground, pid, calls, "error=EIO")?;
    let name = "docker.io/e2e/layered:1";
    let error = refusal(small.pull(name).await)?.to_string();
    ensure!(error.contains("Input/output error") && !error.contains('\n'), "{error}");
    ensure!(small.image(name).await?.is_none(), "the image is there");
    let pulled = broken.marked("(INJECTED)");
    ensure!(pulled > 0, "no sync was made");
    // A pod is made where nothing of it must outlive a power cut, or refused with the cause.
    match small.waiting_container().await {
        Ok((_, id)) => equal("what was made", small.sh(&id, "echo it runs").await?, "it runs")?,
        Err(error) => ensure!(error.to_string().contains("Input/output error"), "{error}"),
    }
    equal("what runs", small.sh(&running, "echo it runs").await?, "it runs")?;
    small.stop(&running, 10).await?;
    let stopped = small.status(&running).await?;
    equal("the stopped one", stopped.state(), ContainerState::ContainerExited)?;
    broken.detach(pid)?;
    small.pull(name).await?;
    let checked = place.runtime.images.images(None).await?.len();
    equal("the images", checked, 2)?;
    small.clean_up().await?;
    before.with_scope(place.runtime.audit_scope()).audit()
}

/// Whether all threads of a process are traced.
fn is_traced(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_none_or(|tracer| tracer.trim() == "0") {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn slow(c: &Context) -> Result<()> {
    on_a_slow_disk(c, SHORT.patient()).await
}

async fn slow_for_long(c: &Context) -> Result<()> {
    on_a_slow_disk(c, LONG.patient()).await
}

async fn on_a_slow_disk(c: &Context, delays: Delays) -> Result<()> {
    let place = Place::new(c).await?;
    let small = &place.small;
    let before = Snapshot::take(&place.runtime.audit_scope())?;
    let (pod, running) = small.waiting_container().await?;
    let pid = place.runtime.with_daemon(|daemon| daemon.pid())?;

    let ground = &place.runtime.ground;
    let slow = Slow::delay(ground, pid, "fsync,fdatasync,syncfs", delays.sync)?;
    let name = "docker.io/e2e/layered:1";
    let work = async {
        let pulled = Box::pin(small.pull(name));
        let (_, made) = tokio::try_join!(pulled, Box::pin(small.waiting_container()))?;
        small.stop(&running, 10).await?;
        small.remove(&running).await?;
        small.remove_image(name).await?;
        anyhow::Ok(made)
    };
    let (_, other) = while_answers_come(c, small, "syncs", &slow, work).await?;
    slow.detach(pid)?;
    small.sh(&other, "true").await?;

    let slow = Slow::delay(ground, pid, "umount2", delays.unmount)?;
    let work = async {
        converges("the stop", || small.stop_pod(&pod.id)).await?;
        converges("the removal", || small.remove_pod(&pod.id)).await
    };
    while_answers_come(c, small, "unmounts", &slow, work).await?;
    slow.detach(pid)?;
    small.sh(&other, "true").await?;
    small.clean_up().await?;
    before.with_scope(place.runtime.audit_scope()).audit()
}

/// Asks as the kubelet does: again, when it was not done in time.
async fn converges<F: Future<Output = Result<()>>>(what: &str, ask: impl Fn() -> F) -> Result<()> {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = ask().await;
        if last.is_ok() {
            return last;
        }
    }
    last.with_context(|| format!("{what} does not converge"))
}

/// Does a work that is slow, and has all that is asked meanwhile answered at once.
async fn while_answers_come<T>(
    c: &Context,
    small: &Context,
    what: &str,
    slow: &Slow,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let mut took = Vec::new();
    let asking = async {
        loop {
            took.push(answers(small).await?);
            tokio::time::sleep(PAUSE).await;
        }
    };
    let done = tokio::select! {
        done = Box::pin(work) => done?,
        failed = Box::pin(asking) => {
            let failed: Result<Infallible> = failed;
            match failed? {}
        }
    };
    let (whole, count) = (begun.elapsed(), slow.held_up());
    ensure!(
        whole > patient(SHORT.sync) && count > 1,
        "nothing was slow: {count} {what} in {whole:?}"
    );
    took.sort();
    let slowest = took.last().copied().unwrap_or_default();
    let most = took.get(took.len() * 95 / 100).copied().unwrap_or_default();
    c.figure(&format!(
        "{count} slow {what} in {whole:.1?}: of {} rounds of List and Status 95 of 100 within \
         {most:.1?}, the slowest {slowest:.1?}",
        took.len(),
    ));
    // Under a tracer a slow machine is slower than by its factor, and still faster than a delay.
    ensure!(most < patient(patient(ANSWER)), "List and Status take {most:?}");
    // One that waits for a sync or an unmount takes about as long as that.
    ensure!(slowest < patient(SHORT.sync) / 2, "List and Status once took {slowest:?}");
    Ok(done)
}

/// How long the slowest took of those that the kubelet calls all the time.
async fn answers(small: &Context) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    let mut lap = Instant::now();
    let mut clock = || {
        slowest = slowest.max(lap.elapsed());
        lap = Instant::now();
        slowest
    };
    let pods = small.runtime.pods.pod_sandboxes(None).await?;
    clock();
    for pod in pods {
        // It may be removed meanwhile.
        let _ = small.pod_status(&pod.id).await;
        clock();
    }
    let containers = small.containers(ContainerFilter::default()).await?;
    clock();
    for container in containers {
        let _ = small.status(&container.id).await;
        clock();
    }
    small.runtime.images.images(None).await?;
    clock();
    small.image(BUSYBOX).await?;
    clock();
    small.runtime.pods.status(StatusRequest { verbose: true }).await?;
    Ok(clock())
}
