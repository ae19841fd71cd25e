//! nf_tables: tables of the families `ip`, `ip6` and `bridge`, their chains, maps, sets and
//! rules, as transactions.
//!
//! Attribute and key numbers are those of `linux/netfilter/nf_tables.h`.

use std::{collections::BTreeMap, io, net::IpAddr};

use super::{Attributes, Family, Message, Reply, Socket, flags};
use crate::Subnet;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_BRIDGE: u8 = 7;
const NFPROTO_IPV6: u8 = 10;
/// News of a table, chain, rule or set that is gone.
pub(super) const REMOVALS: [u16; 4] = [DELETE_TABLE, SUBSYSTEM | 5, SUBSYSTEM | 8, SUBSYSTEM | 11];
/// The attribute that names the table, in news of whatever kind.
pub(super) const TABLE_OF_ANY: u16 = 1;
/// Length of `nfgenmsg`.
pub(super) const HEADER: usize = 4;
/// Elements of one message: each takes below 64 bytes, and a nested attribute holds
/// below 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// The first 4-byte register; keys of maps are laid out from here.
pub(crate) const REGISTER_KEY: u32 = 8;
/// The first register behind the longest key of IPv4, and behind that of IPv6: six
/// registers of the sixteen; values of maps are laid out from here.
pub(crate) const REGISTER_VALUE: u32 = 16;
/// `NF_INET_FORWARD`.
const HOOK_FORWARD: u32 = 2;

/// A family of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TableFamily {
    /// `ip`.
    Ipv4,
    /// `ip6`.
    Ipv6,
    /// `bridge`: frames between ports.
    Bridge,
}

impl TableFamily {
    /// All.
    pub(crate) const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::Bridge];

    /// The family of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::Ipv6 } else { Self::Ipv4 }
    }

    fn number(self) -> u8 {
        match self {
            Self::Ipv4 => NFPROTO_IPV4,
            Self::Ipv6 => NFPROTO_IPV6,
            Self::Bridge => NFPROTO_BRIDGE,
        }
    }
}

/// Where source and destination lie in the network header, and how long they are.
fn address_fields(ipv6: bool) -> (u32, u32, u32) {
    if ipv6 { (8, 24, 16) } else { (12, 16, 4) }
}

/// Key and value of a map, or the key of a set, as they lie in registers.
pub(crate) type Element = (Vec<u8>, Option<Vec<u8>>);

/// How much a table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Of rules.
    pub(crate) rules: usize,
    /// Of elements, of all maps and sets together.
    pub(crate) elements: usize,
}

/// Where a chain is called by the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*`.
    pub(crate) number: u32,
    /// Lower ones come first.
    pub(crate) priority: i32,
}

/// Builds one transaction on the tables of one name.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    table: &'a str,
    family: TableFamily,
    messages: Vec<Message>,
    /// What is added, by table.
    added: BTreeMap<TableFamily, Extent>,
}

impl<'a> Transaction<'a> {
    /// Begins a transaction on the tables of a name, with that of IPv4.
    pub(crate) fn on(table: &'a str) -> Self {
        Self { table, family: TableFamily::Ipv4, messages: Vec::new(), added: BTreeMap::new() }
    }

    /// Goes on with the table of another family.
    pub(crate) fn family(&mut self, family: TableFamily) -> &mut Self {
        self.family = family;
        self
    }

    /// Makes the table unless it is there.
    pub(crate) fn ensure_table(&mut self) -> &mut Self {
        self.push(NEW_TABLE, flags::CREATE, |message, table| {
            message.text(1, table).be32(2, 0);
        })
    }

    /// Removes the table with all that it holds.
    pub(crate) fn delete_table(&mut self) -> &mut Self {
        self.push(DELETE_TABLE, 0, |message, table| {
            message.text(1, table);
        })
    }

