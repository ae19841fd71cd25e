//! Links, addresses and routes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use super::{Attributes, Family, Message, Reply, Socket, flags, u32_of};
use crate::{
    InterfaceUsage,
    subnet::{Subnet, bits, octets},
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// The address is usable at once: nobody else can have it.
const IFA_F_NODAD: u32 = 2;
/// Another one has the address.
const IFA_F_DADFAILED: u32 = 8;
/// It is not known yet whether another one has it.
const IFA_F_TENTATIVE: u32 = 0x40;
/// The address does not expire.
const IFA_F_PERMANENT: u32 = 0x80;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// Length of `ifinfomsg`.
pub(super) const LINK_HEADER: usize = 16;
/// Length of `ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// Length of `rtmsg`.
const ROUTE_HEADER: usize = 12;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The interface's number in its namespace.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// What its maker wrote on it.
    pub(crate) alias: String,
    /// The bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// Its largest packet.
    pub(crate) mtu: u32,
    /// Its driver: `bridge`, `veth`, or empty.
    pub(crate) kind: String,
    /// Its hardware address, where that is one of Ethernet.
    pub(crate) mac: Option<Mac>,
    /// The other end of a pair, or what it lies on.
    pub(crate) other: Option<u32>,
    /// The VLAN that ports of a bridge are in by themselves.
    pub(crate) default_vlan: Option<u16>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    /// The interface's number.
    pub(crate) index: u32,
    /// The address with its prefix.
    pub(crate) address: Subnet,
}

/// How far a route's destination is (`RT_SCOPE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Behind a gateway.
    Universe = 0,
    /// On the link.
    Link = 253,
    /// On this host.
    Host = 254,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Whom it leads to.
    pub(crate) destination: Subnet,
    /// By which router.
    pub(crate) gateway: Option<IpAddr>,
    /// Out of which interface.
    pub(crate) index: u32,
    /// How far it is.
    pub(crate) scope: Scope,
    /// The source address of packets that begin here.
    pub(crate) source: Option<IpAddr>,
}

/// What is to be changed of an interface.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkChange {
    /// Set it up.
    pub(crate) up: bool,
    /// The largest packet.
    pub(crate) mtu: Option<u32>,
    /// The hardware address.
    pub(crate) mac: Option<Mac>,
    /// Whether all packets are taken.
    pub(crate) promiscuous: Option<bool>,
    /// Whether all multicast is taken.
    pub(crate) all_multicast: Option<bool>,
}

/// A pair of interfaces to be made.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    /// The host end's name.
    pub(crate) host_name: &'a str,
    /// The bridge that the host end joins.
    pub(crate) master: Option<u32>,
    /// The pod end's name.
    pub(crate) peer_name: &'a str,
    /// The pod's network namespace.
    pub(crate) peer_netns: BorrowedFd<'a>,
    /// The pod end's hardware address.
    pub(crate) peer_mac: Mac,
    /// The largest packet of both, or the kernel's choice.
    pub(crate) mtu: Option<u32>,
}

/// The routing tables and interfaces of one network namespace.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(super) socket: Socket,
}

