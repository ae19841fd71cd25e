//! The daemon dies, ends or is replaced; what runs goes on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerFilter, ContainerState, PodSandboxFilter, PodSandboxState};
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use testing::Daemon;
use testing::audit::Snapshot;
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{CASE_LABEL, Context, PATIENCE, equal, map, until};
use crate::logs;

pub(super) const CASES: &[Case] = &[
    case!("restart.killed_daemon_finds_everything", adoption).alone(),
    case!("restart.exit_while_the_daemon_is_away", exit_meanwhile).alone(),
    case!("restart.log_goes_on_without_the_daemon", log_goes_on)
        .alone()
        .differs("its daemon writes the log"),
    case!("restart.images_stay", images_stay).alone(),
    case!("restart.ten_times", ten_times).alone(),
    case!("restart.fifty_pods", fifty_pods).alone(),
    case!("restart.asked_to_end_it_drains", drain).alone().ours(),
    case!("restart.a_client_that_does_not_answer_holds_nothing_up", unanswering).alone().ours(),
    case!("restart.second_daemon_is_refused", second_daemon).alone().ours(),
    case!("restart.dead_monitor_is_noticed", dead_monitor).alone().ours(),
    case!("restart.dead_monitor_meanwhile", dead_monitor_meanwhile).alone().ours(),
];

async fn adoption(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.waiting();
    let running = c.run(&pod, &config).await?;
    let created = c.create(&pod, &c.script("echo late; exit 4")).await?;
    let ended = c.run(&pod, &c.script("exit 3")).await?;
    c.exited(&ended).await?;
    let stopped = c.plain_pod().await?;
    c.stop_pod(&stopped.id).await?;
    let first = c.sh(&running, "cat /proc/1/stat | cut -d ' ' -f 22").await?;
    let before = (c.pod_status(&pod.id).await?, c.status(&running).await?, c.status(&ended).await?);

    c.runtime.kill()?;
    c.runtime.launch().await?;

    let pod_status = c.pod_status(&pod.id).await?;
    equal("the pod", pod_status.state(), PodSandboxState::SandboxReady)?;
    equal("the network", &pod_status.network, &before.0.network)?;
    equal("the metadata", &pod_status.metadata, &before.0.metadata)?;
    let other = c.pod_status(&stopped.id).await?;
    equal("the stopped pod", other.state(), PodSandboxState::SandboxNotready)?;
    equal("the running one", &c.status(&running).await?, &before.1)?;
    equal("the ended one", &c.status(&ended).await?, &before.2)?;
    equal("the created one", c.status(&created).await?.state(), ContainerState::ContainerCreated)?;
    // The same process: it began when it began.
    equal("its begin", c.sh(&running, "cat /proc/1/stat | cut -d ' ' -f 22").await?, first)?;
    c.start(&created).await?;
    equal("the late code", c.exited(&created).await?.exit_code, 4)?;
    let late = c.run(&pod, &c.script("exit 5")).await?;
    equal("a new one's code", c.exited(&late).await?.exit_code, 5)?;
    c.stop(&running, 10).await?;
    equal("the stopped one's code", c.status(&running).await?.exit_code, 0)
}

async fn exit_meanwhile(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let gate = c.directory()?;
    let mut config = c.script("while [ ! -e /gate/open ]; do sleep 0.05; done; exit 7");
    config.mounts = vec![cri_proto::v1::Mount {
        host_path: gate.display().to_string(),
        container_path: "/gate".to_owned(),
        ..Default::default()
    }];
    let id = c.run(&pod, &config).await?;
    let marker = process_of(c, &id)?;
    c.runtime.kill()?;
    std::fs::write(gate.join("open"), "")?;
    until(PATIENCE, "the container's end", || async {
        Ok((!std::path::Path::new(&format!("/proc/{marker}/root/gate")).exists()).then_some(()))
    })
    .await?;
    c.runtime.launch().await?;
    let status = c.exited(&id).await?;
    equal("the code", status.exit_code, 7)?;
    equal("the reason", &status.reason, "Error")?;
    ensure!(status.finished_at >= status.started_at, "it ended before it began");
    Ok(())
}

