//! A daemon whose cgroups systemd makes.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{CgroupDriver, RuntimeConfigRequest};
use testing::program::output;

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, PATIENCE, Pod, code, equal, map, refusal, resources, until};
use crate::process::{group, group_value};

const NEEDS: &[Need] = &[Need::SystemdDriver];

pub(super) const CASES: &[Case] = &[
    case!("systemd.driver_is_told", driver).needs(NEEDS),
    case!("systemd.containers_are_in_scopes", scopes).needs(NEEDS),
    case!("systemd.limits_and_devices_survive_a_reload", reload).needs(NEEDS).alone(),
    case!("systemd.process_limit_is_exact", exact).needs(NEEDS),
    case!("systemd.slice_of_the_kubelet_stays", slice).needs(NEEDS),
    case!("systemd.slice_that_nobody_made_goes", own_slice).needs(NEEDS),
    case!("systemd.parent_of_cgroupfs_is_refused", path).needs(NEEDS),
    case!("systemd.bad_slices_are_refused", bad_slices).needs(NEEDS),
    case!("systemd.bus_that_is_started_anew", bus).needs(NEEDS).alone(),
    case!("systemd.units_go_with_the_pod", units_go).needs(NEEDS),
];

async fn driver(c: &Context) -> Result<()> {
    let answer = c.runtime.pods.runtime_config(RuntimeConfigRequest {}).await?;
    let linux = answer.linux.context("nothing about Linux")?;
    equal("the driver", linux.cgroup_driver(), CgroupDriver::Systemd)
}

async fn pod_in(c: &Context, parent: &str) -> Result<Pod> {
    let mut config = c.pod()?;
    config.linux.as_mut().context("the sandbox has no Linux part")?.cgroup_parent =
        parent.to_owned();
    c.run_pod(config).await
}

fn systemctl(arguments: &[&str]) -> Result<String> {
    output(Command::new("systemctl").args(arguments))
}

fn shown(unit: &str, property: &str) -> Result<String> {
    let value = systemctl(&["show", "--value", "--property", property, unit])?;
    Ok(value.trim().to_owned())
}

async fn scopes(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let scope = format!("corten-{id}.scope");
    equal("the unit", shown(&scope, "ActiveState")?, "active")?;
    equal("the delegation", shown(&scope, "Delegate")?, "yes")?;
    let slice = shown(&scope, "Slice")?;
    ensure!(slice.contains(&pod.id), "the slice is {slice}");
    let group = group("", &id)?.display().to_string();
    ensure!(group.ends_with(&format!("{slice}/{scope}")), "the group is {group}");
    // Nothing but the container is in it.
    equal("the processes", group_value("", &id, "pids.current")?, "2")
}

const LOOK: &str = "test -e /tmp/loop || mknod /tmp/loop c 10 237; \
    (exec 3< /tmp/loop) 2> /dev/null && echo open || echo refused; \
    exec 3< /dev/null && echo open || echo refused";

async fn reload(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let asked = resources(&mut config)?;
    asked.memory_limit_in_bytes = 64 << 20;
    asked.cpu_shares = 512;
    asked.cpu_quota = 50_000;
    asked.cpu_period = 100_000;
    asked.cpuset_cpus = "0".to_owned();
    asked.unified = map(&[("pids.max", "77"), ("memory.high", "33554432")]);
    let id = c.run(&pod, &config).await?;
    for when in ["before", "after"] {
        equal(when, c.sh(&id, LOOK).await?, "refused\nopen")?;
        for (file, value) in [
            ("memory.max", "67108864"),
            ("memory.high", "33554432"),
            ("cpu.weight", "20"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "77"),
        ] {
            equal(&format!("{file} {when}"), group_value("", &id, file)?, value)?;
        }
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

async fn exact(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    resources(&mut config)?.unified = map(&[("pids.max", "3")]);
    let id = c.run(&pod, &config).await?;
    equal("the limit", group_value("", &id, "pids.max")?, "3")?;
    let scope = format!("corten-{id}.scope");
    equal("what systemd knows", shown(&scope, "TasksMax")?, "3")
}

async fn slice(c: &Context) -> Result<()> {
    let stem = c.runtime.ground.slice().trim_end_matches(".slice").to_owned();
    let slice = format!("{stem}-besteffort-pod1.slice");
    // As the kubelet does it.
    output(
        Command::new("busctl")
            .args(["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
            .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit"])
            .args(["ssa(sv)a(sa(sv))", &slice, "fail", "1", "MemoryAccounting", "b", "true", "0"]),
    )?;
    // As the kubelet does, which waits for the job: until then the slice is nobody's.
    let made = || async { Ok((shown(&slice, "ActiveState")? == "active").then_some(())) };
    until(PATIENCE, "the slice", made).await?;
    let pod = pod_in(c, &slice).await?;
    let id = c.run(&pod, &c.waiting()).await?;
    let group = group("", &id)?.display().to_string();
    let path = format!("/{stem}.slice/{stem}-besteffort.slice/{slice}/");
    ensure!(group.contains(&path), "the group is {group}");
    c.clean_up().await?;
    equal("the kubelet's slice", shown(&slice, "ActiveState")?, "active")?;
    systemctl(&["stop", &slice, &format!("{stem}-besteffort.slice")])?;
    Ok(())
}

async fn own_slice(c: &Context) -> Result<()> {
    let slice = c.runtime.ground.slice().replace(".slice", "-mine.slice");
    let pod = pod_in(c, &slice).await?;
    c.run(&pod, &c.waiting()).await?;
    equal("the slice", shown(&slice, "ActiveState")?, "active")?;
    c.clean_up().await?;
    equal("the slice after", shown(&slice, "ActiveState")?, "inactive")
}

async fn path(c: &Context) -> Result<()> {
    let error = refusal(pod_in(c, "/kubepods/besteffort/pod1").await)?;
    ensure!(error.to_string().contains("/kubepods/besteffort/pod1"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)
}

async fn bad_slices(c: &Context) -> Result<()> {
    for bad in ["-a.slice", "a--b.slice", "a b.slice", ".slice", "a\u{e4}.slice"] {
        let error = refusal(pod_in(c, bad).await)?;
        equal(bad, code::<()>(Err(error))?, Code::InvalidArgument)?;
    }
    Ok(())
}

async fn bus(c: &Context) -> Result<()> {
    let (_, before) = c.waiting_container().await?;
    systemctl(&["restart", "dbus.service"])?;
    let (_, after) = c.waiting_container().await?;
    for id in [before, after] {
        equal("the output", c.sh(&id, "echo alive").await?, "alive")?;
    }
    Ok(())
}

async fn units_go(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let listed = || systemctl(&["list-units", "--all", "--plain", "--no-legend"]);
    ensure!(listed()?.contains(&id), "the container has no unit");
    c.stop(&id, 10).await?;
    ensure!(!listed()?.contains(&id), "the container's unit is left");
    c.stop_pod(&pod.id).await?;
    c.remove_pod(&pod.id).await?;
    ensure!(!listed()?.contains(&pod.id), "the pod's unit is left");
    Ok(())
}
