//! ImageStatus.

use std::collections::HashMap;

use cri_proto::v1;
use tonic::Status;

use crate::{
    convert::{self, invalid, required},
    service::Server,
};

impl Server {
    /// A missing image is no error: it is answered with no image.
    pub(crate) async fn on_image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        let v1::ImageStatusRequest { image, verbose } = request;
        let name = named(image)?;
        let Some(found) = self.images.get(&name) else {
            return Ok(v1::ImageStatusResponse::default());
        };
        let mut info = HashMap::new();
        if verbose {
            let text = serde_json::json!({ "id": found.id, "manifest": found.manifest, "layers": found.layers, "config": found.config });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(v1::ImageStatusResponse { image: Some(convert::image(&found)), info })
    }
}

/// The name in an image's specification, which must be there.
pub(crate) fn named(image: Option<v1::ImageSpec>) -> Result<String, Status> {
    let name = required("image", image).map(convert::image_spec)?.image;
    if name.is_empty() { Err(invalid("image.image", "is required")) } else { Ok(name) }
}
