//! Corten's own calls beside the CRI.

use cri_proto::corten_v1::image_admin_client::ImageAdminClient;
use cri_proto::corten_v1::{CheckRequest, CheckResponse, LoadRequest, SaveRequest, SaveResponse};
use tokio_stream::Stream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::call::Connection;
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::options::Options;

/// A client of what Corten serves beside the CRI. Other runtimes answer
/// `Unimplemented`.
#[derive(Clone, Debug)]
pub struct AdminClient {
    connection: Connection,
    client: ImageAdminClient<Channel>,
}

impl AdminClient {
    /// Makes a client; the first call dials.
    #[must_use]
    pub fn new(endpoint: Endpoint, options: Options) -> Self {
        let connection = Connection::new(endpoint, options);
        let client = ImageAdminClient::new(connection.channel.clone());
        Self { connection, client }
    }

    /// Loads the images of an archive that arrives in `pieces`, and answers with
    /// their names. It has no time limit.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be reached, is not Corten, or refuses the archive.
    pub async fn load(
        &self,
        pieces: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Vec<String>> {
        use tokio_stream::StreamExt as _;
        let requests = pieces.map(|data| LoadRequest { data });
        let mut client = self.client.clone();
        Ok(self.connection.unary("Load", None, client.load(requests)).await?.images)
    }

    /// Writes images as one archive, whose pieces come as they are made. It has no time
    /// limit.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be reached, is not Corten, or does not have an image.
    pub async fn save(&self, images: Vec<String>) -> Result<Pieces> {
        let mut client = self.client.clone();
        let call = client.save(SaveRequest { images });
        let stream = self.connection.unary("Save", None, call).await?;
        Ok(Pieces { stream, connection: self.connection.clone() })
    }

    /// Looks for damage. It has no time limit.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be reached, is not Corten, or cannot look.
    pub async fn check(&self, request: CheckRequest) -> Result<CheckResponse> {
        let mut client = self.client.clone();
        self.connection.unary("Check", None, client.check(request)).await
    }
}

/// The pieces of an archive that is being written.
#[derive(Debug)]
pub struct Pieces {
    stream: Streaming<SaveResponse>,
    connection: Connection,
}

impl Pieces {
    /// Waits for the next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the runtime cannot go on.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let next = self.stream.message().await;
        let next = next.map_err(|status| self.connection.error("Save", None, &status))?;
        Ok(next.map(|piece| piece.data))
    }
}
