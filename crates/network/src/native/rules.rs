//! Host ports and masquerade: the rules of the chains that run in this process, all in
//! two tables of ours (IPv4 and IPv6, one name).
//!
//! Host ports are elements of two maps (with and without an address of the host), so
//! that a pod's coming and going changes elements, never rules. Rules follow from the
//! pods' networks: the first pod of a network brings them and the last one takes them
//! away, the tables with them. All of it follows from what is held in memory here: where
//! the kernel's copy disagrees (another program flushed it, a crash left something) the
//! tables are made anew in one transaction.
//!
//! Only what is addressed to the host itself is captured; nobody else's chain is touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use types::{Protocol, SandboxId};

use crate::{
    NetworkError, Subnet,
    netlink::{
        conntrack,
        nft::{
            self, Element, Expression, Hook, REGISTER_KEY, REGISTER_VALUE, TableFamily, Transaction,
        },
        route::Routes,
    },
    request::protocol_name,
    subnet::octets,
};

/// Ports of every address of the host.
const ANY: &str = "host_ports";
/// Ports of one address of the host.
const ONE: &str = "host_ip_ports";

const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_SOURCE_NAT: i32 = 100;

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
    /// What its network needs.
    pub(crate) network: NetworkRules,
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

    fn family(&self) -> TableFamily {
        TableFamily::of(self.target.ip())
    }

    fn map(&self) -> &'static str {
        if self.host_ip.is_some() { ONE } else { ANY }
    }

    /// Returns key and value as the maps hold them: every field padded to four bytes.
    fn element(&self) -> Element {
        let mut key = self.host_ip.map(octets).unwrap_or_default();
        let [high, low] = self.port.to_be_bytes();
        key.extend_from_slice(&[protocol_number(self.protocol), 0, 0, 0, high, low, 0, 0]);
        let mut value = octets(self.target.ip());
        let [high, low] = self.target.port().to_be_bytes();
        value.extend_from_slice(&[high, low, 0, 0]);
        (key, value)
    }
}

impl NetworkRules {
    fn extend(&mut self, other: &Self) {
        self.masquerade.extend(&other.masquerade);
        self.back.extend(other.back.iter().cloned());
        self.guard.extend(other.guard.iter().cloned());
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

type Held = BTreeMap<SandboxId, PodRules>;

/// The tables.
#[derive(Debug)]
pub(crate) struct Rules {
    table: String,
    held: Mutex<Held>,
}

impl Rules {
    /// Names the tables; they are made with the first pod that needs them.
    pub(crate) fn new(table: String) -> Self {
        Self { table, held: Mutex::default() }
    }

    /// Maps a pod's ports, and makes what its network needs where it is missing.
    pub(crate) fn add(&self, id: &SandboxId, rules: PodRules) -> Result<(), NetworkError> {
        let mut held = self.held();
        refuse_clashes(&held, id, &rules.ports)?;
        let before = needs(&held);
        let known = held.insert(id.clone(), rules.clone()).is_some();
        let same = !known && before == needs(&held);
        let added = if same && self.is_there(&before, &rules.ports)? {
            self.add_elements(&held, &rules.ports)
        } else {
            self.rebuild(&held)
        };
        match added {
            Ok(()) => forget_flows_to_host(&rules.ports),
            Err(_) => drop(held.remove(id)),
        }
        added
    }

    /// Takes a pod's ports away, and what only its network needed.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let mut held = self.held();
        let Some(gone) = held.get(id).cloned() else { return Ok(()) };
        let before = needs(&held);
        let mut left = held.clone();
        left.remove(id);
        if before != needs(&left) {
            self.rebuild(&left)?;
        } else if !gone.ports.is_empty() {
            let mut transaction = Transaction::on(&self.table);
            change(&mut transaction, &gone.ports, Transaction::delete_elements);
            match transaction.commit() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.rebuild(&left)?,
                other => other.map_err(self.failed("remove host ports"))?,
            }
        }
        *held = left;
        forget_flows_to_pod(&gone.ports);
        Ok(())
    }

    /// Makes the tables anew from what the records of known pods tell. What is held
    /// already of a known pod is newer than its record, and stays.
    pub(crate) fn restore(&self, mut pods: Held) -> Result<(), NetworkError> {
        let mut held = self.held();
        for (id, rules) in &mut pods {
            if let Some(newer) = held.remove(id) {
                *rules = newer;
            }
        }
        *held = pods;
        self.rebuild(&held)
    }

