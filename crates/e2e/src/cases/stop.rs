//! StopContainer: grace, signals, everything.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cri_proto::v1::ContainerState;
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, equal, image_spec, until};
use crate::logs;

pub(super) const CASES: &[Case] = &[
    case!("stop.within_the_grace", graceful),
    case!("stop.kills_after_the_grace", deaf),
    case!("stop.zero_kills_at_once", zero),
    case!("stop.signal_of_the_image", image_signal),
    case!("stop.ends_all_processes", all_processes),
    case!("stop.later_shorter_grace_wins", shorter),
    case!("stop.client_that_leaves_does_not_kill", leaving),
];

async fn ready(c: &Context, pod: &crate::context::Pod, script: &str) -> Result<String> {
    let config = c.script(script);
    let id = c.run(pod, &config).await?;
    until(PATIENCE, "the trap", || async {
        let text = logs::read(pod, &config).map(|log| log.text()).unwrap_or_default();
        Ok(text.contains("ready").then_some(()))
    })
    .await?;
    Ok(id)
}

async fn graceful(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = ready(c, &pod, "trap 'exit 3' TERM; echo ready; tail -f /dev/null & wait").await?;
    let begun = Instant::now();
    c.stop(&id, 60).await?;
    ensure!(begun.elapsed() < patient(Duration::from_secs(10)), "it took {:?}", begun.elapsed());
    let status = c.status(&id).await?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    equal("the code", status.exit_code, 3)
}

async fn deaf(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = ready(c, &pod, "trap '' TERM; echo ready; tail -f /dev/null & wait").await?;
    let begun = Instant::now();
    c.stop(&id, 2).await?;
    let took = begun.elapsed();
    ensure!(took >= Duration::from_millis(1900), "killed after {took:?}");
    ensure!(took < patient(Duration::from_secs(12)), "killed after {took:?}");
    equal("the code", c.status(&id).await?.exit_code, 137)
}

async fn zero(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = ready(c, &pod, "trap 'sleep 50' TERM; echo ready; tail -f /dev/null & wait").await?;
    let begun = Instant::now();
    c.stop(&id, 0).await?;
    ensure!(begun.elapsed() < patient(Duration::from_secs(10)), "it took {:?}", begun.elapsed());
    equal("the code", c.status(&id).await?.exit_code, 137)
}

async fn image_signal(c: &Context) -> Result<()> {
    c.pull("docker.io/e2e/stop-signal:1").await?;
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("trap 'exit 5' USR1; trap 'exit 6' TERM; echo ready; tail -f /dev/null & wait");
    config.image = Some(image_spec("docker.io/e2e/stop-signal:1"));
    let id = c.run(&pod, &config).await?;
    until(PATIENCE, "the trap", || async {
        let text = logs::read(&pod, &config).map(|log| log.text()).unwrap_or_default();
        Ok(text.contains("ready").then_some(()))
    })
    .await?;
    c.stop(&id, 20).await?;
    equal("the code", c.status(&id).await?.exit_code, 5)
}

async fn all_processes(c: &Context) -> Result<()> {
    let mut config = c.pod()?;
    // Shared with the sandbox: the container's first process is not the namespace's.
    crate::context::namespaces(&mut config)?.pid = cri_proto::v1::NamespaceMode::Pod.into();
    let pod = c.run_pod(config).await?;
    let marker = format!("/dev/null-{}", &pod.id[..12]);
    let mut config = c.script(&format!(
        "setsid tail -f /dev/null {marker} & tail -f /dev/null {marker} & exec tail -f /dev/null"
    ));
    if let Some(options) = crate::context::security(&mut config)?.namespace_options.as_mut() {
        options.pid = cri_proto::v1::NamespaceMode::Pod.into();
    }
    let id = c.run(&pod, &config).await?;
    until(PATIENCE, "both processes", || async {
        Ok((crate::process::all_with_argument(&marker)?.len() >= 2).then_some(()))
    })
    .await?;
    c.stop(&id, 0).await?;
    until(Duration::from_secs(5), "the end of both", || async {
        Ok(crate::process::all_with_argument(&marker)?.is_empty().then_some(()))
    })
    .await
}

async fn shorter(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = ready(c, &pod, "trap '' TERM; echo ready; tail -f /dev/null & wait").await?;
    let begun = Instant::now();
    let first = c.stop(&id, 500);
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        c.stop(&id, 1).await
    };
    tokio::try_join!(first, second)?;
    ensure!(begun.elapsed() < patient(Duration::from_secs(20)), "it took {:?}", begun.elapsed());
    equal("the code", c.status(&id).await?.exit_code, 137)
}

async fn leaving(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let id = ready(
        c,
        &pod,
        "trap 'echo told' TERM; echo ready; tail -f /dev/null & while :; do wait; done",
    )
    .await?;
    let left = tokio::time::timeout(Duration::from_millis(500), c.stop(&id, 40)).await;
    ensure!(left.is_err(), "the stop did not wait");
    equal("the state", c.status(&id).await?.state(), ContainerState::ContainerRunning)?;
    c.stop(&id, 0).await?;
    equal("the code", c.status(&id).await?.exit_code, 137)
}
