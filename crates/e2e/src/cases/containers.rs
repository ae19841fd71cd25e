//! Containers: life, identity, lists, bad requests.

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ContainerConfig, ContainerFilter, ContainerState, ContainerStateValue, Mount};

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, code, equal, image_spec, map, refusal};

pub(super) const CASES: &[Case] = &[
    case!("container.life", life),
    case!("container.attributes", attributes),
    case!("container.exit_codes_and_reasons", exit_codes)
        .differs("1.6 may put the end of a short run before its begin"),
    case!("container.killed_by_a_signal", killed),
    case!("container.list_filters", filters),
    case!("container.start_twice_is_refused", start_twice),
    case!("container.unknown_id", unknown).differs(super::pods::NOT_FOUND),
    case!("container.stop_and_remove_are_idempotent", idempotent).differs(super::pods::NOT_FOUND),
    case!("container.stop_of_a_created_one", stop_created),
    case!("container.remove_of_a_running_one", remove_running),
    case!("container.same_request_gives_the_same_container", same_request)
        .differs("1.6 says that the name is reserved"),
    case!("container.next_attempt", next_attempt),
    case!("container.missing_command", missing_command),
    case!("container.command_is_not_executable", not_executable),
    case!("container.missing_mount_source_is_made", missing_mount),
    case!("container.missing_image_is_refused", missing_image),
    case!("container.without_metadata_is_refused", without_metadata)
        .differs("1.6 says Unknown instead of InvalidArgument"),
    case!("container.in_an_unknown_pod_is_refused", unknown_pod),
    case!("container.in_a_stopped_pod_is_refused", stopped_pod)
        .differs("1.6 fails later, at a namespace that is gone"),
    case!("container.outlives_its_image", outlives_image),
    case!("container.two_in_a_pod", two),
    case!("container.terminal", terminal),
    case!("container.stdin_is_empty", no_stdin),
    case!("container.root_is_its_own", own_root),
];

async fn life(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = c.create(&pod, &c.waiting()).await?;
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerCreated)?;
    equal("the times", (status.started_at, status.finished_at), (0, 0))?;
    ensure!(status.created_at > 0, "no time of creation");
    c.start(&id).await?;
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerRunning)?;
    ensure!(status.started_at >= status.created_at, "it began before it was made");
    equal("the end", status.finished_at, 0)?;
    c.stop(&id, 10).await?;
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    ensure!(status.finished_at >= status.started_at, "it ended before it began");
    c.remove(&id).await?;
    equal("the code", code(c.status(&id).await)?, Code::NotFound)
}

async fn attributes(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.labels = map(&[("io.kubernetes.container.name", "ü"), ("empty", "")]);
    config.annotations = map(&[("io.kubernetes.container.hash", "a\"b\nc")]);
    let id = c.run(&pod, &config).await?;
    let status = c.status(&id).await?;
    equal("the id", &status.id, &id)?;
    equal("the metadata", &status.metadata, &config.metadata)?;
    equal("the labels", &status.labels, &config.labels)?;
    equal("the annotations", &status.annotations, &config.annotations)?;
    let log = crate::logs::path(&pod, &config);
    equal("the log", status.log_path.clone(), log.display().to_string())?;
    let listed = c.containers(ContainerFilter { id, ..ContainerFilter::default() }).await?;
    equal("the containers", listed.len(), 1)?;
    equal("the pod", &listed[0].pod_sandbox_id, &pod.id)?;
    equal("the listed metadata", &listed[0].metadata, &config.metadata)?;
    equal("the listed labels", &listed[0].labels, &config.labels)?;
    equal("the listed annotations", &listed[0].annotations, &config.annotations)?;
    equal("the listed time", listed[0].created_at, status.created_at)?;
    equal("the listed state", listed[0].state(), ContainerState::ContainerRunning)
}

async fn exit_codes(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (exit_code, reason) in [(0, "Completed"), (1, "Error"), (42, "Error"), (255, "Error")] {
        let id = c.run(&pod, &c.script(&format!("exit {exit_code}"))).await?;
        let status = c.exited(&id).await?;
        equal("the code", status.exit_code, exit_code)?;
        equal("the reason", &status.reason, reason)?;
        ensure!(status.started_at > 0, "no begin");
        ensure!(status.finished_at >= status.started_at, "it ended before it began");
    }
    Ok(())
}

async fn killed(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    // The first process of a namespace is deaf to its own signals: a child kills it.
    let mut config = c.command(&["tail", "-f", "/dev/null"]);
    config.envs.push(cri_proto::v1::KeyValue { key: "A".to_owned(), value: "B".into() });
    let id = c.run(&pod, &config).await?;
    c.stop(&id, 0).await?;
    let status = c.exited(&id).await?;
    equal("the code", status.exit_code, 137)?;
    equal("the reason", &status.reason, "Error")
}

