//! ContainerStatus.

use std::collections::HashMap;

use cri_proto::v1;
use tonic::Status;

use super::pod_sandbox_status::handler_name;
use crate::{convert, error::status, service::Server};

impl Server {
    pub(crate) async fn on_container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        let v1::ContainerStatusRequest { container_id, verbose } = request;
        let record = self.pods.container(&container_id).map_err(|e| status(&e))?;
        Ok(v1::ContainerStatusResponse {
            status: Some(convert::container_status(&record)),
            info: if verbose { self.container_info(&record).await } else { HashMap::new() },
        })
    }

    async fn container_info(&self, record: &pods::ContainerRecord) -> HashMap<String, String> {
        let pid = match record.state {
            pods::ContainerState::Running { pid } => pid,
            _ => 0,
        };
        let sandbox = self.pods.sandbox(record.sandbox_id.as_str());
        let handler = sandbox.map(|sandbox| handler_name(&sandbox.config).to_owned());
        let handler = handler.unwrap_or_default();
        let text = serde_json::json!({
            "sandboxID": record.sandbox_id,
            "pid": pid,
            "removing": record.removing,
            "runtimeHandler": handler,
            "cgroup": record.cgroup,
            "layers": record.image.layers,
            "damage": record.damage,
            "config": record.config,
            "runtimeSpec": self.pods.spec_json(record).await,
        });
        HashMap::from([("info".to_owned(), text.to_string())])
    }
}
