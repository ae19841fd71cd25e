//! GetContainerEvents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cri_client::{Code, ContainerEvents};
use cri_proto::v1::{
    ContainerEventResponse, ContainerEventType, ContainerFilter, ContainerState, PodSandboxFilter,
    PodSandboxState, StatusRequest,
};
use futures_util::StreamExt as _;
use testing::Daemon;
use testing::wait::patient;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::restart::{kill, monitor_of};
use crate::case;
use crate::case::Case;
use crate::context::{
    CASE_LABEL, Context, PATIENCE, Pod, code, equal, map, refusal, resources, until,
};
use crate::runtime::command_line;

const NO_CALL: &str = "1.6 has no such call";

pub(super) const CASES: &[Case] = &[
    case!("events.whole_life_in_order_with_its_statuses", life).differs(NO_CALL),
    case!("events.two_clients_hear_the_same", two).differs(NO_CALL),
    case!("events.pod_that_fails_is_not_told", failing_pod).ours(),
    case!("events.failed_start_is_a_stop", failing_start).ours(),
    case!("events.out_of_memory", out_of_memory).differs(NO_CALL),
    case!("events.dead_monitor_stops_the_pod", dead_monitor).ours(),
    case!("events.replayed_they_give_the_lists", replayed).differs(NO_CALL),
    case!("events.slow_client_is_let_go", slow).alone().ours(),
    case!("events.exit_while_the_daemon_is_away", away).alone().ours(),
    case!("events.end_with_a_daemon_that_is_told_to_end", ended).alone().ours(),
    case!("events.break_with_a_killed_daemon", broken).alone().ours(),
    case!("events.command_line_shows_them", shown).differs(NO_CALL),
];

/// How many events wait for a client that does not read.
const QUEUE: usize = 1024;

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};

/// The events of this case's pods.
struct Heard {
    events: ContainerEvents,
    case: &'static str,
}

impl Heard {
    async fn open(c: &Context) -> Result<Self> {
        let opening = tokio::time::timeout(patient(PATIENCE), c.runtime.pods.container_events());
        let events = opening.await.context("the stream does not open")??;
        Ok(Self { events, case: c.name() })
    }

    /// The next event of the case, or nothing where the stream ended.
    async fn try_next(&mut self) -> Result<Option<ContainerEventResponse>> {
        let looking = async {
            while let Some(event) = self.events.next().await? {
                let pod = event.pod_sandbox_status.as_ref().context("an event without a pod")?;
                if pod.labels.get(CASE_LABEL).map(String::as_str) == Some(self.case) {
                    return Ok(Some(event));
                }
            }
            Ok(None)
        };
        tokio::time::timeout(patient(PATIENCE), looking).await.context("no event comes")?
    }

    async fn next(&mut self) -> Result<ContainerEventResponse> {
        self.try_next().await?.context("the stream ended")
    }

    /// The next event, which must be this one.
    async fn expect(
        &mut self,
        kind: ContainerEventType,
        id: &str,
    ) -> Result<ContainerEventResponse> {
        let event = self.next().await?;
        let seen = (event.container_event_type(), event.container_id.as_str());
        equal("the event", seen, (kind, id))?;
        Ok(event)
    }
}

fn pod_state(event: &ContainerEventResponse) -> PodSandboxState {
    event.pod_sandbox_status.as_ref().map(|pod| pod.state()).unwrap_or_default()
}

/// The states of all containers that an event has.
fn states(event: &ContainerEventResponse) -> BTreeMap<String, ContainerState> {
    event.containers_statuses.iter().map(|c| (c.id.clone(), c.state())).collect()
}

