//! Pods whose end has been told and whose interfaces the kernel still takes away.
//!
//! Removing an interface makes the kernel wait for all processors, which takes longer
//! than all else of a pod's end. The interfaces go with the pod's namespace, many at a
//! time, and nobody waits for them but a thread that listens while there are any. Only
//! where a namespace does not go (somebody holds it) they are removed by name.
//!
//! Addresses are given back and records forgotten when the interfaces are gone, so that
//! a daemon that dies meanwhile finds them again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use types::SandboxId;

use super::Network;
use crate::{
    NetworkError,
    native::{Native, link_names},
    netlink::route::{GoneLinks, Routes},
};

/// How long interfaces are waited for before they are removed by name.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long is waited between two looks where nothing changes.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The pods, and the thread that listens.
#[derive(Debug, Default)]
pub(super) struct Going {
    state: Mutex<State>,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<SandboxId, Instant>,
    listening: bool,
}

impl Going {
    /// Takes a pod on.
    pub(super) fn add(&self, network: &Arc<Network>, id: &SandboxId) {
        let mut state = self.state();
        state.pods.entry(id.clone()).or_insert_with(Instant::now);
        if state.listening {
            return;
        }
        let network = Arc::clone(network);
        let listen = move || network.going.listen(&network);
        match thread::Builder::new().name("corten-links".to_owned()).spawn(listen) {
            Ok(_) => state.listening = true,
            // The record is on disk: a later cleaning does it.
            Err(error) => {
                tracing::warn!(%error, sandbox_id = %id, "its interfaces are removed later");
                state.pods.remove(id);
                self.emptied.notify_all();
            }
        }
    }

    /// Gives a pod up: the caller does what is left itself.
    pub(super) fn cancel(&self, id: &SandboxId) {
        self.state().pods.remove(id);
        self.emptied.notify_all();
    }

    /// Reports whether a pod's interfaces are still waited for.
    pub(super) fn contains(&self, id: &SandboxId) -> bool {
        self.state().pods.contains_key(id)
    }

    /// Waits until no pod is left.
    pub(super) fn wait_until_empty(&self) {
        let mut state = self.state();
        while !state.pods.is_empty() {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs until no pod is left.
    fn listen(&self, network: &Network) {
        // First, so that nothing goes unheard.
        let mut news = GoneLinks::hear(LOOK_AGAIN).ok();
        let mut left: BTreeMap<SandboxId, BTreeSet<String>> = BTreeMap::new();
        loop {
            let pods: Vec<(SandboxId, Instant)> = {
                let mut state = self.state();
                if state.pods.is_empty() {
                    state.listening = false;
                    return;
                }
                state.pods.iter().map(|(id, since)| (id.clone(), *since)).collect()
            };
            left.retain(|id, _| pods.iter().any(|(pod, _)| pod == id));
            for (id, since) in pods {
                let names = left.entry(id.clone()).or_insert_with(|| present(&id));
                if names.is_empty() || since.elapsed() > PATIENCE {
                    self.finish(network, &id, names.is_empty());
                    left.remove(&id);
                }
            }
            if self.state().pods.is_empty() {
                continue;
            }
            let gone = match &mut news {
                Some(news) => news.wait(),
                None => {
                    thread::sleep(LOOK_AGAIN);
                    None
                }
            };
            match gone {
                Some(gone) => left.values_mut().for_each(|names| {
                    names.retain(|name| !gone.contains(name));
                }),
                // All are looked for again.
                None => left.clear(),
            }
        }
    }

    fn finish(&self, network: &Network, id: &SandboxId, gone: bool) {
        if let Err(error) = self.try_finish(network, id, gone) {
            // The record is on disk: a later cleaning, or the next daemon, tries again.
            tracing::warn!(%error, sandbox_id = %id, "its network is not wholly removed yet");
        }
        self.state().pods.remove(id);
        self.emptied.notify_all();
    }

    fn try_finish(
        &self,
        network: &Network,
        id: &SandboxId,
        gone: bool,
    ) -> Result<(), NetworkError> {
        if !gone {
            Native::remove_links(id)?;
        }
        {
            // A pod that was given up is another's by now.
            let state = self.state();
            if !state.pods.contains_key(id) {
                return Ok(());
            }
            network.finish_removal(id)?;
        }
        network.tidy_standard()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns which interfaces of a pod are there; all of them where the kernel does not say.
fn present(id: &SandboxId) -> BTreeSet<String> {
    let names = link_names(id);
    let look = || -> io::Result<BTreeSet<String>> {
        let mut routes = Routes::open()?;
        let mut present = BTreeSet::new();
        for name in &names {
            if routes.link(name)?.is_some() {
                present.insert(name.clone());
            }
        }
        Ok(present)
    };
    look().unwrap_or_else(|error| {
        tracing::warn!(%error, sandbox_id = %id, "its interfaces cannot be looked for");
        names.into()
    })
}
