//! StopContainer.

use std::time::Duration;

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let v1::StopContainerRequest { container_id, timeout } = request;
        let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        self.pods.stop_container(&container_id, grace).await.map_err(|e| status(&e))?;
        Ok(v1::StopContainerResponse {})
    }
}
