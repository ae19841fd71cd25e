//! UpdateRuntimeConfig.

use cri_proto::v1;
use network::NetworkError;
use telemetry::chain;
use tonic::Status;

use crate::service::Server;

impl Server {
    /// The kubelet tells the node's range of pod addresses: the default network takes it
    /// over. CNI configurations say their ranges themselves.
    pub(crate) async fn on_update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
        let v1::UpdateRuntimeConfigRequest { runtime_config } = request;
        let range = runtime_config
            .and_then(|v1::RuntimeConfig { network_config }| network_config)
            .map(|v1::NetworkConfig { pod_cidr }| pod_cidr)
            .unwrap_or_default();
        if !range.is_empty() {
            self.network.set_pod_cidr(&range).await.map_err(|error| status(&error))?;
        }
        Ok(v1::UpdateRuntimeConfigResponse {})
    }
}

fn status(error: &NetworkError) -> Status {
    match error {
        NetworkError::InvalidOption { .. } => Status::invalid_argument(chain(error)),
        _ => Status::unknown(chain(error)),
    }
}
