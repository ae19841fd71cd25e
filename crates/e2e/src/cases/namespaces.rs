//! Namespaces: private, of the pod, of the node.

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerConfig, NamespaceMode, NamespaceOption};

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, equal, namespaces, refusal, security, until};

pub(super) const CASES: &[Case] = &[
    case!("namespace.pid_of_the_container", pid_container),
    case!("namespace.pid_of_the_pod", pid_pod),
    case!("namespace.pid_of_the_pod_reaps", pid_pod_reaps),
    case!("namespace.pid_of_the_node", pid_node),
    case!("namespace.pid_of_a_target", pid_target),
    case!("namespace.wrong_targets_are_refused", wrong_targets)
        .differs("1.6 makes a sandbox that is to be in a container's namespace"),
    case!("namespace.ipc_of_the_pod", ipc_pod),
    case!("namespace.ipc_of_the_node", ipc_node),
    case!("namespace.network_of_the_pod", network_pod),
    case!("namespace.network_of_the_node", network_node),
    case!("namespace.uts_of_the_pod", uts),
    case!("namespace.status_tells_them", status),
    case!("namespace.mounts_are_private", mounts),
    case!("namespace.cgroups_are_its_own", cgroups),
];

/// A pod with namespaces, and a way to ask for containers with the same.
async fn pod_with(c: &Context, option: NamespaceOption) -> Result<Pod> {
    let mut config = c.pod()?;
    *namespaces(&mut config)? = option;
    c.run_pod(config).await
}

fn with(mut config: ContainerConfig, option: NamespaceOption) -> Result<ContainerConfig> {
    security(&mut config)?.namespace_options = Some(option);
    Ok(config)
}

fn pid(mode: NamespaceMode) -> NamespaceOption {
    NamespaceOption { pid: mode.into(), ..NamespaceOption::default() }
}

fn own(namespace: &str) -> Result<String> {
    Ok(std::fs::read_link(format!("/proc/self/ns/{namespace}"))?.display().to_string())
}

async fn pid_container(c: &Context) -> Result<()> {
    let option = pid(NamespaceMode::Container);
    let pod = pod_with(c, option.clone()).await?;
    let config =
        with(c.script("cat /proc/1/cmdline | tr '\\0' ' '; ls -d /proc/[0-9]* | wc -l"), option)?;
    let text = c.output(&pod, &config).await?;
    ensure!(text.starts_with("sh -c"), "the first process is {text}");
    Ok(())
}

async fn pid_pod(c: &Context) -> Result<()> {
    let option = pid(NamespaceMode::Pod);
    let pod = pod_with(c, option.clone()).await?;
    let one = c
        .run(&pod, &with(c.command(&["tail", "-f", "/dev/null", "/seen"]), option.clone())?)
        .await?;
    let two = c.run(&pod, &with(c.waiting(), option)?).await?;
    let command = "tr '\\0' ' ' < /proc/1/cmdline";
    for id in [&one, &two] {
        let first = c.sh(id, command).await?;
        ensure!(!first.starts_with("tail -f") && !first.starts_with("sh -c trap"), "it is {first}");
    }
    equal("the other's process", c.sh(&two, "ps -o args | grep -c '[/]seen'").await?, "1")?;
    // The namespace outlives each of them.
    c.stop(&one, 0).await?;
    equal("the other", c.sh(&two, "echo alive").await?, "alive")?;
    let third = c
        .run(&pod, &with(c.script("ps -o args | grep -c '[t]ail -f'"), pid(NamespaceMode::Pod))?)
        .await?;
    equal("the third's code", c.exited(&third).await?.exit_code, 0)
}

async fn pid_pod_reaps(c: &Context) -> Result<()> {
    let option = pid(NamespaceMode::Pod);
    let pod = pod_with(c, option.clone()).await?;
    let script = "for i in 1 2 3; do (sh -c 'sleep 0.1 &' ); done; tail -f /dev/null";
    let id = c.run(&pod, &with(c.script(script), option)?).await?;
    until(crate::context::PATIENCE, "the orphans' end", || async {
        Ok((c.sh(&id, "ps -o stat,comm | grep -c '^[SZ].*sleep' || true").await? == "0")
            .then_some(()))
    })
    .await
}

async fn pid_node(c: &Context) -> Result<()> {
    let option = pid(NamespaceMode::Node);
    let pod = pod_with(c, option.clone()).await?;
    let config = with(c.script("readlink /proc/self/ns/pid"), option)?;
    equal("the namespace", c.output(&pod, &config).await?, own("pid")?)
}

fn target(id: &str) -> NamespaceOption {
    NamespaceOption { target_id: id.to_owned(), ..pid(NamespaceMode::Target) }
}

/// As the kubelet does for an ephemeral container that debugs another one.
async fn pid_target(c: &Context) -> Result<()> {
    let option = pid(NamespaceMode::Container);
    let pod = pod_with(c, option.clone()).await?;
    let debugged =
        c.run(&pod, &with(c.command(&["tail", "-f", "/dev/null", "/seen"]), option)?).await?;
    let debugger = c.run(&pod, &with(c.waiting(), target(&debugged))?).await?;
    let first = c.sh(&debugger, "tr '\\0' ' ' < /proc/1/cmdline").await?;
    equal("the first process", first, "tail -f /dev/null /seen")?;
    equal("its file", c.sh(&debugger, "test -d /proc/1/root/etc && echo seen").await?, "seen")?;
    // Where no other container's id begins so, the begin of one does.
    let namespace = "readlink /proc/self/ns/pid";
    let seen = c.output(&pod, &with(c.script(namespace), target(&debugged[..12]))?).await?;
    equal("the namespace", seen, c.sh(&debugged, namespace).await?)?;
    let other = c.sh(&debugged, "ps -o args | grep -c '[t]rap'").await?;
    equal("the debugger, seen from there", other, "1")?;
    // The debugger ends with the namespace that it is a guest in, not the other way.
    c.stop(&debugger, 0).await?;
    equal("the debugged", c.sh(&debugged, "echo alive").await?, "alive")?;
    let again = c.run(&pod, &with(c.waiting(), target(&debugged))?).await?;
    c.stop(&debugged, 0).await?;
    equal("the guest's code", c.exited(&again).await?.exit_code, 137)?;
    c.clean_up().await
}

