//! A neighbour that exchanges what a container is being mounted from: never a way out.
//!
//! A thread of the test is the neighbour: with a hand in the volume, as any container has that
//! mounts it, and faster than a program in one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerConfig, Mount};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use testing::program;

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, equal, refusal};

pub(super) const CASES: &[Case] = &[
    case!("mount.target_exchange_stays_inside", targets).attack(),
    case!("mount.masks_are_not_the_containers", masks).attack().ours(),
    case!("mount.terminal_is_the_containers_own", terminals).attack().ours(),
    case!("mount.target_exchange_stays_inside_for_long", many_targets).attack().long(),
    case!("mount.masks_are_not_the_containers_for_long", many_masks).attack().ours().long(),
    case!("mount.terminal_is_the_containers_own_for_long", many_terminals).attack().ours().long(),
];

/// How many containers are started in each race, and in its long form.
const STARTS: u32 = 20;
const LONG_TARGETS: u32 = 200;
const LONG_MASKS: u32 = 500;
const LONG_TERMINALS: u32 = 500;

/// How many containers of a pod are started at a time.
const AT_ONCE: u32 = 4;

/// Exchanges pairs of names without an end, until it is dropped.
struct Racer {
    ended: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    fn start(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        let (ended, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&ended), Arc::clone(&turns));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for (one, other) in &pairs {
                    let exchange = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                    count.fetch_add(u64::from(exchange.is_ok()), Ordering::Relaxed);
                }
                // The containers need a processor, too.
                std::thread::yield_now();
            }
        });
        Self { ended, turns, thread: Some(thread) }
    }

    /// Ends it; it must have raced with each of the starts.
    fn end(self, starts: u32) -> Result<u64> {
        let turns = self.turns.load(Ordering::Relaxed);
        ensure!(turns > u64::from(starts) * 10, "{turns} exchanges are no race");
        Ok(turns)
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn mount(from: &Path, to: &str) -> Mount {
    Mount {
        host_path: from.display().to_string(),
        container_path: to.to_owned(),
        ..Mount::default()
    }
}

/// What containers that were started one beside the other have printed.
async fn outputs(c: &Context, pod: &Pod, config: &ContainerConfig) -> Result<Vec<String>> {
    let mut configs = vec![config.clone(); AT_ONCE as usize];
    for config in &mut configs {
        config.metadata.clone_from(&c.script("").metadata);
        let name = config.metadata.as_ref().context("no name")?.name.clone();
        config.log_path = format!("{name}.log");
    }
    let runs = configs.iter().map(|config| async move {
        let id = c.run(pod, config).await?;
        let status = c.exited(&id).await?;
        let log = crate::logs::read(pod, config)?;
        ensure!(status.exit_code == 0, "exit code {}: {}", status.exit_code, log.text());
        c.remove(&id).await?;
        Ok(log.of("stdout").replace('\r', "").trim_end().to_owned())
    });
    futures_util::future::try_join_all(runs).await
}

async fn targets(c: &Context) -> Result<()> {
    race_targets(c, STARTS).await
}

async fn many_targets(c: &Context) -> Result<()> {
    race_targets(c, LONG_TARGETS).await
}

/// A mount below a directory of a volume which is a link to the canary meanwhile: it is in the
/// container each time, and nothing is made or mounted at the canary (CVE-2021-30465).
async fn race_targets(c: &Context, starts: u32) -> Result<()> {
    let (volume, inner) = (c.directory()?, c.directory()?);
    fs::create_dir(volume.join("target"))?;
    std::os::unix::fs::symlink(c.canary(), volume.join("link"))?;
    fs::write(inner.join("here"), "")?;
    let own = inner.file_name().context("no name")?.to_string_lossy().into_owned();
    let pod = c.plain_pod().await?;
    let mut config = c.script(&format!("grep -c {own} /proc/self/mountinfo"));
    config.mounts = vec![mount(&volume, "/volume"), mount(&inner, "/volume/target/below/made")];
    let racer = Racer::start(vec![(volume.join("target"), volume.join("link"))]);
    let (mut started, mut refused) = (0, 0);
    for _ in 0..starts.div_ceil(AT_ONCE) {
        // What is exchanged between two looks of the kernel may be refused.
        match outputs(c, &pod, &config).await {
            Ok(all) => {
                started += AT_ONCE;
                for text in all {
                    equal("the mounts in the container", text, "1")?;
                }
            }
            Err(error) if error.downcast_ref::<cri_client::Error>().is_some() => refused += AT_ONCE,
            Err(error) => return Err(error),
        }
    }
    let turns = racer.end(starts)?;
    ensure!(started > 0, "no container was started");
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let stray = table.lines().find(|line| line.contains(&own));
    ensure!(stray.is_none(), "a mount is outside: {stray:?}");
    c.figure(&format!("{started} starts and {refused} that were refused beside {turns} exchanges"));
    c.clean_up().await
}

async fn masks(c: &Context) -> Result<()> {
    race_masks(c, STARTS).await
}

async fn many_masks(c: &Context) -> Result<()> {
    race_masks(c, LONG_MASKS).await
}

/// What is masked by default and is a file.
const MASKED: &str = "/proc/keys /proc/timer_list /proc/kcore /proc/interrupts";

/// What masks files is the runtime's `/dev/null`, not the container's, which is a link to a file
/// of the kernel's meanwhile (CVE-2025-31133).
async fn race_masks(c: &Context, starts: u32) -> Result<()> {
    let volume = c.directory()?;
    fs::write(volume.join("null"), "")?;
    std::os::unix::fs::symlink("/proc/sysrq-trigger", volume.join("aside"))?;
    let pod = c.plain_pod().await?;
    let mut config = c.script(&format!(
        "for f in {MASKED}; do [ -e $f ] || continue; stat -c %t:%T $f; head -c 1 $f; \
         {{ echo x > $f; }} 2>&-; done | sort -u; \
         {{ echo h > /proc/sysrq-trigger; }} 2>&- && echo triggers; true"
    ));
    config.mounts = vec![mount(&volume, "/dev")];
    let racer = Racer::start(vec![(volume.join("null"), volume.join("aside"))]);
    for _ in 0..starts.div_ceil(AT_ONCE) {
        for text in outputs(c, &pod, &config).await? {
            equal("what is masked", text, "1:3")?;
        }
    }
    let turns = racer.end(starts)?;
    c.figure(&format!("{starts} starts beside {turns} exchanges of /dev/null"));
    c.clean_up().await
}

async fn terminals(c: &Context) -> Result<()> {
    race_terminals(c, STARTS).await
}

async fn many_terminals(c: &Context) -> Result<()> {
    race_terminals(c, LONG_TERMINALS).await
}

/// A devpts of the test's own below a volume.
struct Devpts(PathBuf);

impl Devpts {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620", "devpts"]);
        program::output(mount.arg(&at))?;
        Ok(Self(at))
    }
}

