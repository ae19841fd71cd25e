//! Reading: one container, or several pods.

use std::{collections::HashMap, sync::Arc};

use cgroups::Cgroup;
use network::{InterfaceUsage, NamespaceUsage};
use pods::{ContainerFilter, ContainerRecord, SandboxFilter, SandboxRecord};
use tracing::{debug, warn};

use crate::{
    ContainerFigures, Cpu, Inner, Interfaces, Memory, PodFigures, Processes, rates::Reading,
};

/// The figures of one cgroup.
#[derive(Debug, Default)]
struct GroupFigures {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

impl Inner {
    /// Forgets what is remembered of those that are gone.
    pub(crate) fn forget(&self) {
        self.rates.forget_old(self.pods.now_ns());
        self.layers.retain(|id| self.pods.container(id.as_str()).is_ok());
    }

    pub(crate) fn container(self: &Arc<Self>, record: Arc<ContainerRecord>) -> ContainerFigures {
        let group = if record.may_run() {
            self.group(&record.cgroup, record.started_at_ns)
        } else {
            GroupFigures::default()
        };
        let inner = self.clone();
        let writable_layer = self.layers.read(&record.id, move || inner.pods.now_ns());
        ContainerFigures { cpu: group.cpu, memory: group.memory, writable_layer, record }
    }

    pub(crate) fn pods(self: &Arc<Self>, records: Vec<Arc<SandboxRecord>>) -> Vec<PodFigures> {
        let mut carried = self.carried(&records);
        let parents = self.parents();
        let at_ns = self.pods.now_ns();
        let pod = |record: Arc<SandboxRecord>| {
            let network = record.netns.as_ref().and_then(|netns| carried.remove(netns));
            let network = network.and_then(|result| match result {
                Ok(all) => Some(interfaces(at_ns, all)),
                Err(error) => {
                    debug!(sandbox = %record.id, error = %telemetry::chain(&error), "its interfaces are not known");
                    None
                }
            });
            let shared = parents.get(&record.cgroup_parent).is_some_and(|pods| *pods > 1);
            self.pod(record, shared, network)
        };
        records.into_iter().map(pod).collect()
    }

    fn carried(&self, records: &[Arc<SandboxRecord>]) -> NamespaceUsage {
        let ready = records.iter().filter(|record| record.is_ready());
        let namespaces = ready.filter_map(|record| record.netns.clone()).collect();
        network::interface_usage(namespaces).unwrap_or_else(|error| {
            warn!(%error, "what the pods' interfaces have carried is not known");
            NamespaceUsage::new()
        })
    }

    /// How many sandboxes each parent has.
    fn parents(&self) -> HashMap<String, usize> {
        let mut parents = HashMap::new();
        for record in self.pods.sandboxes(&SandboxFilter::default()) {
            *parents.entry(record.cgroup_parent.clone()).or_default() += 1;
        }
        parents
    }

    fn pod(
        self: &Arc<Self>,
        record: Arc<SandboxRecord>,
        shared: bool,
        network: Option<Interfaces>,
    ) -> PodFigures {
        let filter =
            ContainerFilter { sandbox_id: record.id.to_string(), ..ContainerFilter::default() };
        let containers: Vec<ContainerFigures> = self
            .pods
            .containers(&filter)
            .into_iter()
            .map(|record| self.container(record))
            .collect();
        // The kubelet gives each pod a parent of its own. Where somebody else gave several the
        // same, its figures would be those of all.
        let (group, processes) = if shared {
            (sum(&containers), self.processes(containers.iter().map(|c| &*c.record.cgroup)))
        } else {
            let group = self.group(&record.cgroup_parent, record.created_at_ns);
            (group, self.processes([&*record.cgroup_parent].into_iter()))
        };
        PodFigures { cpu: group.cpu, memory: group.memory, processes, network, containers, record }
    }

    fn open(&self, path: &str) -> Option<Cgroup> {
        path.parse().ok().map(|path| self.cgroups.open(&path))
    }

