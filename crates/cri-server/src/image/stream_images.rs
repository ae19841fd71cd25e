//! StreamImages.

use cri_proto::v1;
use tonic::{Status, codegen::BoxStream};

use crate::{service::Server, stream::batches};

impl Server {
    /// The images of ListImages, in messages that each have one at least. No images are no
    /// message.
    pub(crate) async fn on_stream_images(
        &self,
        request: v1::StreamImagesRequest,
    ) -> Result<BoxStream<v1::StreamImagesResponse>, Status> {
        let v1::StreamImagesRequest { filter } = request;
        let v1::ListImagesResponse { images } =
            self.on_list_images(v1::ListImagesRequest { filter }).await?;
        Ok(batches(images, |images| v1::StreamImagesResponse { images }))
    }
}
