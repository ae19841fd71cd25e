//! The calls of `RuntimeService`.

use std::time::Duration;

use cri_proto::v1::runtime_service_client::RuntimeServiceClient;
use cri_proto::v1::{ContainerEventResponse, GetEventsRequest, VersionRequest};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::call::{Connection, calls, request};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::lists::Streams;
use crate::options::{Options, Timeouts};
use crate::version::{ApiVersion, Versioned};

/// A client of a runtime's `RuntimeService`. Clones share the connection.
#[derive(Clone, Debug)]
pub struct RuntimeClient {
    pub(crate) connection: Connection,
    pub(crate) client: RuntimeServiceClient<Versioned<Channel>>,
    pub(crate) streams: Streams,
    version: ApiVersion,
}

impl RuntimeClient {
    /// Connects, and agrees on the version by `Version`.
    ///
    /// # Errors
    ///
    /// When the socket cannot be dialled, the runtime answers with an error other
    /// than `Unimplemented`, or serves neither version.
    pub async fn connect(endpoint: Endpoint, options: Options) -> Result<Self> {
        let connection = Connection::new(endpoint, options);
        for version in [ApiVersion::V1, ApiVersion::V1Alpha2] {
            let client = Self::speaking(&connection, version);
            let probe = VersionRequest { version: version.as_str().to_owned() };
            match client.version(probe).await {
                Ok(_) => return Ok(client),
                Err(error) if error.code() == Code::Unimplemented => {}
                Err(error) => return Err(error),
            }
        }
        let endpoint = connection.endpoint;
        Err(Error::NoCommonVersion { endpoint, service: "RuntimeService" })
    }

    fn speaking(connection: &Connection, version: ApiVersion) -> Self {
        let channel = Versioned::new(connection.channel.clone(), version);
        Self {
            client: RuntimeServiceClient::new(channel)
                .max_decoding_message_size(connection.options.max_receive_bytes),
            connection: connection.clone(),
            streams: Streams::new(version),
            version,
        }
    }

    /// The version agreed on.
    #[must_use]
    pub fn api_version(&self) -> ApiVersion {
        self.version
    }

