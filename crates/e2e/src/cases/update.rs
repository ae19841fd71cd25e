//! UpdateContainerResources.

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use crate::case;
use crate::case::Case;
use crate::context::{Context, code, equal, refusal, resources};
use crate::process::group_value;

pub(super) const CASES: &[Case] = &[
    case!("update.applies_at_once", applies),
    case!("update.status_tells_the_new_ones", status).differs("1.6 tells no resources"),
    case!("update.of_a_created_one_counts_at_its_start", created),
    case!("update.refused_changes_nothing", transactional).ours(),
    case!("update.limit_below_use_is_refused", below_use).ours(),
    case!("update.of_ended_and_unknown_ones_is_refused", ended)
        .differs("1.6 keeps new limits of what has ended"),
    case!("update.survives_the_daemon", survives).alone().ours(),
    case!("update.of_a_programs_container", by_program).ours(),
];

async fn update(c: &Context, id: &str, linux: LinuxContainerResources) -> Result<()> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..UpdateContainerResourcesRequest::default()
    };
    c.runtime.pods.update_container_resources(request).await?;
    Ok(())
}

/// A limit, whichever version of cgroups has it.
fn limit(id: &str, controller: &str, old: &str, new: &str) -> Result<String> {
    group_value(controller, id, old).or_else(|_| group_value("", id, new))
}

fn memory(id: &str) -> Result<String> {
    limit(id, "memory", "memory.limit_in_bytes", "memory.max")
}

fn shares(id: &str) -> Result<String> {
    limit(id, "/cpu", "cpu.shares", "cpu.weight")
}

/// Shares as they are written, in the units of the version.
fn in_units(id: &str, shares: u64) -> String {
    match group_value("/cpu", id, "cpu.shares") {
        Ok(_) => shares.to_string(),
        Err(_) => (1 + (shares - 2) * 9999 / 262_142).to_string(),
    }
}

async fn limited(c: &Context) -> Result<String> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = resources(&mut config)?;
    asked.memory_limit_in_bytes = 64 << 20;
    asked.cpu_shares = 512;
    c.run(&pod, &config).await
}

async fn applies(c: &Context) -> Result<()> {
    let id = limited(c).await?;
    let change = LinuxContainerResources {
        memory_limit_in_bytes: 128 << 20,
        cpu_quota: 20_000,
        cpu_period: 50_000,
        cpuset_cpus: "0".to_owned(),
        ..LinuxContainerResources::default()
    };
    update(c, &id, change).await?;
    equal("the memory", memory(&id)?, (128 << 20).to_string())?;
    equal("the shares stay", shares(&id)?, in_units(&id, 512))?;
    match group_value("/cpu", &id, "cpu.cfs_quota_us") {
        Ok(quota) => equal("the quota", quota, "20000")?,
        Err(_) => equal("the quota", group_value("", &id, "cpu.max")?, "20000 50000")?,
    }
    equal(
        "the processors",
        c.sh(&id, "grep Cpus_allowed_list /proc/1/status | cut -f 2").await?,
        "0",
    )?;
    // And down again.
    let change = LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
    update(c, &id, change).await?;
    equal("the memory", memory(&id)?, (32 << 20).to_string())
}

async fn status(c: &Context) -> Result<()> {
    let id = limited(c).await?;
    let change = LinuxContainerResources {
        cpu_shares: 1024,
        memory_swap_limit_in_bytes: 128 << 20,
        ..LinuxContainerResources::default()
    };
    update(c, &id, change).await?;
    let told = c.status(&id).await?.resources.and_then(|all| all.linux).context("no resources")?;
    equal("the shares", told.cpu_shares, 1024)?;
    equal("the memory stays", told.memory_limit_in_bytes, 64 << 20)?;
    // Both together stay, also where the kernel counts them apart.
    let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    update(c, &id, change).await?;
    match group_value("memory", &id, "memory.memsw.limit_in_bytes") {
        Ok(both) => equal("both", both, (128 << 20).to_string())?,
        Err(_) => equal("swap", group_value("", &id, "memory.swap.max")?, (32 << 20).to_string())?,
    }
    equal("memory and swap", told.memory_swap_limit_in_bytes, 128 << 20)
}

async fn created(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
    let id = c.create(&pod, &config).await?;
    let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    update(c, &id, change).await?;
    c.start(&id).await?;
    equal("the memory", memory(&id)?, (96 << 20).to_string())?;
    // Its devices are as they were.
    c.sh(&id, "echo x > /dev/null").await?;
    Ok(())
}

async fn transactional(c: &Context) -> Result<()> {
    let id = limited(c).await?;
    let bad = [
        LinuxContainerResources {
            cpu_shares: 2048,
            memory_limit_in_bytes: -7,
            ..Default::default()
        },
        LinuxContainerResources { cpu_shares: 2048, oom_score_adj: 5000, ..Default::default() },
        // Only the kernel knows that there is no such processor.
        LinuxContainerResources {
            cpu_shares: 2048,
            memory_limit_in_bytes: 128 << 20,
            cpuset_cpus: "9999".to_owned(),
            ..Default::default()
        },
        LinuxContainerResources {
            cpu_shares: 2048,
            cpuset_mems: "x".to_owned(),
            ..Default::default()
        },
    ];
    for change in bad {
        refusal(update(c, &id, change).await)?;
        equal("the shares", shares(&id)?, in_units(&id, 512))?;
        equal("the memory", memory(&id)?, (64 << 20).to_string())?;
        let told = c.status(&id).await?.resources.and_then(|r| r.linux).context("no resources")?;
        equal("what is told", (told.cpu_shares, told.memory_limit_in_bytes), (512, 64 << 20))?;
    }
    Ok(())
}

async fn below_use(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("head -c 20000000 /dev/zero > /dev/shm/held; echo held; tail -f /dev/null");
    resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
    let id = c.run(&pod, &config).await?;
    crate::context::until(crate::context::PATIENCE, "the memory's use", || async {
        Ok(crate::logs::read(&pod, &config)?.text().contains("held").then_some(()))
    })
    .await?;
    let change = LinuxContainerResources { memory_limit_in_bytes: 8 << 20, ..Default::default() };
    let error = refusal(update(c, &id, change).await)?.to_string();
    ensure!(error.contains("in use"), "{error}");
    equal("the memory", memory(&id)?, (64 << 20).to_string())?;
    equal("it lives", c.sh(&id, "echo alive").await?, "alive")
}

async fn ended(c: &Context) -> Result<()> {
    let change =
        || LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let pod = c.plain_pod().await?;
    let id = c.run(&pod, &c.script("true")).await?;
    c.exited(&id).await?;
    refusal(update(c, &id, change()).await)?;
    equal("the code", code(update(c, &"0".repeat(64), change()).await)?, Code::NotFound)
}

async fn survives(c: &Context) -> Result<()> {
    let id = limited(c).await?;
    let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    update(c, &id, change).await?;
    c.runtime.kill()?;
    c.runtime.launch().await?;
    equal("the memory", memory(&id)?, (96 << 20).to_string())?;
    let told = c.status(&id).await?.resources.and_then(|all| all.linux).context("no resources")?;
    equal("what is told", told.memory_limit_in_bytes, 96 << 20)
}

async fn by_program(c: &Context) -> Result<()> {
    let pod = c.run_pod_by("runc", c.pod()?).await?;
    let mut config = c.waiting();
    resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
    let id = c.run(&pod, &config).await?;
    equal("the memory", memory(&id)?, (64 << 20).to_string())?;
    let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    update(c, &id, change).await?;
    equal("the memory", memory(&id)?, (96 << 20).to_string())
}
