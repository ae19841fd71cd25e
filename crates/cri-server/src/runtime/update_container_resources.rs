//! UpdateContainerResources.

use cri_proto::v1;
use tonic::Status;

use crate::{
    convert::{container_resources, required},
    error::status,
    service::Server,
};

impl Server {
    pub(crate) async fn on_update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        let v1::UpdateContainerResourcesRequest {
            container_id,
            linux,
            windows: _,     // of no meaning on Linux
            annotations: _, // for plugins; the contract wants no runtime to keep them
        } = request;
        let resources = container_resources(required("linux", linux)?);
        self.pods.update_container(&container_id, resources).await.map_err(|e| status(&e))?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }
}