async fn filters(c: &Context) -> Result<()> {
    let (one, other) = (c.plain_pod().await?, c.plain_pod().await?);
    let labelled = |number: &str| ContainerConfig {
        labels: map(&[("number", number), ("case", "filters")]),
        ..c.waiting()
    };
    let ids = [
        c.run(&one, &labelled("1")).await?,
        c.create(&one, &labelled("2")).await?,
        c.run(&other, &labelled("3")).await?,
    ];
    c.stop(&ids[2], 10).await?;
    let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
    let filter = |id: &str, pod: &str, state, labels: &[(&str, &str)]| {
        let mut label_selector = map(labels);
        label_selector.extend(map(&[("case", "filters")]));
        let (id, pod_sandbox_id) = (id.to_owned(), pod.to_owned());
        ContainerFilter { id, pod_sandbox_id, state, label_selector }
    };
    for (what, filter, wanted) in [
        ("all", filter("", "", None, &[]), vec![0, 1, 2]),
        ("by id", filter(&ids[0], "", None, &[]), vec![0]),
        ("by the start of an id", filter(&ids[1][..12], "", None, &[]), vec![1]),
        ("by pod", filter("", &one.id, None, &[]), vec![0, 1]),
        ("by the start of a pod's id", filter("", &other.id[..12], None, &[]), vec![2]),
        ("running", filter("", "", state(ContainerState::ContainerRunning), &[]), vec![0]),
        ("created", filter("", "", state(ContainerState::ContainerCreated), &[]), vec![1]),
        ("exited", filter("", "", state(ContainerState::ContainerExited), &[]), vec![2]),
        ("by label", filter("", "", None, &[("number", "2")]), vec![1]),
        ("by two that do not meet", filter(&ids[0], &other.id, None, &[]), vec![]),
        ("by an unknown id", filter("0123456789abcdef", "", None, &[]), vec![]),
    ] {
        let mut found: Vec<_> = c.containers(filter).await?.into_iter().map(|c| c.id).collect();
        found.sort();
        let mut wanted: Vec<_> = wanted.iter().map(|at: &usize| ids[*at].clone()).collect();
        wanted.sort();
        equal(what, found, wanted)?;
    }
    Ok(())
}

async fn start_twice(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    refusal(c.start(&id).await)?;
    equal("the state", c.status(&id).await?.state(), ContainerState::ContainerRunning)?;
    let ended = c.run(&pod, &c.script("true")).await?;
    c.exited(&ended).await?;
    refusal(c.start(&ended).await)?;
    Ok(())
}

async fn unknown(c: &Context) -> Result<()> {
    let id = "0".repeat(64);
    equal("Status", code(c.status(&id).await)?, Code::NotFound)?;
    equal("Start", code(c.start(&id).await)?, Code::NotFound)?;
    equal("ExecSync", code(c.exec_for(&id, &["true"], 5).await)?, Code::NotFound)?;
    c.stop(&id, 0).await?;
    c.remove(&id).await
}

async fn idempotent(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    for _ in 0..3 {
        c.stop(&id, 10).await?;
    }
    for _ in 0..3 {
        c.remove(&id).await?;
    }
    c.stop(&id, 10).await
}

async fn stop_created(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = c.create(&pod, &c.waiting()).await?;
    c.stop(&id, 10).await?;
    c.remove(&id).await
}

async fn remove_running(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let marker = format!("{}-{}", pod.id, c.next());
    let id = c.run(&pod, &c.command(&["tail", "-f", "/dev/null", &marker])).await?;
    c.remove(&id).await?;
    equal("the code", code(c.status(&id).await)?, Code::NotFound)?;
    let left = crate::process::all_with_argument(&marker)?;
    ensure!(left.is_empty(), "processes are left: {left:?}");
    Ok(())
}

async fn same_request(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.waiting();
    let ids = (0..5).map(|_| c.create(&pod, &config));
    let ids = futures_util::future::try_join_all(ids).await?;
    ensure!(ids.iter().all(|id| *id == ids[0]), "different ids");
    equal("the next id", c.create(&pod, &config).await?, ids[0].clone())
}

async fn next_attempt(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("exit 1");
    let first = c.run(&pod, &config).await?;
    c.exited(&first).await?;
    if let Some(metadata) = &mut config.metadata {
        metadata.attempt = 1;
    }
    let second = c.run(&pod, &config).await?;
    ensure!(first != second, "the same id");
    let (old, new) = (c.status(&first).await?, c.status(&second).await?);
    ensure!(old.created_at < new.created_at, "the later attempt is not later");
    Ok(())
}

