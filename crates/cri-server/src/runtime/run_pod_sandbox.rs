//! RunPodSandbox.

use cri_proto::v1;
use tonic::Status;

use crate::{
    convert::{required, sandbox_config},
    error::status,
    service::Server,
};

impl Server {
    pub(crate) async fn on_run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let v1::RunPodSandboxRequest { config, runtime_handler } = request;
        let config = sandbox_config(required("config", config)?, runtime_handler)?;
        let id = self.pods.run_sandbox(config).await.map_err(|e| status(&e))?;
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
    }
}
