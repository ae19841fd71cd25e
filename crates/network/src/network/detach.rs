//! DEL: what a sandbox owes is paid, in whatever state its record is.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Map;
use types::SandboxId;

use super::{Network, blocking};
use crate::{
    NetworkError,
    cni::minimal_arguments,
    figures::Operation,
    native::{Native, Plan},
    records::{Engine, Record},
};

/// Who asks for what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// An ADD that finds the rest of an earlier one.
    Attach,
    /// The pod's end. What the kernel does by itself is not waited for.
    Detach,
    /// The start of the daemon, or a later cleaning.
    Recovery,
}

impl Network {
    /// Clears the way for an ADD.
    pub(super) async fn settle_attach(self: Arc<Self>, id: SandboxId) -> Result<(), NetworkError> {
        self.settle(id, None, Asking::Attach, &mut None).await
    }

    /// Ends a pod's network. An empty path means that the namespace is gone.
    pub(super) async fn settle_detach(
        self: Arc<Self>,
        id: SandboxId,
        netns: PathBuf,
    ) -> Result<(), NetworkError> {
        let (begun, mut engine) = (Instant::now(), None);
        let settled = Arc::clone(&self).settle(id, Some(netns), Asking::Detach, &mut engine).await;
        self.figures.count(Operation::Del, engine, begun, &settled);
        settled
    }

    /// Pays what is left on disk.
    pub(super) async fn settle_recovery(
        self: Arc<Self>,
        id: SandboxId,
    ) -> Result<(), NetworkError> {
        self.settle(id, None, Asking::Recovery, &mut None).await
    }

