//! One layer, from wherever it is: its bytes go, as they come, to a blocking thread that
//! checks and unpacks them. A download that breaks goes on from where it broke, in this
//! process or in the next.

use std::{
    collections::HashSet,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{
    Images, PullError, PullErrorKind,
    answer::{Failure, Origin, Pace},
    content::Partial,
    counters::Counters,
    gate::Turn,
    layer::{Wanted, install},
    progress::{Share, Tracker},
    ranges,
    registry::{Blob, Registry, Request},
};

/// How many chunks wait between the network and the unpacking: some 16 KiB each.
const QUEUED_CHUNKS: usize = 32;
/// How often in a row a broken download goes on from where it broke.
pub(crate) const MAX_RESUMES: u32 = 5;
/// After how many bytes a break is no longer one in a row.
const RESUME_PROGRESS: u64 = 1 << 20;

/// The way to the thread that unpacks.
pub(crate) type Sender = mpsc::Sender<Result<Bytes, String>>;

/// What a download has done.
#[derive(Debug, Default)]
pub(crate) struct Download {
    pub got: u64,
    pub hosts: HashSet<String>,
    /// The host does not send parts, though it said so.
    pub whole_only: bool,
}

/// Gets a layer and unpacks it, where it is not there yet.
///
/// # Errors
/// Nothing of the layer counts then; what has come may be kept for the next try.
pub(crate) async fn fetch(
    images: &Arc<Images>,
    registry: &Arc<Registry>,
    wanted: Wanted,
    progress: &Arc<Tracker>,
    turn: &Arc<Turn>,
) -> Result<(), PullError> {
    let _pass = images.gate.enter(wanted.diff_id).await.share(turn);
    if images.layers.has(&wanted.diff_id) {
        Counters::count(&images.counters.layers_reused);
        progress.add_bytes(wanted.descriptor.size);
        progress.add_layer();
        return Ok(());
    }
    if from_disk(images, &wanted, turn).await? {
        progress.add_bytes(wanted.descriptor.size);
        progress.add_layer();
        return Ok(());
    }
    let mut is_fresh = false;
    loop {
        let mut download = Download::default();
        let share = Share::new(progress.clone());
        let (resumed, result) = once(images, registry, &wanted, &share, &mut download, turn).await;
        let error = match result {
            Ok(()) => {
                share.keep();
                progress.add_layer();
                return Ok(());
            }
            Err(error) => error,
        };
        drop(share);
        let is_about_content =
            matches!(error.kind(), PullErrorKind::Mismatch | PullErrorKind::InvalidImage);
        // What another process left may be the wrong part. It is gone now.
        if is_about_content && resumed && !is_fresh {
            tracing::info!(layer = %wanted.descriptor.digest, %error, "what was left of the layer is not usable: fetching it anew");
            is_fresh = true;
            continue;
        }
        // A mirror that served something else: the next one, or the registry itself, may
        // have the layer.
        if !is_about_content || !registry.distrust(&download.hosts, &error) {
            return Err(error);
        }
    }
}

/// Takes a layer that is on disk already, in compressed form.
async fn from_disk(
    images: &Arc<Images>,
    wanted: &Wanted,
    turn: &Arc<Turn>,
) -> Result<bool, PullError> {
    let (images, wanted, turn) = (images.clone(), wanted.clone(), turn.clone());
    let reference = wanted.what();
    let work = move || {
        let Wanted { descriptor, .. } = &wanted;
        for (path, file) in images.content.find(descriptor.digest, descriptor.size) {
            match install(&images.layers, &wanted, file, || turn.end()) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == PullErrorKind::Exhausted => return Err(error),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a blob on disk is not usable");
                    images.content.discard(&path);
                }
            }
        }
        Ok(false)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Aborted { reference })?
}

/// Returns whether it went on from what was there.
async fn once(
    images: &Arc<Images>,
    registry: &Arc<Registry>,
    wanted: &Wanted,
    share: &Arc<Share>,
    download: &mut Download,
    turn: &Arc<Turn>,
) -> (bool, Result<(), PullError>) {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let have = images.content.partial(wanted.descriptor.digest, wanted.descriptor.size);
    let have = have.map_or(0, |partial| partial.have());
    if have > 0 {
        Counters::count(&images.counters.resumes);
        tracing::info!(layer = %wanted.descriptor.digest, bytes = have, "going on from what was left of the layer");
        share.add(have);
        download.got = have;
    }
    let (its_images, its_wanted, its_turn) = (images.clone(), wanted.clone(), turn.clone());
    let installing = tokio::task::spawn_blocking(move || {
        install_from(&its_images, &its_wanted, have, receiver, || its_turn.end())
    });
    let sent = download.run(registry, wanted, &sender, share).await;
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
    (have > 0, sent.and(installed))
}