    /// Makes the tables anew where another program has removed them.
    pub(crate) fn restore_missing(&self) -> Result<bool, NetworkError> {
        let held = self.held();
        let ports: Vec<HostPort> = held.values().flat_map(|rules| rules.ports.clone()).collect();
        if self.is_there(&needs(&held), &ports)? {
            return Ok(false);
        }
        self.rebuild(&held)?;
        Ok(true)
    }

    fn is_there(&self, needs: &NetworkRules, ports: &[HostPort]) -> Result<bool, NetworkError> {
        for family in TableFamily::ALL {
            let needed = needs_table(family, needs, ports.iter());
            let exists = nft::table_exists(family, &self.table);
            if needed && !exists.map_err(self.failed("look for rules"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn add_elements(&self, held: &Held, ports: &[HostPort]) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        change(&mut transaction, ports, Transaction::add_elements);
        match transaction.commit() {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) =>
            {
                self.rebuild(held)
            }
            other => other.map_err(self.failed("add host ports")),
        }
    }

    fn rebuild(&self, held: &Held) -> Result<(), NetworkError> {
        let needs = needs(held);
        let ports: Vec<HostPort> = held.values().flat_map(|rules| rules.ports.clone()).collect();
        let mut transaction = Transaction::on(&self.table);
        for family in TableFamily::ALL {
            let needed = needs_table(family, &needs, ports.iter());
            let exists = nft::table_exists(family, &self.table);
            let exists = exists.map_err(self.failed("look for rules"))?;
            transaction.family(family);
            if exists {
                transaction.delete_table();
            }
            if needed {
                transaction.ensure_table();
                add_maps(&mut transaction, family);
                if family == TableFamily::Ipv4 {
                    add_guard(&mut transaction, &needs.guard);
                }
                add_destination_nat(&mut transaction, family);
                add_source_nat(&mut transaction, family, &needs);
            }
        }
        change(&mut transaction, &ports, Transaction::add_elements);
        transaction.commit().map_err(self.failed("make rules"))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
        let table = self.table.clone();
        move |source| NetworkError::Rules { action, table, source }
    }
}

/// What all networks need together.
fn needs(held: &Held) -> NetworkRules {
    let mut all = NetworkRules::default();
    held.values().for_each(|rules| all.extend(&rules.network));
    all
}

fn needs_table<'a>(
    family: TableFamily,
    needs: &NetworkRules,
    mut ports: impl Iterator<Item = &'a HostPort>,
) -> bool {
    let ours = |subnet: &Subnet| TableFamily::of(subnet.address()) == family;
    let guards = family == TableFamily::Ipv4 && !needs.guard.is_empty();
    let nat = needs.masquerade.iter().any(ours) || needs.back.iter().any(|back| ours(&back.from));
    !needs.is_empty() && (guards || nat) || ports.any(|port| port.family() == family)
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

fn change<'t>(
    transaction: &mut Transaction<'t>,
    ports: &[HostPort],
    how: for<'a> fn(&'a mut Transaction<'t>, &str, &[Element]) -> &'a mut Transaction<'t>,
) {
    for family in TableFamily::ALL {
        for map in [ANY, ONE] {
            let chosen = ports.iter().filter(|port| port.map() == map && port.family() == family);
            let elements: Vec<_> = chosen.map(HostPort::element).collect();
            how(transaction.family(family), map, &elements);
        }
    }
}

fn add_maps(transaction: &mut Transaction<'_>, family: TableFamily) {
    // Numbers by which `nft` shows types; those of a tuple are six bits each.
    const PROTOCOL: u32 = 12;
    const PORT: u32 = 13;
    let (address, length) = match family {
        TableFamily::Ipv4 => (7, 4),
        TableFamily::Ipv6 => (8, 16),
    };
    let target = (address << 6 | PORT, length + 4);
    transaction.add_map(ANY, (PROTOCOL << 6 | PORT, 8), target);
    transaction.add_map(ONE, (address << 12 | PROTOCOL << 6 | PORT, length + 8), target);
}

/// `route_localnet` on an interface would let pods reach the host's own 127.0.0.1: what
/// they send there is dropped before anything else sees it.
fn add_guard(transaction: &mut Transaction<'_>, interfaces: &BTreeSet<String>) {
    let hook = Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW };
    transaction.add_chain("guard", hook);
    for interface in interfaces {
        let mut rule = Expression::came_in_by(interface).to_vec();
        rule.extend(Expression::destination_in(loopback(), true));
        rule.push(Expression::Drop);
        transaction.add_rule("guard", &rule);
    }
}