async fn life(c: &Context) -> Result<()> {
    let mut heard = Heard::open(c).await?;
    let pod = c.plain_pod().await?;
    let mut events = vec![heard.expect(Created, &pod.id).await?];
    events.push(heard.expect(Started, &pod.id).await?);
    for event in &events {
        equal("the pod", event.pod_sandbox_status.clone(), Some(c.pod_status(&pod.id).await?))?;
        ensure!(event.containers_statuses.is_empty(), "it has containers");
    }

    let id = c.create(&pod, &c.waiting()).await?;
    let event = heard.expect(Created, &id).await?;
    equal("the created one", event.containers_statuses.clone(), vec![c.status(&id).await?])?;
    events.push(event);
    c.start(&id).await?;
    let event = heard.expect(Started, &id).await?;
    equal("the running one", event.containers_statuses.clone(), vec![c.status(&id).await?])?;
    events.push(event);

    // One that ends by itself, beside it.
    let other = c.run(&pod, &c.script("exit 3")).await?;
    for (kind, state) in [
        (Created, ContainerState::ContainerCreated),
        (Started, ContainerState::ContainerRunning),
        (Stopped, ContainerState::ContainerExited),
    ] {
        let event = heard.expect(kind, &other).await?;
        let wanted = [(id.clone(), ContainerState::ContainerRunning), (other.clone(), state)];
        equal("all containers", states(&event), BTreeMap::from(wanted))?;
        equal("the pod", pod_state(&event), PodSandboxState::SandboxReady)?;
        events.push(event);
    }
    let last = events.last().context("no event")?;
    let told = last.containers_statuses.iter().find(|told| told.id == other).context("not told")?;
    equal("the ended one", told, &c.status(&other).await?)?;
    equal("its code", told.exit_code, 3)?;
    ensure!(told.finished_at <= last.created_at, "it is told before it ended");

    c.stop(&id, 10).await?;
    events.push(heard.expect(Stopped, &id).await?);
    c.remove(&id).await?;
    let event = heard.expect(Deleted, &id).await?;
    let wanted = [(other.clone(), ContainerState::ContainerExited)];
    equal("what is left", states(&event), BTreeMap::from(wanted))?;
    events.push(event);
    c.stop_pod(&pod.id).await?;
    let event = heard.expect(Stopped, &pod.id).await?;
    equal("the pod", pod_state(&event), PodSandboxState::SandboxNotready)?;
    events.push(event);
    c.remove_pod(&pod.id).await?;
    events.push(heard.expect(Deleted, &other).await?);
    let event = heard.expect(Deleted, &pod.id).await?;
    let status = event.pod_sandbox_status.clone().context("no status")?;
    equal("the metadata", status.metadata, pod.config.metadata)?;
    ensure!(event.containers_statuses.is_empty(), "it has containers");
    events.push(event);

    // Stopping and removing once more is no event, and times only grow.
    c.stop_pod(&pod.id).await?;
    c.remove_pod(&pod.id).await?;
    let next = c.plain_pod().await?;
    events.push(heard.expect(Created, &next.id).await?);
    let times: Vec<i64> = events.iter().map(|event| event.created_at).collect();
    ensure!(times.windows(2).all(|two| two[0] < two[1]), "the times are {times:?}");
    Ok(())
}

async fn two(c: &Context) -> Result<()> {
    let (mut one, mut other) = (Heard::open(c).await?, Heard::open(c).await?);
    let pod = c.plain_pod().await?;
    let id = c.run(&pod, &c.waiting()).await?;
    for (kind, id) in [(Created, &pod.id), (Started, &pod.id), (Created, &id), (Started, &id)] {
        let event = one.expect(kind, id).await?;
        equal("the other's", other.next().await?, event)?;
    }
    // One leaves; the other hears on, and a third hears what comes.
    drop(one);
    let mut third = Heard::open(c).await?;
    c.stop(&id, 0).await?;
    let event = other.expect(Stopped, &id).await?;
    equal("the third's", third.next().await?, event)
}

/// A sandbox that was being made and failed never was.
async fn failing_pod(c: &Context) -> Result<()> {
    let mut heard = Heard::open(c).await?;
    let mut bad = c.pod()?;
    let linux = bad.linux.as_mut().context("no Linux part")?;
    linux.sysctls = map(&[("net.ipv4.ip_forward", "many")]);
    refusal(c.run_pod(bad).await)?;
    let pod = c.plain_pod().await?;
    heard.expect(Created, &pod.id).await?;
    heard.expect(Started, &pod.id).await?;
    Ok(())
}

