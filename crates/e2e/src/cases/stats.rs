//! Figures of containers and pods, and lists in streams.

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{
    CgroupDriver, ContainerFilter, ContainerStats, ContainerStatsFilter, ContainerStatsRequest,
    ImageFsInfoRequest, LinuxPodSandboxStats, ListContainerStatsRequest, ListContainersRequest,
    ListPodSandboxRequest, ListPodSandboxStatsRequest, NamespaceMode, PodSandboxFilter,
    PodSandboxStatsFilter, PodSandboxStatsRequest, RuntimeConfigRequest, UInt64Value,
};

use crate::case;
use crate::case::Case;
use crate::context::{
    CASE_LABEL, Context, PATIENCE, Pod, code, equal, map, namespaces, resources, until,
};
use crate::process;
use crate::runtime::command_line;

pub(super) const CASES: &[Case] = &[
    case!("stats.container_has_its_figures", container),
    case!("stats.lists_are_filtered", filtered),
    case!("stats.processors_in_use_are_told", rate)
        .differs("1.6 knows them once its collector has run twice"),
    case!("stats.available_memory_is_up_to_the_limit", available),
    case!("stats.ended_container_has_what_it_wrote", ended).differs("1.6 leaves it out"),
    case!("stats.missing_ones_are_not_found", missing).differs("1.6 says Unknown"),
    case!("stats.stopped_processes_hold_nothing_up", stopped),
    case!("stats.many_files_are_told_later", many_files).ours(),
    case!("stats.pod_has_its_figures", pod_figures)
        .differs("1.6 has them only of pods whose cgroup_parent was named"),
    case!("stats.pods_on_the_nodes_network_have_none_of_it", node_network)
        .differs("1.6 has them only of pods whose cgroup_parent was named"),
    case!("stats.pods_with_one_parent_have_their_own", one_parent).ours(),
    case!("stats.pod_lists_are_filtered", filtered_pods)
        .differs("1.6 has them only of pods whose cgroup_parent was named"),
    case!("stats.command_line_shows_them", shown_by_command).ours(),
    case!("list.streams_have_what_lists_have", streams),
];

const MIB: u64 = 1 << 20;

fn value(number: Option<&UInt64Value>) -> u64 {
    number.map_or(0, |number| number.value)
}

async fn stats(c: &Context, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    c.runtime.pods.container_stats(request).await?.stats.context("the answer is empty")
}

async fn pod_stats(c: &Context, pod: &Pod) -> Result<LinuxPodSandboxStats> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = c.runtime.pods.pod_sandbox_stats(request).await?.stats;
    stats.and_then(|stats| stats.linux).context("nothing about Linux")
}

async fn container(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script(
        "dd if=/dev/zero of=/file bs=1M count=2 2>/dev/null; trap 'exit 0' TERM; \
         i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; touch /done; tail -f /dev/null & wait",
    );
    config.labels = map(&[("a", "label")]);
    config.annotations = map(&[("an", "annotation")]);
    let id = c.run(&pod, &config).await?;
    until(PATIENCE, "the work", || async { Ok(c.sh(&id, "test -e /done").await.ok()) }).await?;
    // Containerd's are as old as its last look.
    let stats = until(PATIENCE, "what it has written", || async {
        let stats = stats(c, &id).await?;
        let layer = stats.writable_layer.as_ref();
        let written = value(layer.and_then(|layer| layer.used_bytes.as_ref()));
        Ok((written >= 2 * MIB).then_some(stats))
    })
    .await?;

    let attributes = stats.attributes.context("no attributes")?;
    equal("the id", &attributes.id, &id)?;
    equal("the labels", &attributes.labels, &config.labels)?;
    equal("the annotations", &attributes.annotations, &config.annotations)?;
    equal("the metadata", &attributes.metadata, &config.metadata)?;
    let cpu = stats.cpu.context("nothing about processors")?;
    ensure!(cpu.timestamp > 0, "no time");
    ensure!(value(cpu.usage_core_nano_seconds.as_ref()) > 1_000_000, "{cpu:?}");
    let memory = stats.memory.context("nothing about memory")?;
    ensure!(memory.timestamp > 0, "no time");
    let (used, rss) = (value(memory.working_set_bytes.as_ref()), value(memory.rss_bytes.as_ref()));
    ensure!(used > 100 << 10 && used < 100 * MIB && rss > 0, "{memory:?}");
    let layer = stats.writable_layer.context("nothing about what it has written")?;
    let written = value(layer.used_bytes.as_ref());
    ensure!(layer.timestamp > 0 && written < 3 * MIB, "{layer:?}");
    ensure!(value(layer.inodes_used.as_ref()) >= 2, "{layer:?}");
    let info = c.runtime.images.image_fs_info(ImageFsInfoRequest {}).await?;
    let images = info.image_filesystems.into_iter().next().context("no file system")?;
    equal("the file system", layer.fs_id, images.fs_id)
}

