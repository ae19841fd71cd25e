//! Clients that do not wait: what they began ends cleanly, and who asks again finds it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cri_proto::v1::{
    ContainerState, CreateContainerRequest, CreateContainerResponse, ExecSyncRequest,
    ExecSyncResponse, ImageSpec, PodSandboxFilter, PullImageRequest, PullImageResponse,
    RemoveContainerRequest, RemoveContainerResponse, RemoveImageRequest, RemoveImageResponse,
    RemovePodSandboxRequest, RemovePodSandboxResponse, RunPodSandboxRequest, RunPodSandboxResponse,
    StartContainerRequest, StartContainerResponse, StopContainerRequest, StopContainerResponse,
    StopPodSandboxRequest, StopPodSandboxResponse,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testing::audit::Snapshot;
use testing::wait::patient;
use tonic::{Code, Request, Status};

use crate::case;
use crate::case::Case;
use crate::context::{CASE_LABEL, Context, PATIENCE, Pod, equal, map, until};

pub(super) const CASES: &[Case] =
    &[case!("deadline.of_a_millisecond_leaves_nothing_half_done", hurried).alone().ours()];

/// How long the client waits: less than most calls take.
const DEADLINE: Duration = Duration::from_millis(1);

/// The same here. What is short on a slow machine is over before anything has begun.
fn deadline() -> Duration {
    patient(patient(DEADLINE))
}

/// How many calls a round has, and how many of them take longer than that at least.
const CALLS: usize = 10;
const LATE: usize = 4;

/// How often all of it is done: a call is cut off at another step each time.
const ROUNDS: usize = 10;

/// How long what was begun may take.
const BEGUN: Duration = Duration::from_secs(10);

/// What a client that does not wait has had as answers.
struct Hurry<'a> {
    c: &'a Context,
    late: usize,
    cancelled: usize,
    not_begun: usize,
}

impl Hurry<'_> {
    /// Makes a call with a deadline that the server alone keeps: the client waits for what it says.
    async fn call<T, U>(&mut self, path: &'static str, message: T) -> Result<Option<U>>
    where
        T: prost::Message + 'static,
        U: prost::Message + Default + 'static,
    {
        let stream = tokio::net::UnixStream::connect(self.c.runtime.socket()).await?;
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await?;
        let connection = tokio::spawn(connection);
        let service = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let origin = http::Uri::from_static("http://localhost");
        let mut client = tonic::client::Grpc::with_origin(service, origin);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        request.set_timeout(deadline());
        let codec = tonic_prost::ProstCodec::default();
        let answer = client.unary(request, http::uri::PathAndQuery::from_static(path), codec).await;
        connection.abort();
        match answer {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == Code::DeadlineExceeded => {
                let told = format!("deadline of {:?}", deadline());
                ensure!(status.message().contains(&told), "{status}");
                self.late += 1;
                Ok(None)
            }
            // Where a busy machine held the call up for all of its time, before it began.
            Err(status) if status.code() == Code::Cancelled => {
                self.cancelled += 1;
                Ok(None)
            }
            Err(status) => bail!("{path}: {status}"),
        }
    }
}

async fn hurried(c: &Context) -> Result<()> {
    let before = Snapshot::take(&c.runtime.audit_scope())?;
    let mut hurry = Hurry { c, late: 0, cancelled: 0, not_begun: 0 };
    for round in 0..ROUNDS {
        Box::pin(life(&mut hurry)).await.with_context(|| format!("in round {round}"))?;
    }
    let Hurry { late, cancelled, not_begun, .. } = hurry;
    c.figure(&format!("{late} of {} calls were too late, {cancelled} before", ROUNDS * CALLS));
    ensure!(late >= LATE * ROUNDS, "{late} calls only were too late");
    ensure!(not_begun < ROUNDS / 2, "{not_begun} starts were not begun");
    ensure!(cancelled <= 2 * ROUNDS, "{cancelled} calls were cancelled");
    before.with_scope(c.runtime.audit_scope()).audit()
}

