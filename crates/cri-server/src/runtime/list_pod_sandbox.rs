//! ListPodSandbox.

use cri_proto::v1;
use pods::SandboxFilter;
use tonic::Status;

use crate::{
    convert::{self, invalid},
    service::Server,
};

impl Server {
    pub(crate) async fn on_list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        let v1::ListPodSandboxRequest { filter } = request;
        let v1::PodSandboxFilter { id, state, label_selector } = filter.unwrap_or_default();
        let ready = match state {
            None => None,
            Some(v1::PodSandboxStateValue { state }) => {
                match v1::PodSandboxState::try_from(state) {
                    Ok(state) => Some(state == v1::PodSandboxState::SandboxReady),
                    Err(_) => {
                        return Err(invalid("filter.state", format!("unknown state {state}")));
                    }
                }
            }
        };
        let filter = SandboxFilter { id, ready, labels: label_selector };
        let items = self.pods.sandboxes(&filter).iter().map(|r| convert::sandbox(r)).collect();
        Ok(v1::ListPodSandboxResponse { items })
    }
}
