//! The wire: v1alpha2, old clients, what is not served.

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{
    ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, ImageFsInfoRequest, ImageFsInfoResponse, ListImagesRequest,
    ListImagesResponse, ListPodSandboxRequest, ListPodSandboxResponse, RunPodSandboxRequest,
    RunPodSandboxResponse, StartContainerRequest, StartContainerResponse, StopPodSandboxRequest,
    StopPodSandboxResponse, VersionRequest, VersionResponse,
};
use tonic::{Code, Request, Status};

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, equal};

pub(super) const CASES: &[Case] = &[
    case!("protocol.v1alpha2", v1alpha2),
    case!("protocol.unknown_calls_are_unimplemented", unknown),
    case!("protocol.python_with_its_default_authority", python).needs(&[Need::Workshop]),
];

/// A call by its path, with v1's messages: v1alpha2's are the same on the wire.
pub(super) async fn call<T, U>(c: &Context, path: &'static str, message: T) -> Result<U, Status>
where
    T: prost::Message + 'static,
    U: prost::Message + Default + 'static,
{
    let socket = c.runtime.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = tonic_prost::ProstCodec::default();
    Ok(client.unary(Request::new(message), path, codec).await?.into_inner())
}

async fn v1alpha2(c: &Context) -> Result<()> {
    let version: VersionResponse =
        call(c, "/runtime.v1alpha2.RuntimeService/Version", VersionRequest::default()).await?;
    equal("the interface's version", &version.runtime_api_version, "v1alpha2")?;

    let config = c.pod()?;
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let pod: RunPodSandboxResponse =
        call(c, "/runtime.v1alpha2.RuntimeService/RunPodSandbox", request).await?;
    let pods: ListPodSandboxResponse = call(
        c,
        "/runtime.v1alpha2.RuntimeService/ListPodSandbox",
        ListPodSandboxRequest::default(),
    )
    .await?;
    let found = pods.items.iter().any(|listed| listed.id == pod.pod_sandbox_id);
    ensure!(found, "the pod is not listed");

    let mut asked = c.script("echo $OLD; tail -f /dev/null");
    asked.envs.push(cri_proto::v1::KeyValue { key: "OLD".to_owned(), value: "yes".into() });
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.pod_sandbox_id.clone(),
        config: Some(asked),
        sandbox_config: Some(config),
    };
    let container: CreateContainerResponse =
        call(c, "/runtime.v1alpha2.RuntimeService/CreateContainer", request).await?;
    let container_id = container.container_id;
    let request = StartContainerRequest { container_id: container_id.clone() };
    let _: StartContainerResponse =
        call(c, "/runtime.v1alpha2.RuntimeService/StartContainer", request).await?;
    let request = ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    let status: ContainerStatusResponse =
        call(c, "/runtime.v1alpha2.RuntimeService/ContainerStatus", request).await?;
    equal("the id", status.status.context("no status")?.id, container_id.clone())?;
    // Both versions see the same.
    c.status(&container_id).await?;
    let request = StopPodSandboxRequest { pod_sandbox_id: pod.pod_sandbox_id };
    let _: StopPodSandboxResponse =
        call(c, "/runtime.v1alpha2.RuntimeService/StopPodSandbox", request).await?;

    let images: ListImagesResponse =
        call(c, "/runtime.v1alpha2.ImageService/ListImages", ListImagesRequest::default()).await?;
    ensure!(!images.images.is_empty(), "no images");
    let file_systems: ImageFsInfoResponse =
        call(c, "/runtime.v1alpha2.ImageService/ImageFsInfo", ImageFsInfoRequest {}).await?;
    ensure!(!file_systems.image_filesystems.is_empty(), "no file systems");
    Ok(())
}

async fn unknown(c: &Context) -> Result<()> {
    for path in [
        "/runtime.v1.RuntimeService/NoSuchCall",
        "/runtime.v2.RuntimeService/Version",
        "/runtime.v1alpha2.RuntimeService/GetContainerEvents",
        "/runtime.v1alpha2.RuntimeService/RuntimeConfig",
    ] {
        let result: Result<VersionResponse, Status> =
            call(c, path, VersionRequest::default()).await;
        equal(path, result.err().map(|status| status.code()), Some(Code::Unimplemented))?;
    }
    Ok(())
}

async fn python(c: &Context) -> Result<()> {
    const PROGRAM: &str = r#"
import sys, grpc
channel = grpc.insecure_channel("unix:" + sys.argv[1])
def call(path, body=b""):
    return channel.unary_unary(path)(body, timeout=60)
for version in ("v1", "v1alpha2"):
    runtime = "/runtime." + version + ".RuntimeService/"
    assert version.encode() in call(runtime + "Version")
    call(runtime + "ListPodSandbox")
    call(runtime + "ListContainers")
    call("/runtime." + version + ".ImageService/ListImages")
try:
    call("/runtime.v1.RuntimeService/PodSandboxStatus", b"\x0a\x40" + b"0" * 64)
    assert False, "a status of nothing"
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
"#;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/python-env");
    let python = testing::program::output(&mut std::process::Command::new(script))?;
    let socket = c.runtime.socket();
    let mut command = std::process::Command::new(python.trim());
    command.args(["-c", PROGRAM]).arg(socket);
    let ran = tokio::task::spawn_blocking(move || testing::program::output(&mut command));
    ran.await??;
    Ok(())
}
