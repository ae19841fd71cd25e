//! ListImages.

use cri_proto::v1;
use tonic::Status;

use crate::{convert, service::Server};

impl Server {
    pub(crate) async fn on_list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        let v1::ListImagesRequest { filter } = request;
        let name =
            filter.and_then(|v1::ImageFilter { image }| image).map(|i| i.image).unwrap_or_default();
        let found = if name.is_empty() {
            self.images.list()
        } else {
            self.images.get(&name).into_iter().collect()
        };
        Ok(v1::ListImagesResponse { images: found.iter().map(|i| convert::image(i)).collect() })
    }
}
