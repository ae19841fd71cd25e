//! The two services: each call is a line here and a file of its own.

use std::{path::PathBuf, sync::Arc, time::Instant};

use cri_proto::{
    corten_v1::image_admin_server::ImageAdminServer,
    v1::{
        self, image_service_server::ImageServiceServer,
        runtime_service_server::RuntimeServiceServer,
    },
};
use images::Images;
use network::Network;
use pods::Pods;
use stats::Stats;
use streaming::server::Addresses;
use tonic::{Request, Response, Status, async_trait, codegen::BoxStream, service::Routes};
use tracing::{Instrument, debug, warn};

use crate::{
    deadline,
    disks::Disks,
    gate::Gate,
    legacy::{Legacy, LegacyService},
};

/// The largest message either way: what the kubelet takes.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// What the daemon says of itself in verbose answers.
#[derive(Debug, Clone)]
pub struct Info {
    /// The daemon's version.
    pub version: String,
    /// The settings in use, as JSON. `stateDir` and `rootDir` are among them.
    pub config: serde_json::Value,
    /// Directories without which no pod can be made.
    pub dirs: Vec<PathBuf>,
    /// Where Prometheus reads the daemon's figures, if anywhere.
    pub metrics: Option<String>,
}

/// The API's server.
#[derive(Debug, Clone)]
pub struct Server {
    pub(crate) pods: Pods,
    pub(crate) images: Arc<Images>,
    pub(crate) network: Arc<Network>,
    pub(crate) stats: Stats,
    pub(crate) addresses: Addresses,
    pub(crate) gate: Gate,
    pub(crate) disks: Disks,
    pub(crate) info: Arc<Info>,
}

/// A call of the CRI, and whether it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// `RuntimeService` or `ImageService`.
    pub service: &'static str,
    /// The call's name.
    pub name: &'static str,
    /// Whether it is served; otherwise it answers `Unimplemented`.
    pub served: bool,
}

macro_rules! calls {
    ($($service:ident: { served: [$($yes:ident),* $(,)?], unimplemented: [$($no:ident),* $(,)?] })*) => {
        /// All calls of the CRI. A test compares this list with the interface and with
        /// what the server answers.
        pub const CALLS: &[Call] = &[
            $($(Call { service: stringify!($service), name: stringify!($yes), served: true },)*
              $(Call { service: stringify!($service), name: stringify!($no), served: false },)*)*
        ];
    };
}

calls! {
    RuntimeService: {
        served: [
            Version, RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus, ListPodSandbox,
            CreateContainer, StartContainer, StopContainer, RemoveContainer, ListContainers, ContainerStatus,
            ReopenContainerLog, ExecSync, Exec, Attach, PortForward, Status, RuntimeConfig,
            UpdateContainerResources, UpdateRuntimeConfig,
            ContainerStats, ListContainerStats, PodSandboxStats, ListPodSandboxStats,
            GetContainerEvents, UpdatePodSandboxResources,
            StreamPodSandboxes, StreamContainers, StreamContainerStats, StreamPodSandboxStats,
        ],
        unimplemented: [
            CheckpointContainer, ListMetricDescriptors, ListPodSandboxMetrics,
            StreamPodSandboxMetrics, CheckpointPod, RestorePod,
        ]
    }
    ImageService: {
        served: [ListImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo, StreamImages],
        unimplemented: []
    }
}

impl Server {
    /// Makes the server. Calls that need a complete picture wait at the gate.
    pub fn new(
        pods: Pods,
        images: Arc<Images>,
        network: Arc<Network>,
        stats: Stats,
        addresses: Addresses,
        gate: Gate,
        info: Info,
    ) -> Self {
        let disks = Disks::new(&info.dirs);
        Self { pods, images, network, stats, addresses, gate, disks, info: Arc::new(info) }
    }

    /// RuntimeService in both versions.
    pub fn runtime_routes(&self, routes: Routes) -> Routes {
        let service = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        routes.add_service(LegacyService::<_, false>(service.clone())).add_service(service)
    }

    /// ImageService in both versions, and Corten's own calls about images.
    pub fn image_routes(&self, routes: Routes) -> Routes {
        let service = ImageServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let admin =
            ImageAdminServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        routes
            .add_service(LegacyService::<_, true>(service.clone()))
            .add_service(service)
            .add_service(admin)
    }
}

