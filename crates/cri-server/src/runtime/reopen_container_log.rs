//! ReopenContainerLog.

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        let v1::ReopenContainerLogRequest { container_id } = request;
        self.pods.reopen_log(&container_id).await.map_err(|e| status(&e))?;
        Ok(v1::ReopenContainerLogResponse {})
    }
}