async fn missing_command(c: &Context) -> Result<()> {
    cannot_start(c, &["/no/such/program", "x"], "/no/such/program").await
}

async fn not_executable(c: &Context) -> Result<()> {
    cannot_start(c, &["/etc/passwd"], "/etc/passwd").await
}

/// Refused at Create or at Start; after Start the container has ended by itself.
async fn cannot_start(c: &Context, command: &[&str], said: &str) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = match c.create(&pod, &c.command(command)).await {
        Ok(id) => id,
        Err(error) => {
            ensure!(error.to_string().contains(said), "it does not say what: {error}");
            return Ok(());
        }
    };
    let error = refusal(c.start(&id).await)?.to_string();
    ensure!(error.contains(said), "it does not say what: {error}");
    ensure!(!error.contains('\n'), "more than a line: {error}");
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    equal("the reason", &status.reason, "StartError")?;
    ensure!(status.exit_code != 0, "the code is 0");
    ensure!(status.finished_at > 0, "no end");
    c.remove(&id).await
}

async fn missing_mount(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let source = c.directory()?.join("missing").display().to_string();
    let mut config = c.waiting();
    config.mounts.push(Mount {
        host_path: source.clone(),
        container_path: "/mnt".to_owned(),
        ..Mount::default()
    });
    let id = c.run(&pod, &config).await?;
    c.sh(&id, "echo here > /mnt/file").await?;
    let seen = std::fs::read_to_string(std::path::Path::new(&source).join("file"))?;
    equal("the file on the host", seen.trim(), "here")
}

async fn missing_image(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.image = Some(image_spec("docker.io/e2e/never-pulled:1"));
    let error = refusal(c.create(&pod, &config).await)?.to_string();
    ensure!(error.contains("e2e/never-pulled"), "it does not say what: {error}");
    Ok(())
}

async fn without_metadata(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.metadata = None;
    equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)
}

async fn unknown_pod(c: &Context) -> Result<()> {
    let pod = Pod { id: "0".repeat(64), config: c.pod()? };
    refusal(c.create(&pod, &c.waiting()).await)?;
    Ok(())
}

async fn stopped_pod(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let created = c.create(&pod, &c.waiting()).await?;
    c.stop_pod(&pod.id).await?;
    refusal(c.create(&pod, &c.waiting()).await)?;
    refusal(c.start(&created).await)?;
    Ok(())
}

async fn outlives_image(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/used:1";
    c.pull(name).await?;
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.image = Some(image_spec(name));
    let id = c.run(&pod, &config).await?;
    // In use or not, the image may be refused or removed; the container stays.
    let _ = c.remove_image(name).await;
    equal(
        "the output",
        c.sh(&id, "cat /etc/passwd | head -n 1").await?,
        "root:x:0:0:root:/root:/bin/sh",
    )?;
    equal("the state", c.status(&id).await?.state(), ContainerState::ContainerRunning)?;
    c.stop(&id, 10).await?;
    c.remove(&id).await?;
    c.remove_image(name).await
}

async fn two(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let (one, two) = (c.run(&pod, &c.waiting()).await?, c.run(&pod, &c.waiting()).await?);
    // One root each, one network for both.
    c.sh(&one, "echo one > /tmp/mine").await?;
    equal("the other's file", c.sh(&two, "ls /tmp").await?, "")?;
    let (first, second) = (
        c.sh(&one, "readlink /proc/self/ns/net").await?,
        c.sh(&two, "readlink /proc/self/ns/net").await?,
    );
    equal("the network", second, first)?;
    c.stop(&one, 10).await?;
    equal("the state", c.status(&two).await?.state(), ContainerState::ContainerRunning)?;
    equal("the output", c.sh(&two, "echo alive").await?, "alive")
}

async fn terminal(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("tty; echo error >&2; stty size");
    config.tty = true;
    let id = c.run(&pod, &config).await?;
    equal("the code", c.exited(&id).await?.exit_code, 0)?;
    let log = crate::logs::read(&pod, &config)?;
    equal("standard error", log.of("stderr"), "")?;
    let text = log.text().replace('\r', "");
    ensure!(text.starts_with("/dev/pts/0\nerror\n"), "the log is {text:?}");
    Ok(())
}

async fn no_stdin(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    equal("the input", c.output(&pod, &c.script("cat; echo end")).await?, "end")
}

async fn own_root(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "touch /new && rm /etc/group && mkdir /a && mv /etc/passwd /a && ls /a /new";
    equal("the first", c.output(&pod, &c.script(script)).await?, "/new\n\n/a:\npasswd")?;
    equal(
        "the second",
        c.output(&pod, &c.script("ls -d /new /a /etc/passwd 2>/dev/null; true")).await?,
        "/etc/passwd",
    )
}
