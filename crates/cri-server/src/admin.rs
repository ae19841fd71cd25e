//! Corten's own calls beside the CRI.

use cri_proto::corten_v1::{LoadRequest, LoadResponse, image_admin_server::ImageAdmin};
use tokio::io::AsyncWriteExt;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::service::{Server, traced};

/// The largest archive that is taken.
const MAX_ARCHIVE_BYTES: u64 = 64 << 30;

#[async_trait]
impl ImageAdmin for Server {
    /// Spools the archive beside the images, because its parts come in any order, and
    /// loads it from there.
    async fn load(
        &self,
        request: Request<Streaming<LoadRequest>>,
    ) -> Result<Response<LoadResponse>, Status> {
        traced("Load", async {
            let mut pieces = request.into_inner();
            let spool = self
                .images
                .spool()
                .map_err(|e| Status::unknown(format!("failed to spool the archive: {e}")))?;
            let failed =
                |e: std::io::Error| Status::unknown(format!("failed to spool the archive: {e}"));
            let mut file = tokio::fs::File::create(spool.path()).await.map_err(failed)?;
            let mut size = 0_u64;
            while let Some(LoadRequest { data }) = pieces.message().await? {
                size += data.len() as u64;
                if size > MAX_ARCHIVE_BYTES {
                    return Err(Status::resource_exhausted("the archive is larger than 64 GiB"));
                }
                file.write_all(&data).await.map_err(failed)?;
            }
            file.flush().await.map_err(failed)?;
            drop(file);
            let loaded =
                self.images.load(spool.path()).await.map_err(|e| crate::error::pull_status(&e))?;
            let named = loaded.into_iter().flat_map(|one| match one.names.is_empty() {
                true => vec![one.image.id.to_string()],
                false => one.names,
            });
            Ok(LoadResponse { images: named.collect() })
        })
        .await
    }
}
