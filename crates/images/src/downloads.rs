//! How many downloads run at a time, in all and from one registry, and how much memory
//! holds what came before its turn.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::options::NetworkOptions;

/// Memory is handed out in units of this size: a semaphore counts in 32 bits.
const UNIT: u64 = 1 << 10;

/// The limits.
#[derive(Debug)]
pub(crate) struct Downloads {
    all: Arc<Semaphore>,
    per_registry: usize,
    registries: Mutex<HashMap<String, Arc<Semaphore>>>,
    memory: Arc<Semaphore>,
    memory_units: u32,
}

/// The right to download from a registry, as long as it lives.
#[derive(Debug)]
pub(crate) struct Slot {
    _registry: Option<OwnedSemaphorePermit>,
    _one_of_all: Option<OwnedSemaphorePermit>,
}

impl Downloads {
    pub fn new(options: &NetworkOptions) -> Self {
        let units = options.range_memory_bytes.max(options.range_bytes).div_ceil(UNIT);
        let memory_units = u32::try_from(units).unwrap_or(u32::MAX);
        let semaphore =
            |count: usize| Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            all: semaphore(options.max_downloads),
            per_registry: options.max_downloads_per_registry.max(1),
            registries: Mutex::default(),
            memory: semaphore(memory_units as usize),
            memory_units,
        }
    }

    /// Waits for the right to download from a registry. Who waits for a registry holds
    /// nothing that others wait for; the semaphores are never closed.
    pub async fn enter(&self, registry: &str) -> Slot {
        let own = self.registry(registry).acquire_owned().await.ok();
        let one_of_all = self.all.clone().acquire_owned().await.ok();
        Slot { _registry: own, _one_of_all: one_of_all }
    }

    fn registry(&self, name: &str) -> Arc<Semaphore> {
        let mut registries = self.registries.lock();
        if let Some(known) = registries.get(name) {
            return known.clone();
        }
        // One that nobody uses is as good as a new one.
        registries.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let new = Arc::new(Semaphore::new(self.per_registry));
        registries.insert(name.to_owned(), new.clone());
        new
    }

    /// Waits for room for `bytes` in memory.
    pub async fn memory(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.memory_units);
        self.memory.clone().acquire_many_owned(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_registry_cannot_take_all() {
        let options = NetworkOptions {
            max_downloads: 3,
            max_downloads_per_registry: 2,
            ..NetworkOptions::default()
        };
        let downloads = Downloads::new(&options);
        let held = [downloads.enter("a").await, downloads.enter("a").await];
        assert!(downloads.enter("a").now_or_never().is_none());
        let other = downloads.enter("b").now_or_never().unwrap();
        assert!(downloads.enter("c").now_or_never().is_none());
        drop(other);
        assert!(downloads.enter("c").now_or_never().is_some());
        drop(held);
        assert!(downloads.enter("a").now_or_never().is_some());
    }

    #[tokio::test]
    async fn memory_is_bounded_and_one_range_always_fits() {
        let options = NetworkOptions {
            range_bytes: 1 << 20,
            range_memory_bytes: 1,
            ..NetworkOptions::default()
        };
        let downloads = Downloads::new(&options);
        let held = downloads.memory(1 << 20).now_or_never().unwrap();
        assert!(downloads.memory(1).now_or_never().is_none());
        drop(held);
        assert!(downloads.memory(u64::MAX).now_or_never().is_some());
    }
}
