//! UpdatePodSandboxResources.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{
    LinuxContainerResources, PodSandboxStatusRequest, UpdatePodSandboxResourcesRequest,
};
use serde_json::Value;

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, PATIENCE, Pod, code, equal, refusal, resources, until};
use crate::process;

pub(super) const CASES: &[Case] = &[
    case!("pod_resources.apply_at_once_with_the_overhead", applies).ours(),
    case!("pod_resources.come_with_the_first_container", first).ours(),
    case!("pod_resources.limit_below_use_is_refused", below_use).ours(),
    case!("pod_resources.refused_change_nothing", refused).ours(),
    case!("pod_resources.of_unknown_and_stopped_pods_are_refused", unknown).ours(),
    case!("pod_resources.of_the_kubelets_group_are_kept_alone", kubelets)
        .needs(&[Need::CgroupfsDriver])
        .ours(),
    case!("pod_resources.survive_the_daemon", survives).alone().ours(),
    case!("pod_resources.are_properties_of_the_slice", slice).needs(&[Need::SystemdDriver]).ours(),
];

async fn update(
    c: &Context,
    id: &str,
    sum: Option<LinuxContainerResources>,
    overhead: Option<LinuxContainerResources>,
) -> Result<()> {
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead,
        resources: sum,
    };
    c.runtime.pods.update_pod_sandbox_resources(request).await?;
    Ok(())
}

fn memory(bytes: i64) -> Option<LinuxContainerResources> {
    Some(LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() })
}

/// A value of the group that a container's own is in.
fn value(container: &str, controller: &str, old: &str, new: &str) -> Result<String> {
    let group = process::group(process::controllers(&[controller])[0], container)?;
    let pod = group.parent().context("it has no parent")?;
    let text = std::fs::read_to_string(pod.join(old))
        .or_else(|_| std::fs::read_to_string(pod.join(new)))
        .with_context(|| format!("{} has neither {old} nor {new}", pod.display()))?;
    Ok(text.trim().to_owned())
}

fn memory_of(container: &str) -> Result<String> {
    value(container, "memory", "memory.limit_in_bytes", "memory.max")
}

fn is_unlimited(value: &str) -> bool {
    value == "max" || value.parse::<u64>().is_ok_and(|bytes| bytes > 1 << 62)
}

/// What the verbose status tells.
async fn told(c: &Context, pod: &str) -> Result<Value> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let answer = c.runtime.pods.pod_sandbox_status(request).await?;
    Ok(serde_json::from_str(answer.info.get("info").context("no information")?)?)
}

async fn applies(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    ensure!(is_unlimited(&memory_of(&id)?), "it has a limit already");
    let sum = LinuxContainerResources {
        memory_limit_in_bytes: 128 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        ..LinuxContainerResources::default()
    };
    let overhead = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        cpu_quota: 5_000,
        cpu_period: 50_000,
        ..LinuxContainerResources::default()
    };
    update(c, &pod.id, Some(sum), Some(overhead)).await?;
    equal("the memory", memory_of(&id)?, (144 << 20).to_string())?;
    let quota = value(&id, "/cpu", "cpu.cfs_quota_us", "cpu.max")?;
    ensure!(quota == "60000" || quota == "60000 100000", "the quota is {quota}");
    let shares = value(&id, "/cpu", "cpu.shares", "cpu.weight")?;
    ensure!(shares == "512" || shares == "20", "the shares are {shares}");

    // Up, by one of both; and down again, with what was not asked for as it was.
    update(c, &pod.id, None, memory(32 << 20)).await?;
    equal("the memory", memory_of(&id)?, (160 << 20).to_string())?;
    update(c, &pod.id, memory(64 << 20), None).await?;
    equal("the memory", memory_of(&id)?, (96 << 20).to_string())?;
    equal("the quota", value(&id, "/cpu", "cpu.cfs_quota_us", "cpu.max")?, quota)?;
    let info = told(c, &pod.id).await?;
    for (what, wanted) in [
        (&info["config"]["resources"]["memory_limit_bytes"], 64 << 20),
        (&info["config"]["resources"]["cpu_quota_us"], 50_000),
        (&info["config"]["overhead"]["memory_limit_bytes"], 32 << 20),
        (&info["limits"]["memory_limit_bytes"], 96 << 20),
    ] {
        equal("what is told", what.as_i64(), Some(wanted))?;
    }
    // No limit is a limit too.
    update(c, &pod.id, memory(-1), None).await?;
    ensure!(is_unlimited(&memory_of(&id)?), "it is {}", memory_of(&id)?);
    Ok(())
}

async fn first(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    update(c, &pod.id, memory(96 << 20), None).await?;
    let id = c.run(&pod, &c.waiting()).await?;
    equal("the memory", memory_of(&id)?, (96 << 20).to_string())
}

