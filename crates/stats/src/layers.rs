//! What containers have written.
//!
//! Only a walk over the files tells it. Most trees are small: they are walked when they are
//! asked for. One that is not is walked beside the call, by one thread at a time, and no
//! more often than to take a small part of that thread's time; until then the sum before
//! is told, with its time.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use snapshots::{SnapshotError, Snapshots, Usage};
use tracing::warn;
use types::ContainerId;

use crate::WritableLayer;

/// A tree of more names than this takes milliseconds.
const SMALL: u64 = 500;
/// A walk that took a time is repeated after that many times as long.
const REST: u32 = 20;
/// But not later than this.
const MAX_REST: Duration = Duration::from_secs(300);

/// The sums of all containers whose trees are not small.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    snapshots: Snapshots,
    large: Arc<Mutex<HashMap<ContainerId, Large>>>,
}

#[derive(Debug, Default)]
struct Large {
    sum: Option<WritableLayer>,
    /// From then on it may be walked again; `None` while it is being walked.
    again: Option<Instant>,
}

impl Large {
    /// The last sum, and whether the caller is to walk it now.
    fn take_turn(&mut self) -> (Option<WritableLayer>, bool) {
        let due = self.again.is_some_and(|again| again <= Instant::now());
        if due {
            self.again = None;
        }
        (self.sum, due)
    }
}

impl Layers {
    pub(crate) fn new(snapshots: Snapshots) -> Self {
        Self { snapshots, large: Arc::default() }
    }

    /// What a container has written, if that is known.
    pub(crate) fn read(
        &self,
        id: &ContainerId,
        now: impl Fn() -> i64 + Send + 'static,
    ) -> Option<WritableLayer> {
        let known = self.large.lock().get_mut(id).map(Large::take_turn);
        if let Some((sum, due)) = known {
            if due {
                self.walk(id.clone(), now);
            }
            return sum;
        }
        match self.snapshots.usage_within(id, SMALL) {
            Ok(Some(usage)) => Some(sum(now(), usage)),
            Ok(None) => {
                self.large.lock().insert(id.clone(), Large::default());
                self.walk(id.clone(), now);
                None
            }
            Err(SnapshotError::MissingActive(_)) => None,
            Err(error) => {
                warn!(container = %id, error = %telemetry::chain(&error), "what it has written is not known");
                None
            }
        }
    }

    /// Adds up a tree on a thread of its own. The entry is there, and says that it is walked.
    fn walk(&self, id: ContainerId, now: impl Fn() -> i64 + Send + 'static) {
        let (layers, walked) = (self.clone(), id.clone());
        let walking = move || {
            let begun = Instant::now();
            let usage = layers.snapshots.usage(&walked);
            let mut large = layers.large.lock();
            match usage {
                Ok(usage) => {
                    let again = Some(Instant::now() + (begun.elapsed() * REST).min(MAX_REST));
                    large.insert(walked, Large { sum: Some(sum(now(), usage)), again });
                }
                // It is gone, or is tried anew.
                Err(_) => drop(large.remove(&walked)),
            }
        };
        if let Err(error) = thread::Builder::new().name("corten-usage".to_owned()).spawn(walking) {
            warn!(%error, "no thread to add up what a container has written");
            self.large.lock().remove(&id);
        }
    }

    /// Forgets containers that are gone.
    pub(crate) fn retain(&self, lives: impl Fn(&ContainerId) -> bool) {
        self.large.lock().retain(|id, large| large.again.is_none() || lives(id));
    }
}

fn sum(at_ns: i64, usage: Usage) -> WritableLayer {
    WritableLayer { at_ns, bytes: usage.bytes, inodes: usage.inodes }
}
