//! Which names of sandboxes are taken, and by what: so that the same request,
//! asked again while the first still runs or after its client left, joins the
//! first and gets its result.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use types::{SandboxConfig, SandboxId, SandboxMetadata};

use crate::error::{Error, Result};

/// The result of a creation that several may wait for.
type Shared = Option<std::result::Result<SandboxId, Arc<Error>>>;

/// A creation in flight.
#[derive(Debug, Clone)]
struct InFlight {
    config: Arc<SandboxConfig>,
    result: watch::Receiver<Shared>,
}

#[derive(Debug, Clone)]
enum Entry {
    InFlight(InFlight),
    Done(SandboxId),
}

/// The names of all sandboxes.
#[derive(Debug, Default)]
pub(crate) struct Names {
    entries: Mutex<HashMap<SandboxMetadata, Entry>>,
}

/// What a request for a name found.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The name was free and is now the caller's, who must call [`Names::settle`].
    Ours(watch::Sender<Shared>),
    /// The same request runs already.
    Join(Join),
    /// A sandbox has the name.
    Taken(SandboxId),
}

/// A creation that somebody else runs.
#[derive(Debug)]
pub(crate) struct Join(watch::Receiver<Shared>);

impl Join {
    /// Waits for the creation's result.
    pub(crate) async fn wait(mut self) -> Result<SandboxId> {
        let result = match self.0.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        result.unwrap_or(Err(Arc::new(Error::Stopping))).map_err(Error::Joined)
    }
}

impl Names {
    /// Claims the name of `config`.
    ///
    /// # Errors
    /// Fails where a different request for the same name is in flight.
    pub(crate) fn claim(&self, config: &Arc<SandboxConfig>) -> Result<(Claim, Option<Join>)> {
        let mut entries = self.entries.lock();
        match entries.get(&config.metadata) {
            Some(Entry::InFlight(other)) if other.config == *config => {
                Ok((Claim::Join(Join(other.result.clone())), None))
            }
            Some(Entry::InFlight(_)) => Err(Error::NameTaken(format!(
                "another sandbox is being made for attempt {} of pod {}/{}",
                config.metadata.attempt, config.metadata.namespace, config.metadata.name
            ))),
            Some(Entry::Done(id)) => Ok((Claim::Taken(id.clone()), None)),
            None => {
                let (sender, result) = watch::channel(None);
                let in_flight = InFlight { config: config.clone(), result: result.clone() };
                entries.insert(config.metadata.clone(), Entry::InFlight(in_flight));
                Ok((Claim::Ours(sender), Some(Join(result))))
            }
        }
    }

    /// Ends a creation: the name is the sandbox's, or free again.
    pub(crate) fn settle(
        &self,
        metadata: &SandboxMetadata,
        sender: &watch::Sender<Shared>,
        result: std::result::Result<SandboxId, Arc<Error>>,
    ) {
        match &result {
            Ok(id) => self.entries.lock().insert(metadata.clone(), Entry::Done(id.clone())),
            Err(_) => self.entries.lock().remove(metadata),
        };
        sender.send_replace(Some(result));
    }

    /// Takes note of a sandbox that was found on disk. Of two with one name the later counts.
    pub(crate) fn found(&self, metadata: &SandboxMetadata, id: &SandboxId) {
        self.entries.lock().insert(metadata.clone(), Entry::Done(id.clone()));
    }

    /// Frees a name, where it is this sandbox's.
    pub(crate) fn free(&self, metadata: &SandboxMetadata, id: &SandboxId) {
        let mut entries = self.entries.lock();
        if matches!(entries.get(metadata), Some(Entry::Done(owner)) if owner == id) {
            entries.remove(metadata);
        }
    }
}
