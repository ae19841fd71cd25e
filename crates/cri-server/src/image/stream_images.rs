//! StreamImages.

use cri_proto::v1;
use tonic::{Status, codegen::BoxStream};

use crate::service::Server;

/// How many images one message has at most: with all their names they stay far below the
/// largest message that the kubelet takes.
const IMAGES_A_MESSAGE: usize = 100;

impl Server {
    /// The images of ListImages, in messages that each have one at least. No images are no
    /// message.
    pub(crate) async fn on_stream_images(
        &self,
        request: v1::StreamImagesRequest,
    ) -> Result<BoxStream<v1::StreamImagesResponse>, Status> {
        let v1::StreamImagesRequest { filter } = request;
        let v1::ListImagesResponse { mut images } =
            self.on_list_images(v1::ListImagesRequest { filter }).await?;
        let mut messages = Vec::new();
        while !images.is_empty() {
            let rest = images.split_off(images.len().min(IMAGES_A_MESSAGE));
            messages.push(Ok(v1::StreamImagesResponse { images }));
            images = rest;
        }
        Ok(Box::pin(tokio_stream::iter(messages)))
    }
}
