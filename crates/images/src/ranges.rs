//! A large layer in ranges: while the first one is unpacked, the next few come, each by a
//! request of its own. They wait in memory, of which there is a bounded amount for all
//! pulls; what is next in line always has its part of it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{JoinError, JoinHandle},
};
use tracing::Instrument as _;

use crate::{
    PullError,
    answer::{Failure, Pace},
    fetch::{Download, MAX_RESUMES, Sender, wrong_size},
    layer::Wanted,
    options::NetworkOptions,
    progress::Share,
    registry::{Blob, Registry, Request},
};

/// Where the first range ends; `None` where what is left is fetched in one go.
pub(crate) fn first_end(options: &NetworkOptions, from: u64, size: u64) -> Option<u64> {
    let step = options.range_bytes.max(1);
    (size >= options.range_min_bytes && options.max_ranges > 1 && size.saturating_sub(from) > step)
        .then(|| from + step)
}

/// What a range has come to.
struct Part {
    chunks: Vec<Bytes>,
    host: String,
    /// Given back when the bytes are on.
    _memory: Option<OwnedSemaphorePermit>,
}

/// A range that comes. Dropped, it comes no further.
struct Coming(JoinHandle<Result<Part, Failure>>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes the first range, which has begun to come and ends before `until`, and gets all
/// that follow.
///
/// # Errors
/// What came before is on its way to be unpacked: the download can go on from there.
pub(crate) async fn receive(
    download: &mut Download,
    registry: &Arc<Registry>,
    wanted: &Wanted,
    first: Blob,
    until: u64,
    sender: &Sender,
    share: &Arc<Share>,
) -> Result<(), Failure> {
    let size = wanted.descriptor.size;
    let options = registry.options();
    let mut next = until;
    let mut coming = VecDeque::new();
    let fill = |coming: &mut VecDeque<Coming>, next: &mut u64| {
        while coming.len() + 1 < options.max_ranges && *next < size {
            let end = next.saturating_add(options.range_bytes.max(1)).min(size);
            coming.push_back(start(registry, wanted, *next, end, share));
            *next = end;
        }
    };
    fill(&mut coming, &mut next);
    download.receive(registry, wanted, first, until, sender, share).await?;
    while let Some(mut part) = coming.pop_front() {
        fill(&mut coming, &mut next);
        let part = (&mut part.0).await.unwrap_or_else(|e| Err(died(registry, &e)));
        let part = part.inspect_err(|failure| {
            // Asked for a part, this host sends something else.
            download.whole_only |= failure.again.is_some();
        })?;
        download.hosts.insert(part.host);
        for chunk in part.chunks {
            download.got += chunk.len() as u64;
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn died(registry: &Registry, error: &JoinError) -> Failure {
    tracing::error!(%error, "the fetching of a range died");
    Failure::last(PullError::Aborted { reference: registry.reference.to_string() })
}

fn start(
    registry: &Arc<Registry>,
    wanted: &Wanted,
    from: u64,
    until: u64,
    share: &Arc<Share>,
) -> Coming {
    let (registry, wanted, share) = (registry.clone(), wanted.clone(), share.clone());
    let work = async move { get(&registry, &wanted, from, until, &share).await };
    Coming(tokio::spawn(work.in_current_span()))
}

async fn get(
    registry: &Registry,
    wanted: &Wanted,
    from: u64,
    until: u64,
    share: &Share,
) -> Result<Part, Failure> {
    let memory = registry.connections().downloads.memory(until - from).await;
    let path = format!("blobs/{}", wanted.descriptor.digest);
    let what = wanted.what();
    let (mut chunks, mut at, mut broken) = (Vec::new(), from, 0);
    loop {
        let request = Request { from: at, until: Some(until), ..Request::new(&path, &what, "*/*") };
        let blob = registry.blob(request).await.map_err(Failure::last)?;
        let host = blob.host.clone();
        if !blob.partial {
            // All of it again is for the one who takes it from the start.
            let error = wrong_size(wanted, until);
            return Err(Failure { error, again: Some(Duration::ZERO) });
        }
        match receive_part(registry, wanted, blob, &mut at, until, &mut chunks, share).await {
            Ok(()) => return Ok(Part { chunks, host, _memory: memory }),
            Err(Failure { error: _, again: Some(after) }) if broken < MAX_RESUMES => {
                broken += 1;
                tokio::time::sleep(registry.pause(broken, after)).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

async fn receive_part(
    registry: &Registry,
    wanted: &Wanted,
    blob: Blob,
    at: &mut u64,
    until: u64,
    chunks: &mut Vec<Bytes>,
    share: &Share,
) -> Result<(), Failure> {
    let Blob { mut response, host, slot: _slot, .. } = blob;
    let what = wanted.what();
    let origin = registry.origin(&host, &what);
    let mut pace = Pace::default();
    while let Some(chunk) = origin.next_chunk(&mut response, &mut pace).await? {
        let length = chunk.len() as u64;
        if *at + length > until {
            return Err(Failure::last(wrong_size(wanted, *at + length)));
        }
        *at += length;
        share.fetched(length, registry);
        chunks.push(chunk);
    }
    if *at == until {
        return Ok(());
    }
    Err(Failure { error: wrong_size(wanted, *at), again: Some(Duration::ZERO) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_large_is_split() {
        let options = NetworkOptions {
            range_min_bytes: 100,
            range_bytes: 10,
            max_ranges: 4,
            ..NetworkOptions::default()
        };
        for (from, size, expected) in
            [(0, 99, None), (0, 100, Some(10)), (85, 100, Some(95)), (90, 100, None), (0, 0, None)]
        {
            assert_eq!(first_end(&options, from, size), expected, "{from} {size}");
        }
        let one = NetworkOptions { max_ranges: 1, ..options };
        assert_eq!(first_end(&one, 0, 100), None);
    }
}
