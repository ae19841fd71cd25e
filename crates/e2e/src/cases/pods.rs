//! Sandboxes: life, identity, lists.

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{
    ContainerFilter, ContainerState, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    RunPodSandboxRequest,
};

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, code, equal, map, refusal};
use crate::process;

/// Later versions answer as the interface says.
pub(super) const NOT_FOUND: &str = "1.6 answers NotFound to Stop of what is unknown";

pub(super) const CASES: &[Case] = &[
    case!("pod.runs_stops_and_goes", life),
    case!("pod.status_has_what_was_asked_for", attributes),
    case!("pod.list_filters", filters),
    case!("pod.stop_and_remove_are_idempotent", idempotent).differs(NOT_FOUND),
    case!("pod.unknown_id", unknown).differs(NOT_FOUND),
    case!("pod.same_request_gives_the_same_pod", same_request)
        .differs("1.6 says that the name is reserved"),
    case!("pod.same_request_at_once_gives_the_same_pod", same_request_at_once)
        .differs("1.6 says that the name is reserved"),
    case!("pod.next_attempt_is_another_pod", next_attempt),
    case!("pod.name_is_free_after_removal", name_is_free),
    case!("pod.without_metadata_is_refused", without_metadata)
        .differs("1.6 says Unknown instead of InvalidArgument"),
    case!("pod.unknown_handler_is_refused", unknown_handler),
    case!("pod.stop_ends_its_containers", stop_ends_containers),
    case!("pod.remove_takes_its_containers", remove_takes_containers),
    case!("pod.remove_of_a_running_pod", remove_running),
    case!("pod.sysctls_are_set", sysctls),
    case!("pod.bad_sysctl_leaves_nothing", bad_sysctl),
    case!("pod.cgroup_parent_is_used", cgroup_parent).needs(&[Need::CgroupfsDriver]),
    case!("pod.cgroup_parent_of_systemd_is_refused", systemd_parent)
        .needs(&[Need::CgroupfsDriver])
        .differs("1.6 takes it for a path"),
    case!("pod.no_network_leaves_nothing", failing_network),
];

async fn life(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    equal("the state", c.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady)?;
    c.stop_pod(&pod.id).await?;
    equal("the state", c.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxNotready)?;
    c.remove_pod(&pod.id).await?;
    equal("the code", code(c.pod_status(&pod.id).await)?, Code::NotFound)?;
    let filter = PodSandboxFilter { id: pod.id, ..PodSandboxFilter::default() };
    equal("the pods", c.runtime.pods.pod_sandboxes(Some(filter)).await?.len(), 0)
}

async fn attributes(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.labels.extend(map(&[("io.kubernetes.pod.name", "ü ✓"), ("empty", "")]));
    config.annotations = map(&[("kubernetes.io/config.seen", "2024\n\"x\""), ("b", "c")]);
    let pod = c.run_pod(config.clone()).await?;
    let status = c.pod_status(&pod.id).await?;
    equal("the id", &status.id, &pod.id)?;
    equal("the metadata", &status.metadata, &config.metadata)?;
    equal("the labels", &status.labels, &config.labels)?;
    equal("the annotations", &status.annotations, &config.annotations)?;
    ensure!(status.created_at > 0, "no time of creation");
    let address = status.network.map(|network| network.ip).unwrap_or_default();
    let prefix = c.runtime.ground.subnet_prefix();
    ensure!(address.starts_with(&prefix), "the address is {address:?}, not of {prefix}");
    let filter = PodSandboxFilter { id: pod.id, ..PodSandboxFilter::default() };
    let listed = c.runtime.pods.pod_sandboxes(Some(filter)).await?;
    equal("the pods", listed.len(), 1)?;
    equal("the listed metadata", &listed[0].metadata, &config.metadata)?;
    equal("the listed labels", &listed[0].labels, &config.labels)?;
    equal("the listed annotations", &listed[0].annotations, &config.annotations)?;
    equal("the listed time", listed[0].created_at, status.created_at)
}