/// Each call first by a client that does not wait, then by one that does.
async fn life(hurry: &mut Hurry<'_>) -> Result<()> {
    let c = hurry.c;
    let name = "docker.io/e2e/layered:1";
    let image = || Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let pull = PullImageRequest { image: image(), ..PullImageRequest::default() };
    let _: Option<PullImageResponse> =
        hurry.call("/runtime.v1.ImageService/PullImage", pull).await?;
    c.pull(name).await?;
    c.present(name).await?;

    let config = c.pod()?;
    let run = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let ran: Option<RunPodSandboxResponse> =
        hurry.call("/runtime.v1.RuntimeService/RunPodSandbox", run).await?;
    let pod = match ran {
        // Nobody asks again for what has succeeded.
        Some(ran) => Pod { id: ran.pod_sandbox_id, config },
        None => c.run_pod(config).await?,
    };
    let filter = PodSandboxFilter {
        label_selector: map(&[(CASE_LABEL, c.name())]),
        ..PodSandboxFilter::default()
    };
    let listed = c.runtime.pods.pod_sandboxes(Some(filter)).await?;
    equal("the pods", listed.iter().map(|pod| &pod.id).collect::<Vec<_>>(), vec![&pod.id])?;

    let wanted = c.waiting();
    let create = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(wanted.clone()),
        sandbox_config: Some(pod.config.clone()),
    };
    let made: Option<CreateContainerResponse> =
        hurry.call("/runtime.v1.RuntimeService/CreateContainer", create).await?;
    let id = match made {
        Some(made) => made.container_id,
        None => c.create(&pod, &wanted).await?,
    };
    equal("the containers", c.containers(in_pod(&pod.id)).await?.len(), 1)?;
    let start = StartContainerRequest { container_id: id.clone() };
    let _: Option<StartContainerResponse> =
        hurry.call("/runtime.v1.RuntimeService/StartContainer", start).await?;
    let runs = async || {
        let state = c.status(&id).await?.state();
        Ok((state == ContainerState::ContainerRunning).then_some(()))
    };
    // What was begun goes on by itself: a start is not asked for twice. A slow machine may have
    // begun nothing in that time.
    if until(BEGUN, "the container to run", runs).await.is_err() {
        equal("its state", c.status(&id).await?.state(), ContainerState::ContainerCreated)?;
        c.start(&id).await?;
        hurry.not_begun += 1;
    }
    command_ends(hurry, &id).await?;
    ends(hurry, &pod.id, &id).await?;
    let remove = RemoveImageRequest { image: image() };
    let _: Option<RemoveImageResponse> =
        hurry.call("/runtime.v1.ImageService/RemoveImage", remove).await?;
    c.remove_image(name).await
}

fn in_pod(pod: &str) -> cri_proto::v1::ContainerFilter {
    cri_proto::v1::ContainerFilter { pod_sandbox_id: pod.to_owned(), ..Default::default() }
}

/// A command whose client has gone does not go on.
async fn command_ends(hurry: &mut Hurry<'_>, id: &str) -> Result<()> {
    let seconds = format!("{}", 70_000 + hurry.c.next());
    let cmd = vec!["sleep".to_owned(), seconds.clone()];
    let exec = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
    let ran: Option<ExecSyncResponse> =
        hurry.call("/runtime.v1.RuntimeService/ExecSync", exec).await?;
    ensure!(ran.is_none(), "a command that sleeps has ended");
    let mark = format!("sleep\0{seconds}");
    until(PATIENCE, "the command to be gone", || async {
        Ok(crate::process::all_with_argument(&mark)?.is_empty().then_some(()))
    })
    .await
}

async fn ends(hurry: &mut Hurry<'_>, pod: &str, id: &str) -> Result<()> {
    let c = hurry.c;
    let stop = StopContainerRequest { container_id: id.to_owned(), timeout: 10 };
    let _: Option<StopContainerResponse> =
        hurry.call("/runtime.v1.RuntimeService/StopContainer", stop).await?;
    c.stop(id, 10).await?;
    equal("its code", c.status(id).await?.exit_code, 0)?;
    let remove = RemoveContainerRequest { container_id: id.to_owned() };
    let _: Option<RemoveContainerResponse> =
        hurry.call("/runtime.v1.RuntimeService/RemoveContainer", remove).await?;
    c.remove(id).await?;
    equal("the containers", c.containers(in_pod(pod)).await?.len(), 0)?;
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
    let _: Option<StopPodSandboxResponse> =
        hurry.call("/runtime.v1.RuntimeService/StopPodSandbox", stop).await?;
    c.stop_pod(pod).await?;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
    let _: Option<RemovePodSandboxResponse> =
        hurry.call("/runtime.v1.RuntimeService/RemovePodSandbox", remove).await?;
    c.remove_pod(pod).await
}
