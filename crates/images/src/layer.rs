//! One layer, in one pass: its bytes are hashed as they come, decompressed, hashed
//! again and unpacked. Only when both digests are right is it committed.

use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use sha2::{Digest as _, Sha256};
use snapshots::{LayerWriter, Snapshots, Usage};
use tokio::sync::mpsc;
use types::{DiffId, Digest};

use crate::{
    PullError,
    client::{Registry, next_chunk},
    error::chain,
    manifest::{Compression, Descriptor},
    options::ImageLimits,
    progress::Tracker,
};

/// How many chunks wait between the network and the unpacking.
const QUEUED_CHUNKS: usize = 32;
/// How often a broken download goes on from where it broke.
const MAX_RESUMES: u32 = 5;
/// The magic bytes that compressed streams begin with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a layer is, and how far it may go.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub descriptor: Descriptor,
    pub compression: Compression,
    pub diff_id: DiffId,
    pub limits: Arc<ImageLimits>,
}

impl Wanted {
    fn what(&self) -> String {
        format!("layer {}", self.descriptor.digest)
    }
}

/// Downloads a layer and unpacks it, where it is not there yet.
///
/// # Errors
/// Nothing of the layer is left then.
pub(crate) async fn fetch(
    registry: &Registry,
    snapshots: &Snapshots,
    wanted: Wanted,
    progress: &Arc<Tracker>,
    timeout: std::time::Duration,
) -> Result<(), PullError> {
    if snapshots.has_layer(&wanted.diff_id) {
        progress.add_bytes(wanted.descriptor.size);
        progress.add_layer();
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let (store, layer) = (snapshots.clone(), wanted.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        let source = Channel { receiver, current: Bytes::new() };
        install(&store, &layer, source)
    });
    let sent = download(registry, &wanted, &sender, progress, timeout).await;
    // The reader sees the end of its stream, or that it broke.
    if let Err(error) = &sent {
        let _ = sender.send(Err(error.to_string())).await;
    }
    drop(sender);
    let unpacked = match unpacking.await {
        Ok(result) => result,
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => return Err(PullError::Aborted { reference: registry.reference.to_string() }),
    };
    // What the registry did is the cause of what the reader then saw.
    sent.and(unpacked)?;
    progress.add_layer();
    Ok(())
}