/// A process in a container's own group, as the host numbers it.
fn process_of(_: &Context, id: &str) -> Result<u32> {
    let controller = crate::process::controllers(&["pids"])[0];
    let processes = crate::process::group_value(controller, id, "cgroup.procs")?;
    let first = processes.lines().next().context("the container has no process")?;
    Ok(first.parse()?)
}

async fn log_goes_on(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.01; done");
    let id = c.run(&pod, &config).await?;
    let lines = || logs::read(&pod, &config).map_or(0, |log| log.0.len());
    until(PATIENCE, "the first lines", || async { Ok((lines() > 10).then_some(())) }).await?;
    c.runtime.kill()?;
    let seen = lines();
    until(PATIENCE, "lines without a daemon", || async { Ok((lines() > seen + 20).then_some(())) })
        .await?;
    c.runtime.launch().await?;
    c.exited(&id).await?;
    let wanted: String = (1..=300).map(|number| format!("{number}\n")).collect();
    equal("the log", logs::read(&pod, &config)?.text(), wanted)
}

async fn images_stay(c: &Context) -> Result<()> {
    let sorted = |mut images: Vec<cri_proto::v1::Image>| {
        images.iter_mut().for_each(|image| image.repo_tags.sort());
        images.iter_mut().for_each(|image| image.repo_digests.sort());
        images.sort_by(|one, other| one.id.cmp(&other.id));
        images
    };
    let before = sorted(c.runtime.images.images(None).await?);
    c.runtime.kill()?;
    c.runtime.launch().await?;
    equal("the images", sorted(c.runtime.images.images(None).await?), before)
}

async fn ten_times(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    for _ in 0..10 {
        c.runtime.kill()?;
        c.runtime.launch().await?;
        equal("the pod", c.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady)?;
        equal("the output", c.sh(&id, "echo alive").await?, "alive")?;
    }
    Ok(())
}

/// Fifty pods are asked for, the daemon dies among them, and the client asks again
/// as the kubelet does: in the end there are fifty, and then nothing.
async fn fifty_pods(c: &Context) -> Result<()> {
    const PODS: usize = 50;
    c.pull(crate::catalog::BUSYBOX).await?;
    let before = Snapshot::take(&c.runtime.audit_scope())?;
    let mut configs = Vec::new();
    for _ in 0..PODS {
        configs.push((c.pod()?, c.waiting()));
    }
    let run = |(pod, container): (cri_proto::v1::PodSandboxConfig, _)| async move {
        let pod = c.run_pod(pod).await?;
        c.run(&pod, &container).await
    };
    let half = Arc::new(tokio::sync::Notify::new());
    let creating = async {
        let mut running = futures_util::stream::iter(configs.clone()).map(run).buffer_unordered(4);
        let (mut done, mut failed) = (0, 0);
        while let Some(result) = running.next().await {
            match result {
                Ok(_) => done += 1,
                Err(_) => failed += 1,
            }
            if done == PODS / 2 {
                half.notify_one();
            }
        }
        Ok::<_, anyhow::Error>((done, failed))
    };
    let killing = async {
        half.notified().await;
        c.runtime.kill()?;
        c.runtime.launch().await
    };
    let ((done, failed), ()) = tokio::try_join!(creating, killing)?;
    ensure!(failed > 0, "the death came after all {done} pods");

    everything_again(c, &configs).await?;
    all_work(c, PODS).await?;
    c.runtime.kill()?;
    c.runtime.launch().await?;
    all_work(c, PODS).await?;

    c.clean_up().await?;
    let left = listed(c).await?;
    equal("the pods", left.len(), 0)?;
    if c.runtime.kind == crate::runtime::Kind::Corten {
        let before = before.with_scope(c.runtime.audit_scope());
        before.audit()?;
    }
    Ok(())
}