    /// Pays what a sandbox owes. `netns` replaces the record's namespace; `engine` is told who
    /// pays.
    async fn settle(
        self: Arc<Self>,
        id: SandboxId,
        netns: Option<PathBuf>,
        asking: Asking,
        engine: &mut Option<Engine>,
    ) -> Result<(), NetworkError> {
        if asking != Asking::Detach {
            self.going.cancel(&id);
        }
        let (network, sandbox_id) = (Arc::clone(&self), id.clone());
        let loaded = blocking("detach", move || match network.records.load(&sandbox_id)? {
            None => network.settle_unrecorded(&sandbox_id, asking).map(|()| None),
            record => Ok(record),
        });
        let mut record = match loaded.await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(damage @ NetworkError::DamagedRecord { .. }) => {
                self.salvage(id.clone(), &damage).await?
            }
            Err(error) => return Err(error),
        };
        if let Some(netns) = netns {
            record.netns = netns;
        }
        let (list, runtime) = match self.chain_of(&record) {
            Ok(chain) => chain,
            Err(damage) => {
                record = self.salvage(id, &damage).await?;
                self.chain_of(&record)?
            }
        };
        *engine = Some(record.engine);
        if record.engine != Engine::Programs {
            if let Err(error) = self.leave_filter(&record, &list, &runtime).await {
                // As where programs run: one that fails does not keep the others from going.
                blocking("detach", move || {
                    self.native.remove_rules(&record.sandbox_id)?;
                    Native::remove_links(&record.sandbox_id)
                })
                .await?;
                return Err(error);
            }
            return blocking("detach", move || match asking {
                Asking::Detach => self.begin_removal(&record),
                Asking::Attach | Asking::Recovery => self.remove_native(&record),
            })
            .await;
        }
        let result = record.attachment.as_ref().map(|attachment| &attachment.result);
        self.chain(&list, &runtime, self.options.del_deadline).delete(result).await?;
        blocking("detach", move || self.forget(Some(&list.name), &record.sandbox_id)).await
    }

    /// A crash may have left a file aside. Where a pod ends, and its record was lost, what
    /// it has is found by its id.
    fn settle_unrecorded(&self, id: &SandboxId, asking: Asking) -> Result<(), NetworkError> {
        if asking == Asking::Attach {
            return self.records.remove(id);
        }
        if asking == Asking::Detach && !self.going.contains(id) {
            self.remove_by_id(id)?;
        }
        self.forget(None, id)
    }

    /// Takes away what this process may have made for a sandbox that has no record.
    fn remove_by_id(&self, id: &SandboxId) -> Result<(), NetworkError> {
        self.native.remove_rules(id)?;
        Native::remove_links(id)?;
        for dir in self.own_lease_dirs() {
            self.native.release(&dir, id, &[])?;
        }
        self.tidy_standard()
    }

    /// Makes up the record of a sandbox whose own is damaged: what this process has made
    /// is found by the id, and the present chain is asked to let go of it.
    async fn salvage(
        self: &Arc<Self>,
        id: SandboxId,
        damage: &NetworkError,
    ) -> Result<Record, NetworkError> {
        tracing::warn!(error = %damage, sandbox_id = %id, "taking the network away without record");
        let network = Arc::clone(self);
        blocking("detach", move || {
            network.remove_by_id(&id)?;
            // The pod's handler is not known any more: the node's own chain is asked.
            let (conf, engine) = match network.choose("", Duration::ZERO) {
                Ok(chosen) => (chosen.list.raw, chosen.engine),
                Err(NetworkError::NotReady { .. }) => {
                    let conf = serde_json::json!({
                        "cniVersion": "1.0.0", "name": "none", "plugins": [{ "type": "none" }],
                    });
                    (conf, Engine::Native)
                }
                Err(error) => return Err(error),
            };
            let arguments = minimal_arguments(&id);
            Ok(Record::new(id, PathBuf::new(), conf, engine, arguments, Map::new()))
        })
        .await
    }

    /// Does what must be done before the pod's end is told, and leaves the rest to the
    /// kernel: interfaces go with their namespace, far quicker many at a time.
    fn begin_removal(self: &Arc<Self>, record: &Record) -> Result<(), NetworkError> {
        let id = &record.sandbox_id;
        self.native.remove_rules(id)?;
        if let Err(error) = self.records.mark_going(id) {
            // A full disk. Without the mark nobody would finish this after us, and to do all
            // of it now needs no room.
            tracing::warn!(%error, sandbox_id = %id, "waiting for the interfaces to go");
            return self.remove_native(record);
        }
        self.going.add(self, id);
        Ok(())
    }

    /// Takes all away that this process has made for a sandbox.
    pub(super) fn remove_native(&self, record: &Record) -> Result<(), NetworkError> {
        self.native.remove_rules(&record.sandbox_id)?;
        Native::remove_links(&record.sandbox_id)?;
        self.finish_removal(&record.sandbox_id)?;
        self.tidy_standard()
    }

    /// Gives addresses back, and forgets the sandbox: its interfaces are gone.
    pub(super) fn finish_removal(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let record = match self.records.load(id) {
            Ok(record) => record,
            Err(NetworkError::DamagedRecord { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(record) = record else {
            for dir in self.own_lease_dirs() {
                self.native.release(&dir, id, &[])?;
            }
            return self.forget(None, id);
        };
        if let Some(dir) = lease_dir(&record) {
            let attachment = record.attachment.as_ref();
            let hints: Vec<IpAddr> =
                attachment.map(|attachment| attachment.ips.clone()).unwrap_or_default();
            self.native.release(&dir, id, &hints)?;
        }
        self.forget(Some(record.network()), id)
    }

    /// Removes the default network's bridge after its last pod.
    pub(super) fn tidy_standard(&self) -> Result<(), NetworkError> {
        match self.standard_dir() {
            Some((bridge, dir)) => self.native.tidy(&bridge, &dir),
            None => Ok(()),
        }
    }

    /// Returns the default network's bridge and directory of leases.
    pub(super) fn standard_dir(&self) -> Option<(String, PathBuf)> {
        let builtin = self.options.builtin.as_ref()?;
        Some((builtin.bridge.clone(), self.options.ipam_dir.join(&builtin.name)))
    }

    /// Returns the directories in which this process may have taken an address.
    fn own_lease_dirs(&self) -> Vec<PathBuf> {
        let directories = std::iter::once(&self.directory).chain(self.handler_directories.values());
        let mut dirs: Vec<PathBuf> = directories
            .filter_map(|directory| {
                let loaded = directory.current(Duration::ZERO);
                let (_, list) = loaded.selected.as_ref()?;
                Plan::read(list).ok().map(|plan| plan.ipam.dir)
            })
            .collect();
        dirs.extend(self.standard_dir().map(|(_, dir)| dir));
        dirs
    }
}

/// Returns where a record's addresses are leased.
fn lease_dir(record: &Record) -> Option<PathBuf> {
    let list = crate::cni::NetworkList::from_value(record.conf.clone()).ok()?;
    match Plan::read(&list) {
        Ok(plan) => Some(plan.ipam.dir),
        // Of an earlier version that knew more: host-local's directory is where it says.
        Err(_) => {
            let dir = record.conf["plugins"][0]["ipam"]["dataDir"].as_str()?;
            Some(Path::new(dir).join(record.network()))
        }
    }
}
