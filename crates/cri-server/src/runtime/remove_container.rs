//! RemoveContainer.

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        let v1::RemoveContainerRequest { container_id } = request;
        self.pods.remove_container(&container_id).await.map_err(|e| status(&e))?;
        Ok(v1::RemoveContainerResponse {})
    }
}