/// What a kubelet does after a failure: look at what there is, take away what is not
/// ready, ask again with the next attempt where there is nothing.
async fn everything_again(
    c: &Context,
    configs: &[(cri_proto::v1::PodSandboxConfig, cri_proto::v1::ContainerConfig)],
) -> Result<()> {
    for (config, container) in configs {
        let mut config = config.clone();
        let found = listed(c).await?.into_iter().find(|pod| {
            let uid = |metadata: &Option<cri_proto::v1::PodSandboxMetadata>| {
                metadata.as_ref().map(|metadata| metadata.uid.clone())
            };
            uid(&pod.metadata) == uid(&config.metadata)
        });
        let pod = match found {
            Some(pod) if pod.state() == PodSandboxState::SandboxReady => {
                crate::context::Pod { id: pod.id, config }
            }
            found => {
                if let Some(pod) = found {
                    c.stop_pod(&pod.id).await?;
                    c.remove_pod(&pod.id).await?;
                }
                if let Some(metadata) = &mut config.metadata {
                    metadata.attempt += 1;
                }
                c.run_pod(config).await?
            }
        };
        let filter = ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let containers = c.containers(filter).await?;
        let running = ContainerState::ContainerRunning;
        if containers.iter().any(|container| container.state() == running) {
            continue;
        }
        for container in containers {
            c.remove(&container.id).await?;
        }
        c.run(&pod, container).await?;
    }
    Ok(())
}

async fn listed(c: &Context) -> Result<Vec<cri_proto::v1::PodSandbox>> {
    let mine = c.pod()?.labels.get(CASE_LABEL).cloned().unwrap_or_default();
    let label_selector = map(&[(CASE_LABEL, &mine)]);
    let filter = PodSandboxFilter { label_selector, ..Default::default() };
    Ok(c.runtime.pods.pod_sandboxes(Some(filter)).await?)
}

async fn all_work(c: &Context, pods: usize) -> Result<()> {
    let found = listed(c).await?;
    let ready = found.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).count();
    equal("pods and ready ones", (found.len(), ready), (pods, pods))?;
    for pod in found {
        let filter = ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let containers = c.containers(filter).await?;
        equal("its containers", containers.len(), 1)?;
        equal("the output", c.sh(&containers[0].id, "echo alive").await?, "alive")?;
    }
    Ok(())
}

async fn drain(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let executing = c.exec_for(&id, &["sh", "-c", "echo > /tmp/begun; sleep 3; echo done"], 20);
    let ending = async {
        until(PATIENCE, "the command's begin", || async {
            Ok(c.sh(&id, "ls /tmp/begun").await.ok())
        })
        .await?;
        c.runtime.with_daemon(Daemon::ask_to_end)
    };
    let (answer, ()) = tokio::try_join!(executing, ending)?;
    equal("the call in flight", &answer.stdout[..], &b"done\n"[..])?;
    c.runtime.with_daemon(Daemon::ended)?;
    c.runtime.launch().await?;
    equal("the output", c.sh(&id, "echo alive").await?, "alive")
}

/// What a client says first (RFC 9113, 3.4), and settings of none.
const FIRST_WORDS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A client that is stopped. It goes on when it is told to, and ends with the case.
struct Stopped(Child);

