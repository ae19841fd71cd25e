//! RemoveImage.

use cri_proto::v1;
use tonic::Status;

use super::image_status::named;
use crate::service::Server;

impl Server {
    pub(crate) async fn on_remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        let v1::RemoveImageRequest { image } = request;
        let name = named(image)?;
        self.images.remove(&name).await.map_err(|e| Status::unknown(telemetry::chain(&e)))?;
        Ok(v1::RemoveImageResponse {})
    }
}
