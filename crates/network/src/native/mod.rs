//! The common chain in this process: loopback, bridge, ptp, host-local, portmap,
//! bandwidth, firewall and tuning, by netlink, reading the plugins' own configurations.
//!
//! What belongs to a pod is found by its id alone: the lease holds it, the interfaces'
//! names begin with it, and the host ports are in the pod's record. Forwarding is
//! switched on and stays on, since others may have come to need it.
//!
//! Blocking: the callers run it on threads that may wait for the kernel.

mod bridge;
mod extras;
mod host_local;
mod link;
mod plan;
mod ports;
mod ptp;
mod result;
mod rules;
mod standard;
mod tables;
mod vlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::AsFd,
    path::Path,
    sync::{PoisonError, RwLock},
};

use serde_json::{Map, Value};
use types::SandboxId;

use self::{
    bridge::Bridges,
    host_local::Leases,
    link::{failed, host_name, routes, shaper_name},
    plan::{Extra, Main},
    result::{Dns, Ip, Outcome},
    rules::Rules,
};
pub(crate) use self::{plan::Plan, standard::conflist};
use crate::{NetworkError, namespace, netlink::nft};

/// Where the tuning plugin's administrator says which settings are allowed. Only the
/// program reads it.
const TUNING_ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";
/// The tables that iptables' older kernel side filters by, in the namespace of who reads.
const LEGACY_TABLES: [&str; 2] =
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// The chain's state on this host.
#[derive(Debug)]
pub(crate) struct Native {
    bridges: Bridges,
    rules: Rules,
    /// Read while a pod comes or goes, written while the default network's bridge goes.
    gate: RwLock<()>,
}

/// A pod that a chain is run for.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) netns: &'a Path,
    /// Arguments that plugins ask for by their capabilities.
    pub(crate) capabilities: &'a Map<String, Value>,
    /// Whether the chain is the default network's.
    pub(crate) standard: bool,
}

impl Job<'_> {
    /// The request cannot be fulfilled.
    pub(crate) fn refuse(&self, problem: String) -> NetworkError {
        NetworkError::InvalidRequest { sandbox_id: self.id.clone(), problem }
    }
}

/// A pod that stays, as its record tells.
#[derive(Debug, Clone)]
pub(crate) struct KnownPod {
    pub(crate) id: SandboxId,
    pub(crate) plan: Plan,
    pub(crate) capabilities: Map<String, Value>,
    pub(crate) result: Value,
}

impl Native {
    /// `table` is the name of our nftables tables; `ipam_dir` tells our bridge from
    /// another daemon's.
    pub(crate) fn new(table: &str, ipam_dir: &Path) -> Self {
        Self {
            bridges: Bridges::new(ipam_dir),
            rules: Rules::new(table.to_owned()),
            gate: RwLock::new(()),
        }
    }

