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
    _slot: Option<OwnedSemaphorePermit>,
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
        Pass { _layer: layer, _slot: slot }
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
}