async fn failing_start(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut heard = Heard::open(c).await?;
    let id = c.create(&pod, &c.command(&["/no/such/program"])).await?;
    refusal(c.start(&id).await)?;
    heard.expect(Created, &id).await?;
    let event = heard.expect(Stopped, &id).await?;
    let status = event.containers_statuses.first().context("no status")?;
    equal("the state", status.state(), ContainerState::ContainerExited)?;
    equal("the reason", status.reason.as_str(), "StartError")
}

async fn out_of_memory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut heard = Heard::open(c).await?;
    let mut config = c.command(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"]);
    resources(&mut config)?.memory_limit_in_bytes = 15 << 20;
    let id = c.run(&pod, &config).await?;
    heard.expect(Created, &id).await?;
    heard.expect(Started, &id).await?;
    let event = heard.expect(Stopped, &id).await?;
    let status = event.containers_statuses.first().context("no status")?;
    let seen = (status.state(), status.exit_code, status.reason.as_str());
    equal("the end", seen, (ContainerState::ContainerExited, 137, "OOMKilled"))
}

async fn dead_monitor(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let mut heard = Heard::open(c).await?;
    kill(monitor_of(&pod.id)?)?;
    let event = heard.expect(Stopped, &pod.id).await?;
    equal("the pod", pod_state(&event), PodSandboxState::SandboxNotready)?;
    let event = heard.expect(Stopped, &id).await?;
    let wanted = [(id, ContainerState::ContainerExited)];
    equal("the container", states(&event), BTreeMap::from(wanted))
}

/// Many lives at once: each event agrees with the statuses that it has, and all events
/// together with the lists.
async fn replayed(c: &Context) -> Result<()> {
    const CONTAINERS: usize = 24;
    let mut heard = Heard::open(c).await?;
    let pods = [c.plain_pod().await?, c.plain_pod().await?, c.plain_pod().await?];
    let lives = futures_util::stream::iter(0..CONTAINERS).map(|number| {
        let pod = &pods[number % pods.len()];
        async move {
            let id = c.run(pod, &c.script("exit 0")).await?;
            match number % 3 {
                0 => c.remove(&id).await?,
                1 => c.stop(&id, 0).await?,
                _ => {}
            }
            c.exited(&id).await.map(drop).or_else(|error| match number % 3 {
                0 => Ok(()),
                _ => Err(error),
            })
        }
    });
    let ends: Vec<Result<()>> = lives.buffer_unordered(6).collect().await;
    ends.into_iter().collect::<Result<()>>()?;
    c.stop_pod(&pods[0].id).await?;
    c.stop_pod(&pods[1].id).await?;
    c.remove_pod(&pods[1].id).await?;

    let label_selector = map(&[(CASE_LABEL, c.name())]);
    let filter = PodSandboxFilter { label_selector, ..PodSandboxFilter::default() };
    let listed = c.runtime.pods.pod_sandboxes(Some(filter)).await?;
    let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
    for pod in &listed {
        wanted.insert(pod.id.clone(), pod.state() == PodSandboxState::SandboxReady);
        let filter =
            ContainerFilter { pod_sandbox_id: pod.id.clone(), ..ContainerFilter::default() };
        for container in c.containers(filter).await? {
            let running = container.state() == ContainerState::ContainerRunning;
            wanted.insert(container.id, running);
        }
    }
    let (mut runs, mut last) = (BTreeMap::new(), 0);
    while runs != wanted {
        let event = heard.next().await.with_context(|| format!("{runs:?} is not {wanted:?}"))?;
        ensure!(event.created_at > last, "times do not grow");
        last = event.created_at;
        agrees(&event)?;
        match event.container_event_type() {
            Deleted => runs.remove(&event.container_id),
            kind => runs.insert(event.container_id.clone(), kind == Started),
        };
    }
    Ok(())
}

