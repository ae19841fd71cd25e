//! Containers/Get, of containerd's interface.

use std::collections::{BTreeMap, HashMap};

use cri_proto::containerd::services::containers::v1::{
    Container, GetContainerRequest, GetContainerResponse, container::Runtime,
    containers_server::Containers,
};
use pods::{ContainerRecord, Known, SandboxRecord};
use tonic::{Request, Response, Status, async_trait};

use super::{NAMESPACE, is_ours, spec, timestamp};
use crate::service::{Server, traced};

/// The label that tells a sandbox from a container: cAdvisor counts the network of the former.
const KIND_LABEL: &str = "io.cri-containerd.kind";

/// What containerd calls an OCI specification as JSON.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

#[async_trait]
impl Containers for Server {
    async fn get(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        traced("containerd.Containers.Get", async {
            let ours = is_ours(request.metadata())?;
            let GetContainerRequest { id } = request.into_inner();
            self.gate.pass().await?;
            let container = match self.pods.known(&id).filter(|_| ours) {
                Some(Known::Sandbox(record)) => of_sandbox(&record),
                Some(Known::Container(record, sandbox)) => {
                    of_container(&record, sandbox.as_deref())
                }
                None => {
                    return Err(Status::not_found(format!(
                        "container {id:?} in namespace {NAMESPACE:?}: not found"
                    )));
                }
            };
            Ok(GetContainerResponse { container: Some(container) })
        })
        .await
    }
}

/// There is no pause container and so no image of one.
fn of_sandbox(record: &SandboxRecord) -> Container {
    Container {
        id: record.id.to_string(),
        labels: labels(&record.config.labels, "sandbox"),
        image: String::new(),
        runtime: Some(runtime()),
        spec: Some(any(&spec::of_sandbox(record))),
        created_at: Some(timestamp(record.created_at_ns)),
        updated_at: Some(timestamp(record.created_at_ns)),
        sandbox: record.id.to_string(),
    }
}

fn of_container(record: &ContainerRecord, sandbox: Option<&SandboxRecord>) -> Container {
    Container {
        id: record.id.to_string(),
        labels: labels(&record.config.labels, "container"),
        image: record.image.name.clone(),
        runtime: Some(runtime()),
        spec: Some(any(&spec::of_container(record, sandbox))),
        created_at: Some(timestamp(record.created_at_ns)),
        updated_at: Some(timestamp(record.created_at_ns)),
        sandbox: record.sandbox_id.to_string(),
    }
}

fn labels(asked: &BTreeMap<String, String>, kind: &str) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = asked.clone().into_iter().collect();
    labels.insert(KIND_LABEL.to_owned(), kind.to_owned());
    labels
}

fn runtime() -> Runtime {
    Runtime { name: "corten".to_owned() }
}

fn any(spec: &serde_json::Value) -> prost_types::Any {
    prost_types::Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_us_says_what_a_sandbox_is() {
        let asked = BTreeMap::from([
            ("io.kubernetes.pod.name".to_owned(), "web".to_owned()),
            (KIND_LABEL.to_owned(), "sandbox".to_owned()),
        ]);
        let labels = labels(&asked, "container");
        assert_eq!(labels[KIND_LABEL], "container");
        assert_eq!(labels["io.kubernetes.pod.name"], "web");
        assert_eq!(labels.len(), 2);
    }
}
