//! One layer, in one pass: its bytes are hashed as they come, decompressed, hashed
//! again and unpacked. Only when both digests are right is it committed.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    sync::Arc,
};

use ::layers::{Extras, UnpackErrorKind};
use sha2::{Digest as _, Sha256};
use snapshots::{LayerWriter, SnapshotError};
use types::{DiffId, Digest};

use crate::{
    PullError, PullErrorKind,
    counters::Counters,
    error::chain,
    layer_store::LayerStore,
    manifest::{Compression, Descriptor},
    options::ImageLimits,
    pipe::read_ahead,
};

/// The magic bytes that compressed streams begin with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How well splits are compressed: headers are nearly all the same.
const SPLIT_LEVEL: i32 = 1;
/// What is read at once of what comes.
const BUFFER: usize = 128 << 10;

/// What a layer is, and how far it may go.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub descriptor: Descriptor,
    pub compression: Compression,
    pub diff_id: DiffId,
    pub limits: Arc<ImageLimits>,
    pub counters: Arc<Counters>,
}

impl Wanted {
    pub fn what(&self) -> String {
        format!("layer {}", self.descriptor.digest)
    }

    /// How many bytes the layer may unpack to.
    fn unpacked_limit(&self, compression: Compression) -> u64 {
        let limits = &self.limits;
        match compression {
            Compression::None => self.descriptor.size,
            Compression::Gzip | Compression::Zstd => limits
                .expansion_free_bytes
                .saturating_add(self.descriptor.size.saturating_mul(limits.max_expansion)),
        }
    }
}

/// Unpacks a layer from a stream of its bytes as they are stored. `unpacked` is called
/// when that is done and only the disk is waited for.
///
/// # Errors
/// Nothing of the layer is left then.
pub(crate) fn install(
    layers: &LayerStore,
    wanted: &Wanted,
    source: impl Read + Send,
    unpacked: impl FnOnce(),
) -> Result<(), PullError> {
    let failed = |e: &SnapshotError| PullError::store(wanted.what(), e);
    let mut writer = layers.begin(wanted.diff_id).map_err(|e| failed(&e))?;
    let split = writer.split().map_err(|e| failed(&e))?;
    let mut stored = Hashing::new(source, wanted.descriptor.size);
    match unpack(wanted, &writer, split, &mut stored) {
        Ok(true) => {}
        Ok(false) => writer.without_split(),
        Err(error) => return Err(blame(wanted, &mut stored, error)),
    }
    // What stands behind the compressed stream's end belongs to the digest too.
    let rest = io::copy(&mut stored, &mut io::sink());
    check_stored(wanted, &stored)?;
    rest.map_err(|e| broken(wanted, &e))?;
    unpacked();
    let what = || format!("commit {}", wanted.what());
    layers.commit(writer).map_err(|e| PullError::store(what(), &e))
}

/// Bytes that make no sense are first of all not the ones that were asked for: where
/// the digest says so too, that is the error.
fn blame(wanted: &Wanted, stored: &mut Hashing<impl Read>, error: PullError) -> PullError {
    let is_about_content =
        matches!(error.kind(), PullErrorKind::InvalidImage | PullErrorKind::Mismatch);
    if !is_about_content {
        return error;
    }
    match io::copy(stored, &mut io::sink()) {
        Err(_) if !stored.over_limit => error,
        _ => check_stored(wanted, stored).err().unwrap_or(error),
    }
}

fn check_stored(wanted: &Wanted, stored: &Hashing<impl Read>) -> Result<(), PullError> {
    if stored.count != wanted.descriptor.size {
        return Err(PullError::SizeMismatch {
            what: wanted.what(),
            expected: wanted.descriptor.size,
            actual: stored.count,
        });
    }
    check_digest(wanted.what(), wanted.descriptor.digest, stored.digest())
}

/// Returns whether the layer has a split.
fn unpack(
    wanted: &Wanted,
    writer: &LayerWriter,
    split: File,
    stored: &mut (impl Read + Send),
) -> Result<bool, PullError> {
    let (plain, compression) = decompress(wanted, stored)?;
    let limit = wanted.unpacked_limit(compression);
    let work = |plain: &mut dyn Read| unpack_plain(wanted, writer, split, plain, limit);
    match compression {
        // There is nothing to be done beside.
        Compression::None => work(&mut { plain }),
        Compression::Gzip | Compression::Zstd => read_ahead(plain, |ahead| work(ahead)),
    }
}

fn unpack_plain(
    wanted: &Wanted,
    writer: &LayerWriter,
    split: File,
    plain: &mut dyn Read,
    limit: u64,
) -> Result<bool, PullError> {
    let mut plain = Hashing::new(plain, limit);
    let meter = writer.meter();
    let mut encoder = zstd::stream::write::Encoder::new(split, SPLIT_LEVEL)
        .map_err(|e| PullError::store(format!("compress the split of {}", wanted.what()), &e))?;
    let extras = Extras {
        meter: Some(&meter),
        split: Some(Box::new(&mut encoder)),
        makers: wanted.limits.makers,
    };
    let unpacked = ::layers::unpack_with(&mut plain, writer.dir(), &wanted.limits.layer, extras)
        .map_err(|error| not_unpacked(wanted, &error));
    let rest = match unpacked {
        Ok(summary) => {
            io::copy(&mut plain, &mut io::sink()).map(|_| summary).map_err(|e| broken(wanted, &e))
        }
        Err(error) => Err(error),
    };
    if plain.over_limit {
        return Err(PullError::LimitExceeded {
            what: wanted.what(),
            limit: format!("{limit} bytes unpacked"),
        });
    }
    let summary = rest?;
    check_digest(format!("{} unpacked", wanted.what()), wanted.diff_id.0, plain.digest())?;
    wanted.counters.add_unpacked(plain.count);
    Ok(encoder.finish().is_ok() && summary.split)
}

fn not_unpacked(wanted: &Wanted, error: &::layers::UnpackError) -> PullError {
    let what = wanted.what();
    if let ::layers::UnpackError::Limit { what: kind, limit } = error {
        return PullError::LimitExceeded { what, limit: format!("{limit} {kind}") };
    }
    match error.kind() {
        UnpackErrorKind::Exhausted => PullError::NoSpace { what, reason: chain(error) },
        UnpackErrorKind::Source | UnpackErrorKind::Invalid => {
            PullError::InvalidImage { what, reason: chain(error) }
        }
        UnpackErrorKind::Machine => PullError::store(format!("unpack {what}"), error),
    }
}

/// Chooses the decoder by the stream's first bytes; where the media type says another
/// thing, the layer is refused: two readers must not see two contents.
fn decompress<'a>(
    wanted: &Wanted,
    stored: &'a mut (impl Read + Send),
) -> Result<(Box<dyn Read + Send + 'a>, Compression), PullError> {
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
    let whole = BufReader::with_capacity(BUFFER, Read::chain(io::Cursor::new(head), stored));
    Ok((
        match found {
            Compression::None => Box::new(whole),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
            Compression::Zstd => Box::new(
                zstd::stream::read::Decoder::with_buffer(whole).map_err(|e| broken(wanted, &e))?,
            ),
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
