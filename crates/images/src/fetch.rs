//! One layer from the network: its bytes go, as they come, to a blocking thread that
//! checks and unpacks them. A download that breaks goes on from where it broke.

use std::{
    collections::HashSet,
    io::{self, Read},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{
    Images, PullError, PullErrorKind,
    answer::{Failure, Origin},
    layer::{Wanted, install},
    progress::Tracker,
    registry::{Blob, Registry, Request},
};

/// How many chunks wait between the network and the unpacking: some 16 KiB each.
const QUEUED_CHUNKS: usize = 32;
/// How often in a row a broken download goes on from where it broke.
const MAX_RESUMES: u32 = 5;
/// After how many bytes a break is no longer one in a row.
const RESUME_PROGRESS: u64 = 1 << 20;

/// What a download has done.
#[derive(Debug, Default)]
struct Download {
    got: u64,
    hosts: HashSet<String>,
}

/// Downloads a layer and unpacks it, where it is not there yet.
///
/// # Errors
/// Nothing of the layer is left then.
pub(crate) async fn fetch(
    images: &Images,
    registry: &Registry,
    wanted: Wanted,
    progress: &Tracker,
) -> Result<(), PullError> {
    let _pass = images.gate.enter(wanted.diff_id).await;
    if images.layers.has(&wanted.diff_id) {
        progress.add_bytes(wanted.descriptor.size);
        progress.add_layer();
        return Ok(());
    }
    loop {
        let mut download = Download::default();
        let error = match once(images, registry, &wanted, progress, &mut download).await {
            Ok(()) => {
                progress.add_layer();
                return Ok(());
            }
            Err(error) => error,
        };
        progress.take_back(download.got);
        // A mirror that served something else: the next one, or the registry itself, may
        // have the layer.
        let is_about_content =
            matches!(error.kind(), PullErrorKind::Mismatch | PullErrorKind::InvalidImage);
        if !is_about_content || !registry.distrust(&download.hosts, &error) {
            return Err(error);
        }
    }
}

async fn once(
    images: &Images,
    registry: &Registry,
    wanted: &Wanted,
    progress: &Tracker,
    download: &mut Download,
) -> Result<(), PullError> {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let (layers, layer) = (images.layers.clone(), wanted.clone());
    let installing = tokio::task::spawn_blocking(move || {
        install(&layers, &layer, Channel { receiver, current: Bytes::new() })
    });
    let sent = download.run(registry, wanted, &sender, progress).await;
    // The reader sees the end of its stream, or that it broke.
    if let Err(error) = &sent {
        let _ = sender.send(Err(error.to_string())).await;
    }
    drop(sender);
    let installed = match installing.await {
        Ok(result) => result,
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => Err(PullError::Aborted { reference: registry.reference.to_string() }),
    };
    // What the registry did is the cause of what the reader then saw.
    sent.and(installed)
}

impl Download {
    async fn run(
        &mut self,
        registry: &Registry,
        wanted: &Wanted,
        sender: &mpsc::Sender<Result<Bytes, String>>,
        progress: &Tracker,
    ) -> Result<(), PullError> {
        let path = format!("blobs/{}", wanted.descriptor.digest);
        let what = wanted.what();
        let mut broken = 0;
        loop {
            let from = self.got;
            let request = Request { path: &path, what: &what, accept: "*/*", from };
            let blob = registry.blob(request).await?;
            let Err(failure) = self.receive(registry, wanted, blob, sender, progress).await else {
                return Ok(());
            };
            broken = if self.got - from >= RESUME_PROGRESS { 1 } else { broken + 1 };
            let Some(after) = failure.again.filter(|_| broken <= MAX_RESUMES) else {
                return Err(failure.error);
            };
            tracing::debug!(error = %failure.error, got = self.got, "the download goes on from where it broke");
            tokio::time::sleep(registry.pause(broken, after)).await;
        }
    }

    async fn receive(
        &mut self,
        registry: &Registry,
        wanted: &Wanted,
        blob: Blob,
        sender: &mpsc::Sender<Result<Bytes, String>>,
        progress: &Tracker,
    ) -> Result<(), Failure> {
        let Blob { mut response, start, host } = blob;
        let what = wanted.what();
        let patience = registry.options().progress_timeout;
        let origin = Origin { host: &host, what: &what, patience };
        self.hosts.insert(host.clone());
        let expected = wanted.descriptor.size;
        let wrong_size = |actual| PullError::SizeMismatch { what: what.clone(), expected, actual };
        let mut skip = self.got - start;
        while let Some(mut chunk) = origin.next_chunk(&mut response).await? {
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(skipped);
            skip -= skipped as u64;
            let length = chunk.len() as u64;
            if self.got + length > expected {
                return Err(Failure::last(wrong_size(self.got + length)));
            }
            self.got += length;
            progress.add_bytes(length);
            // The reader is gone: its own error tells why.
            if !chunk.is_empty() && sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        if self.got == expected {
            return Ok(());
        }
        Err(Failure { error: wrong_size(self.got), again: Some(Duration::ZERO) })
    }
}

/// What comes from the network, read by a blocking thread.
struct Channel {
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(reason)) => return Err(io::Error::other(reason)),
            }
        }
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