impl Stopped {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("it has no number")?, signal)?)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Some have stopped with nothing asked, in a stream of events, and in a call: that one's answer
/// is waited for, and it has it when it goes on.
async fn unanswering(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let socket = c.runtime.socket();
    let mut idle = UnixStream::connect(&socket)?;
    idle.write_all(FIRST_WORDS)?;
    // Once it has settings of the daemon's it is a client like any other.
    idle.read_exact(&mut [0; 9])?;
    let corten = |arguments: &[&str]| -> Result<Child> {
        let mut command = super::cli_streams::corten(c, arguments)?;
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    };
    let mut listening = Stopped(corten(&["events"])?);
    let mut heard = BufReader::new(listening.0.stdout.take().context("no output")?);
    let first = tokio::task::spawn_blocking(move || {
        heard.read_line(&mut String::new()).map(|count| (count, heard))
    });
    until(PATIENCE, "an event", || async {
        c.plain_pod().await?;
        Ok(first.is_finished().then_some(()))
    })
    .await?;
    let (_, _heard) = first.await??;
    listening.signal(Signal::STOP)?;
    let script = "echo > /tmp/asked; sleep 3; echo answer";
    let exec = ["--timeout", "60s", "exec", "--sync", &id, "sh", "-c", script];
    let mut asking = Stopped(corten(&exec)?);
    until(PATIENCE, "the command's begin", || async { Ok(c.sh(&id, "ls /tmp/asked").await.ok()) })
        .await?;
    asking.signal(Signal::STOP)?;

    c.runtime.end()?;

    idle.set_read_timeout(Some(patient(PATIENCE)))?;
    idle.read_to_end(&mut Vec::new()).context("the idle connection is not closed")?;
    asking.signal(Signal::CONT)?;
    let mut output = asking.0.stdout.take().context("no output")?;
    let reading = tokio::task::spawn_blocking(move || std::io::read_to_string(&mut output));
    equal("its answer", reading.await??.as_str(), "answer\n")?;
    c.runtime.launch().await?;
    equal("the output", c.sh(&id, "echo alive").await?, "alive")
}

async fn second_daemon(c: &Context) -> Result<()> {
    let (mut command, pid) =
        c.runtime.with_daemon(|daemon| Ok((daemon.command(), daemon.pid()?)))?;
    let socket = c.directory()?.join("other.sock");
    command.arg("--listen").arg(format!("unix://{}", socket.display()));
    // The last --listen may be refused as given twice; either way it must not serve.
    let run = tokio::task::spawn_blocking(move || command.output());
    let output =
        tokio::time::timeout(testing::wait::patient(Duration::from_secs(20)), run).await???;
    ensure!(!output.status.success(), "it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(error.contains(&pid.to_string()), "it does not say who holds the root: {error}");
    c.runtime.settle().await
}

pub(super) fn monitor_of(pod: &str) -> Result<u32> {
    let found = crate::process::all_with_argument(pod)?;
    let monitor = found.into_iter().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("corten-monitor")
    });
    monitor.with_context(|| format!("no monitor of {pod}"))
}

pub(super) fn kill(pid: u32) -> Result<()> {
    let mut kill = std::process::Command::new("kill");
    testing::program::output(kill.args(["-9", &pid.to_string()])).map(|_| ())
}

async fn dead_monitor(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    kill(monitor_of(&pod.id)?)?;
    ended_by_monitor(c, &pod.id, &id).await
}

async fn dead_monitor_meanwhile(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    c.runtime.kill()?;
    kill(monitor_of(&pod.id)?)?;
    c.runtime.launch().await?;
    ended_by_monitor(c, &pod.id, &id).await
}

/// Its containers are killed and said to be; a code is never invented.
async fn ended_by_monitor(c: &Context, pod: &str, id: &str) -> Result<()> {
    let status = c.exited(id).await?;
    ensure!(status.exit_code != 0, "the code is 0");
    until(PATIENCE, "an unready pod", || async {
        let state = c.pod_status(pod).await?.state();
        Ok((state == PodSandboxState::SandboxNotready).then_some(()))
    })
    .await?;
    // What is said to have ended has: the kubelet starts the next one now.
    for group in testing::cgroup::find(|path| path.contains(id))? {
        let path = std::path::Path::new(&group).join("cgroup.procs");
        let processes = std::fs::read_to_string(path).unwrap_or_default();
        let alive: Vec<&str> = processes.lines().filter(|pid| is_alive(pid)).collect();
        ensure!(alive.is_empty(), "processes are left: {alive:?}");
    }
    c.stop_pod(pod).await?;
    c.remove_pod(pod).await
}

/// Whether a process is more than an entry that waits to be collected.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !(state.is_empty() || state.starts_with(['Z', 'X']))
}
