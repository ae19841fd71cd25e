//! StartContainer.

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        let v1::StartContainerRequest { container_id } = request;
        self.pods.start_container(&container_id).await.map_err(|e| status(&e))?;
        Ok(v1::StartContainerResponse {})
    }
}