/// An event says what the statuses in it say.
fn agrees(event: &ContainerEventResponse) -> Result<()> {
    let kind = event.container_event_type();
    let pod = event.pod_sandbox_status.as_ref().context("no pod")?;
    if pod.id == event.container_id {
        let is_ready = matches!(kind, Created | Started);
        let wanted =
            if is_ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        return equal("the pod", pod.state(), wanted);
    }
    let state = states(event).get(&event.container_id).copied();
    let wanted = match kind {
        Created => Some(ContainerState::ContainerCreated),
        Started => Some(ContainerState::ContainerRunning),
        Stopped => Some(ContainerState::ContainerExited),
        Deleted => None,
    };
    equal("the container", state, wanted)
}

/// A client that does not read holds nobody up, and is told that it has missed events.
async fn slow(c: &Context) -> Result<()> {
    let mut stuck = Heard::open(c).await?;
    let mut quick = Heard::open(c).await?;
    let overrun = overrun(c).await?;
    // Large ones: few of them are on the way to a client.
    let mut pods = Vec::new();
    for _ in 0..3 {
        let mut config = c.pod()?;
        config.annotations = map(&[("large", &"x".repeat(32 << 10))]);
        pods.push(c.run_pod(config).await?);
    }
    let pods = &pods;
    let lives = futures_util::stream::iter(0..).map(|number: usize| {
        let pod = &pods[number % pods.len()];
        async move {
            let id = c.create(pod, &c.waiting()).await?;
            c.remove(&id).await
        }
    });
    let mut lives = std::pin::pin!(lives.buffer_unordered(3));
    let mut heard = 0;
    // Two events a life.
    for done in 1.. {
        ensure!(done < QUEUE, "it is not let go after {done} lives");
        lives.next().await.context("no end")??;
        while heard < 2 * done {
            agrees(&quick.next().await?)?;
            heard += 1;
        }
        if done % 16 == 0 && self::overrun(c).await? > overrun {
            break;
        }
    }
    let mut told = 0;
    let error = loop {
        match stuck.try_next().await {
            Ok(Some(event)) => agrees(&event)?,
            Ok(None) => bail!("it ends without an error"),
            Err(error) => break error,
        }
        told += 1;
    };
    ensure!(told >= QUEUE, "only {told} events were kept for it");
    ensure!(error.to_string().contains("list anew"), "{error:#}");
    equal("the code", code::<()>(Err(error))?, Code::ResourceExhausted)
}

/// How many clients were let go.
async fn overrun(c: &Context) -> Result<u64> {
    let answer = c.runtime.pods.status(StatusRequest { verbose: true }).await?;
    let text = answer.info.get("events").context("nothing about events")?;
    let events: serde_json::Value = serde_json::from_str(text)?;
    events["overrun"].as_u64().context("no number")
}

/// What ended meanwhile is told to everybody who comes after.
async fn away(c: &Context) -> Result<()> {
    let (pod, stays) = c.waiting_container().await?;
    let gate = c.directory()?;
    let mut config = c.script("while [ ! -e /gate/open ]; do sleep 0.05; done; exit 7");
    config.mounts = vec![cri_proto::v1::Mount {
        host_path: gate.display().to_string(),
        container_path: "/gate".to_owned(),
        ..Default::default()
    }];
    let id = c.run(&pod, &config).await?;
    let lost = c.plain_pod().await?;
    let monitor = monitor_of(&lost.id)?;
    let before = c.status(&id).await?.started_at;
    c.runtime.kill()?;
    std::fs::write(gate.join("open"), "")?;
    kill(monitor)?;
    let state = c.runtime.with_daemon(|daemon| Ok(daemon.state()))?;
    let exit = state.join("pods").join(&pod.id).join("exits").join(&id);
    until(PATIENCE, "the record of its end", || async { Ok(exit.exists().then_some(())) }).await?;
    c.runtime.launch().await?;
    for _ in 0..2 {
        let mut heard = Heard::open(c).await?;
        let mut events = [heard.next().await?, heard.next().await?];
        events.sort_by_key(|event| event.container_id != id);
        let [ended, unready] = events;
        let seen = (ended.container_event_type(), ended.container_id.as_str());
        equal("the end", seen, (Stopped, id.as_str()))?;
        let states = states(&ended);
        equal("its state", states.get(&id), Some(&ContainerState::ContainerExited))?;
        equal("the other's", states.get(&stays), Some(&ContainerState::ContainerRunning))?;
        let status = ended.containers_statuses.iter().find(|status| status.id == id);
        equal("its code", status.map(|status| status.exit_code), Some(7))?;
        ensure!(ended.created_at > before, "it is told as older than its start");
        let seen = (unready.container_event_type(), unready.container_id.as_str());
        equal("the lost pod", seen, (Stopped, lost.id.as_str()))?;
        // And nothing else: the next is what happens now.
        let next = c.plain_pod().await?;
        heard.expect(Created, &next.id).await?;
    }
    Ok(())
}