/// Unpacks what was there and what comes, and keeps what comes as long as it may be
/// needed again.
fn install_from(
    images: &Images,
    wanted: &Wanted,
    have: u64,
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    unpacked: impl FnOnce(),
) -> Result<(), PullError> {
    let mut partial = images.content.partial(wanted.descriptor.digest, wanted.descriptor.size);
    let channel = Channel { receiver, current: Bytes::new(), partial: partial.as_mut() };
    let result = if have == 0 {
        install(&images.layers, wanted, channel, unpacked)
    } else {
        let left = channel.partial.as_ref().map(|partial| partial.reader());
        match left {
            Some(Ok(file)) => {
                install(&images.layers, wanted, file.take(have).chain(channel), unpacked)
            }
            Some(Err(e)) => {
                Err(PullError::store(format!("read what was left of {}", wanted.what()), &e))
            }
            None => Err(PullError::Aborted { reference: wanted.what() }),
        }
    };
    let Some(partial) = partial else { return result };
    match &result {
        Ok(()) => partial.finish(),
        Err(error) => match error.kind() {
            // What came so far may well be right when the stream just ended.
            PullErrorKind::Mismatch | PullErrorKind::InvalidImage if stream_broke(error) => {}
            PullErrorKind::Mismatch | PullErrorKind::InvalidImage | PullErrorKind::Exhausted => {
                partial.discard()
            }
            _ => {}
        },
    }
    result
}

/// Whether an error is that of a stream that broke, rather than of its bytes.
fn stream_broke(error: &PullError) -> bool {
    match error {
        PullError::SizeMismatch { expected, actual, .. } => actual < expected,
        PullError::InvalidImage { reason, .. } => reason.contains(BROKEN),
        _ => false,
    }
}

/// What the reader is told where the registry broke off; the pull's own error says more.
const BROKEN: &str = "the download broke off";

impl Download {
    async fn run(
        &mut self,
        registry: &Arc<Registry>,
        wanted: &Wanted,
        sender: &Sender,
        share: &Arc<Share>,
    ) -> Result<(), PullError> {
        let path = format!("blobs/{}", wanted.descriptor.digest);
        let what = wanted.what();
        let size = wanted.descriptor.size;
        let mut broken = 0;
        while self.got < size || self.got == 0 {
            let from = self.got;
            let until =
                ranges::first_end(registry.options(), from, size).filter(|_| !self.whole_only);
            let request = Request { from, until, ..Request::new(&path, &what, "*/*") };
            let blob = match registry.blob(request).await {
                // Some refuse what they do not know.
                Err(e) if until.is_some() && e.kind() == PullErrorKind::Refused => {
                    self.whole_only = true;
                    continue;
                }
                opened => opened?,
            };
            let received = match until.filter(|_| blob.partial) {
                Some(until) => {
                    ranges::receive(self, registry, wanted, blob, until, sender, share).await
                }
                None => self.receive(registry, wanted, blob, size, sender, share).await,
            };
            let Err(failure) = received else { return Ok(()) };
            broken = if self.got - from >= RESUME_PROGRESS { 1 } else { broken + 1 };
            let Some(after) = failure.again.filter(|_| broken <= MAX_RESUMES) else {
                return Err(failure.error);
            };
            Counters::count(&registry.connections().counters.resumes);
            tracing::debug!(error = %failure.error, got = self.got, "the download goes on from where it broke");
            tokio::time::sleep(registry.pause(broken, after)).await;
        }
        Ok(())
    }

    /// Takes what comes, up to the byte before `until`.
    pub(crate) async fn receive(
        &mut self,
        registry: &Registry,
        wanted: &Wanted,
        blob: Blob,
        until: u64,
        sender: &Sender,
        share: &Share,
    ) -> Result<(), Failure> {
        let Blob { mut response, start, host, slot: _slot, partial: _ } = blob;
        let what = wanted.what();
        let origin = registry.origin(&host, &what);
        self.hosts.insert(host.clone());
        let mut skip = self.got - start;
        let mut pace = Pace::default();
        while let Some(mut chunk) = origin.next_chunk(&mut response, &mut pace).await? {
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(skipped);
            skip -= skipped as u64;
            let length = chunk.len() as u64;
            if self.got + length > until {
                return Err(Failure::last(wrong_size(wanted, self.got + length)));
            }
            self.got += length;
            share.fetched(length, registry);
            // The reader is gone: its own error tells why.
            if !chunk.is_empty() && sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        if self.got == until {
            return Ok(());
        }
        Err(Failure { error: wrong_size(wanted, self.got), again: Some(Duration::ZERO) })
    }
}

pub(crate) fn wrong_size(wanted: &Wanted, actual: u64) -> PullError {
    let expected = wanted.descriptor.size;
    PullError::SizeMismatch { what: wanted.what(), expected, actual }
}

/// What comes from the network, read by a blocking thread.
struct Channel<'a, 'b> {
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
    partial: Option<&'a mut Partial<'b>>,
}

impl Read for Channel<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => {
                    if let Some(partial) = &mut self.partial {
                        partial.append(&chunk);
                    }
                    self.current = chunk;
                }
                Some(Err(reason)) => {
                    return Err(io::Error::other(format!("{BROKEN}: {reason}")));
                }
            }
        }
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

impl Registry {
    pub(crate) fn origin<'a>(&self, host: &'a str, what: &'a str) -> Origin<'a> {
        let options = self.options();
        Origin {
            host,
            what,
            patience: options.progress_timeout,
            min_bytes: options.min_progress_bytes,
        }
    }
}