impl Drop for Devpts {
    fn drop(&mut self) {
        let _ = program::output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// A container's terminal is of the devpts that it has, and never of what lies at a name that a
/// neighbour exchanges (CVE-2025-52565).
async fn race_terminals(c: &Context, starts: u32) -> Result<()> {
    let pod = c.plain_pod().await?;
    let (volume, bare) = (c.directory()?, c.directory()?);
    let devpts = Devpts::mount(volume.join("pts"))?;
    let mut pairs = Vec::new();
    for name in ["console", "ptmx", "null", "tty"] {
        let aside = volume.join(format!("{name}-aside"));
        fs::write(volume.join(name), "")?;
        std::os::unix::fs::symlink("/proc/sysrq-trigger", &aside)?;
        pairs.push((volume.join(name), aside));
    }
    fs::create_dir(bare.join("pts"))?;
    std::os::unix::fs::symlink(c.canary(), bare.join("aside"))?;
    pairs.push((bare.join("pts"), bare.join("aside")));
    let racer = Racer::start(pairs);
    let kind = "stat -L -c %t /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2";
    let mut beside = c.script(kind);
    (beside.tty, beside.mounts) = (true, vec![mount(&volume, "/dev")]);
    let mut without = beside.clone();
    without.mounts = vec![mount(&bare, "/dev")];
    let mut own = c.script(&format!("{kind}; stat -c %t /dev/console; tty"));
    own.tty = true;
    let rounds = starts.div_ceil(AT_ONCE);
    for round in 0..rounds {
        for text in outputs(c, &pod, &beside).await? {
            equal("the terminal of a devpts beside links", text, "88\n88\n88")?;
        }
        if round % 10 == 0 {
            for text in outputs(c, &pod, &own).await? {
                equal("the terminal", text, "88\n88\n88\n88\n/dev/pts/0")?;
            }
            // Without a devpts there is none, and never another's.
            let error = refusal(outputs(c, &pod, &without).await)?.to_string();
            ensure!(error.contains("/dev/pts"), "{error}");
        }
    }
    let turns = racer.end(starts)?;
    c.figure(&format!("{starts} starts beside {turns} exchanges of names in /dev"));
    c.clean_up().await?;
    drop(devpts);
    Ok(())
}
