//! PodSandboxStatus.

use std::collections::HashMap;

use cri_proto::v1;
use pods::ContainerFilter;
use tonic::Status;

use crate::{convert, error::status, service::Server};

impl Server {
    pub(crate) async fn on_pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        let v1::PodSandboxStatusRequest { pod_sandbox_id, verbose } = request;
        let record = self.pods.sandbox(&pod_sandbox_id).map_err(|e| status(&e))?;
        let of_pod =
            ContainerFilter { sandbox_id: record.id.to_string(), ..ContainerFilter::default() };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&record)),
            info: if verbose { info(&record) } else { HashMap::new() },
            containers_statuses: self
                .pods
                .containers(&of_pod)
                .iter()
                .map(|c| convert::container_status(c))
                .collect(),
            timestamp: self.pods.now_ns(),
        })
    }
}

/// The handler's name, also where it is the default one.
pub(super) fn handler_name(config: &types::SandboxConfig) -> &str {
    match config.runtime_handler.as_str() {
        "" => pods::DEFAULT_HANDLER,
        name => name,
    }
}

fn info(record: &pods::SandboxRecord) -> HashMap<String, String> {
    let text = serde_json::json!({
        "runtimeHandler": handler_name(&record.config),
        "phase": record.phase,
        "netns": record.netns,
        "network": record.attachment,
        "networkOwed": record.network_owed,
        "cgroupParent": record.cgroup_parent,
        "limits": record.limits,
        "damage": record.damage,
        "config": record.config,
    });
    HashMap::from([("info".to_owned(), text.to_string())])
}
