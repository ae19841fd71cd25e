//! The calls of `ImageService`.

use cri_proto::v1::ImageFsInfoRequest;
use cri_proto::v1::image_service_client::ImageServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::call::{Connection, calls};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::lists::Streams;
use crate::options::Options;
use crate::version::{ApiVersion, Versioned};

/// A client of a runtime's `ImageService`. Clones share the connection.
#[derive(Clone, Debug)]
pub struct ImageClient {
    pub(crate) connection: Connection,
    pub(crate) client: ImageServiceClient<Versioned<Channel>>,
    pub(crate) streams: Streams,
    version: ApiVersion,
}

impl ImageClient {
    /// Connects, and agrees on the version by `ImageFsInfo`.
    ///
    /// # Errors
    ///
    /// When the socket cannot be dialled, the runtime answers with an error other
    /// than `Unimplemented`, or serves neither version.
    pub async fn connect(endpoint: Endpoint, options: Options) -> Result<Self> {
        let connection = Connection::new(endpoint, options);
        for version in [ApiVersion::V1, ApiVersion::V1Alpha2] {
            let client = Self::speaking(&connection, version);
            match client.image_fs_info(ImageFsInfoRequest {}).await {
                Ok(_) => return Ok(client),
                Err(error) if error.code() == Code::Unimplemented => {}
                Err(error) => return Err(error),
            }
        }
        let endpoint = connection.endpoint;
        Err(Error::NoCommonVersion { endpoint, service: "ImageService" })
    }

    fn speaking(connection: &Connection, version: ApiVersion) -> Self {
        let channel = Versioned::new(connection.channel.clone(), version);
        Self {
            client: ImageServiceClient::new(channel)
                .max_decoding_message_size(connection.options.max_receive_bytes),
            connection: connection.clone(),
            streams: Streams::new(version),
            version,
        }
    }

    /// The version agreed on.
    #[must_use]
    pub fn api_version(&self) -> ApiVersion {
        self.version
    }

    /// Where the runtime listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.connection.endpoint
    }

    calls! {
        /// The images, in one message; see [`Self::images`].
        list_images(ListImagesRequest) -> ListImagesResponse = "ListImages", |t, _| Some(t.read);
        /// An image, or no image in the answer when there is none.
        image_status(ImageStatusRequest) -> ImageStatusResponse = "ImageStatus", |t, _| Some(t.read);
        /// Fetches an image. It has no time limit.
        pull_image(PullImageRequest) -> PullImageResponse = "PullImage", |_, _| None;
        /// Removes an image with all its names.
        remove_image(RemoveImageRequest) -> RemoveImageResponse = "RemoveImage", |t, _| Some(t.change);
        /// The use of the file systems that hold images.
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse = "ImageFsInfo", |t, _| Some(t.read);
    }
}
