//! What the tables hold: from what pods need to one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use types::{Protocol, SandboxId};

use super::rules::{HostPort, NetworkRules, PodRules};
use crate::{
    Subnet,
    netlink::nft::{
        Element, Expression, Hook, REGISTER_KEY, REGISTER_VALUE, TableFamily, Transaction,
    },
    subnet::octets,
};

/// Ports of every address of the host.
const ANY: &str = "host_ports";
/// Ports of one address of the host.
const ONE: &str = "host_ip_ports";
/// Interfaces of pods that are held to a hardware address.
const HELD: &str = "held";
/// The addresses that they are held to.
const SENDERS: &str = "senders";

const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// The bytes that the name of an interface takes in a register.
const INTERFACE_BYTES: u32 = 16;

/// What all pods need.
pub(super) type Held = BTreeMap<SandboxId, PodRules>;
/// How elements are changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Returns what all networks need together.
pub(super) fn needs(held: &Held) -> NetworkRules {
    let mut all = NetworkRules::default();
    held.values().for_each(|rules| all.extend(&rules.network));
    all
}

/// Returns the tables that must be there.
pub(super) fn needed_tables(held: &Held) -> BTreeSet<TableFamily> {
    let needs = needs(held);
    let subnets = needs.masquerade.iter().chain(needs.back.iter().map(|back| &back.from));
    let mut tables: BTreeSet<TableFamily> =
        subnets.map(|subnet| TableFamily::of(subnet.address())).collect();
    tables.extend(held.values().flat_map(|rules| rules.ports.iter().map(HostPort::family)));
    if !needs.guard.is_empty() {
        tables.insert(TableFamily::Ipv4);
    }
    if needs.holds_to_mac {
        tables.insert(TableFamily::Bridge);
    }
    tables
}

/// Returns the maps and sets of a table.
pub(super) fn maps(family: TableFamily) -> &'static [&'static str] {
    match family {
        TableFamily::Ipv4 | TableFamily::Ipv6 => &[ANY, ONE],
        TableFamily::Bridge => &[HELD, SENDERS],
    }
}

/// Makes all tables that are needed anew, and removes those of `made` that are not needed
/// any more.
pub(super) fn build<'t>(
    table: &'t str,
    held: &Held,
    made: &BTreeSet<TableFamily>,
) -> Transaction<'t> {
    let (needs, needed) = (needs(held), needed_tables(held));
    let mut transaction = Transaction::on(table);
    for family in TableFamily::ALL {
        transaction.family(family);
        if needed.contains(&family) || made.contains(&family) {
            // Whether it is there or not, it is not there then.
            transaction.ensure_table().delete_table();
        }
        if !needed.contains(&family) {
            continue;
        }
        transaction.ensure_table();
        if family == TableFamily::Bridge {
            add_senders(&mut transaction);
            continue;
        }
        add_maps(&mut transaction, family);
        if family == TableFamily::Ipv4 {
            add_guard(&mut transaction, &needs.guard);
        }
        add_destination_nat(&mut transaction, family);
        add_source_nat(&mut transaction, family, &needs);
    }
    change(&mut transaction, held.values(), Change::Add);
    transaction
}

/// Changes the elements of pods.
pub(super) fn change<'a>(
    transaction: &mut Transaction<'_>,
    pods: impl IntoIterator<Item = &'a PodRules>,
    how: Change,
) {
    let mut lists: BTreeMap<(TableFamily, &str), Vec<Element>> = BTreeMap::new();
    for pod in pods {
        for port in &pod.ports {
            let map = if port.host_ip.is_some() { ONE } else { ANY };
            lists.entry((port.family(), map)).or_default().push(port_element(port));
        }
        if let Some(sender) = &pod.sender {
            let mut key = sender.interface.as_bytes().to_vec();
            key.resize(INTERFACE_BYTES as usize, 0);
            lists.entry((TableFamily::Bridge, HELD)).or_default().push((key.clone(), None));
            key.extend_from_slice(&sender.mac);
            key.extend_from_slice(&[0; 2]);
            lists.entry((TableFamily::Bridge, SENDERS)).or_default().push((key, None));
        }
    }
    for ((family, map), elements) in lists {
        transaction.family(family);
        match how {
            Change::Add => transaction.add_elements(map, &elements),
            Change::Remove => transaction.delete_elements(map, &elements),
        };
    }
}

/// Returns key and value as the maps hold them: every field padded to four bytes.
fn port_element(port: &HostPort) -> Element {
    let mut key = port.host_ip.map(octets).unwrap_or_default();
    let [high, low] = port.port.to_be_bytes();
    key.extend_from_slice(&[protocol_number(port.protocol), 0, 0, 0, high, low, 0, 0]);
    let mut value = octets(port.target.ip());
    let [high, low] = port.target.port().to_be_bytes();
    value.extend_from_slice(&[high, low, 0, 0]);
    (key, Some(value))
}