async fn filters(c: &Context) -> Result<()> {
    let mut ids = Vec::new();
    for number in ["1", "2"] {
        let mut config = c.pod()?;
        config.labels.extend(map(&[("number", number), ("both", "yes")]));
        ids.push(c.run_pod(config).await?.id);
    }
    c.stop_pod(&ids[1]).await?;
    let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
    let unready = PodSandboxStateValue { state: PodSandboxState::SandboxNotready.into() };
    let filter = |id: &str, state, labels: &[(&str, &str)]| {
        let mut label_selector = map(labels);
        label_selector.extend(map(&[("both", "yes")]));
        PodSandboxFilter { id: id.to_owned(), state, label_selector }
    };
    for (what, filter, wanted) in [
        ("all", filter("", None, &[]), vec![0, 1]),
        ("by id", filter(&ids[0], None, &[]), vec![0]),
        ("by the start of an id", filter(&ids[0][..12], None, &[]), vec![0]),
        ("by label", filter("", None, &[("number", "2")]), vec![1]),
        ("by another label", filter("", None, &[("number", "3")]), vec![]),
        ("ready", filter("", Some(ready), &[]), vec![0]),
        ("not ready", filter("", Some(unready), &[]), vec![1]),
        ("by two that do not meet", filter(&ids[0], Some(unready), &[]), vec![]),
        ("by an unknown id", filter("0123456789abcdef", None, &[]), vec![]),
    ] {
        let listed = c.runtime.pods.pod_sandboxes(Some(filter)).await?;
        let mut found: Vec<_> = listed.iter().map(|pod| pod.id.clone()).collect();
        found.sort();
        let mut wanted: Vec<_> = wanted.iter().map(|at: &usize| ids[*at].clone()).collect();
        wanted.sort();
        equal(what, found, wanted)?;
    }
    Ok(())
}

async fn idempotent(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for _ in 0..3 {
        c.stop_pod(&pod.id).await?;
    }
    for _ in 0..3 {
        c.remove_pod(&pod.id).await?;
    }
    c.stop_pod(&pod.id).await
}

async fn unknown(c: &Context) -> Result<()> {
    let id = "0".repeat(64);
    equal("the code", code(c.pod_status(&id).await)?, Code::NotFound)?;
    c.stop_pod(&id).await?;
    c.remove_pod(&id).await
}

async fn same_request(c: &Context) -> Result<()> {
    let config = c.pod()?;
    let first = c.run_pod(config.clone()).await?;
    let second = c.run_pod(config).await?;
    equal("the second id", second.id, first.id)
}

async fn same_request_at_once(c: &Context) -> Result<()> {
    let config = c.pod()?;
    let pods = (0..5).map(|_| c.run_pod(config.clone()));
    let pods = futures_util::future::try_join_all(pods).await?;
    ensure!(pods.iter().all(|pod| pod.id == pods[0].id), "different ids");
    Ok(())
}

async fn next_attempt(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    let first = c.run_pod(config.clone()).await?;
    c.stop_pod(&first.id).await?;
    if let Some(metadata) = &mut config.metadata {
        metadata.attempt = 1;
    }
    let second = c.run_pod(config).await?;
    ensure!(first.id != second.id, "the same id");
    let (old, new) = (c.pod_status(&first.id).await?, c.pod_status(&second.id).await?);
    ensure!(old.created_at < new.created_at, "the later attempt is not later");
    Ok(())
}

async fn name_is_free(c: &Context) -> Result<()> {
    let config = c.pod()?;
    let first = c.run_pod(config.clone()).await?;
    c.stop_pod(&first.id).await?;
    c.remove_pod(&first.id).await?;
    let second = c.run_pod(config).await?;
    ensure!(first.id != second.id, "the same id");
    Ok(())
}

async fn without_metadata(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    config.metadata = None;
    equal("the code", code(c.run_pod(config).await)?, Code::InvalidArgument)?;
    let nothing = c.runtime.pods.run_pod_sandbox(RunPodSandboxRequest::default()).await;
    equal("the code", code(nothing.map_err(Into::into))?, Code::InvalidArgument)
}