    fn group(&self, path: &str, began_ns: i64) -> GroupFigures {
        let Some(cgroup) = self.open(path) else { return GroupFigures::default() };
        let stats = match cgroup.stats() {
            Ok(stats) => stats,
            Err(error) => {
                warn!(cgroup = path, error = %telemetry::chain(&error), "its figures are not known");
                return GroupFigures::default();
            }
        };
        let at_ns = self.pods.now_ns();
        let cpu = stats.cpu_usage_ns.map(|usage_ns| {
            let nano_cores = self.rates.note(path, began_ns, Reading { at_ns, usage_ns });
            Cpu { at_ns, usage_ns, nano_cores }
        });
        GroupFigures { cpu, memory: stats.memory.map(|stats| Memory { at_ns, stats }) }
    }

    fn processes<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Option<Processes> {
        let mut total = None;
        for cgroup in paths.filter_map(|path| self.open(path)) {
            match cgroup.process_count() {
                Ok(Some(count)) => *total.get_or_insert(0) += count,
                Ok(None) => {}
                Err(error) => {
                    warn!(error = %telemetry::chain(&error), "a cgroup's processes are not known");
                }
            }
        }
        total.map(|count| Processes { at_ns: self.pods.now_ns(), count })
    }
}

/// What several containers come to. Where one has a limit and another has none, all have none.
fn sum(containers: &[ContainerFigures]) -> GroupFigures {
    let mut total = GroupFigures::default();
    for container in containers {
        match (&mut total.cpu, container.cpu) {
            (Some(total), Some(one)) => {
                total.usage_ns = total.usage_ns.saturating_add(one.usage_ns);
                total.nano_cores = total.nano_cores.zip(one.nano_cores).map(|(a, b)| a + b);
            }
            (none @ None, one) => *none = one,
            (Some(_), None) => {}
        }
        match (&mut total.memory, &container.memory) {
            (Some(total), Some(one)) => add(&mut total.stats, &one.stats),
            (none @ None, one) => none.clone_from(one),
            (Some(_), None) => {}
        }
    }
    total
}

fn add(total: &mut cgroups::MemoryStats, one: &cgroups::MemoryStats) {
    let cgroups::MemoryStats {
        usage,
        working_set,
        rss,
        page_faults,
        major_page_faults,
        limit,
        swap_usage,
        swap_limit,
    } = one;
    let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
    total.usage = total.usage.saturating_add(*usage);
    total.working_set = total.working_set.saturating_add(*working_set);
    total.rss = total.rss.saturating_add(*rss);
    total.page_faults = total.page_faults.saturating_add(*page_faults);
    total.major_page_faults = total.major_page_faults.saturating_add(*major_page_faults);
    total.limit = both(total.limit, *limit);
    total.swap_usage = both(total.swap_usage, *swap_usage);
    total.swap_limit = both(total.swap_limit, *swap_limit);
}

fn interfaces(at_ns: i64, all: Vec<InterfaceUsage>) -> Interfaces {
    let (default, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|one| one.name == network::INTERFACE);
    Interfaces { at_ns, default: default.into_iter().next(), others }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_interface_is_the_default_one() {
        let usage = |name: &str| InterfaceUsage { name: name.to_owned(), ..Default::default() };
        let both = interfaces(1, vec![usage("net1"), usage("eth0")]);
        assert_eq!(both.default, Some(usage("eth0")));
        assert_eq!(both.others, [usage("net1")]);
        assert_eq!(interfaces(1, Vec::new()).default, None);
    }

    #[test]
    fn a_limit_that_one_lacks_is_none_for_all() {
        let memory = |limit| cgroups::MemoryStats { usage: 5, limit, ..Default::default() };
        let mut total = memory(Some(10));
        add(&mut total, &memory(Some(20)));
        assert_eq!((total.usage, total.limit), (10, Some(30)));
        add(&mut total, &memory(None));
        assert_eq!((total.usage, total.limit), (15, None));
    }
}
