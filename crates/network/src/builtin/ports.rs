//! Host ports and masquerade: the rules of the built-in network, all in a table of ours.
//!
//! Host ports are elements of two maps (with and without an address of the host), so
//! that a pod's coming and going changes elements, never rules. The table follows from
//! what is held in memory here: where the kernel's copy disagrees (another program
//! flushed it, a crash left something) it is made anew in one transaction.
//!
//! Only what is addressed to the host itself is captured; nobody else's chain is touched.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Mutex, MutexGuard, PoisonError},
};

use types::{PortMapping, Protocol, SandboxId};

use crate::{
    BuiltinOptions, NetworkError,
    netlink::{
        conntrack,
        nft::{self, Element, Expression, Hook, REGISTER_KEY, REGISTER_VALUE, Transaction},
        route::Routes,
    },
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
/// `IPS_DST_NAT`.
const STATUS_DESTINATION_CHANGED: u32 = 1 << 5;

/// A port of the host that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) port: u16,
    pub(crate) target: SocketAddrV4,
}

impl HostPort {
    /// Reads a mapping. `None` where nothing is to be mapped: port 0, or an IPv6 address
    /// of the host, which this IPv4 network does not serve.
    ///
    /// # Errors
    ///
    /// What is wrong with the host's address or the container's port.
    pub(crate) fn from_mapping(
        mapping: &PortMapping,
        pod: Ipv4Addr,
    ) -> Result<Option<Self>, String> {
        if mapping.host_port == 0 {
            return Ok(None);
        }
        if mapping.container_port == 0 {
            return Err(format!("host port {} leads to container port 0", mapping.host_port));
        }
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(std::net::IpAddr::V4(ip)) => Some(ip).filter(|ip| !ip.is_unspecified()),
                Ok(std::net::IpAddr::V6(ip)) if ip.is_unspecified() => None,
                Ok(std::net::IpAddr::V6(ip)) => {
                    let port = mapping.host_port;
                    tracing::warn!(%ip, port, "the built-in network maps no port of IPv6");
                    return Ok(None);
                }
                Err(_) => return Err(format!("host address {text:?} is no address")),
            },
        };
        Ok(Some(Self {
            protocol: mapping.protocol,
            host_ip,
            port: mapping.host_port,
            target: SocketAddrV4::new(pod, mapping.container_port),
        }))
    }

    fn clashes(&self, other: &Self) -> bool {
        let addresses = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        addresses && self.protocol == other.protocol && self.port == other.port
    }

    fn map(&self) -> &'static str {
        if self.host_ip.is_some() { ONE } else { ANY }
    }

    /// Returns key and value as the maps hold them: every field padded to four bytes.
    fn element(&self) -> Element {
        let mut key = Vec::with_capacity(12);
        if let Some(ip) = self.host_ip {
            key.extend_from_slice(&ip.octets());
        }
        let [high, low] = self.port.to_be_bytes();
        key.extend_from_slice(&[protocol_number(self.protocol), 0, 0, 0, high, low, 0, 0]);
        let mut value = self.target.ip().octets().to_vec();
        let [high, low] = self.target.port().to_be_bytes();
        value.extend_from_slice(&[high, low, 0, 0]);
        (key, value)
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Ports {
    options: BuiltinOptions,
    held: Mutex<BTreeMap<SandboxId, Vec<HostPort>>>,
}

impl Ports {
    /// Names the table; it is made with the first pod.
    pub(crate) fn new(options: &BuiltinOptions) -> Self {
        Self { options: options.clone(), held: Mutex::default() }
    }

    /// Maps a pod's ports, and makes the table where it is missing.
    pub(crate) fn add(&self, id: &SandboxId, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let mut held = self.held();
        refuse_clashes(&held, id, &ports)?;
        let before = held.insert(id.clone(), ports.clone());
        let added = self.add_elements(&held, before.is_some(), &ports);
        match added {
            Ok(()) => forget_flows_to_host(&ports),
            Err(_) => drop(held.remove(id)),
        }
        added
    }

    /// Takes a pod's ports away.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let mut held = self.held();
        let Some(ports) = held.get(id).filter(|ports| !ports.is_empty()).cloned() else {
            held.remove(id);
            return Ok(());
        };
        let mut transaction = Transaction::on(&self.options.table);
        change(&mut transaction, &ports, Transaction::delete_elements);
        match transaction.commit() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut left = held.clone();
                left.remove(id);
                self.rebuild(&left)?;
            }
            other => other.map_err(self.failed("remove host ports"))?,
        }
        held.remove(id);
        forget_flows_to_pod(&ports);
        Ok(())
    }

    /// Makes the table anew from what the records of known pods tell. What is held
    /// already of a known pod is newer than its record, and stays.
    pub(crate) fn restore(
        &self,
        mut ports: BTreeMap<SandboxId, Vec<HostPort>>,
    ) -> Result<(), NetworkError> {
        let mut held = self.held();
        for (id, ports) in &mut ports {
            if let Some(newer) = held.remove(id) {
                *ports = newer;
            }
        }
        *held = ports;
        self.rebuild(&held)
    }

    /// Removes the table.
    pub(crate) fn remove_table(&self) -> Result<(), NetworkError> {
        let mut held = self.held();
        held.clear();
        if !nft::table_exists(&self.options.table).map_err(self.failed("look for rules"))? {
            return Ok(());
        }
        let mut transaction = Transaction::on(&self.options.table);
        transaction.ensure_table().delete_table();
        transaction.commit().map_err(self.failed("remove all rules"))
    }

    fn add_elements(
        &self,
        held: &BTreeMap<SandboxId, Vec<HostPort>>,
        known: bool,
        ports: &[HostPort],
    ) -> Result<(), NetworkError> {
        let table = &self.options.table;
        let exists = nft::table_exists(table).map_err(self.failed("look for rules"))?;
        if !exists || known {
            return self.rebuild(held);
        }
        let mut transaction = Transaction::on(table);
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

    fn rebuild(&self, held: &BTreeMap<SandboxId, Vec<HostPort>>) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.options.table);
        transaction.ensure_table().delete_table().ensure_table();
        add_maps(&mut transaction);
        add_guard(&mut transaction, &self.options);
        add_destination_nat(&mut transaction);
        add_source_nat(&mut transaction, &self.options);
        let all: Vec<HostPort> = held.values().flatten().cloned().collect();
        change(&mut transaction, &all, Transaction::add_elements);
        transaction.commit().map_err(self.failed("make rules"))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Vec<HostPort>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
        let table = self.options.table.clone();
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
            let host = own.iter().any(|link| link.address == flow.destination);
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
        let to = |port: &&HostPort| *port.target.ip() == flow.answers && port.port == flow.port;
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