async fn download(
    registry: &Registry,
    wanted: &Wanted,
    sender: &mpsc::Sender<Result<Bytes, String>>,
    progress: &Tracker,
    timeout: std::time::Duration,
) -> Result<(), PullError> {
    let path = format!("blobs/{}", wanted.descriptor.digest);
    let what = wanted.what();
    let mut got = 0_u64;
    let mut resumes = 0;
    loop {
        let (mut response, start, host) = registry.blob(&path, &what, got).await?;
        let mut skip = got - start;
        let broke = loop {
            match next_chunk(&mut response, &host, &what, timeout).await {
                Ok(Some(mut chunk)) => {
                    let skipped = skip.min(chunk.len() as u64);
                    chunk.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
                    skip -= skipped;
                    got += chunk.len() as u64;
                    if got > wanted.descriptor.size {
                        let expected = wanted.descriptor.size;
                        return Err(PullError::SizeMismatch { what, expected, actual: got });
                    }
                    progress.add_bytes(chunk.len() as u64);
                    // The reader is gone: its own error tells why.
                    if !chunk.is_empty() && sender.send(Ok(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) if got < wanted.descriptor.size => {
                    break PullError::SizeMismatch {
                        what: what.clone(),
                        expected: wanted.descriptor.size,
                        actual: got,
                    };
                }
                Ok(None) => return Ok(()),
                Err(error) => break error,
            }
        };
        resumes += 1;
        if resumes > MAX_RESUMES {
            return Err(broke);
        }
        tracing::debug!(error = %broke, got, "the download goes on from where it broke");
    }
}

/// Unpacks a layer from a stream of its bytes as they are stored.
///
/// # Errors
/// Nothing of the layer is left then.
pub(crate) fn install(
    snapshots: &Snapshots,
    wanted: &Wanted,
    source: impl Read,
) -> Result<(), PullError> {
    let writer =
        snapshots.begin_layer(wanted.diff_id).map_err(|e| PullError::store(wanted.what(), &e))?;
    let mut stored = Hashing::new(source, wanted.limits.max_layer_bytes);
    let usage = unpack(wanted, &writer, &mut stored)?;
    // What stands behind the compressed stream's end belongs to the digest too.
    io::copy(&mut stored, &mut io::sink()).map_err(|e| broken(wanted, &e))?;
    if stored.count != wanted.descriptor.size {
        return Err(PullError::SizeMismatch {
            what: wanted.what(),
            expected: wanted.descriptor.size,
            actual: stored.count,
        });
    }
    check_digest(wanted.what(), wanted.descriptor.digest, stored.digest())?;
    writer.commit(usage).map_err(|e| PullError::store(format!("commit {}", wanted.what()), &e))
}

fn unpack(
    wanted: &Wanted,
    writer: &LayerWriter,
    stored: &mut impl Read,
) -> Result<Usage, PullError> {
    let (plain, compression) = decompress(wanted, stored)?;
    let size = wanted.descriptor.size;
    let limit = match compression {
        Compression::None => wanted.limits.max_layer_bytes,
        Compression::Gzip | Compression::Zstd => wanted
            .limits
            .expansion_free_bytes
            .saturating_add(size.saturating_mul(wanted.limits.max_expansion)),
    };
    let mut plain = Hashing::new(plain, limit);
    let summary =
        layers::unpack(&mut plain, writer.dir(), &wanted.limits.layer).map_err(|error| {
            if plain.over_limit {
                return PullError::LimitExceeded {
                    what: wanted.what(),
                    limit: format!("{limit} bytes unpacked"),
                };
            }
            match error.kind() {
                layers::UnpackErrorKind::Exhausted => {
                    PullError::NoSpace { what: wanted.what(), reason: chain(&error) }
                }
                layers::UnpackErrorKind::Source | layers::UnpackErrorKind::Invalid => {
                    PullError::InvalidImage { what: wanted.what(), reason: chain(&error) }
                }
                layers::UnpackErrorKind::Machine => {
                    PullError::store(format!("unpack {}", wanted.what()), &error)
                }
            }
        })?;
    io::copy(&mut plain, &mut io::sink()).map_err(|e| broken(wanted, &e))?;
    check_digest(format!("{} unpacked", wanted.what()), wanted.diff_id.0, plain.digest())?;
    Ok(Usage { bytes: summary.bytes, inodes: summary.inodes })
}

/// Chooses the decoder by the stream's first bytes; where the media type says another
/// thing, the layer is refused: two readers must not see two contents.
fn decompress<'a>(
    wanted: &Wanted,
    stored: &'a mut impl Read,
) -> Result<(Box<dyn Read + 'a>, Compression), PullError> {
    let mut head = Vec::with_capacity(ZSTD_MAGIC.len());
    stored
        .by_ref()
        .take(ZSTD_MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|e| broken(wanted, &e))?;
    let found = if head.starts_with(&GZIP_MAGIC) {
        Compression::Gzip
    } else if head.starts_with(&ZSTD_MAGIC) {
        Compression::Zstd
    } else {
        Compression::None
    };
    if found != wanted.compression {
        return Err(PullError::InvalidImage {
            what: wanted.what(),
            reason: format!(
                "its type \"{}\" is not what its bytes are ({found:?})",
                wanted.descriptor.media_type
            ),
        });
    }
    let whole = Read::chain(io::Cursor::new(head), stored);
    Ok((
        match found {
            Compression::None => Box::new(whole),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
            Compression::Zstd => {
                Box::new(zstd::stream::read::Decoder::new(whole).map_err(|e| broken(wanted, &e))?)
            }
        },
        found,
    ))
}

pub(crate) fn check_digest(
    what: String,
    expected: Digest,
    actual: Digest,
) -> Result<(), PullError> {
    if expected == actual {
        Ok(())
    } else {
        Err(PullError::DigestMismatch { what, expected, actual })
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

fn broken(wanted: &Wanted, error: &io::Error) -> PullError {
    PullError::InvalidImage { what: wanted.what(), reason: chain(error) }
}

/// Counts and hashes what is read, and ends with an error at a limit.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    limit: u64,
    over_limit: bool,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Sha256::new(), count: 0, limit, over_limit: false }
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.count += n as u64;
        if self.count > self.limit {
            self.over_limit = true;
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more bytes than the limit"));
        }
        Ok(n)
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
