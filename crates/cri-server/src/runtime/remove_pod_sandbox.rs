//! RemovePodSandbox.

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        let v1::RemovePodSandboxRequest { pod_sandbox_id } = request;
        self.pods.remove_sandbox(&pod_sandbox_id).await.map_err(|e| status(&e))?;
        Ok(v1::RemovePodSandboxResponse {})
    }
}