    /// Where the runtime listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.connection.endpoint
    }

    calls! {
        /// The runtime's name and version.
        version(VersionRequest) -> VersionResponse = "Version", |t, _| Some(t.read);
        /// The runtime's conditions, handlers and features.
        status(StatusRequest) -> StatusResponse = "Status", |t, _| Some(t.read);
        /// The settings that the kubelet follows: the cgroup driver.
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse = "RuntimeConfig", |t, _| Some(t.read);
        /// Tells the runtime the node's settings: the range of pod addresses.
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse = "UpdateRuntimeConfig", |t, _| Some(t.change);

        /// Makes and starts a sandbox.
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse = "RunPodSandbox", |t, _| Some(t.change.saturating_mul(2));
        /// Stops a sandbox and all that runs in it.
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse = "StopPodSandbox", |t, _| Some(t.change);
        /// Removes a sandbox and all that is in it.
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse = "RemovePodSandbox", |t, _| Some(t.change);
        /// A sandbox's state, addresses and namespaces.
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse = "PodSandboxStatus", |t, _| Some(t.read);
        /// The sandboxes, in one message; see [`Self::pod_sandboxes`].
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse = "ListPodSandbox", |t, _| Some(t.read);
        /// Changes a sandbox's limits.
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse = "UpdatePodSandboxResources", |t, _| Some(t.change);
        /// A sandbox's figures.
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse = "PodSandboxStats", |t, _| Some(t.read);
        /// The sandboxes' figures, in one message; see [`Self::all_pod_sandbox_stats`].
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse = "ListPodSandboxStats", |t, _| Some(t.read);
        /// The sandboxes' metrics, in one message; see [`Self::all_pod_sandbox_metrics`].
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse = "ListPodSandboxMetrics", |t, _| Some(t.read);
        /// What the metrics mean.
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse = "ListMetricDescriptors", |t, _| Some(t.read);

        /// Makes a container in a sandbox.
        create_container(CreateContainerRequest) -> CreateContainerResponse = "CreateContainer", |t, _| Some(t.change);
        /// Starts a container that was made.
        start_container(StartContainerRequest) -> StartContainerResponse = "StartContainer", |t, _| Some(t.change);
        /// Stops a container, at the latest after its grace period.
        stop_container(StopContainerRequest) -> StopContainerResponse = "StopContainer", |t, r| Some(t.change.saturating_add(seconds(r.timeout)));
        /// Removes a container, running or not.
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse = "RemoveContainer", |t, _| Some(t.change);
        /// A container's state, exit code and mounts.
        container_status(ContainerStatusRequest) -> ContainerStatusResponse = "ContainerStatus", |t, _| Some(t.read);
        /// The containers, in one message; see [`Self::containers`].
        list_containers(ListContainersRequest) -> ListContainersResponse = "ListContainers", |t, _| Some(t.read);
        /// Changes a container's limits.
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse = "UpdateContainerResources", |t, _| Some(t.change);
        /// Opens a container's log file anew, after it was renamed.
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse = "ReopenContainerLog", |t, _| Some(t.change);
        /// A container's figures.
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse = "ContainerStats", |t, _| Some(t.read);
        /// The containers' figures, in one message; see [`Self::all_container_stats`].
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse = "ListContainerStats", |t, _| Some(t.read);

        /// Runs a program in a container and waits for it.
        exec_sync(ExecSyncRequest) -> ExecSyncResponse = "ExecSync", |t, r| (r.timeout > 0).then(|| t.change.saturating_add(seconds(r.timeout)));
        /// Prepares an interactive program in a container; answers with an address.
        exec(ExecRequest) -> ExecResponse = "Exec", |t, _| Some(t.change);
        /// Prepares attaching to a container; answers with an address.
        attach(AttachRequest) -> AttachResponse = "Attach", |t, _| Some(t.change);
        /// Prepares forwarding ports; answers with an address.
        port_forward(PortForwardRequest) -> PortForwardResponse = "PortForward", |t, _| Some(t.change);

        /// Writes a container's whole state to an archive.
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse = "CheckpointContainer", |t, r| Some(t.change.max(seconds(r.timeout)));
        /// Writes a pod's whole state to a directory.
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse = "CheckpointPod", |t, _| Some(t.change);
        /// Makes a pod from its written state.
        restore_pod(RestorePodRequest) -> RestorePodResponse = "RestorePod", |t, _| Some(t.change.saturating_mul(2));
    }

    /// Opens the stream of containers' events, which has no end of its own.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be reached or answers with an error. Opening has
    /// no time limit: some runtimes answer only with the first event.
    pub async fn container_events(&self) -> Result<ContainerEvents> {
        let mut client = self.client.clone();
        let call = client.get_container_events(request(GetEventsRequest {}, None));
        let stream = self.connection.unary(EVENTS, None, call).await?;
        Ok(ContainerEvents { connection: self.connection.clone(), stream })
    }

    /// The time limits of this client's calls.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.connection.options.timeouts
    }
}

const EVENTS: &str = "GetContainerEvents";

/// The events of containers, as they happen.
#[derive(Debug)]
pub struct ContainerEvents {
    connection: Connection,
    stream: Streaming<ContainerEventResponse>,
}

impl ContainerEvents {
    /// The next event, or `None` when the runtime closed the stream.
    ///
    /// # Errors
    ///
    /// When the stream broke.
    pub async fn next(&mut self) -> Result<Option<ContainerEventResponse>> {
        let next = self.stream.message().await;
        next.map_err(|status| self.connection.error(EVENTS, None, &status))
    }
}

/// Seconds as the interface counts them; a negative number is none.
fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
