//! Who may fetch which layer now: one at a time fetches a layer, whoever else wants it
//! waits and finds it there, so too with a small document; and all pulls together have a
//! bounded number of slots.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use types::{DiffId, Digest};

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    slots: Arc<Semaphore>,
    layers: Mutex<HashMap<DiffId, Weak<AsyncMutex<()>>>>,
}

/// The right to fetch a layer, as long as it lives.
#[derive(Debug)]
pub(crate) struct Pass {
    _layer: OwnedMutexGuard<()>,
    slot: Option<OwnedSemaphorePermit>,
}

impl Pass {
    /// Has the layer's part of what is bounded end with `turn`.
    pub fn share(mut self, turn: &Turn) -> Self {
        turn.0.lock().extend(self.slot.take());
        self
    }
}

/// A layer's part of what few can do at a time: fetching and unpacking. Who only waits for
/// the disk ends it, so that the next layer comes meanwhile.
#[derive(Debug)]
pub(crate) struct Turn(Mutex<Vec<OwnedSemaphorePermit>>);

impl Turn {
    /// Waits for a part of a pull's own slots.
    pub async fn of(slots: Arc<Semaphore>) -> Arc<Self> {
        // The semaphore is never closed; if it were, a slot less would be no harm.
        let slot = slots.acquire_owned().await.ok();
        Arc::new(Self(Mutex::new(slot.into_iter().collect())))
    }

    /// Lets others begin.
    pub fn end(&self) {
        self.0.lock().clear();
    }
}

impl Gate {
    pub fn new(slots: usize) -> Self {
        let slots = Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)));
        Self { slots, layers: Mutex::default() }
    }

    /// Waits for the right to fetch a layer. The layer comes before the slot: who holds
    /// a slot waits for nobody.
    pub async fn enter(&self, layer: DiffId) -> Pass {
        let layer = self.lock_of(layer).lock_owned().await;
        // The semaphore is never closed; if it were, a slot less would be no harm.
        let slot = self.slots.clone().acquire_owned().await.ok();
        Pass { _layer: layer, slot }
    }

    /// Waits until nobody else is at a document.
    pub async fn alone(&self, document: Digest) -> OwnedMutexGuard<()> {
        self.lock_of(DiffId(document)).lock_owned().await
    }

    fn lock_of(&self, layer: DiffId) -> Arc<AsyncMutex<()>> {
        let mut layers = self.layers.lock();
        if let Some(lock) = layers.get(&layer).and_then(Weak::upgrade) {
            return lock;
        }
        layers.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        layers.insert(layer, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> DiffId {
        DiffId(Digest::from_bytes([n; 32]))
    }

    #[tokio::test]
    async fn one_fetches_a_layer_and_all_share_the_slots() {
        use futures_util::FutureExt as _;
        let gate = Gate::new(2);
        let first = gate.enter(layer(1)).await;
        assert!(gate.enter(layer(1)).now_or_never().is_none());
        let second = gate.enter(layer(2)).now_or_never().unwrap();
        assert!(gate.enter(layer(3)).now_or_never().is_none());
        drop(first);
        let again = gate.enter(layer(1)).now_or_never();
        assert!(again.is_some());
        drop((second, again));
        assert!(gate.enter(layer(3)).now_or_never().is_some());
        assert!(gate.layers.lock().len() <= 2);
    }

    /// Whose turn has ended still has the layer to itself.
    #[tokio::test]
    async fn who_waits_for_the_disk_holds_up_no_other_layer() {
        use futures_util::FutureExt as _;
        let (gate, own) = (Gate::new(1), Arc::new(Semaphore::new(1)));
        let turn = Turn::of(own.clone()).await;
        let pass = gate.enter(layer(1)).await.share(&turn);
        assert!(Turn::of(own.clone()).now_or_never().is_none());
        assert!(gate.enter(layer(2)).now_or_never().is_none());
        turn.end();
        assert!(Turn::of(own).now_or_never().is_some());
        assert!(gate.enter(layer(2)).now_or_never().is_some());
        assert!(gate.enter(layer(1)).now_or_never().is_none());
        drop(pass);
        assert!(gate.enter(layer(1)).now_or_never().is_some());
    }
}