/// What every call has: a span with a number of its own, and one line where it fails.
pub(crate) async fn traced<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let span = telemetry::call_span(name);
    async {
        let begun = Instant::now();
        let result = work.await;
        match &result {
            Ok(_) => debug!(elapsed_us = begun.elapsed().as_micros(), "answered"),
            Err(status) if status.code() == tonic::Code::NotFound => {
                debug!(code = ?status.code(), "{}", status.message());
            }
            Err(status) => warn!(code = ?status.code(), "{}", status.message()),
        }
        result.map(Response::new)
    }
    .instrument(span)
    .await
}

macro_rules! delegate {
    (now $self:ident, $request:ident, $name:literal, $method:ident) => {
        traced($name, async {
            $self.gate.pass().await?;
            $self.$method($request.into_inner())
        })
        .await
    };
    ($self:ident, $request:ident, $name:literal, $method:ident) => {{
        let deadline = deadline::of($request.metadata());
        let work = async {
            $self.gate.pass().await?;
            $self.$method($request.into_inner()).await
        };
        traced($name, deadline::within(deadline, work)).await
    }};
}

/// Methods of the generated trait that are served: each passes the gate and is traced.
#[async_trait]
impl v1::runtime_service_server::RuntimeService for Server {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        let legacy = request.extensions().get::<Legacy>().is_some();
        traced("Version", async { Ok(self.on_version(legacy)) }).await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        delegate!(self, request, "RunPodSandbox", on_run_pod_sandbox)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        delegate!(self, request, "StopPodSandbox", on_stop_pod_sandbox)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        delegate!(self, request, "RemovePodSandbox", on_remove_pod_sandbox)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        delegate!(self, request, "PodSandboxStatus", on_pod_sandbox_status)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        delegate!(self, request, "ListPodSandbox", on_list_pod_sandbox)
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        delegate!(self, request, "UpdateContainerResources", on_update_container_resources)
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        delegate!(self, request, "CreateContainer", on_create_container)
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        delegate!(self, request, "StartContainer", on_start_container)
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        delegate!(self, request, "StopContainer", on_stop_container)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        delegate!(self, request, "RemoveContainer", on_remove_container)
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        delegate!(self, request, "ListContainers", on_list_containers)
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        delegate!(self, request, "ContainerStatus", on_container_status)
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        delegate!(self, request, "ReopenContainerLog", on_reopen_container_log)
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        delegate!(self, request, "ExecSync", on_exec_sync)
    }

    async fn exec(
        &self,
        request: Request<v1::ExecRequest>,
    ) -> Result<Response<v1::ExecResponse>, Status> {
        delegate!(now self, request, "Exec", on_exec)
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        delegate!(now self, request, "Attach", on_attach)
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        delegate!(now self, request, "PortForward", on_port_forward)
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        delegate!(self, request, "Status", on_status)
    }

    async fn runtime_config(
        &self,
        request: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        delegate!(self, request, "RuntimeConfig", on_runtime_config)
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        delegate!(self, request, "UpdateRuntimeConfig", on_update_runtime_config)
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        delegate!(self, request, "ContainerStats", on_container_stats)
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        delegate!(self, request, "ListContainerStats", on_list_container_stats)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        delegate!(self, request, "PodSandboxStats", on_pod_sandbox_stats)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        delegate!(self, request, "ListPodSandboxStats", on_list_pod_sandbox_stats)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<BoxStream<v1::StreamPodSandboxesResponse>>, Status> {
        delegate!(self, request, "StreamPodSandboxes", on_stream_pod_sandboxes)
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<BoxStream<v1::StreamContainersResponse>>, Status> {
        delegate!(self, request, "StreamContainers", on_stream_containers)
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<BoxStream<v1::StreamContainerStatsResponse>>, Status> {
        delegate!(self, request, "StreamContainerStats", on_stream_container_stats)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<BoxStream<v1::StreamPodSandboxStatsResponse>>, Status> {
        delegate!(self, request, "StreamPodSandboxStats", on_stream_pod_sandbox_stats)
    }

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<BoxStream<v1::ContainerEventResponse>>, Status> {
        delegate!(self, request, "GetContainerEvents", on_get_container_events)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        delegate!(self, request, "UpdatePodSandboxResources", on_update_pod_sandbox_resources)
    }
}

#[async_trait]
impl v1::image_service_server::ImageService for Server {
    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        traced("ImageFsInfo", async { self.on_image_fs_info() }).await
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        delegate!(self, request, "ListImages", on_list_images)
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        delegate!(self, request, "ImageStatus", on_image_status)
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        delegate!(self, request, "PullImage", on_pull_image)
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        delegate!(self, request, "RemoveImage", on_remove_image)
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<BoxStream<v1::StreamImagesResponse>>, Status> {
        delegate!(self, request, "StreamImages", on_stream_images)
    }
}