async fn wrong_targets(c: &Context) -> Result<()> {
    let pod = pod_with(c, pid(NamespaceMode::Container)).await?;
    let (_other, stranger) = c.waiting_container().await?;
    let ended = c.run(&pod, &c.script("true")).await?;
    c.exited(&ended).await?;
    for id in ["", "ffffffff", &stranger, &ended] {
        let result = c.run(&pod, &with(c.waiting(), target(id))?).await;
        refusal(result).with_context(|| format!("a container of the target {id:?}"))?;
    }
    let mut config = c.pod()?;
    *namespaces(&mut config)? = target(&stranger);
    refusal(c.run_pod(config).await).context("a pod of a target")?;
    c.clean_up().await
}

async fn ipc_pod(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let (one, two) = (c.run(&pod, &c.waiting()).await?, c.run(&pod, &c.waiting()).await?);
    c.sh(&one, "echo shared > /dev/shm/x").await?;
    equal("the other's memory", c.sh(&two, "cat /dev/shm/x").await?, "shared")?;
    let first = c.sh(&one, "readlink /proc/self/ns/ipc").await?;
    equal("the namespace", &c.sh(&two, "readlink /proc/self/ns/ipc").await?, &first)?;
    ensure!(first != own("ipc")?, "it is the node's");
    equal("the size", c.sh(&one, "df -k /dev/shm | tail -n 1 | awk '{print $2}'").await?, "65536")
}

async fn ipc_node(c: &Context) -> Result<()> {
    let option =
        NamespaceOption { ipc: NamespaceMode::Node.into(), ..pid(NamespaceMode::Container) };
    let pod = pod_with(c, option.clone()).await?;
    let config = with(c.script("readlink /proc/self/ns/ipc"), option)?;
    equal("the namespace", c.output(&pod, &config).await?, own("ipc")?)
}

async fn network_pod(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let text = c
        .output(&pod, &c.script("readlink /proc/self/ns/net; ip -o link | grep -c LOOPBACK,UP"))
        .await?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines[0] != own("net")?, "it is the node's");
    equal("loopback", lines[1], "1")
}

async fn network_node(c: &Context) -> Result<()> {
    let option =
        NamespaceOption { network: NamespaceMode::Node.into(), ..pid(NamespaceMode::Container) };
    let pod = pod_with(c, option.clone()).await?;
    let network = c.pod_status(&pod.id).await?.network;
    equal("the address", network.map(|network| network.ip).unwrap_or_default(), "")?;
    let config = with(c.script("readlink /proc/self/ns/net; hostname"), option)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let wanted = format!("{}\n{}", own("net")?, host.trim());
    equal("network and name", c.output(&pod, &config).await?, wanted)
}

async fn uts(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.hostname = "the-pods-name".to_owned();
    let pod = c.run_pod(config).await?;
    let (one, two) = (c.run(&pod, &c.waiting()).await?, c.run(&pod, &c.waiting()).await?);
    for id in [&one, &two] {
        equal(
            "the name",
            c.sh(id, "hostname; cat /etc/hostname").await?,
            "the-pods-name\nthe-pods-name",
        )?;
    }
    let (first, second) = (
        c.sh(&one, "readlink /proc/self/ns/uts").await?,
        c.sh(&two, "readlink /proc/self/ns/uts").await?,
    );
    equal("the namespace", second, first)
}

async fn status(c: &Context) -> Result<()> {
    for option in [
        pid(NamespaceMode::Container),
        pid(NamespaceMode::Pod),
        NamespaceOption {
            ipc: NamespaceMode::Node.into(),
            network: NamespaceMode::Node.into(),
            ..pid(NamespaceMode::Node)
        },
    ] {
        let pod = pod_with(c, option.clone()).await?;
        let said = c.pod_status(&pod.id).await?.linux.and_then(|linux| linux.namespaces);
        equal("the namespaces", said.and_then(|namespaces| namespaces.options), Some(option))?;
    }
    Ok(())
}

async fn mounts(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let text = c.output(&pod, &c.script("cat /proc/self/mountinfo")).await?;
    let ground = c.runtime.ground.path().display().to_string();
    for line in text.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        ensure!(!point.starts_with(&ground), "a mount of the host: {line}");
    }
    ensure!(text.lines().count() < 60, "{} mounts", text.lines().count());
    Ok(())
}

async fn cgroups(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = c.run(&pod, &c.waiting()).await?;
    let groups = c.sh(&id, "cat /proc/1/cgroup").await?;
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        ensure!(!groups.contains(&id), "the host's paths are shown: {groups}");
        return Ok(());
    }
    // Version 1 has one namespace for all hierarchies, which programs do not expect: the
    // container sees where it is, and that is in its own group.
    let own = groups.lines().filter(|line| line.contains(":memory:")).all(|l| l.ends_with(&id));
    ensure!(own, "the process is not in the container's own group: {groups}");
    Ok(())
}