async fn unknown_handler(c: &Context) -> Result<()> {
    let config = Some(c.pod()?);
    let request = RunPodSandboxRequest { config, runtime_handler: "no-such-handler".to_owned() };
    let error = refusal(c.runtime.pods.run_pod_sandbox(request).await.map_err(Into::into))?;
    ensure!(error.to_string().contains("no-such-handler"), "it does not say which: {error}");
    nothing_is_listed(c).await
}

async fn nothing_is_listed(c: &Context) -> Result<()> {
    let all = c.runtime.pods.pod_sandboxes(None).await?;
    let name = c.pod()?.labels;
    equal("the pods", all.iter().filter(|pod| pod.labels == name).count(), 0)
}

async fn stop_ends_containers(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    c.stop_pod(&pod.id).await?;
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    ensure!(status.finished_at >= status.started_at, "it ended before it began");
    Ok(())
}

async fn remove_takes_containers(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let created = c.create(&pod, &c.waiting()).await?;
    c.stop_pod(&pod.id).await?;
    c.remove_pod(&pod.id).await?;
    for id in [id, created] {
        equal("the code", code(c.status(&id).await)?, Code::NotFound)?;
    }
    let filter = ContainerFilter { pod_sandbox_id: pod.id, ..ContainerFilter::default() };
    equal("the containers", c.containers(filter).await?.len(), 0)
}

async fn remove_running(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    c.remove_pod(&pod.id).await?;
    equal("the code", code(c.pod_status(&pod.id).await)?, Code::NotFound)?;
    equal("the code", code(c.status(&id).await)?, Code::NotFound)
}

async fn sysctls(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    if let Some(linux) = &mut config.linux {
        linux.sysctls = map(&[
            ("kernel.shm_rmid_forced", "1"),
            ("net.ipv4.ip_unprivileged_port_start", "81"),
            ("fs.mqueue.msg_max", "100"),
        ]);
    }
    let pod = c.run_pod(config).await?;
    let read = "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_unprivileged_port_start fs/mqueue/msg_max";
    equal("the values", c.output(&pod, &c.script(read)).await?, "1\n81\n100")
}

async fn bad_sysctl(c: &Context) -> Result<()> {
    for name in ["kernel.no_such_thing", "vm.swappiness"] {
        let mut config = c.pod()?;
        if let Some(linux) = &mut config.linux {
            linux.sysctls = map(&[(name, "1")]);
        }
        let error = refusal(c.run_pod(config).await)?;
        ensure!(!error.to_string().contains('\n'), "more than a line: {error}");
        nothing_is_listed(c).await?;
    }
    Ok(())
}

async fn cgroup_parent(c: &Context) -> Result<()> {
    let parent = format!("{}/kubepods/pod1", c.runtime.ground.cgroup());
    testing::cgroup::make(&parent)?;
    let mut config = c.pod()?;
    if let Some(linux) = &mut config.linux {
        linux.cgroup_parent.clone_from(&parent);
    }
    let pod = c.run_pod(config).await?;
    let id = c.run(&pod, &c.waiting()).await?;
    for controller in process::controllers(&["memory", "pids", "cpu"]) {
        let group = process::group(controller, &id)?.display().to_string();
        ensure!(group.contains(&parent), "the group is {group}");
    }
    c.clean_up().await?;
    let left = testing::cgroup::find(|path| path.contains(&format!("{parent}/")))?;
    ensure!(left.is_empty(), "groups are left: {left:?}");
    testing::cgroup::remove_tree(&format!("{}/kubepods", c.runtime.ground.cgroup()));
    Ok(())
}

async fn systemd_parent(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    if let Some(linux) = &mut config.linux {
        linux.cgroup_parent = "kubepods-besteffort.slice".to_owned();
    }
    let result = c.run_pod(config).await;
    let error = refusal(result)?;
    ensure!(error.to_string().contains("kubepods-besteffort.slice"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)
}

async fn failing_network(c: &Context) -> Result<()> {
    // More ports than there are: no plugin can map this one.
    let mut config = c.pod()?;
    config.port_mappings = vec![cri_proto::v1::PortMapping {
        container_port: 80,
        host_port: 70_000,
        ..cri_proto::v1::PortMapping::default()
    }];
    refusal(c.run_pod(config).await)?;
    nothing_is_listed(c).await
}