    /// Makes a chain that the kernel calls; what it does not decide is accepted.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Hook) -> &mut Self {
        self.push(NEW_CHAIN, flags::CREATE, |message, table| {
            message.text(1, table).text(3, name);
            message.nest(4, |attributes| {
                attributes.be32(1, hook.number).attribute(2, &hook.priority.to_be_bytes());
            });
            message.be32(5, 1).text(7, hook.kind);
        })
    }

    /// Makes a map. Types are for those who list it; lengths are in bytes.
    pub(crate) fn add_map(&mut self, name: &str, key: (u32, u32), value: (u32, u32)) -> &mut Self {
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.push(NEW_SET, flags::CREATE, |message, table| {
            const MAP: u32 = 0x8;
            message.text(1, table).text(2, name).be32(3, MAP);
            message.be32(4, key.0).be32(5, key.1).be32(6, value.0).be32(7, value.1).be32(10, id);
        })
    }

    /// Makes a set. The type is for those who list it; the length is in bytes.
    pub(crate) fn add_set(&mut self, name: &str, key: (u32, u32)) -> &mut Self {
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.push(NEW_SET, flags::CREATE, |message, table| {
            message.text(1, table).text(2, name).be32(3, 0);
            message.be32(4, key.0).be32(5, key.1).be32(10, id);
        })
    }

    /// Returns what the transaction adds to a table.
    pub(crate) fn added(&self, family: TableFamily) -> Extent {
        self.added.get(&family).copied().unwrap_or_default()
    }

    /// Appends a rule.
    pub(crate) fn add_rule(&mut self, chain: &str, expressions: &[Expression]) -> &mut Self {
        self.added.entry(self.family).or_default().rules += 1;
        self.push(NEW_RULE, flags::CREATE | flags::APPEND, |message, table| {
            message.text(1, table).text(2, chain).nest(4, |list| {
                for expression in expressions {
                    expression.write(list);
                }
            });
        })
    }

    /// Adds elements to a map; the transaction fails where one is there already.
    pub(crate) fn add_elements(&mut self, map: &str, elements: &[Element]) -> &mut Self {
        self.added.entry(self.family).or_default().elements += elements.len();
        self.elements(NEW_ELEMENT, flags::CREATE | flags::EXCL, map, elements)
    }

    /// Removes elements from a map; the transaction fails where one is not there.
    pub(crate) fn delete_elements(&mut self, map: &str, elements: &[Element]) -> &mut Self {
        self.elements(DELETE_ELEMENT, 0, map, elements)
    }

    /// Hands the transaction to the kernel: all of it, or nothing.
    pub(crate) fn commit(self) -> io::Result<()> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let header = [0, 0, 0, 10];
        let (begin, end) =
            (Message::new(BATCH_BEGIN, 0, &header), Message::new(BATCH_END, 0, &header));
        with_socket(|socket| socket.transact(begin, self.messages, end))
    }

    fn elements(&mut self, kind: u16, flags: u16, map: &str, elements: &[Element]) -> &mut Self {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(kind, flags, |message, table| {
                message.text(1, table).text(2, map).nest(3, |list| {
                    for (key, value) in chunk {
                        list.nest(1, |element| {
                            element.nest(1, |data| {
                                data.attribute(1, key);
                            });
                            if let Some(value) = value {
                                element.nest(2, |data| {
                                    data.attribute(1, value);
                                });
                            }
                        });
                    }
                });
            });
        }
        self
    }

    fn push(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Message, &str)) -> &mut Self {
        let mut message = Message::new(kind, flags, &[self.family.number(), 0, 0, 0]);
        fill(&mut message, self.table);
        self.messages.push(message);
        self
    }
}

