//! StreamContainers.

use cri_proto::v1;
use tonic::{Status, codegen::BoxStream};

use crate::{service::Server, stream::batches};

impl Server {
    /// The containers of ListContainers, in messages that each have one at least.
    pub(crate) async fn on_stream_containers(
        &self,
        request: v1::StreamContainersRequest,
    ) -> Result<BoxStream<v1::StreamContainersResponse>, Status> {
        let v1::StreamContainersRequest { filter } = request;
        let v1::ListContainersResponse { containers } =
            self.on_list_containers(v1::ListContainersRequest { filter }).await?;
        Ok(batches(containers, |containers| v1::StreamContainersResponse { containers }))
    }
}
