//! A daemon that is killed at random moments while pods come and go, and machines that
//! restart: whatever was under way, nothing of it is left at the end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::PortMapping;
use futures_util::future::join_all;
use testing::audit::{Snapshot, unmount_below};
use testing::{Daemon, DaemonOptions, Ground, cgroup, program};

use super::cni::{Another, another};
use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod};
use crate::runtime::Runtime;

pub(super) const CASES: &[Case] = &[
    case!("cycles.kills_and_restarts_leave_nothing", some).alone().ours(),
    case!("cycles.thousands_leave_nothing", thousands).ours().long(),
];

/// How often pods come and go in the bounded tier.
const SOME: u32 = 24;
/// How often in the long tier.
const THOUSANDS: u32 = 2_000;
/// How many pods come at once.
const AT_ONCE: u16 = 3;
/// Their host ports: the first one's.
const FIRST_PORT: u16 = 18_200;
/// The longest that the daemon lives while they come, or go.
const LONGEST_LIFE_MS: u64 = 150;
/// One of so many rounds ends with a restart of the machine.
const RESTART_EVERY: u32 = 6;
/// Every run is the same, as far as clocks allow.
const SEED: u64 = 0x5eed_0110;

async fn some(c: &Context) -> Result<()> {
    cycles(c, SOME).await
}

async fn thousands(c: &Context) -> Result<()> {
    cycles(c, THOUSANDS).await?;
    c.figure(&format!(
        "{THOUSANDS} daemons killed at random moments, {} restarts of the machine, {} pods at least \
         begun: nothing left",
        THOUSANDS / RESTART_EVERY,
        THOUSANDS * u32::from(AT_ONCE)
    ));
    Ok(())
}

/// Lets pods come and go `rounds` times, and looks for what is left.
async fn cycles(c: &Context, rounds: u32) -> Result<()> {
    let ground = std::sync::Arc::new(Ground::new()?);
    let network = "subnet6 = \"fd00:198:18::/64\"".to_owned();
    let options = DaemonOptions { network, ..DaemonOptions::default() };
    let Another { context: other, runtime, ground } = another(c, options, ground).await?;
    other.plain_pod().await?;
    other.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    let mut random = Random(SEED);
    for round in 0..rounds {
        play(&other, &runtime, &ground, round, &mut random)
            .await
            .with_context(|| format!("in round {round}"))?;
        if round.is_multiple_of(RESTART_EVERY) {
            audit(&before, &runtime).with_context(|| format!("after round {round}"))?;
        }
    }
    // It still works, and from the first address on: all were given back.
    let pod = other.plain_pod().await?;
    super::network::web_server(&other, &pod).await?;
    other.clean_up().await?;
    audit(&before, &runtime)
}

/// Nothing is on the machine, and no address and no debt on disk.
fn audit(before: &Snapshot, runtime: &Runtime) -> Result<()> {
    before.with_scope(runtime.audit_scope()).audit()?;
    let root = runtime.with_daemon(|daemon| Ok(daemon.root().join("cni")))?;
    let left = |dir: &str| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(root.join(dir)).with_context(|| dir.to_owned())?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    let mut all = left("owed")?;
    all.extend(left("results")?);
    let is_lease = |name: &String| name.parse::<std::net::IpAddr>().is_ok();
    all.extend(left("networks/corten")?.into_iter().filter(is_lease));
    ensure!(all.is_empty(), "left on disk: {all:?}");
    Ok(())
}

/// Pods come, and in every second round go, while the daemon dies; then the next one
/// removes what is listed.
async fn play(
    other: &Context,
    runtime: &Runtime,
    ground: &Ground,
    round: u32,
    random: &mut Random,
) -> Result<()> {
    let life = Duration::from_millis(random.below(LONGEST_LIFE_MS));
    let die = async {
        tokio::time::sleep(life).await;
        runtime.kill()
    };
    // Whoever asked the daemon that died gets an error.
    let coming = join_all((0..AT_ONCE).map(|number| come(other, number)));
    if round.is_multiple_of(2) {
        let (_, died) = tokio::join!(coming, die);
        died?;
    } else {
        let pods: Vec<Pod> = coming.await.into_iter().collect::<Result<_>>()?;
        let going = join_all(pods.iter().map(|pod| async {
            other.stop_pod(&pod.id).await?;
            other.remove_pod(&pod.id).await
        }));
        let (_, died) = tokio::join!(going, die);
        died?;
    }
    if (round + 1).is_multiple_of(RESTART_EVERY) {
        runtime.with_daemon(|daemon| restart_machine(daemon, ground))?;
    }
    runtime.launch().await?;
    for pod in runtime.pods.pod_sandboxes(None).await? {
        other.stop_pod(&pod.id).await?;
        other.remove_pod(&pod.id).await?;
    }
    Ok(())
}

async fn come(other: &Context, number: u16) -> Result<Pod> {
    let mut config = other.pod()?;
    config.port_mappings = vec![PortMapping {
        container_port: 80,
        host_port: i32::from(FIRST_PORT + number),
        ..PortMapping::default()
    }];
    config.annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), "20M".to_owned());
    other.run_pod(config).await
}

/// As after a power cut: no process, mount, namespace, interface or rule is there any more,
/// and what is on disk is of another boot.
fn restart_machine(daemon: &Daemon, ground: &Ground) -> Result<()> {
    cgroup::remove_tree(&ground.cgroup());
    unmount_below(&daemon.state())?;
    let pins = ground.path().join("run/netns");
    unmount_below(&pins)?;
    for pin in std::fs::read_dir(&pins).into_iter().flatten().flatten() {
        std::fs::remove_file(pin.path()).context("failed to remove a pin")?;
    }
    for id in [daemon.state(), daemon.root()] {
        another_boot(&id)?;
    }
    let gone = format!(
        "for link in $(ip -o link show master {bridge} | grep -o 'corten[0-9a-f]*'); do
             ip link del $link || true
             ip link del cortn-${{link#corten}} || true
         done 2>/dev/null
         ip link del {bridge} 2>/dev/null || true
         for family in ip ip6 bridge; do nft delete table $family {bridge} 2>/dev/null || true; done",
        bridge = ground.bridge()
    );
    program::output(Command::new("sh").args(["-c", &gone])).map(drop)
}

fn another_boot(dir: &Path) -> Result<()> {
    std::fs::write(dir.join("boot-id"), "another").context("failed to write another boot's id")
}

/// Numbers that look random (`xorshift64`).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
