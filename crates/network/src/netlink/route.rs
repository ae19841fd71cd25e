//! Links, addresses and routes.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{Attributes, Family, Message, Reply, Socket, flags, u32_of};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// Length of `ifinfomsg`.
const LINK_HEADER: usize = 16;
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
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    /// The interface's number.
    pub(crate) index: u32,
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// The length of its network part.
    pub(crate) prefix: u8,
}

/// A pair of interfaces to be made.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    /// The host end's name.
    pub(crate) host_name: &'a str,
    /// The bridge that the host end joins.
    pub(crate) master: u32,
    /// The pod end's name.
    pub(crate) peer_name: &'a str,
    /// The pod's network namespace.
    pub(crate) peer_netns: BorrowedFd<'a>,
    /// The pod end's hardware address.
    pub(crate) peer_mac: Mac,
    /// The largest packet of both.
    pub(crate) mtu: u32,
}

/// The routing tables and interfaces of one network namespace.
#[derive(Debug)]
pub(crate) struct Routes {
    socket: Socket,
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

    /// Makes a bridge that is down.
    pub(crate) fn create_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let mut message =
            Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac).u32(IFLA_MTU, mtu);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge");
        });
        self.socket.request(message).map(drop)
    }

    /// Makes a pair of interfaces: the host end up and a port of the bridge, the pod end
    /// down and in the pod's namespace.
    pub(crate) fn create_veth(&mut self, pair: &VethPair<'_>) -> io::Result<()> {
        let netns = u32::try_from(pair.peer_netns.as_raw_fd()).map_err(io::Error::other)?;
        let header = link_header(0, IFF_UP, IFF_UP);
        let mut message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &header);
        message
            .text(IFLA_IFNAME, pair.host_name)
            .u32(IFLA_MTU, pair.mtu)
            .u32(IFLA_MASTER, pair.master)
            .nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&link_header(0, 0, 0))
                            .text(IFLA_IFNAME, pair.peer_name)
                            .attribute(IFLA_ADDRESS, &pair.peer_mac)
                            .u32(IFLA_MTU, pair.mtu)
                            .u32(IFLA_NET_NS_FD, netns);
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

    /// Writes an alias on a port of a bridge and lets it send back to where a packet came
    /// from (a pod that reaches itself by a host port).
    pub(crate) fn set_port(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.attribute(IFLA_IFALIAS, alias.as_bytes()).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_MODE, &[1]);
            });
        });
        self.socket.request(message).map(drop)
    }

    /// Sets an interface up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.socket
            .request(Message::new(RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP)))
            .map(drop)
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

    /// Gives an interface an address; one that it has already is no error.
    pub(crate) fn add_address(&mut self, wanted: LinkAddress) -> io::Result<()> {
        let mut header = vec![AF_INET, wanted.prefix, 0, 0];
        header.extend_from_slice(&wanted.index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, flags::CREATE | flags::EXCL, &header);
        let bits = wanted.address.to_bits();
        let broadcast = bits | u32::MAX.checked_shr(u32::from(wanted.prefix)).unwrap_or(0);
        message
            .attribute(IFA_LOCAL, &wanted.address.octets())
            .attribute(IFA_ADDRESS, &wanted.address.octets())
            .attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
        ignore_existing(self.socket.request(message))
    }

    /// Returns the IPv4 addresses of all interfaces.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<LinkAddress>> {
        let message = Message::new(RTM_GETADDR, 0, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
        Ok(self.socket.dump(&message)?.iter().filter_map(parse_address).collect())
    }

    /// Makes a default route; one that is there already is no error.
    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr, index: u32) -> io::Result<()> {
        let header = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(RTM_NEWROUTE, flags::CREATE | flags::EXCL, &header);
        message.attribute(RTA_GATEWAY, &gateway.octets()).u32(RTA_OIF, index);
        ignore_existing(self.socket.request(message))
    }

    /// Returns the number of the interface that the default route leads to.
    pub(crate) fn default_route_link(&mut self) -> io::Result<Option<u32>> {
        let mut header = [0; ROUTE_HEADER];
        header[0] = AF_INET;
        let replies = self.socket.dump(&Message::new(RTM_GETROUTE, 0, &header))?;
        Ok(replies.iter().filter(|reply| reply.kind == RTM_NEWROUTE).find_map(|reply| {
            let header = reply.payload.get(..ROUTE_HEADER)?;
            let default = header[1] == 0 && header[4] == RT_TABLE_MAIN && header[7] == RTN_UNICAST;
            let attributes = Attributes(reply.payload.get(ROUTE_HEADER..)?);
            attributes.find(RTA_OIF).and_then(u32_of).filter(|_| default)
        }))
    }

    fn one_link(&mut self, message: Message) -> io::Result<Option<Link>> {
        match self.socket.request(message) {
            Ok(replies) => Ok(replies.iter().find_map(parse_link)),
            Err(error) if is_no_device(&error) => Ok(None),
            Err(error) => Err(error),
        }
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

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
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
    Some(Link {
        index: u32_of(reply.payload.get(4..8)?)?,
        name: attributes.clone().text(IFLA_IFNAME)?,
        alias: attributes.clone().text(IFLA_IFALIAS).unwrap_or_default(),
        master: attributes.clone().find(IFLA_MASTER).and_then(u32_of),
        mtu: attributes.clone().find(IFLA_MTU).and_then(u32_of).unwrap_or_default(),
        kind: info.text(IFLA_INFO_KIND).unwrap_or_default(),
        mac: attributes.find(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()),
    })
}

fn parse_address(reply: &Reply) -> Option<LinkAddress> {
    if reply.kind != RTM_NEWADDR {
        return None;
    }
    let attributes = Attributes(reply.payload.get(ADDRESS_HEADER..)?);
    let local = attributes.clone().find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
    Some(LinkAddress {
        index: u32_of(reply.payload.get(4..8)?)?,
        prefix: *reply.payload.get(1)?,
        address: Ipv4Addr::from(<[u8; 4]>::try_from(local).ok()?),
    })
}
