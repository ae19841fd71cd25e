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
        let mut info = HashMap::new();
        if verbose {
            let pulls = self.images.pulls_of(&name);
            if !pulls.is_empty() {
                info.insert("progress".to_owned(), progress(&pulls).to_string());
            }
        }
        let Some(found) = self.images.get(&name) else {
            return Ok(v1::ImageStatusResponse { image: None, info });
        };
        if verbose {
            let layers = self.images.layer_usage(&found);
            let sizes: Vec<_> = layers.iter().map(|(_, bytes)| bytes).collect();
            let text = serde_json::json!({
                "id": found.id,
                "manifest": found.manifest,
                "layers": found.layers,
                "layerBytes": sizes,
                "config": found.config,
            });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(v1::ImageStatusResponse { image: Some(convert::image(&found)), info })
    }
}

/// How far the pulls of the image are, as `corten pull` shows it.
pub(crate) fn progress(pulls: &[images::PullProgress]) -> serde_json::Value {
    let one = |pull: &images::PullProgress| {
        serde_json::json!({
            "reference": pull.reference,
            "elapsedMs": u64::try_from(pull.elapsed.as_millis()).unwrap_or(u64::MAX),
            "layersTotal": pull.layers_total,
            "layersDone": pull.layers_done,
            "bytesTotal": pull.bytes_total,
            "bytesDone": pull.bytes_done,
        })
    };
    pulls.iter().map(one).collect()
}

/// The name in an image's specification, which must be there.
pub(crate) fn named(image: Option<v1::ImageSpec>) -> Result<String, Status> {
    let name = required("image", image).map(convert::image_spec)?.image;
    if name.is_empty() { Err(invalid("image.image", "is required")) } else { Ok(name) }
}
