//! Corten's own calls beside the CRI.

use std::io;

use cri_proto::corten_v1::{
    CheckRequest, CheckResponse, Finding, LoadRequest, LoadResponse, SaveRequest, SaveResponse,
    image_admin_server::ImageAdmin,
};
use images::{FsckOptions, FsckReport};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::service::{Server, traced};

/// The bytes of a piece of an archive that is sent: well below the receive limit.
const PIECE_BYTES: usize = 256 << 10;
/// How many pieces wait to be sent.
const PIECES_WAITING: usize = 8;

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

    type SaveStream = ReceiverStream<Result<SaveResponse, Status>>;

    /// Names are looked up before the first byte: what fails later ends the stream with an
    /// error, so that a part is never taken for the whole.
    async fn save(
        &self,
        request: Request<SaveRequest>,
    ) -> Result<Response<Self::SaveStream>, Status> {
        traced("Save", async {
            self.gate.pass().await?;
            let SaveRequest { images: names } = request.into_inner();
            let images = self.images.clone();
            let save = tokio::task::spawn_blocking(move || images.prepare_save(&names))
                .await
                .map_err(|_| Status::internal("the look at the images died"))?
                .map_err(|e| crate::error::pull_status(&e))?;
            let (sender, receiver) = mpsc::channel(PIECES_WAITING);
            let images = self.images.clone();
            tokio::task::spawn_blocking(move || {
                let mut pieces = Pieces { sender: sender.clone(), begun: Vec::new() };
                let written = images.save(&save, &mut pieces);
                let sent = written.map_err(|e| crate::error::pull_status(&e)).and_then(|()| {
                    pieces.send().map_err(|_| Status::cancelled("the client has left"))
                });
                if let Err(status) = sent {
                    let _nobody_reads = sender.blocking_send(Err(status));
                }
            });
            Ok(ReceiverStream::new(receiver))
        })
        .await
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        traced("Check", async {
            self.gate.pass().await?;
            let CheckRequest { read, repair } = request.into_inner();
            let images = self.images.clone();
            let work = move || images.fsck(FsckOptions { read, repair });
            let report = tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| Status::internal("the check died"))?
                .map_err(|e| crate::error::pull_status(&e))?;
            Ok(check_response(report))
        })
        .await
    }
}

/// What a check has found, as it is told.
pub fn check_response(report: FsckReport) -> CheckResponse {
    let FsckReport { images, layers, layers_read, blobs, findings } = report;
    let finding = |one: images::Finding| {
        let images::Finding { what, problem, action } = one;
        Finding { what, problem, action }
    };
    CheckResponse {
        images: images as u64,
        layers: layers as u64,
        layers_read: layers_read as u64,
        blobs: blobs as u64,
        findings: findings.into_iter().map(finding).collect(),
    }
}

/// Cuts what is written into pieces.
struct Pieces {
    sender: mpsc::Sender<Result<SaveResponse, Status>>,
    begun: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let piece = SaveResponse { data: std::mem::take(&mut self.begun) };
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        if self.begun.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
