//! Corten's own calls beside the CRI.

use cri_proto::corten_v1::LoadRequest;
use cri_proto::corten_v1::image_admin_client::ImageAdminClient;
use tokio_stream::Stream;
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
}