/// What a rule does with a packet, step by step: comparisons that do not hold end it.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    /// Loads bytes of the link's header.
    LinkHeader { register: u32, offset: u32, length: u32 },
    /// Loads bytes of the network header.
    NetworkHeader { register: u32, offset: u32, length: u32 },
    /// Loads bytes of the transport header.
    TransportHeader { register: u32, offset: u32, length: u32 },
    /// Loads what the kernel knows of the packet.
    Meta { register: u32, key: u32 },
    /// Loads the connection's status bits.
    ConnectionStatus { register: u32 },
    /// Loads the type of the destination address (local, broadcast, ...).
    DestinationType { register: u32 },
    /// Masks bits of a register.
    Mask { register: u32, mask: Vec<u8> },
    /// Goes on where the register equals the value.
    Equal { register: u32, value: Vec<u8> },
    /// Goes on where the register differs from the value.
    Differs { register: u32, value: Vec<u8> },
    /// Looks a key up and loads the map's value; ends the rule where there is none.
    Lookup { map: &'static str, key: u32, value: u32 },
    /// Goes on where the key is in the set, or where it is not.
    Member { set: &'static str, key: u32, inside: bool },
    /// Changes destination address and port to those in registers.
    DestinationNat { family: TableFamily, address: u32, port: u32 },
    /// Changes the source address to that of the outgoing interface.
    Masquerade,
    /// Ends the packet.
    Drop,
}

impl Expression {
    /// Goes on where the destination is an address of the host.
    pub(crate) fn destination_is_local() -> [Self; 2] {
        const RTN_LOCAL: u32 = 2;
        [
            Self::DestinationType { register: 1 },
            Self::Equal { register: 1, value: RTN_LOCAL.to_ne_bytes().to_vec() },
        ]
    }

    /// Loads the number of the transport protocol.
    pub(crate) fn transport_protocol(register: u32) -> Self {
        Self::Meta { register, key: 16 }
    }

    /// Loads the name of the interface that the packet came in by.
    pub(crate) fn came_in(register: u32) -> Self {
        Self::Meta { register, key: 6 }
    }

    /// Goes on where the packet came in by an interface.
    pub(crate) fn came_in_by(interface: &str) -> [Self; 2] {
        Self::interface_is(6, interface)
    }

    /// Goes on where the packet leaves by an interface.
    pub(crate) fn goes_out_by(interface: &str) -> [Self; 2] {
        Self::interface_is(7, interface)
    }

    /// Goes on where the source lies in a subnet.
    pub(crate) fn source_in(subnet: Subnet) -> [Self; 3] {
        let (source, _, length) = address_fields(subnet.is_ipv6());
        Self::address_in(subnet, source, length, true)
    }

    /// Goes on where the destination lies in a subnet, or where it does not.
    pub(crate) fn destination_in(subnet: Subnet, inside: bool) -> [Self; 3] {
        let (_, destination, length) = address_fields(subnet.is_ipv6());
        Self::address_in(subnet, destination, length, inside)
    }

    /// Loads the destination address.
    pub(crate) fn destination(family: TableFamily, register: u32) -> Self {
        let (_, offset, length) = address_fields(family == TableFamily::Ipv6);
        Self::NetworkHeader { register, offset, length }
    }

    /// Goes on where the connection's destination has been changed.
    pub(crate) fn destination_was_changed() -> [Self; 3] {
        // IPS_DST_NAT.
        let bits = (1u32 << 5).to_ne_bytes().to_vec();
        [
            Self::ConnectionStatus { register: 1 },
            Self::Mask { register: 1, mask: bits.clone() },
            Self::Equal { register: 1, value: bits },
        ]
    }

    fn address_in(subnet: Subnet, offset: u32, length: u32, inside: bool) -> [Self; 3] {
        let (value, mask) = subnet.base_and_mask();
        let comparison = if inside {
            Self::Equal { register: 1, value }
        } else {
            Self::Differs { register: 1, value }
        };
        [
            Self::NetworkHeader { register: 1, offset, length },
            Self::Mask { register: 1, mask },
            comparison,
        ]
    }

    fn interface_is(key: u32, interface: &str) -> [Self; 2] {
        const IFNAMSIZ: usize = 16;
        let mut name = interface.as_bytes().to_vec();
        name.resize(IFNAMSIZ, 0);
        [Self::Meta { register: 1, key }, Self::Equal { register: 1, value: name }]
    }

    fn write(&self, list: &mut Message) {
        list.nest(1, |element| {
            element.text(1, self.name()).nest(2, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::LinkHeader { .. } | Self::NetworkHeader { .. } | Self::TransportHeader { .. } => {
                "payload"
            }
            Self::Meta { .. } => "meta",
            Self::ConnectionStatus { .. } => "ct",
            Self::DestinationType { .. } => "fib",
            Self::Mask { .. } => "bitwise",
            Self::Equal { .. } | Self::Differs { .. } => "cmp",
            Self::Lookup { .. } | Self::Member { .. } => "lookup",
            Self::DestinationNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Drop => "immediate",
        }
    }

    fn write_data(&self, data: &mut Message) {
        match self {
            Self::LinkHeader { register, offset, length } => {
                data.be32(1, *register).be32(2, 0).be32(3, *offset).be32(4, *length);
            }
            Self::NetworkHeader { register, offset, length } => {
                data.be32(1, *register).be32(2, 1).be32(3, *offset).be32(4, *length);
            }
            Self::TransportHeader { register, offset, length } => {
                data.be32(1, *register).be32(2, 2).be32(3, *offset).be32(4, *length);
            }
            Self::Meta { register, key } => {
                data.be32(2, *key).be32(1, *register);
            }
            Self::ConnectionStatus { register } => {
                data.be32(1, *register).be32(2, 2);
            }
            Self::DestinationType { register } => {
                const ADDRESS_TYPE: u32 = 3;
                const OF_DESTINATION: u32 = 2;
                data.be32(1, *register).be32(2, ADDRESS_TYPE).be32(3, OF_DESTINATION);
            }
            Self::Mask { register, mask } => {
                let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
                data.be32(1, *register).be32(2, *register).be32(3, length);
                data.nest(4, |value| {
                    value.attribute(1, mask);
                });
                data.nest(5, |value| {
                    value.attribute(1, &vec![0; mask.len()]);
                });
            }
            Self::Equal { register, value } => write_comparison(data, *register, 0, value),
            Self::Differs { register, value } => write_comparison(data, *register, 1, value),
            Self::Lookup { map, key, value } => {
                data.text(1, map).be32(2, *key).be32(3, *value);
            }
            Self::Member { set, key, inside } => {
                data.text(1, set).be32(2, *key).be32(5, u32::from(!inside));
            }
            Self::DestinationNat { family, address, port } => {
                const DESTINATION: u32 = 1;
                data.be32(1, DESTINATION).be32(2, u32::from(family.number()));
                data.be32(3, *address).be32(4, *address).be32(5, *port).be32(6, *port);
            }
            Self::Masquerade => {}
            Self::Drop => {
                data.be32(1, 0).nest(2, |value| {
                    value.nest(2, |verdict| {
                        verdict.be32(1, 0);
                    });
                });
            }
        }
    }
}

fn write_comparison(data: &mut Message, register: u32, operator: u32, value: &[u8]) {
    data.be32(1, register).be32(2, operator).nest(3, |wanted| {
        wanted.attribute(1, value);
    });
}

/// Talks to nf_tables over a socket whose end nobody waits for.
fn with_socket<T>(talk: impl FnOnce(&mut Socket) -> io::Result<T>) -> io::Result<T> {
    let mut socket = Socket::open(Family::Netfilter)?;
    let result = talk(&mut socket);
    socket.close_apart();
    result
}

/// Reports whether a table is there; a kernel without nf_tables has none.
pub(crate) fn table_exists(family: TableFamily, table: &str) -> io::Result<bool> {
    use rustix::io::Errno;

    let mut message = Message::new(GET_TABLE, 0, &[family.number(), 0, 0, 0]);
    message.text(1, table);
    match with_socket(|socket| socket.request(message)) {
        Ok(_) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Returns how much a table holds in its rules and in these maps and sets; nothing where it
/// is not there.
pub(crate) fn extent(family: TableFamily, table: &str, maps: &[&str]) -> io::Result<Extent> {
    let header = [family.number(), 0, 0, 0];
    with_socket(|socket| {
        let mut message = Message::new(GET_RULE, 0, &header);
        message.text(1, table);
        let replies = socket.dump(&message)?;
        let named = |reply: &&Reply| {
            let name = reply.payload.get(HEADER..).and_then(|bytes| Attributes(bytes).text(1));
            reply.kind == NEW_RULE && name.as_deref() == Some(table)
        };
        let rules = replies.iter().filter(named).count();
        let mut elements = 0;
        for map in maps {
            let mut message = Message::new(GET_ELEMENT, 0, &header);
            message.text(1, table).text(2, map);
            match socket.dump(&message) {
                Ok(replies) => elements += replies.iter().map(count_elements).sum::<usize>(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Extent { rules, elements })
    })
}

fn count_elements(reply: &Reply) -> usize {
    let list = reply.payload.get(HEADER..).and_then(|bytes| Attributes(bytes).find(3));
    list.map_or(0, |list| Attributes(list).count())
}

/// A chain that sees what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardChain {
    /// Table and chain.
    pub(crate) name: String,
    /// Whether it drops what no rule of its own accepts: no accept in another table
    /// overrides that.
    pub(crate) drops: bool,
}

/// Returns the chains that see what is forwarded.
pub(crate) fn forward_chains() -> io::Result<Vec<ForwardChain>> {
    let message = Message::new(GET_CHAIN, 0, &[0, 0, 0, 0]);
    let replies = with_socket(|socket| socket.dump(&message))?;
    Ok(replies.iter().filter_map(|reply| read_forward_chain(reply.kind, &reply.payload)).collect())
}

/// Reports whether a message tells of a chain that sees what is forwarded.
pub(super) fn is_forward_chain(kind: u16, payload: &[u8]) -> bool {
    read_forward_chain(kind, payload).is_some()
}

fn read_forward_chain(kind: u16, payload: &[u8]) -> Option<ForwardChain> {
    let routed = matches!(*payload.first()?, NFPROTO_INET | NFPROTO_IPV4 | NFPROTO_IPV6);
    let attributes = Attributes(payload.get(HEADER..)?);
    let hook = Attributes(attributes.clone().find(4)?).find(1).and_then(be32_of)?;
    let drops = attributes.clone().find(5).and_then(be32_of) == Some(0);
    let name = format!("{} {}", attributes.clone().text(1)?, attributes.text(3)?);
    (kind == NEW_CHAIN && routed && hook == HOOK_FORWARD).then_some(ForwardChain { name, drops })
}

fn be32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}
