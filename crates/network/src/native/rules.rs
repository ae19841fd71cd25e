//! Host ports, masquerade and hardware addresses that pods are held to: the rules of the
//! chains that run in this process, all in tables of ours (IPv4, IPv6 and bridge, one name).
//!
//! What a pod has is elements of maps and sets, so that its coming and going changes no
//! rule. Rules follow from the pods' networks: the first pod of a network brings them and
//! the last one takes them away, the tables with them. All of it follows from what is held
//! in memory here: where the kernel's copy disagrees (another program flushed it, a crash
//! left something) the tables are made anew in one transaction.
//!
//! Only what is addressed to the host itself is captured; nobody else's chain is touched.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use types::{Protocol, SandboxId};

use super::tables::{self, Change, Held, needed_tables, needs};
use crate::{
    NetworkError, Subnet,
    netlink::{
        conntrack,
        nft::{self, TableFamily, Transaction},
        route::{Mac, Routes},
    },
    request::protocol_name,
};

/// A port of the host that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) target: SocketAddr,
}

/// What a pod needs of the packet filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodRules {
    /// Its host ports.
    pub(crate) ports: Vec<HostPort>,
    /// What it must be to send.
    pub(crate) sender: Option<Sender>,
    /// What its network needs.
    pub(crate) network: NetworkRules,
}

/// The hardware address that a pod is held to (`macspoofchk`): frames that come from it by
/// another one are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender {
    /// Its end on the host.
    pub(crate) interface: String,
    pub(crate) mac: Mac,
}

/// What the pods of a network need together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NetworkRules {
    /// Subnets whose packets to elsewhere get the host's address.
    pub(crate) masquerade: BTreeSet<Subnet>,
    /// Interfaces by which answers to translated packets must come back.
    pub(crate) back: BTreeSet<Back>,
    /// Interfaces by which nothing may come for the host's own 127.0.0.0/8.
    pub(crate) guard: BTreeSet<String>,
    /// Whether its pods are held to their hardware addresses.
    pub(crate) holds_to_mac: bool,
}

/// Packets to host ports that must seem to come from the host, so that the answer comes
/// back to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Back {
    /// Towards which interface.
    pub(crate) interface: String,
    /// From which pods; 127.0.0.0/8 is always meant too.
    pub(crate) from: Subnet,
    /// Whether from everywhere.
    pub(crate) all: bool,
}

impl HostPort {
    fn clashes(&self, other: &Self) -> bool {
        let addresses = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => one == two,
            _ => self.family() == other.family(),
        };
        addresses && self.protocol == other.protocol && self.port == other.port
    }

    pub(super) fn family(&self) -> TableFamily {
        TableFamily::of(self.target.ip())
    }
}

impl NetworkRules {
    pub(super) fn extend(&mut self, other: &Self) {
        self.masquerade.extend(&other.masquerade);
        self.back.extend(other.back.iter().cloned());
        self.guard.extend(other.guard.iter().cloned());
        self.holds_to_mac |= other.holds_to_mac;
    }
}

/// What is known of the tables.
#[derive(Debug, Default)]
struct State {
    held: Held,
    /// Those that may be in the kernel; before the first change they are looked for.
    made: Option<BTreeSet<TableFamily>>,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Rules {
    table: String,
    state: Mutex<State>,
}

impl Rules {
    /// Names the tables; they are made with the first pod that needs them.
    pub(crate) fn new(table: String) -> Self {
        Self { table, state: Mutex::default() }
    }

    /// Gives a pod what it needs, and makes what its network needs where it is missing.
    pub(crate) fn add(&self, id: &SandboxId, rules: PodRules) -> Result<(), NetworkError> {
        let mut state = self.state();
        refuse_clashes(&state.held, id, &rules.ports)?;
        let before = (needs(&state.held), needed_tables(&state.held));
        let known = state.held.insert(id.clone(), rules.clone()).is_some();
        let after = (needs(&state.held), needed_tables(&state.held));
        let added = if !known && before == after && state.made.is_some() {
            self.change(&mut state, &rules, "add elements", Change::Add)
        } else {
            self.rebuild(&mut state)
        };
        match added {
            Ok(()) => forget_flows_to_host(&rules.ports),
            Err(_) => drop(state.held.remove(id)),
        }
        added
    }

    /// Takes away what a pod has, and what only its network needed.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let mut state = self.state();
        let before = (needs(&state.held), needed_tables(&state.held));
        let Some(gone) = state.held.remove(id) else { return Ok(()) };
        let after = (needs(&state.held), needed_tables(&state.held));
        let removed = if before == after {
            self.change(&mut state, &gone, "remove elements", Change::Remove)
        } else {
            self.rebuild(&mut state)
        };
        match removed {
            Ok(()) => forget_flows_to_pod(&gone.ports),
            Err(_) => drop(state.held.insert(id.clone(), gone)),
        }
        removed
    }