/// Registers of four bytes that an address takes.
fn address_registers(family: TableFamily) -> u32 {
    if family == TableFamily::Ipv6 { 4 } else { 1 }
}

/// Frames of pods that are held to a hardware address must come from it.
fn add_senders(transaction: &mut Transaction<'_>) {
    // Numbers by which `nft` shows types; those of a tuple are six bits each.
    const INTERFACE: u32 = 41;
    const HARDWARE: u32 = 9;
    // Where a frame's source is, and how long.
    const SOURCE: (u32, u32) = (6, 6);
    transaction.add_set(HELD, (INTERFACE, INTERFACE_BYTES));
    transaction.add_set(SENDERS, (INTERFACE << 6 | HARDWARE, INTERFACE_BYTES + 8));
    let hook = Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW };
    transaction.add_chain("senders", hook);
    let register = REGISTER_KEY + INTERFACE_BYTES / 4;
    let (offset, length) = SOURCE;
    transaction.add_rule(
        "senders",
        &[
            Expression::came_in(REGISTER_KEY),
            Expression::Member { set: HELD, key: REGISTER_KEY, inside: true },
            Expression::LinkHeader { register, offset, length },
            Expression::Member { set: SENDERS, key: REGISTER_KEY, inside: false },
            Expression::Drop,
        ],
    );
}

fn add_maps(transaction: &mut Transaction<'_>, family: TableFamily) {
    // Numbers by which `nft` shows types; those of a tuple are six bits each.
    const PROTOCOL: u32 = 12;
    const PORT: u32 = 13;
    let (address, length) = if family == TableFamily::Ipv6 { (8, 16) } else { (7, 4) };
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
        let mut rule = local.to_vec();
        rule.push(Expression::destination(family, REGISTER_KEY));
        rule.extend(translate(family, ONE, REGISTER_KEY + address_registers(family)));
        transaction.add_rule(chain, &rule);
        let mut rule = local.to_vec();
        rule.extend(translate(family, ANY, REGISTER_KEY));
        transaction.add_rule(chain, &rule);
    }
}

/// Looks protocol and port up, behind what is in the key already, and translates.
fn translate(family: TableFamily, map: &'static str, register: u32) -> [Expression; 4] {
    let port = REGISTER_VALUE + address_registers(family);
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
            (false, _) => Vec::new(),
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
    if family == TableFamily::Ipv6 {
        Subnet::new(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8)
    } else {
        Subnet::new(Ipv4Addr::new(224, 0, 0, 0).into(), 4)
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
    use crate::native::rules::tests::port;
    use crate::native::rules::{Back, Sender};

    #[test]
    fn elements_are_padded() {
        let (key, value) = port_element(&port(None, "10.1.2.3:80"));
        assert_eq!(key, [132, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(value.unwrap(), [10, 1, 2, 3, 0, 80, 0, 0]);
        let (key, value) = port_element(&port(Some("fd00::1"), "[fd00::2]:80"));
        assert_eq!((key.len(), value.unwrap().len()), (24, 20));
        assert_eq!(key[16..], [132, 0, 0, 0, 0x12, 0x34, 0, 0]);
    }

    #[test]
    fn a_table_is_there_only_for_what_is_in_it() {
        let one = |rules: PodRules| Held::from([(SandboxId::random(), rules)]);
        assert!(needed_tables(&one(PodRules::default())).is_empty());
        let ports = vec![port(None, "[fd00::2]:80")];
        let rules = PodRules { ports, ..PodRules::default() };
        assert_eq!(needed_tables(&one(rules)), BTreeSet::from([TableFamily::Ipv6]));
        let back = BTreeSet::from([Back {
            interface: "b0".to_owned(),
            from: "10.1.0.0/24".parse().unwrap(),
            all: false,
        }]);
        let network = NetworkRules { back, holds_to_mac: true, ..NetworkRules::default() };
        let sender = Some(Sender { interface: "v0".to_owned(), mac: [2; 6] });
        let rules = PodRules { network, sender, ..PodRules::default() };
        let held = one(rules);
        let tables = BTreeSet::from([TableFamily::Ipv4, TableFamily::Bridge]);
        assert_eq!(needed_tables(&held), tables);
        let built = build("t", &held, &BTreeSet::new());
        assert_eq!(built.added(TableFamily::Ipv6), Default::default());
        let bridge = built.added(TableFamily::Bridge);
        assert_eq!((bridge.rules, bridge.elements), (1, 2));
        let ipv4 = built.added(TableFamily::Ipv4);
        assert_eq!((ipv4.rules, ipv4.elements), (6, 0));
    }
}
