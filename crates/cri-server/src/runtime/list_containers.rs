//! ListContainers.

use cri_proto::v1;
use pods::{ContainerFilter, StateKind};
use tonic::Status;

use crate::{
    convert::{self, invalid},
    service::Server,
};

impl Server {
    pub(crate) async fn on_list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        let v1::ListContainersRequest { filter } = request;
        let v1::ContainerFilter { id, state, pod_sandbox_id, label_selector } =
            filter.unwrap_or_default();
        let state = match state {
            None => None,
            Some(v1::ContainerStateValue { state }) => {
                Some(match v1::ContainerState::try_from(state) {
                    Ok(v1::ContainerState::ContainerCreated) => StateKind::Created,
                    Ok(v1::ContainerState::ContainerRunning) => StateKind::Running,
                    Ok(v1::ContainerState::ContainerExited) => StateKind::Exited,
                    Ok(v1::ContainerState::ContainerUnknown) => StateKind::Unknown,
                    Err(_) => {
                        return Err(invalid("filter.state", format!("unknown state {state}")));
                    }
                })
            }
        };
        let filter =
            ContainerFilter { id, sandbox_id: pod_sandbox_id, state, labels: label_selector };
        let containers =
            self.pods.containers(&filter).iter().map(|r| convert::container(r)).collect();
        Ok(v1::ListContainersResponse { containers })
    }
}
