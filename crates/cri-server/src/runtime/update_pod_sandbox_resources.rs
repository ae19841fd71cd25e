//! UpdatePodSandboxResources.

use cri_proto::v1;
use pods::PodResources;
use tonic::Status;

use crate::{convert::container_resources, error::status, service::Server};

impl Server {
    pub(crate) async fn on_update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        let v1::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request;
        let change = PodResources {
            overhead: overhead.map(container_resources),
            resources: resources.map(container_resources),
        };
        self.pods.update_sandbox(&pod_sandbox_id, change).await.map_err(|e| status(&e))?;
        Ok(v1::UpdatePodSandboxResourcesResponse {})
    }
}