fn add_destination_nat(transaction: &mut Transaction<'_>, family: TableFamily) {
    for (chain, number) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        let hook = Hook { kind: "nat", number, priority: PRIORITY_DESTINATION_NAT };
        transaction.add_chain(chain, hook);
        let local = Expression::destination_is_local();
        let behind = match family {
            TableFamily::Ipv4 => 1,
            TableFamily::Ipv6 => 4,
        };
        let mut rule = local.to_vec();
        rule.push(Expression::destination(family, REGISTER_KEY));
        rule.extend(translate(family, ONE, REGISTER_KEY + behind));
        transaction.add_rule(chain, &rule);
        let mut rule = local.to_vec();
        rule.extend(translate(family, ANY, REGISTER_KEY));
        transaction.add_rule(chain, &rule);
    }
}

/// Looks protocol and port up, behind what is in the key already, and translates.
fn translate(family: TableFamily, map: &'static str, register: u32) -> [Expression; 4] {
    let length = match family {
        TableFamily::Ipv4 => 1,
        TableFamily::Ipv6 => 4,
    };
    let port = REGISTER_VALUE + length;
    [
        Expression::transport_protocol(register),
        Expression::TransportHeader { register: register + 1, offset: 2, length: 2 },
        Expression::Lookup { map, key: REGISTER_KEY, value: REGISTER_VALUE },
        Expression::DestinationNat { family, address: REGISTER_VALUE, port },
    ]
}

fn add_source_nat(transaction: &mut Transaction<'_>, family: TableFamily, needs: &NetworkRules) {
    let chain = "postrouting";
    let hook = Hook { kind: "nat", number: POSTROUTING, priority: PRIORITY_SOURCE_NAT };
    transaction.add_chain(chain, hook);
    let ours = |subnet: &Subnet| TableFamily::of(subnet.address()) == family;

    // Pods towards everything that is neither theirs nor multicast.
    for subnet in needs.masquerade.iter().copied().filter(ours) {
        let mut outwards = Expression::source_in(subnet).to_vec();
        outwards.extend(Expression::destination_in(subnet, false));
        outwards.extend(Expression::destination_in(multicast(family), false));
        outwards.push(Expression::Masquerade);
        transaction.add_rule(chain, &outwards);
    }
    // Pods and 127.0.0.1 towards a pod by a host port: the answer must come back here.
    for back in needs.back.iter().filter(|back| ours(&back.from)) {
        let mut sources = match (back.all, family) {
            (true, _) => vec![Vec::new()],
            (false, TableFamily::Ipv4) => vec![Expression::source_in(loopback()).to_vec()],
            (false, TableFamily::Ipv6) => Vec::new(),
        };
        if !back.all {
            sources.push(Expression::source_in(back.from).to_vec());
        }
        for source in sources {
            let mut rule = Expression::goes_out_by(&back.interface).to_vec();
            rule.extend(Expression::destination_was_changed());
            rule.extend(source);
            rule.push(Expression::Masquerade);
            transaction.add_rule(chain, &rule);
        }
    }
}

fn loopback() -> Subnet {
    Subnet::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8).expect("a prefix of IPv4")
}

fn multicast(family: TableFamily) -> Subnet {
    match family {
        TableFamily::Ipv4 => Subnet::new(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        TableFamily::Ipv6 => {
            Subnet::new(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8)
        }
    }
    .expect("prefixes of the families")
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, target: &str) -> HostPort {
        HostPort {
            protocol: Protocol::Sctp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            port: 0x1234,
            target: target.parse().unwrap(),
        }
    }

    #[test]
    fn elements_are_padded() {
        let (key, value) = port(None, "10.1.2.3:80").element();
        assert_eq!(key, [132, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(value, [10, 1, 2, 3, 0, 80, 0, 0]);
        let (key, value) = port(Some("fd00::1"), "[fd00::2]:80").element();
        assert_eq!((key.len(), value.len()), (24, 20));
        assert_eq!(key[16..], [132, 0, 0, 0, 0x12, 0x34, 0, 0]);
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