impl Routes {
    /// Opens those of the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Family::Route)? })
    }

    /// Returns the interface of a name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        self.one_link(message)
    }

    /// Returns the interface of a number.
    pub(crate) fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.one_link(Message::new(RTM_GETLINK, 0, &link_header(index, 0, 0)))
    }

    /// Returns the ports of a bridge.
    pub(crate) fn ports(&mut self, bridge: u32) -> io::Result<Vec<Link>> {
        let mut message = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0));
        // The kernel filters by it; what it sends is filtered again in case it did not.
        message.u32(IFLA_MASTER, bridge);
        let replies = self.socket.dump(&message)?;
        let links = replies.iter().filter_map(parse_link);
        Ok(links.filter(|link| link.master == Some(bridge)).collect())
    }

    /// Returns what all interfaces but the loopback have carried.
    pub(crate) fn counters(&mut self) -> io::Result<Vec<InterfaceUsage>> {
        let message = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0));
        Ok(self.socket.dump(&message)?.iter().filter_map(parse_counters).collect())
    }

    /// Makes a bridge that is down, which keeps VLANs apart if `vlans`.
    pub(crate) fn create_bridge(
        &mut self,
        name: &str,
        mac: Option<Mac>,
        mtu: Option<u32>,
        vlans: bool,
    ) -> io::Result<()> {
        let mut message =
            Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        add_mac_and_mtu(&mut message, mac, mtu);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge");
            if vlans {
                info.nest(IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_BR_VLAN_FILTERING, &[1]);
                });
            }
        });
        self.socket.request(message).map(drop)
    }

    /// Makes a pair of interfaces of this namespace that are down; the kernel names the
    /// other end.
    pub(crate) fn create_wire(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        let header = link_header(0, 0, 0);
        let mut message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &header);
        message.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&header).u32(IFLA_MTU, mtu);
                });
            });
        });
        self.socket.request(message).map(drop)
    }

    /// Makes an interface a port of a bridge, up.
    pub(crate) fn join(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP));
        message.u32(IFLA_MASTER, bridge);
        self.socket.request(message).map(drop)
    }

    /// Makes an interface that packets are sent round by (`ifb`), up.
    pub(crate) fn create_ifb(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        let header = link_header(0, IFF_UP, IFF_UP);
        let mut message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &header);
        message.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "ifb");
        });
        self.socket.request(message).map(drop)
    }

    /// Makes a pair of interfaces that are down: the host end a port of the bridge, the pod
    /// end in the pod's namespace. The host end is to be set up after the pod end: without
    /// a carrier the kernel would stop it again, and wait for all processors with it.
    pub(crate) fn create_veth(&mut self, pair: &VethPair<'_>) -> io::Result<()> {
        let netns = u32::try_from(pair.peer_netns.as_raw_fd()).map_err(io::Error::other)?;
        let header = link_header(0, 0, 0);
        let mut message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &header);
        message.text(IFLA_IFNAME, pair.host_name);
        add_mac_and_mtu(&mut message, None, pair.mtu);
        message.u32(IFLA_TXQLEN, 0);
        if let Some(master) = pair.master {
            message.u32(IFLA_MASTER, master);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, pair.peer_name);
                    add_mac_and_mtu(peer, Some(pair.peer_mac), pair.mtu);
                    peer.u32(IFLA_TXQLEN, 0).u32(IFLA_NET_NS_FD, netns);
                });
            });
        });
        self.socket.request(message).map(drop)
    }

    /// Writes an alias on an interface.
    pub(crate) fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.attribute(IFLA_IFALIAS, alias.as_bytes());
        self.socket.request(message).map(drop)
    }

    /// Writes an alias on a port of a bridge; with `hairpin` it sends back to where a
    /// packet came from (a pod that reaches itself by a host port).
    pub(crate) fn set_port(&mut self, index: u32, alias: &str, hairpin: bool) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.attribute(IFLA_IFALIAS, alias.as_bytes()).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_MODE, &[u8::from(hairpin)]);
            });
        });
        self.socket.request(message).map(drop)
    }

    /// Sets an interface up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.change_link(index, LinkChange { up: true, ..LinkChange::default() })
    }

    /// Sets `lo` up and gives an interface addresses, then sets it up, in one request. Those
    /// of IPv6 are usable at once, or the kernel looks for duplicates if `tentative`.
    pub(crate) fn set_up_with(
        &mut self,
        index: u32,
        addresses: impl Iterator<Item = Subnet>,
        tentative: bool,
    ) -> io::Result<()> {
        let mut lo = Message::new(RTM_NEWLINK, 0, &link_header(0, IFF_UP, IFF_UP));
        lo.text(IFLA_IFNAME, "lo");
        let create = flags::CREATE | flags::EXCL;
        let of_ipv6 = if tentative { 0 } else { IFA_F_NODAD };
        let address = |address| LinkAddress { index, address };
        let addresses =
            addresses.map(|one| address_message(RTM_NEWADDR, create, address(one), of_ipv6));
        let up = Message::new(RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP));
        let messages = std::iter::once(lo).chain(addresses).chain([up]);
        self.socket.request_all(messages.collect())
    }

    /// Makes routes in one request; those that are there already are no error.
    pub(crate) fn add_routes(&mut self, routes: &[Route]) -> io::Result<()> {
        let create = flags::CREATE | flags::EXCL;
        let messages = routes.iter().map(|route| route_message(RTM_NEWROUTE, create, route));
        self.socket.request_all(messages.collect())
    }

    /// Changes an interface.
    pub(crate) fn change_link(&mut self, index: u32, change: LinkChange) -> io::Result<()> {
        let mut values = 0;
        let mut mask = 0;
        let wanted = [
            (IFF_UP, change.up.then_some(true)),
            (IFF_PROMISC, change.promiscuous),
            (IFF_ALLMULTI, change.all_multicast),
        ];
        for (flag, value) in wanted {
            let Some(value) = value else { continue };
            mask |= flag;
            values |= if value { flag } else { 0 };
        }
        let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, values, mask));
        add_mac_and_mtu(&mut message, change.mac, change.mtu);
        self.socket.request(message).map(drop)
    }

    /// Removes the interface of a name; one that is not there is no error.
    pub(crate) fn delete_link(&mut self, name: &str) -> io::Result<()> {
        let mut message = Message::new(RTM_DELLINK, 0, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.socket.request(message) {
            Err(error) if is_no_device(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Gives an interface an address; one that it has already is no error. Duplicates are
    /// not looked for: the address manager knows that there are none.
    pub(crate) fn add_address(&mut self, wanted: LinkAddress) -> io::Result<()> {
        let message =
            address_message(RTM_NEWADDR, flags::CREATE | flags::EXCL, wanted, IFA_F_NODAD);
        ignore_existing(self.socket.request(message))
    }

    /// Reports whether the kernel has looked for duplicates of all addresses of an interface.
    ///
    /// # Errors
    ///
    /// Where another one has an address.
    pub(crate) fn is_settled(&mut self, index: u32) -> io::Result<bool> {
        let message = Message::new(RTM_GETADDR, 0, &[AF_INET6, 0, 0, 0, 0, 0, 0, 0]);
        for reply in self.socket.dump(&message)? {
            let Some(address) = parse_address(&reply).filter(|one| one.index == index) else {
                continue;
            };
            let attributes = Attributes(reply.payload.get(ADDRESS_HEADER..).unwrap_or_default());
            let state = attributes.find(IFA_FLAGS).and_then(u32_of).unwrap_or_default();
            if state & IFA_F_DADFAILED != 0 {
                let text = format!("{} is another one's address too", address.address.address());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            if state & IFA_F_TENTATIVE != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes an address from an interface.
    pub(crate) fn delete_address(&mut self, gone: LinkAddress) -> io::Result<()> {
        self.socket.request(address_message(RTM_DELADDR, 0, gone, IFA_F_NODAD)).map(drop)
    }

    /// Moves an interface into another namespace, where it has another name and is down.
    pub(crate) fn move_link(
        &mut self,
        index: u32,
        name: &str,
        netns: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let netns = u32::try_from(netns.as_raw_fd()).map_err(io::Error::other)?;
        let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.u32(IFLA_NET_NS_FD, netns).text(IFLA_IFNAME, name);
        self.socket.request(message).map(drop)
    }

    /// Returns the addresses of an interface that somebody gave it and that reach beyond the
    /// link: neither those that expire nor those that the kernel makes by itself.
    pub(crate) fn lasting_addresses(&mut self, index: u32) -> io::Result<Vec<Subnet>> {
        let message = Message::new(RTM_GETADDR, 0, &[0; ADDRESS_HEADER]);
        let replies = self.socket.dump(&message)?;
        let lasts = |reply: &&Reply| {
            let header = reply.payload.get(..ADDRESS_HEADER).unwrap_or_default();
            let attributes = Attributes(reply.payload.get(ADDRESS_HEADER..).unwrap_or_default());
            let flags = attributes.find(IFA_FLAGS).and_then(u32_of).unwrap_or_default();
            flags & IFA_F_PERMANENT != 0 && header.get(3) == Some(&(Scope::Universe as u8))
        };
        let lasting = replies.iter().filter(lasts).filter_map(parse_address);
        Ok(lasting.filter(|one| one.index == index).map(|one| one.address).collect())
    }

    /// Returns the addresses of all interfaces.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<LinkAddress>> {
        let message = Message::new(RTM_GETADDR, 0, &[0; ADDRESS_HEADER]);
        Ok(self.socket.dump(&message)?.iter().filter_map(parse_address).collect())
    }

    /// Makes a route; one that is there already is no error.
    pub(crate) fn add_route(&mut self, route: Route) -> io::Result<()> {
        let flags = flags::CREATE | flags::EXCL;
        ignore_existing(self.socket.request(route_message(RTM_NEWROUTE, flags, &route)))
    }

    /// Removes the route that the kernel made with an address; none is no error.
    pub(crate) fn delete_link_route(&mut self, destination: Subnet, index: u32) -> io::Result<()> {
        // RT_SCOPE_NOWHERE: whatever its scope is.
        const ANY_SCOPE: u8 = 255;
        let mut header = route_header(destination, Scope::Link);
        (header[5], header[6], header[7]) = (0, ANY_SCOPE, 0);
        let mut message = Message::new(RTM_DELROUTE, 0, &header);
        message.attribute(RTA_DST, &octets(destination.base())).u32(RTA_OIF, index);
        match self.socket.request(message) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Returns the number of the interface that the default route leads to.
    pub(crate) fn default_route_link(&mut self) -> io::Result<Option<u32>> {
        let routes = self.routes()?;
        let default = routes.iter().find(|route| route.destination.prefix() == 0);
        Ok(default.map(|route| route.index))
    }

    /// Returns the unicast routes of the main table, IPv4 first.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut header = [0; ROUTE_HEADER];
            header[0] = family;
            match self.socket.dump(&Message::new(RTM_GETROUTE, 0, &header)) {
                Ok(replies) => routes.extend(replies.iter().filter_map(parse_route)),
                // A kernel without IPv6 has none.
                Err(error) if family == AF_INET => return Err(error),
                Err(_) => {}
            }
        }
        Ok(routes)
    }

    fn one_link(&mut self, message: Message) -> io::Result<Option<Link>> {
        match self.socket.request(message) {
            Ok(replies) => Ok(replies.iter().find_map(parse_link)),
            Err(error) if is_no_device(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Hears of interfaces that go, in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct GoneLinks {
    socket: Socket,
}

impl GoneLinks {
    /// Begins to hear, for at most `patience` at a time.
    pub(crate) fn hear(patience: Duration) -> io::Result<Self> {
        Ok(Self { socket: Socket::hear_links(patience)? })
    }

    /// Waits, and returns the names of interfaces that have gone; `None` where some may have
    /// been missed.
    pub(crate) fn wait(&mut self) -> Option<Vec<String>> {
        let mut names = Vec::new();
        let all = self.socket.wait_for_news(|kind, payload| {
            let attributes = payload.get(LINK_HEADER..).filter(|_| kind == RTM_DELLINK);
            names.extend(attributes.and_then(|bytes| Attributes(bytes).text(IFLA_IFNAME)));
        });
        all.then_some(names)
    }
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn ignore_existing(answer: io::Result<Vec<Reply>>) -> io::Result<()> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

pub(super) fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn parse_link(reply: &Reply) -> Option<Link> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let attributes = Attributes(reply.payload.get(LINK_HEADER..)?);
    let info = Attributes(attributes.clone().find(IFLA_LINKINFO).unwrap_or_default());
    let data = Attributes(info.clone().find(IFLA_INFO_DATA).unwrap_or_default());
    let kind = info.text(IFLA_INFO_KIND).unwrap_or_default();
    // Numbers of attributes are each driver's own.
    let default_vlan = data.find(IFLA_BR_VLAN_DEFAULT_PVID).filter(|_| kind == "bridge");
    Some(Link {
        index: u32_of(reply.payload.get(4..8)?)?,
        name: attributes.clone().text(IFLA_IFNAME)?,
        alias: attributes.clone().text(IFLA_IFALIAS).unwrap_or_default(),
        master: attributes.clone().find(IFLA_MASTER).and_then(u32_of),
        mtu: attributes.clone().find(IFLA_MTU).and_then(u32_of).unwrap_or_default(),
        kind,
        other: attributes.clone().find(IFLA_LINK).and_then(u32_of),
        default_vlan: default_vlan
            .and_then(|bytes| Some(u16::from_ne_bytes(bytes.try_into().ok()?))),
        mac: attributes.find(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()),
    })
}

fn parse_counters(reply: &Reply) -> Option<InterfaceUsage> {
    let flags = u32_of(reply.payload.get(8..12)?)?;
    if reply.kind != RTM_NEWLINK || flags & IFF_LOOPBACK != 0 {
        return None;
    }
    let attributes = Attributes(reply.payload.get(LINK_HEADER..)?);
    // `rtnl_link_stats64`: packets, bytes, errors, each received and sent.
    let stats = attributes.clone().find(IFLA_STATS64)?;
    let number = |at: usize| {
        let bytes = stats.get(at * 8..)?.get(..8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some(InterfaceUsage {
        name: attributes.text(IFLA_IFNAME)?,
        rx_bytes: number(2)?,
        tx_bytes: number(3)?,
        rx_errors: number(4)?,
        tx_errors: number(5)?,
    })
}

fn parse_address(reply: &Reply) -> Option<LinkAddress> {
    if reply.kind != RTM_NEWADDR {
        return None;
    }
    let attributes = Attributes(reply.payload.get(ADDRESS_HEADER..)?);
    let local = attributes.clone().find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
    let prefix = *reply.payload.get(1)?;
    let index = u32_of(reply.payload.get(4..8)?)?;
    Some(LinkAddress { index, address: Subnet::new(read_ip(local)?, prefix)? })
}

fn parse_route(reply: &Reply) -> Option<Route> {
    let header = reply.payload.get(..ROUTE_HEADER)?;
    let main = header[4] == RT_TABLE_MAIN && header[7] == RTN_UNICAST;
    if reply.kind != RTM_NEWROUTE || !main {
        return None;
    }
    let attributes = Attributes(reply.payload.get(ROUTE_HEADER..)?);
    let ip = |kind| attributes.clone().find(kind).and_then(read_ip);
    let unspecified: IpAddr = match header[0] {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let scope = match header[6] {
        253 => Scope::Link,
        254 => Scope::Host,
        _ => Scope::Universe,
    };
    Some(Route {
        destination: Subnet::new(ip(RTA_DST).unwrap_or(unspecified), header[1])?,
        gateway: ip(RTA_GATEWAY),
        index: attributes.clone().find(RTA_OIF).and_then(u32_of)?,
        scope,
        source: ip(RTA_PREFSRC),
    })
}

/// Reads an address as it lies in a packet.
pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

fn address_message(kind: u16, flags: u16, address: LinkAddress, of_ipv6: u32) -> Message {
    let LinkAddress { index, address } = address;
    let family = if address.is_ipv6() { AF_INET6 } else { AF_INET };
    let mut header = vec![family, address.prefix(), 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    let octets = octets(address.address());
    message.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets);
    if address.is_ipv6() {
        message.u32(IFA_FLAGS, of_ipv6);
    } else if address.prefix() < 31 {
        let host = u32::MAX.checked_shr(u32::from(address.prefix())).unwrap_or(0);
        let broadcast = u32::try_from(bits(address.base())).unwrap_or_default() | host;
        message.attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
    }
    message
}

fn route_header(destination: Subnet, scope: Scope) -> [u8; ROUTE_HEADER] {
    let family = if destination.is_ipv6() { AF_INET6 } else { AF_INET };
    let prefix = destination.prefix();
    [family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope as u8, RTN_UNICAST, 0, 0, 0, 0]
}

fn route_message(kind: u16, flags: u16, route: &Route) -> Message {
    let mut message = Message::new(kind, flags, &route_header(route.destination, route.scope));
    if route.destination.prefix() > 0 {
        message.attribute(RTA_DST, &octets(route.destination.base()));
    }
    if let Some(gateway) = route.gateway {
        message.attribute(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(source) = route.source {
        message.attribute(RTA_PREFSRC, &octets(source));
    }
    message.u32(RTA_OIF, route.index);
    message
}

fn add_mac_and_mtu(message: &mut Message, mac: Option<Mac>, mtu: Option<u32>) {
    if let Some(mac) = mac {
        message.attribute(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = mtu {
        message.u32(IFLA_MTU, mtu);
    }
}
