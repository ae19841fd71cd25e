//! Recovery at start, and cleaning at will: debts, garbage, rules.

use std::{path::Path, sync::Arc, sync::PoisonError, time::Duration};

use serde_json::Map;
use types::SandboxId;

use super::{Network, blocking, detached};
use crate::{
    INTERFACE, NetworkError, RecoverReport, Subnet,
    cni::{Attachments, Runtime},
    files::{self, Strength},
    native::{KnownPod, Native, Plan},
    options::check_subnets,
    records::{Engine, Firewalled, Record},
};

/// How long all plugins of a chain may take to collect garbage: new pods wait for it.
const GARBAGE_DEADLINE: Duration = Duration::from_secs(30);
/// Where the kubelet's range is kept.
const POD_CIDR_FILE: &str = "pod-cidr";

impl Network {
    pub(super) async fn recover_all(
        self: &Arc<Self>,
        known: &[SandboxId],
    ) -> Result<RecoverReport, NetworkError> {
        let network = Arc::clone(self);
        let known_ids = known.to_vec();
        let owing = blocking("recovery", move || {
            let mut owing = network.records.list()?;
            owing.retain(|id| !known_ids.contains(id) || network.records.is_going(id));
            Ok(owing)
        })
        .await?;
        let mut report = RecoverReport::default();
        for id in owing {
            let (network, settling) = (Arc::clone(self), id.clone());
            let settled =
                detached("recovery", async move { network.settle_recovery(settling).await });
            match settled.await {
                Ok(()) => report.detached.push(id),
                Err(error) => report.owed.push((id, error)),
            }
        }
        let (network, known) = (Arc::clone(self), known.to_vec());
        blocking("recovery", move || network.restore(&known)).await?;
        self.collect_garbage().await;
        Ok(report)
    }

    /// Makes the rules of known pods, and removes what is on the default network of none.
    fn restore(&self, known: &[SandboxId]) -> Result<(), NetworkError> {
        let mut pods = Vec::new();
        for id in known {
            match self.records.load(id) {
                Ok(Some(record)) => {
                    let pod = known_pod(&record);
                    if pod.as_ref().is_some_and(|pod| self.may_be_unfiltered(pod)) {
                        self.unfiltered.add(id);
                    }
                    pods.extend(pod);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, sandbox_id = %id, "host ports are not known"),
            }
        }
        if let Some((bridge, dir)) = self.standard_dir() {
            self.native.retain_links(&bridge, known)?;
            Native::retain_leases(&dir, known)?;
        }
        self.native.restore(pods)?;
        let owing = self.records.list()?;
        let ids = || known.iter().chain(&owing);
        self.results.retain(|id| ids().any(|known| known.as_str() == id))?;
        self.tidy_standard()
    }

    /// Reports whether a filter that comes, or has come, may not know a pod.
    fn may_be_unfiltered(&self, pod: &KnownPod) -> bool {
        let id = &pod.id;
        pod.plan.has_firewall()
            && !self.records.is_going(id)
            && self.records.firewalled(id) != Some(Firewalled::Done)
    }

    pub(super) async fn clean_once(self: &Arc<Self>) {
        let network = Arc::clone(self);
        self.repair_rules().await;
        let left = blocking("cleaning", move || {
            let mut left = network.records.list()?;
            left.retain(|id| network.records.is_going(id) && !network.going.contains(id));
            Ok(left)
        });
        match left.await {
            Ok(left) => {
                for id in left {
                    if let Err(error) = Arc::clone(self).settle_recovery(id.clone()).await {
                        tracing::warn!(%error, sandbox_id = %id, "its network is still owed");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the network was not cleaned"),
        }
        self.collect_garbage().await;
    }

    /// Lets the plugins of the selected network remove what no pod has. New pods wait
    /// meanwhile; those that are being made are known to be valid.
    async fn collect_garbage(self: &Arc<Self>) {
        let _alone = self.collecting.write().await;
        let network = Arc::clone(self);
        let prepared = blocking("garbage", move || {
            let Ok(chosen) = network.choose("", Duration::ZERO) else { return Ok(None) };
            let valid = network.valid_attachments(&chosen.list.name)?;
            Ok(Some((chosen, valid)))
        });
        let (chosen, valid) = match prepared.await {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "garbage is not collected"),
        };
        let collected = match chosen.plan {
            None => {
                let nobody = Runtime {
                    container_id: String::new(),
                    netns: std::path::PathBuf::new(),
                    arguments: Vec::new(),
                    capabilities: Map::new(),
                };
                let chain = self.chain(&chosen.list, &nobody, GARBAGE_DEADLINE);
                chain.collect_garbage(&valid).await
            }
            Some(plan) => {
                // As the contract has it: before 1.1 others may use the directory too. The
                // default network's is ours alone.
                let asked = chosen.list.version >= crate::cni::Version::V1_1_0;
                let ours = chosen.engine == Engine::Standard;
                if chosen.list.disable_gc || !(asked || ours) {
                    return;
                }
                let ids: Vec<SandboxId> =
                    valid.iter().filter_map(|(id, _)| id.parse().ok()).collect();
                blocking("garbage", move || Native::retain_leases(&plan.ipam.dir, &ids)).await
            }
        };
        if let Err(error) = collected {
            tracing::warn!(%error, network = chosen.list.name, "garbage is not wholly collected");
        }
    }

    /// Returns what is attached, or being so, to a network. What cannot be read may be.
    fn valid_attachments(&self, network: &str) -> Result<Attachments, NetworkError> {
        let mut valid = Attachments::new();
        for id in self.records.list()? {
            let elsewhere = matches!(
                self.records.load(&id),
                Ok(Some(record)) if record.network() != network
            );
            if !elsewhere {
                valid.push((id.to_string(), INTERFACE.to_owned()));
            }
        }
        Ok(valid)
    }

    pub(super) fn take_over(&self, subnets: Vec<Subnet>) -> Result<(), NetworkError> {
        let mut said = self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref() == Some(&subnets) {
            return Ok(());
        }
        let text: Vec<String> = subnets.iter().map(Subnet::to_string).collect();
        let path = self.options.cache_dir.join(POD_CIDR_FILE);
        files::write(&path, text.join(",").as_bytes(), Strength::Power)?;
        tracing::info!(pod_cidr = text.join(","), "the default network has another range");
        *said = Some(subnets);
        Ok(())
    }
}

/// Reads the kubelet's range as it was said to an earlier daemon.
pub(super) fn read_pod_cidr(cache_dir: &Path) -> Option<Vec<Subnet>> {
    let path = cache_dir.join(POD_CIDR_FILE);
    let text = std::fs::read_to_string(&path).ok()?;
    let read = || -> Option<Vec<Subnet>> {
        let subnets: Vec<Subnet> =
            text.split(',').map(|part| Subnet::for_pods(part).ok()).collect::<Option<_>>()?;
        check_subnets("pod CIDR", &subnets).ok()?;
        Some(subnets)
    };
    let subnets = read();
    if subnets.is_none() {
        tracing::warn!(path = %path.display(), "the kubelet's range of addresses cannot be read");
    }
    subnets
}

/// Returns what is to be restored of a pod that this process has attached.
fn known_pod(record: &Record) -> Option<KnownPod> {
    if record.engine == Engine::Programs {
        return None;
    }
    let list = crate::cni::NetworkList::from_value(record.conf.clone()).ok()?;
    let plan = Plan::read(&list).ok()?;
    Some(KnownPod {
        id: record.sandbox_id.clone(),
        plan,
        capabilities: record.capabilities.clone(),
        result: record.attachment.as_ref()?.result.clone(),
    })
}
