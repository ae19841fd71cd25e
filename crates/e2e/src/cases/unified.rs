//! Cgroup v2 alone, and root with all its capabilities.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, equal, map, resources, security};
use crate::process::{group, group_value};

const NEEDS: &[Need] = &[Need::UnifiedCgroups];

pub(super) const CASES: &[Case] = &[
    case!("unified.container_sees_its_own_group", own_view).needs(NEEDS),
    case!("unified.view_is_read_only", read_only).needs(NEEDS),
    case!("unified.privileged_may_write", privileged).needs(NEEDS),
    case!("unified.all_controllers_reach_the_container", controllers).needs(NEEDS),
    case!("unified.keys_are_written", keys).needs(NEEDS),
    case!("unified.keys_that_are_no_limits_are_refused", bad_keys).needs(NEEDS).ours(),
    case!("unified.device_rules", devices).needs(NEEDS),
    case!("unified.exec_leaves_no_group", exec).needs(NEEDS).ours(),
    case!("capable.privileged_has_all", all_capabilities).needs(&[Need::FullCapabilities]),
    case!("capable.negative_oom_score", negative_score).needs(&[Need::FullCapabilities]),
];

async fn own_view(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("cat /proc/self/cgroup /sys/fs/cgroup/memory.max");
    resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
    equal("its group and limit", c.output(&pod, &config).await?, "0::/\n67108864")
}

async fn read_only(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("mkdir /sys/fs/cgroup/x 2>&1 || true");
    let text = c.output(&pod, &config).await?;
    ensure!(text.contains("Read-only"), "it says {text}");
    Ok(())
}

async fn privileged(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        security.privileged = true;
    }
    let pod = c.run_pod(config).await?;
    let mut config = c.script("for g in $(cut -d: -f3 /proc/self/cgroup); do mkdir -p /sys/fs/cgroup$g/x && rmdir /sys/fs/cgroup$g/x && echo made; done");
    security(&mut config)?.privileged = true;
    equal("the group", c.output(&pod, &config).await?, "made")
}

async fn controllers(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let there = group_value("", &id, "cgroup.controllers")?;
    for wanted in ["cpuset", "cpu", "io", "memory", "pids"] {
        ensure!(there.split(' ').any(|word| word == wanted), "no {wanted} in {there}");
    }
    Ok(())
}

async fn keys(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let keys = [("memory.high", "33554432"), ("memory.low", "4096"), ("pids.max", "99")];
    resources(&mut config)?.unified = map(&keys);
    let id = c.run(&pod, &config).await?;
    for (key, value) in keys {
        equal(key, group_value("", &id, key)?, value)?;
    }
    Ok(())
}

async fn bad_keys(c: &Context) -> Result<()> {
    for key in ["cgroup.procs", "cgroup.freeze", "../memory.max"] {
        let pod = c.plain_pod().await?;
        let mut config = c.waiting();
        resources(&mut config)?.unified = map(&[(key, "1")]);
        ensure!(c.run(&pod, &config).await.is_err(), "{key} was taken");
    }
    Ok(())
}

async fn devices(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "mknod /tmp/loop c 10 237; (exec 3< /tmp/loop) 2> /dev/null || echo refused; \
        exec 3< /dev/zero && exec 4> /dev/full && echo open";
    equal("the devices", c.output(&pod, &c.script(script)).await?, "refused\nopen")
}

async fn exec(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    c.sh(&id, "true").await?;
    let own = group("", &id)?;
    crate::context::until(crate::context::PATIENCE, "the session's group to go", || async {
        let below = testing::cgroup::find(|path| path.starts_with(&format!("{}/", own.display())))?;
        Ok(below.is_empty().then_some(()))
    })
    .await
}

async fn all_capabilities(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        security.privileged = true;
    }
    let pod = c.run_pod(config).await?;
    let mut config = c.script("grep CapEff /proc/self/status | cut -f 2");
    security(&mut config)?.privileged = true;
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    let all = u64::MAX >> (63 - last.trim().parse::<u32>()?);
    equal("the capabilities", c.output(&pod, &config).await?, format!("{all:016x}"))
}

async fn negative_score(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    resources(&mut config)?.oom_score_adj = -999;
    let id = c.run(&pod, &config).await?;
    equal("the score", c.sh(&id, "cat /proc/1/oom_score_adj").await?, "-999")?;
    equal("a session's score", c.sh(&id, "cat /proc/self/oom_score_adj").await?, "-999")
}