async fn below_use(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("head -c 20000000 /dev/zero > /dev/shm/held; echo held; tail -f /dev/null");
    resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
    let id = c.run(&pod, &config).await?;
    until(PATIENCE, "the memory's use", || async {
        Ok(crate::logs::read(&pod, &config)?.text().contains("held").then_some(()))
    })
    .await?;
    update(c, &pod.id, memory(80 << 20), None).await?;
    let error = refusal(update(c, &pod.id, memory(8 << 20), None).await)?;
    ensure!(error.to_string().contains("in use"), "{error:#}");
    equal("the code", code::<()>(Err(error))?, Code::FailedPrecondition)?;
    equal("the memory", memory_of(&id)?, (80 << 20).to_string())?;
    let info = told(c, &pod.id).await?;
    let memory = &info["config"]["resources"]["memory_limit_bytes"];
    equal("what is told", memory.as_i64(), Some(80 << 20))?;
    equal("it lives", c.sh(&id, "echo alive").await?, "alive")
}

async fn refused(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let bad = |change: LinuxContainerResources| LinuxContainerResources {
        memory_limit_in_bytes: if change.memory_limit_in_bytes == 0 { 64 << 20 } else { -7 },
        ..change
    };
    for (change, wanted) in [
        (LinuxContainerResources { cpu_shares: -1, ..Default::default() }, Code::InvalidArgument),
        (
            LinuxContainerResources { memory_limit_in_bytes: -7, ..Default::default() },
            Code::InvalidArgument,
        ),
        // Only the kernel knows that there is no such processor.
        (
            LinuxContainerResources { cpuset_cpus: "9999".to_owned(), ..Default::default() },
            Code::Unknown,
        ),
    ] {
        let result = update(c, &pod.id, Some(bad(change)), None).await;
        equal("the code", code(result)?, wanted)?;
        ensure!(is_unlimited(&memory_of(&id)?), "the memory is {}", memory_of(&id)?);
        equal("what is told", &told(c, &pod.id).await?["config"]["resources"], &Value::Null)?;
    }
    Ok(())
}

async fn unknown(c: &Context) -> Result<()> {
    let result = update(c, &"0".repeat(64), memory(64 << 20), None).await;
    equal("the code", code(result)?, Code::NotFound)?;
    let pod = c.plain_pod().await?;
    c.stop_pod(&pod.id).await?;
    let result = update(c, &pod.id, memory(64 << 20), None).await;
    equal("the code", code(result)?, Code::FailedPrecondition)
}

/// The kubelet has changed its group before it calls; it knows what the sum does not say.
async fn kubelets(c: &Context) -> Result<()> {
    let parent = format!("{}/kubepods/pod-resources", c.runtime.ground.cgroup());
    testing::cgroup::make(&parent)?;
    let mut config = c.pod()?;
    let linux = config.linux.as_mut().context("no Linux part")?;
    linux.cgroup_parent.clone_from(&parent);
    let pod: Pod = c.run_pod(config).await?;
    let id = c.run(&pod, &c.waiting()).await?;
    update(c, &pod.id, memory(64 << 20), memory(1 << 20)).await?;
    ensure!(is_unlimited(&memory_of(&id)?), "the kubelet's group has {}", memory_of(&id)?);
    let info = told(c, &pod.id).await?;
    let memory = &info["config"]["resources"]["memory_limit_bytes"];
    equal("what is told", memory.as_i64(), Some(64 << 20))?;
    c.clean_up().await?;
    testing::cgroup::remove_tree(&format!("{}/kubepods", c.runtime.ground.cgroup()));
    Ok(())
}

async fn survives(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    update(c, &pod.id, memory(96 << 20), memory(32 << 20)).await?;
    c.runtime.kill()?;
    c.runtime.launch().await?;
    equal("the memory", memory_of(&id)?, (128 << 20).to_string())?;
    let info = told(c, &pod.id).await?;
    let memory_told = &info["config"]["resources"]["memory_limit_bytes"];
    equal("what is told", memory_told.as_i64(), Some(96 << 20))?;
    // What was kept counts for the next change.
    update(c, &pod.id, memory(64 << 20), None).await?;
    equal("the memory", memory_of(&id)?, (96 << 20).to_string())
}

async fn slice(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    update(c, &pod.id, memory(96 << 20), None).await?;
    equal("the memory", memory_of(&id)?, (96 << 20).to_string())?;
    let systemctl = |arguments: &[&str]| {
        testing::program::output(std::process::Command::new("systemctl").args(arguments))
    };
    systemctl(&["daemon-reload"])?;
    equal("the memory after a reload", memory_of(&id)?, (96 << 20).to_string())?;
    let group = process::group("", &id)?;
    let slice = group.parent().and_then(Path::file_name).context("no slice")?.to_os_string();
    let slice = slice.to_string_lossy().into_owned();
    let kept = Path::new("/run/systemd/system.control").join(format!("{slice}.d"));
    c.stop_pod(&pod.id).await?;
    c.remove_pod(&pod.id).await?;
    ensure!(!kept.exists(), "{} is left", kept.display());
    Ok(())
}
