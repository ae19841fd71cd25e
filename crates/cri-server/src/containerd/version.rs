//! Version, of containerd's interface.

use cri_proto::containerd::services::version::v1::{VersionResponse, version_server::Version};
use tonic::{Request, Response, Status, async_trait};

use crate::service::{Server, traced};

#[async_trait]
impl Version for Server {
    /// Our own version: cAdvisor only asks whether somebody answers.
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        traced("containerd.Version", async {
            Ok(VersionResponse { version: self.info.version.clone(), revision: "corten".into() })
        })
        .await
    }
}
