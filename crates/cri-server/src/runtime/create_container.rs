//! CreateContainer.

use cri_proto::v1;
use tonic::Status;

use crate::{
    convert::{container_config, required},
    error::status,
    service::Server,
};

impl Server {
    pub(crate) async fn on_create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        // The sandbox's configuration is the one that RunPodSandbox was given; the copy
        // here is for runtimes that keep none.
        let v1::CreateContainerRequest { pod_sandbox_id, config, sandbox_config: _ } = request;
        let config = container_config(required("config", config)?)?;
        let id =
            self.pods.create_container(&pod_sandbox_id, config).await.map_err(|e| status(&e))?;
        Ok(v1::CreateContainerResponse { container_id: id.to_string() })
    }
}