    /// Says why a chain must be run by programs on this host, though it is known.
    pub(crate) fn needs_programs(plan: &Plan) -> Option<&'static str> {
        let tunes = plan.extras.iter().any(|extra| matches!(extra, Extra::Tuning(_)));
        if tunes && Path::new(TUNING_ALLOW_LIST).exists() {
            return Some("the tuning plugin has a list of allowed settings");
        }
        // An accept in a table of ours does not override another one's drop: the plugin
        // writes into the tables that filter. Of those that come later `Network` hears.
        (plan.has_firewall() && forwarding_is_filtered()).then_some("what is forwarded is filtered")
    }

    /// Gives a pod its network. Where a step fails nothing is undone: that is
    /// [`Native::remove`]'s.
    pub(crate) fn add(&self, plan: &Plan, job: &Job<'_>) -> Result<Value, NetworkError> {
        let _coming = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let handle = namespace::open(job.netns)?;
        let netns = handle.as_fd();
        let outcome = self.lease(plan, job)?;
        let mac = if plan.takes_mac { extras::asked_mac(job)? } else { None };
        let mut outcome = match &plan.main {
            Main::Bridge(bridge) => self.bridges.connect(job, bridge, netns, mac, outcome)?,
            Main::Ptp(ptp) => ptp::connect(job, ptp, netns, outcome)?,
        };
        if !plan.dns.is_empty() {
            outcome.dns = plan.dns.clone();
        }
        for extra in &plan.extras {
            match extra {
                Extra::Bandwidth(limits) => extras::limit(job, *limits, &mut outcome)?,
                Extra::Tuning(tuning) => extras::tune(job, tuning, netns, &mut outcome)?,
                // With all other rules, below.
                Extra::Portmap(_) => {}
                // Nothing filters what is forwarded yet, see `needs_programs`.
                Extra::Firewall => {}
            }
        }
        let rules = ports::rules_of(plan, job.id, job.capabilities, &outcome)
            .map_err(|problem| job.refuse(problem))?;
        let localnet = ports::needs_localnet(&rules).then(|| ports::interface(plan, job.id));
        self.rules.add(job.id, rules)?;
        if let Some(interface) = localnet {
            // After the guard against pods that would use it.
            link::set_sysctl(&link::conf("ipv4", &interface, "route_localnet"), "1")?;
        }
        Ok(outcome.to_value(plan.version))
    }

    /// Takes a pod's rules away. Nobody is led to it any more.
    pub(crate) fn remove_rules(&self, id: &SandboxId) -> Result<(), NetworkError> {
        self.rules.remove(id)
    }

    /// Removes a pod's interfaces, wherever its ends are.
    pub(crate) fn remove_links(id: &SandboxId) -> Result<(), NetworkError> {
        for name in link_names(id) {
            routes(&name)?.delete_link(&name).map_err(failed("remove", &name))?;
        }
        Ok(())
    }

    /// Gives a pod's addresses back, once its interfaces are gone: an address is free when
    /// nothing answers to it any more.
    pub(crate) fn release(
        &self,
        dir: &Path,
        id: &SandboxId,
        hints: &[IpAddr],
    ) -> Result<(), NetworkError> {
        let _going = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        Leases::new(dir.to_owned()).release(id, hints)
    }

    /// Removes the default network's bridge where no address is taken any more.
    pub(crate) fn tidy(&self, bridge: &str, dir: &Path) -> Result<(), NetworkError> {
        let leases = Leases::new(dir.to_owned());
        if !leases.is_empty()? {
            return Ok(());
        }
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if leases.is_empty()? {
            self.bridges.remove_if_unused(bridge)?;
        }
        Ok(())
    }

    /// Gives back what belongs to no known pod: for directories that are ours alone.
    pub(crate) fn retain_leases(dir: &Path, known: &[SandboxId]) -> Result<(), NetworkError> {
        let known: BTreeSet<&str> = known.iter().map(SandboxId::as_str).collect();
        Leases::new(dir.to_owned()).retain(&known)
    }

    /// Removes interfaces on the default network's bridge that belong to no known pod.
    pub(crate) fn retain_links(
        &self,
        bridge: &str,
        known: &[SandboxId],
    ) -> Result<(), NetworkError> {
        self.bridges.retain(bridge, known)?.iter().try_for_each(Self::remove_links)
    }

    /// Makes the rules of all pods that stay, in one transaction.
    pub(crate) fn restore(&self, pods: Vec<KnownPod>) -> Result<(), NetworkError> {
        let mut rules = BTreeMap::new();
        for pod in pods {
            let outcome = Outcome::read(&pod.result);
            match ports::rules_of(&pod.plan, &pod.id, &pod.capabilities, &outcome) {
                Ok(wanted) => drop(rules.insert(pod.id, wanted)),
                Err(problem) => {
                    tracing::warn!(problem, sandbox_id = %pod.id, "host ports are not known");
                }
            }
        }
        self.rules.restore(rules)
    }

    /// Makes the rules anew where another program has removed them.
    pub(crate) fn restore_missing_rules(&self) -> Result<bool, NetworkError> {
        self.rules.restore_missing()
    }

    /// Returns the name of the tables.
    pub(crate) fn table(&self) -> &str {
        self.rules.table()
    }

    /// Looks whether a pod's network is as it was made.
    pub(crate) fn check(&self, plan: &Plan, netns: &Path, result: &Value) -> Result<(), String> {
        bridge::check(plan)?;
        link::check_pod(netns, &Outcome::read(result))
    }

    /// Takes addresses for a pod.
    fn lease(&self, plan: &Plan, job: &Job<'_>) -> Result<Outcome, NetworkError> {
        let asked =
            if plan.takes_ips { extras::asked_ips(job, job.capabilities)? } else { Vec::new() };
        let ipam = &plan.ipam;
        let given = Leases::new(ipam.dir.clone()).allocate(ipam, job.id, &asked)?;
        let ips = given.iter().map(|given| Ip {
            interface: 0,
            address: given.address,
            gateway: Some(given.gateway),
        });
        let dns = match &ipam.resolv_conf {
            None => Dns::default(),
            Some(path) => std::fs::read_to_string(path)
                .map(|text| Dns::parse(&text))
                .map_err(|source| crate::files::failed("read", path, source))?,
        };
        Ok(Outcome {
            ips: ips.collect(),
            routes: ipam.routes.iter().map(|route| (route.dst, route.gw)).collect(),
            dns,
            ..Outcome::default()
        })
    }
}

/// Returns the names of all interfaces that a pod may have on the host.
pub(crate) fn link_names(id: &SandboxId) -> [String; 2] {
    [host_name(id), shaper_name(id)]
}

/// Reports whether anybody's chain sees what is forwarded.
pub(crate) fn forwarding_is_filtered() -> bool {
    let legacy = |path: &&str| {
        std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
    };
    // What cannot be looked at may filter.
    LEGACY_TABLES.iter().any(legacy)
        || nft::forward_chains().map_or(true, |chains| !chains.is_empty())
}
