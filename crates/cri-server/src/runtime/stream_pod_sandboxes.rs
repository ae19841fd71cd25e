//! StreamPodSandboxes.

use cri_proto::v1;
use tonic::{Status, codegen::BoxStream};

use crate::{service::Server, stream::batches};

impl Server {
    /// The sandboxes of ListPodSandbox, in messages that each have one at least.
    pub(crate) async fn on_stream_pod_sandboxes(
        &self,
        request: v1::StreamPodSandboxesRequest,
    ) -> Result<BoxStream<v1::StreamPodSandboxesResponse>, Status> {
        let v1::StreamPodSandboxesRequest { filter } = request;
        let v1::ListPodSandboxResponse { items } =
            self.on_list_pod_sandbox(v1::ListPodSandboxRequest { filter }).await?;
        Ok(batches(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }
}