fn refuse_clashes(
    held: &BTreeMap<SandboxId, Vec<HostPort>>,
    id: &SandboxId,
    ports: &[HostPort],
) -> Result<(), NetworkError> {
    let refuse = |port: &HostPort, holder: &SandboxId| NetworkError::HostPortInUse {
        port: format!("{}/{}", port.port, protocol_name(port.protocol)),
        holder: holder.clone(),
    };
    for (position, port) in ports.iter().enumerate() {
        if ports[..position].iter().any(|other| port.clashes(other)) {
            return Err(refuse(port, id));
        }
        for (holder, theirs) in held.iter().filter(|(holder, _)| *holder != id) {
            if theirs.iter().any(|other| port.clashes(other)) {
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
    for map in [ANY, ONE] {
        let elements: Vec<_> =
            ports.iter().filter(|port| port.map() == map).map(HostPort::element).collect();
        how(transaction, map, &elements);
    }
}

fn add_maps(transaction: &mut Transaction<'_>) {
    // Numbers by which `nft` shows types; those of a tuple are six bits each.
    const ADDRESS: u32 = 7;
    const PROTOCOL: u32 = 12;
    const PORT: u32 = 13;
    let target = (ADDRESS << 6 | PORT, 8);
    transaction.add_map(ANY, (PROTOCOL << 6 | PORT, 8), target);
    transaction.add_map(ONE, (ADDRESS << 12 | PROTOCOL << 6 | PORT, 12), target);
}

/// `route_localnet` on the bridge would let pods reach the host's own 127.0.0.1: what
/// they send there is dropped before anything else sees it.
fn add_guard(transaction: &mut Transaction<'_>, options: &BuiltinOptions) {
    let hook = Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW };
    transaction.add_chain("guard", hook);
    let mut rule = Expression::came_in_by(&options.bridge).to_vec();
    rule.extend(destination_in(Ipv4Addr::new(127, 0, 0, 0), 0xff00_0000, true));
    rule.push(Expression::Drop);
    transaction.add_rule("guard", &rule);
}

fn add_destination_nat(transaction: &mut Transaction<'_>) {
    for (chain, number) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        let hook = Hook { kind: "nat", number, priority: PRIORITY_DESTINATION_NAT };
        transaction.add_chain(chain, hook);
        let local = Expression::destination_is_local();
        let address = Expression::NetworkHeader { register: REGISTER_KEY, offset: 16, length: 4 };
        let mut rule = local.to_vec();
        rule.push(address);
        rule.extend(translate(ONE, REGISTER_KEY + 1));
        transaction.add_rule(chain, &rule);
        let mut rule = local.to_vec();
        rule.extend(translate(ANY, REGISTER_KEY));
        transaction.add_rule(chain, &rule);
    }
}

/// Looks protocol and port up, behind what is in the key already, and translates.
fn translate(map: &'static str, register: u32) -> [Expression; 4] {
    [
        Expression::transport_protocol(register),
        Expression::TransportHeader { register: register + 1, offset: 2, length: 2 },
        Expression::Lookup { map, key: REGISTER_KEY, value: REGISTER_VALUE },
        Expression::DestinationNat { address: REGISTER_VALUE, port: REGISTER_VALUE + 1 },
    ]
}

fn add_source_nat(transaction: &mut Transaction<'_>, options: &BuiltinOptions) {
    let chain = "postrouting";
    let hook = Hook { kind: "nat", number: POSTROUTING, priority: PRIORITY_SOURCE_NAT };
    transaction.add_chain(chain, hook);
    let subnet = options.subnet;
    let pods = |equal| destination_in(subnet.base(), subnet.mask(), equal);

    // Pods towards everything that is neither theirs nor multicast.
    let mut outwards = source_in(subnet.base(), subnet.mask()).to_vec();
    outwards.extend(pods(false));
    outwards.extend(destination_in(Ipv4Addr::new(224, 0, 0, 0), 0xf000_0000, false));
    outwards.push(Expression::Masquerade);
    transaction.add_rule(chain, &outwards);

    // Pods and 127.0.0.1 towards a pod by a host port: the answer must come back here.
    for (base, mask) in [(subnet.base(), subnet.mask()), (Ipv4Addr::LOCALHOST, 0xff00_0000)] {
        let bits = STATUS_DESTINATION_CHANGED.to_ne_bytes().to_vec();
        let mut back = Expression::goes_out_by(&options.bridge).to_vec();
        back.push(Expression::ConnectionStatus { register: 1 });
        back.push(Expression::Mask { register: 1, mask: bits.clone() });
        back.push(Expression::Equal { register: 1, value: bits });
        back.extend(source_in(base, mask));
        back.push(Expression::Masquerade);
        transaction.add_rule(chain, &back);
    }
}

fn source_in(base: Ipv4Addr, mask: u32) -> [Expression; 3] {
    address_in(12, base, mask, true)
}

fn destination_in(base: Ipv4Addr, mask: u32, equal: bool) -> [Expression; 3] {
    address_in(16, base, mask, equal)
}

fn address_in(offset: u32, base: Ipv4Addr, mask: u32, equal: bool) -> [Expression; 3] {
    let value = (base.to_bits() & mask).to_be_bytes().to_vec();
    let comparison = if equal {
        Expression::Equal { register: 1, value }
    } else {
        Expression::Differs { register: 1, value }
    };
    [
        Expression::NetworkHeader { register: 1, offset, length: 4 },
        Expression::Mask { register: 1, mask: mask.to_be_bytes().to_vec() },
        comparison,
    ]
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Returns the name that plugins and messages use.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

    fn mapping(host_port: u16, host_ip: &str) -> PortMapping {
        let (protocol, host_ip) = (Protocol::Tcp, host_ip.to_owned());
        PortMapping { protocol, container_port: 80, host_port, host_ip }
    }

    #[test]
    fn mappings_are_read() {
        let read = |port, ip| HostPort::from_mapping(&mapping(port, ip), POD);
        assert_eq!(read(0, ""), Ok(None));
        assert_eq!(read(8080, "fd00::1"), Ok(None));
        for all in ["", "0.0.0.0", "::"] {
            assert_eq!(read(8080, all).unwrap().unwrap().host_ip, None, "{all}");
        }
        let one = read(8080, "192.0.2.1").unwrap().unwrap();
        assert_eq!(one.host_ip, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert!(read(8080, "localhost").is_err());
        let zero = PortMapping { container_port: 0, ..mapping(8080, "") };
        assert!(HostPort::from_mapping(&zero, POD).is_err());
    }

    #[test]
    fn elements_have_the_layout_of_the_registers() {
        let port = HostPort::from_mapping(&mapping(0x1f90, "192.0.2.1"), POD).unwrap().unwrap();
        let (key, value) = port.element();
        assert_eq!(key, [192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(value, [10, 213, 0, 2, 0, 80, 0, 0]);
    }

    #[test]
    fn overlapping_ports_are_refused() {
        let port = |ip| HostPort::from_mapping(&mapping(80, ip), POD).unwrap().unwrap();
        let (holder, other) = (SandboxId::random(), SandboxId::random());
        let held = BTreeMap::from([(holder.clone(), vec![port("192.0.2.1")])]);
        assert!(refuse_clashes(&held, &other, &[port("192.0.2.2")]).is_ok());
        assert!(refuse_clashes(&held, &holder, &[port("192.0.2.1")]).is_ok());
        let refused = refuse_clashes(&held, &other, &[port("")]).unwrap_err();
        assert_eq!(refused.to_string(), format!("host port 80/tcp is taken by sandbox {holder}"));
        assert!(refuse_clashes(&BTreeMap::new(), &other, &[port(""), port("")]).is_err());
    }
}