async fn filtered(c: &Context) -> Result<()> {
    let (pod, first) = c.waiting_container().await?;
    let mut config = c.waiting();
    config.labels = map(&[("which", "second")]);
    let second = c.run(&pod, &config).await?;
    let listed = async |filter: Option<ContainerStatsFilter>| {
        let request = ListContainerStatsRequest { filter };
        let stats = c.runtime.pods.list_container_stats(request).await?.stats;
        let mut ids: Vec<String> =
            stats.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
        ids.sort();
        anyhow::Ok(ids)
    };
    let mut both = vec![first.clone(), second.clone()];
    both.sort();
    let by_id = ContainerStatsFilter { id: first.clone(), ..ContainerStatsFilter::default() };
    equal("by id", listed(Some(by_id)).await?, vec![first.clone()])?;
    let by_pod =
        ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..ContainerStatsFilter::default() };
    equal("by pod", listed(Some(by_pod)).await?, both)?;
    let by_label = ContainerStatsFilter {
        pod_sandbox_id: pod.id.clone(),
        label_selector: map(&[("which", "second")]),
        ..ContainerStatsFilter::default()
    };
    equal("by label", listed(Some(by_label)).await?, vec![second.clone()])?;
    let all = listed(None).await?;
    ensure!(all.contains(&first) && all.contains(&second), "not among all: {all:?}");
    let none = ContainerStatsFilter { id: "0".repeat(64), ..ContainerStatsFilter::default() };
    equal("of none", listed(Some(none)).await?, Vec::<String>::new())
}

async fn rate(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("trap 'exit 0' TERM; while :; do :; done");
    let asked = resources(&mut config)?;
    (asked.cpu_period, asked.cpu_quota) = (50_000, 10_000);
    let id = c.run(&pod, &config).await?;
    // The first one is since the beginning; later ones are over a second or more.
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let cpu = stats(c, &id).await?.cpu.context("nothing about processors")?;
        let cores = value(cpu.usage_nano_cores.as_ref());
        // A fifth of a processor, on a machine that has other work.
        ensure!((1_000_000..=300_000_000).contains(&cores), "{cores} of a billion in use");
    }
    c.stop(&id, 0).await
}

async fn available(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    resources(&mut config)?.memory_limit_in_bytes = 64 << 20;
    let id = c.run(&pod, &config).await?;
    let memory = stats(c, &id).await?.memory.context("nothing about memory")?;
    let (used, left) =
        (value(memory.working_set_bytes.as_ref()), value(memory.available_bytes.as_ref()));
    equal("used and left", used + left, 64 * MIB)
}

async fn ended(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = c.run(&pod, &c.script("dd if=/dev/zero of=/file bs=1M count=1 2>/dev/null")).await?;
    c.exited(&id).await?;
    let stats = stats(c, &id).await?;
    ensure!(stats.cpu.is_none() && stats.memory.is_none(), "figures of a cgroup that is gone");
    let layer = stats.writable_layer.context("nothing about what it has written")?;
    ensure!(value(layer.used_bytes.as_ref()) >= MIB, "{layer:?}");
    Ok(())
}

