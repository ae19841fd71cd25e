//! Layers are sealed in groups: a sync of a file system costs much the same for one layer
//! as for ten, and waits for what everybody else on the machine has written too.
//!
//! Whoever has a layer ready when nobody is sealing seals all that are ready; the others
//! wait for their outcome. What becomes ready meanwhile is the next group.
//!
//! ```text
//! ready… ─► sync ─► placed and recorded ─► sync ─► counted
//! ```
//!
//! A record that is not of a whole layer never is on disk: before the first sync there is
//! none, and after it the layer's files are there. A crash before the second one leaves
//! layers without records, or records without layers: neither counts at the next start.

use std::{
    collections::HashMap,
    fs, io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;
use state::Durability;

use crate::{
    SnapshotError,
    layer::LayerWriter,
    store::{Inner, Seal},
};

/// A layer whose files are all written, and what is to be recorded with it.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) writer: LayerWriter,
    pub(crate) seal: Seal,
}

type Outcome = Result<(), SnapshotError>;

/// What waits to be sealed.
#[derive(Debug, Default)]
pub(crate) struct Sealing {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    ready: Vec<(u64, Ready)>,
    is_busy: bool,
    outcomes: HashMap<u64, Outcome>,
}

impl Sealing {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals a layer, alone or with others. Blocks until it is.
    ///
    /// # Errors
    /// Fails where a step fails, or one that the whole group needs.
    pub(crate) fn seal(&self, inner: &Inner, ready: Ready) -> Outcome {
        let layer = ready.writer.id;
        let mut queue = self.lock();
        let ticket = queue.next;
        queue.next += 1;
        queue.ready.push((ticket, ready));
        loop {
            if let Some(outcome) = queue.outcomes.remove(&ticket) {
                return outcome;
            }
            if queue.is_busy {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let group = std::mem::take(&mut queue.ready);
            if !group.iter().any(|(number, _)| *number == ticket) {
                let source = io::Error::other("the thread that sealed it died");
                return Err(SnapshotError::Layer { action: "seal", layer, source });
            }
            queue.is_busy = true;
            drop(queue);
            let busy = Busy(self);
            let outcomes = seal_all(inner, group);
            self.lock().outcomes.extend(outcomes);
            drop(busy);
            queue = self.lock();
        }
    }
}

/// Lets the next one seal, whatever happens.
struct Busy<'a>(&'a Sealing);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().is_busy = false;
        self.0.changed.notify_all();
    }
}

fn seal_all(inner: &Inner, group: Vec<(u64, Ready)>) -> Vec<(u64, Outcome)> {
    // The kernel tells of a file that it could not write since a handle was opened: the
    // first one's sees all.
    let Some((_, first)) = group.iter().min_by_key(|(_, ready)| ready.writer.begun) else {
        return Vec::new();
    };
    let synced = first.writer.dir.try_clone().and_then(|dir| {
        rustix::fs::syncfs(&dir)?;
        Ok(dir)
    });
    let dir = match synced {
        Ok(dir) => dir,
        Err(error) => {
            let each = group.into_iter();
            return each.map(|(ticket, ready)| (ticket, Err(not_synced(&ready, &error)))).collect();
        }
    };
    let mut outcomes = Vec::new();
    let mut placed: Vec<(u64, Ready)> = Vec::new();
    for (ticket, mut ready) in group {
        let is_twin = placed.iter().any(|(_, other)| other.writer.id == ready.writer.id);
        match if is_twin { Ok(true) } else { place(inner, &mut ready) } {
            Ok(true) => placed.push((ticket, ready)),
            Ok(false) => outcomes.push((ticket, Ok(()))),
            Err(error) => outcomes.push((ticket, Err(error))),
        }
    }
    let synced = if placed.is_empty() { Ok(()) } else { rustix::fs::syncfs(&dir) };
    for (ticket, ready) in placed {
        let outcome = match synced {
            Ok(()) => count(inner, &ready),
            Err(errno) => take_back(inner, &ready).and(Err(not_synced(&ready, &errno.into()))),
        };
        outcomes.push((ticket, outcome));
    }
    outcomes
}

/// From here on the layer is there.
fn count(inner: &Inner, ready: &Ready) -> Outcome {
    if ready.writer.done {
        inner.known().layers.insert(ready.writer.id, ready.seal.clone());
    }
    Ok(())
}

fn not_synced(ready: &Ready, error: &io::Error) -> SnapshotError {
    let source = match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::from(Errno::IO),
    };
    SnapshotError::Layer { action: "sync", layer: ready.writer.id, source }
}

/// Puts a layer that is synced into its place, and records it. `false` where another
/// writer was first: that one's layer stays.
fn place(inner: &Inner, ready: &mut Ready) -> Result<bool, SnapshotError> {
    let layer = ready.writer.id;
    let failed = |source| SnapshotError::Layer { action: "place", layer, source };
    {
        let known = inner.known();
        if known.layers.contains_key(&layer) {
            return Ok(false);
        }
        // An unsealed one is what a crash, a failed collection or a damage left.
        inner.put_aside(&known, &layer)?;
    }
    // Only here does anything come into that place, and one thread at a time is here.
    let new = inner.root.join("new");
    if ready.seal.split {
        let from = new.join(ready.writer.split_name());
        fs::rename(from, inner.split_path(&layer)).map_err(failed)?;
    }
    fs::rename(new.join(&ready.writer.name), inner.layer_dir(&layer)).map_err(failed)?;
    ready.writer.done = true;
    // What makes it last is the sync of the whole group.
    match inner.seals.put(&layer.0.hex(), &ready.seal, Durability::Process) {
        Ok(()) => Ok(true),
        Err(error) => take_back(inner, ready).and(Err(SnapshotError::Record(error))),
    }
}

/// Removes what was placed and does not count.
fn take_back(inner: &Inner, ready: &Ready) -> Outcome {
    if !ready.writer.done {
        return Ok(());
    }
    let hex = ready.writer.id.0.hex();
    inner.seals.remove(&hex).map_err(SnapshotError::Record)?;
    inner.discard("layers", &hex)?;
    inner.discard("splits", &hex)
}
