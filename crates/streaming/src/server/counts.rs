//! How many sessions there are, and were.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a session may be: the first part of its address.
const KINDS: [&str; 3] = ["exec", "attach", "portforward"];

/// Sessions by kind, from their upgrade to their end.
#[derive(Debug, Default)]
pub struct SessionCounts {
    started: [AtomicU64; KINDS.len()],
    ended: [AtomicU64; KINDS.len()],
}

/// Sessions of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCount {
    /// `exec`, `attach` or `portforward`.
    pub kind: &'static str,
    /// How many there were since the daemon started.
    pub started: u64,
    /// How many there are.
    pub open: u64,
}

/// A session, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl SessionCounts {
    /// Counts a session that begins, by the first part of its address.
    pub(crate) fn begin(&self, kind: &str) -> Option<Counted<'_>> {
        let number = KINDS.iter().position(|known| *known == kind)?;
        self.started[number].fetch_add(1, Relaxed);
        Some(Counted(&self.ended[number]))
    }

    /// Reads them.
    pub fn read(&self) -> [SessionCount; KINDS.len()] {
        [0, 1, 2].map(|number| {
            // What has ended is read first: it is part of what was begun.
            let ended = self.ended[number].load(Relaxed);
            let started = self.started[number].load(Relaxed);
            SessionCount { kind: KINDS[number], started, open: started.saturating_sub(ended) }
        })
    }
}