async fn missing(c: &Context) -> Result<()> {
    let request = ContainerStatsRequest { container_id: "0".repeat(64) };
    let refused = c.runtime.pods.container_stats(request).await.map_err(Into::into);
    equal("of a container", code(refused)?, Code::NotFound)?;
    let request = PodSandboxStatsRequest { pod_sandbox_id: "0".repeat(64) };
    let refused = c.runtime.pods.pod_sandbox_stats(request).await.map_err(Into::into);
    equal("of a pod", code(refused)?, Code::NotFound)?;
    let (_, id) = c.waiting_container().await?;
    c.remove(&id).await?;
    let request = ContainerStatsRequest { container_id: id };
    let refused = c.runtime.pods.container_stats(request).await.map_err(Into::into);
    equal("of a removed one", code(refused)?, Code::NotFound)
}

async fn stopped(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let marker = format!("stopped-{}", pod.id);
    let id = c.run(&pod, &c.command(&["sh", "-c", "tail -f /dev/null; true", &marker])).await?;
    let pid = process::with_argument(&marker)?.to_string();
    testing::program::output(std::process::Command::new("kill").args(["-STOP", &pid]))?;
    ensure!(stats(c, &id).await?.memory.is_some(), "no figures of a stopped process");
    testing::program::output(std::process::Command::new("kill").args(["-CONT", &pid]))?;
    Ok(())
}

async fn many_files(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script(
        "mkdir /many && cd /many && i=0; while [ $i -lt 3000 ]; do : >$i; i=$((i+1)); done; \
         touch /done; trap 'exit 0' TERM; tail -f /dev/null & wait",
    );
    let id = c.run(&pod, &config).await?;
    let inodes = async || {
        let layer = stats(c, &id).await?.writable_layer;
        anyhow::Ok(value(layer.as_ref().and_then(|layer| layer.inodes_used.as_ref())))
    };
    until(PATIENCE, "the files", || async { Ok(c.sh(&id, "test -e /done").await.ok()) }).await?;
    until(PATIENCE, "all that were made", || async {
        Ok((inodes().await? >= 3_000).then_some(()))
    })
    .await?;
    c.sh(&id, "rm -r /many").await?;
    until(PATIENCE, "fewer", || async { Ok((inodes().await? < 100).then_some(())) }).await
}

async fn pod_figures(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let three = "tail -f /dev/null & tail -f /dev/null & trap 'exit 0' TERM; wait";
    let id = c.run(&pod, &c.script(three)).await?;
    let carried = async || {
        let network = pod_stats(c, &pod).await?.network.context("nothing about the network")?;
        ensure!(network.timestamp > 0, "no time");
        let interface = network.default_interface.context("no interface")?;
        equal("the interface", &interface.name, "eth0")?;
        anyhow::Ok((value(interface.rx_bytes.as_ref()), value(interface.tx_bytes.as_ref())))
    };
    let before = carried().await?;
    let gateway = c.sh(&id, "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'").await?;
    c.sh(&id, &format!("ping -c 5 -s 1000 -A {gateway}")).await?;
    let after = carried().await?;
    ensure!(after.0 >= before.0 + 5_000, "received {} after {}", after.0, before.0);
    ensure!(after.1 >= before.1 + 5_000, "sent {} after {}", after.1, before.1);

    let stats = pod_stats(c, &pod).await?;
    ensure!(value(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).as_ref()) > 0, "no time");
    let memory = stats.memory.context("nothing about memory")?;
    ensure!(value(memory.working_set_bytes.as_ref()) > 100 << 10, "{memory:?}");
    let ids: Vec<String> =
        stats.containers.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
    equal("its containers", ids, vec![id])?;
    let processes = stats.process.context("nothing about processes")?;
    // Containerd has its pause process beside them.
    let count = value(processes.process_count.as_ref());
    ensure!((3..=4).contains(&count), "{count} processes");
    Ok(())
}

async fn node_network(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    namespaces(&mut config)?.network = NamespaceMode::Node.into();
    let pod = c.run_pod(config).await?;
    c.run(&pod, &c.waiting()).await?;
    let stats = pod_stats(c, &pod).await?;
    ensure!(stats.cpu.is_some(), "nothing about processors");
    equal("the network", stats.network, None)
}

