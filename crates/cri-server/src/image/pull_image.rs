//! PullImage.

use cri_proto::v1;
use images::Auth;
use tonic::Status;

use super::image_status::named;
use crate::{error::pull_status, service::Server};

impl Server {
    /// Returns the image's id, which since CRI 1.36 is what `image_ref` must be.
    pub(crate) async fn on_pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        // The sandbox's configuration is for runtimes that choose an image by it.
        let v1::PullImageRequest { image, auth, sandbox_config: _ } = request;
        let name = named(image)?;
        let pulled =
            self.images.pull(&name, auth.map(credentials)).await.map_err(|e| pull_status(&e))?;
        Ok(v1::PullImageResponse { image_ref: pulled.id.to_string() })
    }
}

fn credentials(from: v1::AuthConfig) -> Auth {
    let v1::AuthConfig { username, password, auth, server_address, identity_token, registry_token } =
        from;
    Auth { username, password, auth, server_address, identity_token, registry_token }
}