    /// Makes the tables anew from what the records of known pods tell. What is held
    /// already of a known pod is newer than its record, and stays.
    pub(crate) fn restore(&self, mut pods: Held) -> Result<(), NetworkError> {
        let mut state = self.state();
        for (id, rules) in &mut pods {
            if let Some(newer) = state.held.remove(id) {
                *rules = newer;
            }
        }
        state.held = pods;
        self.rebuild(&mut state)
    }

    /// Makes the tables anew where another program has taken something out of them.
    pub(crate) fn restore_missing(&self) -> Result<bool, NetworkError> {
        let mut state = self.state();
        let wanted = tables::build(&self.table, &state.held, &BTreeSet::new());
        for family in needed_tables(&state.held) {
            let extent = nft::extent(family, &self.table, tables::maps(family));
            if extent.map_err(self.failed("look for rules"))? != wanted.added(family) {
                self.rebuild(&mut state)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names the tables.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Changes a pod's elements; where the kernel's copy disagrees, all is made anew.
    fn change(
        &self,
        state: &mut State,
        rules: &PodRules,
        action: &'static str,
        how: Change,
    ) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        tables::change(&mut transaction, [rules], how);
        match transaction.commit() {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) =>
            {
                self.rebuild(state)
            }
            other => other.map_err(self.failed(action)),
        }
    }

    fn rebuild(&self, state: &mut State) -> Result<(), NetworkError> {
        let made = match &state.made {
            Some(made) => made.clone(),
            None => self.find()?,
        };
        tables::build(&self.table, &state.held, &made)
            .commit()
            .map_err(self.failed("make rules"))?;
        state.made = Some(needed_tables(&state.held));
        Ok(())
    }

    /// Returns the tables that an earlier daemon left.
    fn find(&self) -> Result<BTreeSet<TableFamily>, NetworkError> {
        let mut found = BTreeSet::new();
        for family in TableFamily::ALL {
            let exists = nft::table_exists(family, &self.table);
            if exists.map_err(self.failed("look for rules"))? {
                found.insert(family);
            }
        }
        Ok(found)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
        let table = self.table.clone();
        move |source| NetworkError::Rules { action, table, source }
    }
}

/// Flows to the host itself that began before the pod took the port.
fn forget_flows_to_host(ports: &[HostPort]) {
    let ports = udp(ports);
    if ports.is_empty() {
        return;
    }
    let forgotten = Routes::open().and_then(|mut routes| routes.addresses()).and_then(|own| {
        conntrack::forget_udp(|flow| {
            let host = own.iter().any(|link| link.address.address() == flow.destination);
            host && ports.iter().any(|port| port.port == flow.port)
        })
    });
    report_flows(forgotten);
}

/// Flows that were translated to a pod that goes.
fn forget_flows_to_pod(ports: &[HostPort]) {
    let ports = udp(ports);
    if ports.is_empty() {
        return;
    }
    report_flows(conntrack::forget_udp(|flow| {
        let to = |port: &&HostPort| port.target.ip() == flow.answers && port.port == flow.port;
        flow.destination != flow.answers && ports.iter().any(to)
    }));
}

fn udp(ports: &[HostPort]) -> Vec<&HostPort> {
    ports.iter().filter(|port| port.protocol == Protocol::Udp).collect()
}

/// A flow that is remembered ends by itself when nothing is sent for some minutes.
fn report_flows(forgotten: io::Result<()>) {
    if let Err(error) = forgotten {
        tracing::debug!(%error, "flows of UDP cannot be forgotten");
    }
}

fn refuse_clashes(held: &Held, id: &SandboxId, ports: &[HostPort]) -> Result<(), NetworkError> {
    let refuse = |port: &HostPort, holder: &SandboxId| NetworkError::HostPortInUse {
        port: format!("{}/{}", port.port, protocol_name(port.protocol)),
        holder: holder.clone(),
    };
    for (position, port) in ports.iter().enumerate() {
        if ports[..position].iter().any(|other| port.clashes(other)) {
            return Err(refuse(port, id));
        }
        for (holder, theirs) in held.iter().filter(|(holder, _)| *holder != id) {
            if theirs.ports.iter().any(|other| port.clashes(other)) {
                return Err(refuse(port, holder));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::native) mod tests {
    use super::*;

    pub(in crate::native) fn port(host_ip: Option<&str>, target: &str) -> HostPort {
        HostPort {
            protocol: Protocol::Sctp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            port: 0x1234,
            target: target.parse().unwrap(),
        }
    }

    #[test]
    fn ports_clash_where_one_packet_would_match_both() {
        let any = port(None, "10.1.2.3:80");
        assert!(any.clashes(&port(Some("10.0.0.1"), "10.1.2.4:80")));
        assert!(any.clashes(&port(None, "10.1.2.4:81")));
        assert!(!any.clashes(&port(None, "[fd00::2]:80")), "the families are apart");
        let one = port(Some("10.0.0.1"), "10.1.2.3:80");
        assert!(!one.clashes(&port(Some("10.0.0.2"), "10.1.2.3:80")));
        let udp = HostPort { protocol: Protocol::Udp, ..any.clone() };
        assert!(!any.clashes(&udp));
    }
}