async fn one_parent(c: &Context) -> Result<()> {
    let (ground, number) = (&c.runtime.ground, c.next());
    let told = c.runtime.pods.runtime_config(RuntimeConfigRequest {}).await?;
    let parent = match told.linux.context("nothing about Linux")?.cgroup_driver() {
        CgroupDriver::Cgroupfs => format!("{}/shared-{number}", ground.cgroup()),
        CgroupDriver::Systemd => {
            format!("{}-shared{number}.slice", ground.slice().trim_end_matches(".slice"))
        }
    };
    let mut pods = Vec::new();
    for _ in 0..2 {
        let mut config = c.pod()?;
        config.linux.get_or_insert_with(Default::default).cgroup_parent.clone_from(&parent);
        let pod = c.run_pod(config).await?;
        c.run(&pod, &c.waiting()).await?;
        pods.push(pod);
    }
    for pod in &pods {
        // The second is its shell's, which may not have started it yet.
        until(PATIENCE, "two processes and no other pod's", || async {
            let processes = pod_stats(c, pod).await?.process.context("nothing about processes")?;
            Ok((value(processes.process_count.as_ref()) == 2).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn filtered_pods(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.labels.extend(map(&[("which", "first")]));
    let (first, second) = (c.run_pod(config).await?, c.plain_pod().await?);
    let listed = async |filter: Option<PodSandboxStatsFilter>| {
        let request = ListPodSandboxStatsRequest { filter };
        let stats = c.runtime.pods.list_pod_sandbox_stats(request).await?.stats;
        let ids = stats.into_iter().filter_map(|stats| Some(stats.attributes?.id));
        anyhow::Ok(ids.collect::<std::collections::BTreeSet<_>>())
    };
    let by_id = PodSandboxStatsFilter { id: second.id.clone(), ..Default::default() };
    equal("by id", listed(Some(by_id)).await?, [second.id.clone()].into())?;
    let label_selector = map(&[("which", "first"), (CASE_LABEL, c.name())]);
    let by_label = PodSandboxStatsFilter { label_selector, ..Default::default() };
    equal("by label", listed(Some(by_label)).await?, [first.id.clone()].into())?;
    let all = listed(None).await?;
    ensure!(all.contains(&first.id) && all.contains(&second.id), "not among all");
    Ok(())
}

async fn shown_by_command(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let endpoint = format!("unix://{}", c.runtime.socket().display());
    let shown = |arguments: &[&str]| {
        let mut command = std::process::Command::new(command_line()?);
        command.args(["--runtime-endpoint", &endpoint]).args(arguments);
        testing::program::output(&mut command)
    };
    let containers = shown(&["stats", &id])?;
    ensure!(containers.contains(&id[..13]), "{containers}");
    let pods = shown(&["statsp", "--id", &pod.id])?;
    ensure!(pods.contains(&pod.id[..13]) && !pods.contains(" - "), "{pods}");
    Ok(())
}

/// The client asks for streams first; the calls of one message are asked for by name.
async fn streams(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let runtime = &c.runtime.pods;

    let filter = ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter.clone()) };
    let one = runtime.list_containers(request).await?.containers;
    equal("how many containers", one.len(), 1)?;
    equal("the containers", runtime.containers(Some(filter)).await?, one)?;

    let filter = PodSandboxFilter { id: pod.id.clone(), ..Default::default() };
    let request = ListPodSandboxRequest { filter: Some(filter.clone()) };
    let one = runtime.list_pod_sandbox(request).await?.items;
    equal("how many pods", one.len(), 1)?;
    equal("the pods", runtime.pod_sandboxes(Some(filter)).await?, one)?;

    let filter = ContainerStatsFilter { id: id.clone(), ..Default::default() };
    let stats = runtime.all_container_stats(Some(filter)).await?;
    let ids: Vec<_> = stats.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
    equal("the containers with figures", ids, vec![id])?;

    let filter = PodSandboxStatsFilter { id: pod.id.clone(), ..Default::default() };
    let stats = runtime.all_pod_sandbox_stats(Some(filter)).await?;
    let ids: Vec<_> = stats.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
    equal("the pods with figures", ids, vec![pod.id])?;

    let filter = PodSandboxFilter { id: "0".repeat(64), ..Default::default() };
    equal("of none", runtime.pod_sandboxes(Some(filter)).await?, Vec::new())
}
