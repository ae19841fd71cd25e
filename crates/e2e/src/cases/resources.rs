//! Limits, and what happens at them.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::case;
use crate::case::Case;
use crate::context::{Context, equal, resources};
use crate::process::group_value;

pub(super) const CASES: &[Case] = &[
    case!("resources.limits_are_in_the_groups", limits),
    case!("resources.out_of_memory", out_of_memory),
    case!("resources.out_of_memory_of_a_child", child_out_of_memory)
        .differs("1.6 tells a child's death as the container's"),
    case!("resources.oom_score", oom_score),
    case!("resources.cpu_set", cpu_set),
    case!("resources.status_has_them", status),
    case!("resources.groups_are_in_all_hierarchies", groups),
    case!("resources.groups_go_with_the_container", groups_go),
];

async fn limits(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = resources(&mut config)?;
    asked.memory_limit_in_bytes = 64 << 20;
    asked.cpu_shares = 512;
    asked.cpu_quota = 50_000;
    asked.cpu_period = 100_000;
    let id = c.run(&pod, &config).await?;
    // One machine has each controller in one of the two versions.
    let one_of = |controller: &str, old: (&str, &str), new: (&str, &str)| -> Result<()> {
        match group_value(controller, &id, old.0) {
            Ok(value) => equal(old.0, value, old.1),
            Err(_) => equal(new.0, group_value("", &id, new.0)?, new.1),
        }
    };
    one_of("memory", ("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"))?;
    one_of("/cpu", ("cpu.shares", "512"), ("cpu.weight", "20"))?;
    one_of("/cpu", ("cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"))?;
    Ok(())
}

async fn out_of_memory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.command(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"]);
    resources(&mut config)?.memory_limit_in_bytes = 15 << 20;
    let id = c.run(&pod, &config).await?;
    let status = c.exited(&id).await?;
    equal("the code", status.exit_code, 137)?;
    equal("the reason", &status.reason, "OOMKilled")
}

async fn child_out_of_memory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("dd if=/dev/zero of=/dev/null bs=200M; exit 9");
    resources(&mut config)?.memory_limit_in_bytes = 15 << 20;
    let id = c.run(&pod, &config).await?;
    let status = c.exited(&id).await?;
    // The kernel killed one of its processes, but the container ended by itself.
    equal("the code", status.exit_code, 9)?;
    equal("the reason", &status.reason, "Error")
}

async fn oom_score(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("cat /proc/self/oom_score_adj");
    resources(&mut config)?.oom_score_adj = 500;
    equal("the score", c.output(&pod, &config).await?, "500")
}

async fn cpu_set(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = resources(&mut config)?;
    asked.cpuset_cpus = "0".to_owned();
    asked.cpuset_mems = "0".to_owned();
    let id = c.run(&pod, &config).await?;
    let script = "grep -E '^(Cpus|Mems)_allowed_list' /proc/1/status | cut -f 2";
    equal("the processors and nodes", c.sh(&id, script).await?, "0\n0")?;
    let wanted = |file: &str| match group_value("cpuset", &id, file) {
        Ok(value) => Ok(value),
        Err(_) => group_value("", &id, file),
    };
    equal("the group's processors", wanted("cpuset.cpus")?, "0")?;
    equal("the group's nodes", wanted("cpuset.mems")?, "0")
}

async fn status(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = resources(&mut config)?;
    asked.memory_limit_in_bytes = 64 << 20;
    asked.cpu_shares = 512;
    let id = c.run(&pod, &config).await?;
    // Older runtimes say nothing; who says something says what was asked for.
    if let Some(said) = c.status(&id).await?.resources {
        let linux = said.linux.context("nothing about Linux")?;
        equal("the memory", linux.memory_limit_in_bytes, 64 << 20)?;
        equal("the shares", linux.cpu_shares, 512)?;
    }
    Ok(())
}

async fn groups(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let marker = format!("/dev/null-{}", &pod.id[..12]);
    let id = c.run(&pod, &c.command(&["tail", "-f", "/dev/null", &marker])).await?;
    let pid = crate::process::with_argument(&marker)?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in groups.lines() {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        // The one without a controller and systemd's hold no limits.
        if !controllers.is_empty() && !controllers.starts_with("name=") {
            ensure!(line.contains(&id), "in none of its own: {line}");
        }
    }
    Ok(())
}

async fn groups_go(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    ensure!(!testing::cgroup::find(|path| path.contains(&id))?.is_empty(), "there are none");
    c.stop(&id, 10).await?;
    c.remove(&id).await?;
    let left = testing::cgroup::find(|path| path.contains(&id))?;
    ensure!(left.is_empty(), "groups are left: {left:?}");
    Ok(())
}
