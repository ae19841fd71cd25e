//! StopPodSandbox.

use cri_proto::v1;
use tonic::Status;

use crate::{error::status, service::Server};

impl Server {
    pub(crate) async fn on_stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        let v1::StopPodSandboxRequest { pod_sandbox_id } = request;
        self.pods.stop_sandbox(&pod_sandbox_id).await.map_err(|e| status(&e))?;
        Ok(v1::StopPodSandboxResponse {})
    }
}
