//! How long giving and taking networks took, and how often it failed.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use metrics::{Durations, DurationsRead};

use crate::{NetworkError, records::Engine};

/// What is done with a pod's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Del,
}

/// Who did it, as the settings call it; `none` where it failed before that was known.
const WAYS: [&str; 3] = ["in_process", "programs", "none"];

/// By operation and way.
#[derive(Debug, Default)]
pub(crate) struct Figures([[Figure; WAYS.len()]; 2]);

#[derive(Debug, Default)]
struct Figure {
    durations: Durations,
    failures: AtomicU64,
}

/// How one operation went in one way since the daemon started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkFigures {
    /// `add` or `del`, as CNI has it.
    pub operation: &'static str,
    /// `in_process` or `programs`; `none` where it failed before that was known.
    pub way: &'static str,
    /// How long it took, failures included.
    pub durations: DurationsRead,
    /// How often it failed.
    pub failures: u64,
}

impl Figures {
    /// Counts an operation that has ended.
    pub(crate) fn count<T>(
        &self,
        operation: Operation,
        engine: Option<Engine>,
        since: Instant,
        result: &Result<T, NetworkError>,
    ) {
        let way = match engine {
            Some(Engine::Native | Engine::Standard) => 0,
            Some(Engine::Programs) => 1,
            // There was nothing to be done.
            None if result.is_ok() => return,
            None => 2,
        };
        let figure = &self.0[operation as usize][way];
        figure.durations.count(since.elapsed());
        if result.is_err() {
            figure.failures.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Vec<NetworkFigures> {
        let operations = ["add", "del"].into_iter().zip(&self.0);
        let each = operations.flat_map(|(operation, ways)| {
            WAYS.into_iter().zip(ways).map(move |(way, figure)| NetworkFigures {
                operation,
                way,
                durations: figure.durations.read(),
                failures: figure.failures.load(Relaxed),
            })
        });
        each.collect()
    }
}