/// The stream ends as it should, and does not hold the daemon's end up; the successor tells on.
async fn ended(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let mut heard = Heard::open(c).await?;
    c.runtime.with_daemon(Daemon::ask_to_end)?;
    equal("what comes", heard.try_next().await?, None)?;
    c.runtime.with_daemon(Daemon::ended)?;
    c.runtime.launch().await?;
    let mut heard = Heard::open(c).await?;
    c.stop(&id, 0).await?;
    heard.expect(Stopped, &id).await?;
    c.stop_pod(&pod.id).await?;
    heard.expect(Stopped, &pod.id).await?;
    Ok(())
}

async fn broken(c: &Context) -> Result<()> {
    let (pod, id) = c.waiting_container().await?;
    let mut heard = Heard::open(c).await?;
    let other = c.run(&pod, &c.script("exit 0")).await?;
    heard.expect(Created, &other).await?;
    heard.expect(Started, &other).await?;
    let last = heard.expect(Stopped, &other).await?;
    c.runtime.kill()?;
    refusal(heard.try_next().await)?;
    c.runtime.launch().await?;
    // What was told is not told again, and later is later.
    let mut heard = Heard::open(c).await?;
    c.remove(&id).await?;
    let next = heard.expect(Stopped, &id).await?;
    ensure!(next.created_at > last.created_at, "times do not grow over the daemon");
    heard.expect(Deleted, &id).await?;
    Ok(())
}

async fn shown(c: &Context) -> Result<()> {
    let mut shells = Vec::new();
    for format in ["json", "table"] {
        let mut command = tokio::process::Command::new(command_line()?);
        let endpoint = format!("unix://{}", c.runtime.socket().display());
        command.args(["--runtime-endpoint", &endpoint, "events", "-o", format]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        shells.push((child, lines));
    }
    // Until both listen nobody knows that they do: pods come until both have said one.
    let (mut pods, mut heard) = (Vec::new(), BTreeSet::new());
    let mut texts = [String::new(), String::new()];
    let limit = Instant::now() + patient(PATIENCE);
    while heard.len() < shells.len() {
        ensure!(Instant::now() < limit, "nothing is shown: {texts:?}");
        pods.push(c.plain_pod().await?);
        for (at, (_, lines)) in shells.iter_mut().enumerate() {
            let wait = Duration::from_millis(300);
            while let Ok(line) = tokio::time::timeout(wait, lines.next_line()).await {
                texts[at] += &line?.context("it ended")?;
                texts[at].push('\n');
                if shows(&texts[at], &pods, at == 0) {
                    heard.insert(at);
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Whether a started pod is among what is shown.
fn shows(text: &str, pods: &[Pod], is_json: bool) -> bool {
    if is_json {
        let documents = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
        return documents.map_while(Result::ok).any(|event| {
            event["containerEventType"] == "CONTAINER_STARTED_EVENT"
                && pods.iter().any(|pod| {
                    event["containerId"] == pod.id.as_str()
                        && event["podSandboxStatus"]["state"] == "SANDBOX_READY"
                })
        });
    }
    let name = |pod: &Pod| pod.config.metadata.clone().unwrap_or_default().name;
    text.lines().any(|line| {
        line.contains("STARTED")
            && pods.iter().any(|pod| {
                line.contains(&pod.id[..13]) && line.ends_with(&format!("e2e/{}", name(pod)))
            })
    })
}
