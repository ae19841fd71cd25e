//! The `bridge` plugin in this process.
//!
//! The default network's bridge is ours: an alias says so, it is refused where others
//! use its name or addresses, and it goes with its last pod. A bridge of a
//! configuration is whoever's it is: it is taken as it is found and it stays.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    path::Path,
    sync::{Mutex, PoisonError},
};

use types::SandboxId;

use super::{
    Job,
    link::{
        Addresses, PREFIX, alias, conf, configure_pod, create_pair, enable_forwarding, failed,
        find, mac_of, routes, set_sysctl_where_present, settle_pod,
    },
    plan::{Bridge, Main, Plan},
    result::{Interface, Ip, Outcome},
    vlan,
};
use crate::{
    INTERFACE, NetworkError, Subnet,
    netlink::{
        nft,
        route::{Link, LinkAddress, LinkChange, Mac, Routes},
    },
};

/// The part of our directory's path that an alias (255 bytes) holds.
const OWNER_BYTES: usize = 200;
/// The largest packet where the host has no default route.
const ETHERNET_MTU: u32 = 1500;
/// The smallest that IPv6 allows; smaller uplinks are taken for mistakes.
const SMALLEST_MTU: u32 = 1280;

/// Settings of a pod's interface. The first one is the default network's alone: its pods
/// must not be configured by router advertisements (CVE-2020-10749).
const SETTINGS: [(&str, &str, &str); 3] =
    [("ipv6", "accept_ra", "0"), ("ipv6", "accept_dad", "0"), ("ipv4", "arp_notify", "1")];
/// The same where duplicates of addresses are looked for.
const DETECTING: [(&str, &str, &str); 3] =
    [("ipv6", "enhanced_dad", "1"), ("ipv6", "accept_dad", "1"), ("ipv4", "arp_notify", "1")];

/// Makes bridges, one at a time.
#[derive(Debug)]
pub(crate) struct Bridges {
    /// Written on the default network's bridge when it is whole: who may use it.
    owner: String,
    making: Mutex<()>,
}

impl Bridges {
    /// `ipam_dir` tells our bridge from another daemon's.
    pub(crate) fn new(ipam_dir: &Path) -> Self {
        let path = ipam_dir.to_string_lossy();
        let cut = path.len().saturating_sub(OWNER_BYTES);
        let start = (cut..path.len()).find(|&at| path.is_char_boundary(at)).unwrap_or(0);
        let owner = format!("{PREFIX} {}", &path[start..]);
        Self { owner, making: Mutex::new(()) }
    }

    /// Connects a pod: its pair of interfaces, addresses, routes.
    pub(crate) fn connect(
        &self,
        job: &Job<'_>,
        bridge: &Bridge,
        netns: BorrowedFd<'_>,
        pod_mac: Option<Mac>,
        mut outcome: Outcome,
    ) -> Result<Outcome, NetworkError> {
        let mut routes = routes(&bridge.name)?;
        complete(&mut outcome, bridge);
        let (link, gateway) = self.ensure(&mut routes, job, bridge, &outcome.ips)?;
        let mtu = match bridge.mtu {
            0 if job.standard => Some(link.mtu),
            0 => None,
            mtu => Some(mtu),
        };
        let first = outcome.ips.first().map(|ip| mac_of(ip.address.address()));
        let pod_mac = pod_mac.or(first).unwrap_or_default();
        let host = create_pair(&mut routes, job.id, netns, Some(link.index), pod_mac, mtu)?;
        routes
            .set_port(host.index, &alias(job.id), bridge.hairpin_mode)
            .map_err(failed("configure", &host.name))?;
        bridge.vlans.give(&mut routes, &link, &host)?;
        let (settings, addresses) = match (bridge.detects_duplicates, job.standard) {
            (true, _) => (&DETECTING[..], Addresses::MayBeTaken),
            (false, true) => (&SETTINGS[..], Addresses::Ours),
            (false, false) => (&SETTINGS[1..], Addresses::Ours),
        };
        configure_pod(netns, &outcome, settings, addresses, |_, _| Ok(()))?;
        routes.set_up(host.index).map_err(failed("set up", &host.name))?;
        if addresses == Addresses::MayBeTaken {
            settle_pod(netns)?;
        }
        let sandbox = job.netns.to_string_lossy().into_owned();
        outcome.interfaces = vec![
            Interface { name: link.name, mac: link.mac, sandbox: String::new() },
            Interface { name: host.name, mac: host.mac, sandbox: String::new() },
            Interface { name: INTERFACE.to_owned(), mac: Some(pod_mac), sandbox },
        ];
        outcome.interfaces.extend(gateway.map(|link| Interface {
            name: link.name,
            mac: link.mac,
            sandbox: String::new(),
        }));
        Ok(outcome)
    }

    /// Removes the pairs on our bridge that belong to no known sandbox, and returns whose
    /// they were.
    pub(crate) fn retain(
        &self,
        name: &str,
        known: &[SandboxId],
    ) -> Result<Vec<SandboxId>, NetworkError> {
        let mut routes = routes(name)?;
        let Some(bridge) = self.ours(&mut routes, name)? else { return Ok(Vec::new()) };
        let mut gone = Vec::new();
        for port in routes.ports(bridge.index).map_err(failed("list ports of", name))? {
            let Some(id) = super::link::owner(&port).filter(|id| !known.contains(id)) else {
                continue;
            };
            routes.delete_link(&port.name).map_err(failed("remove", &port.name))?;
            gone.push(id);
        }
        Ok(gone)
    }

    /// Removes our bridge if it is without ports; reports whether it is gone.
    pub(crate) fn remove_if_unused(&self, name: &str) -> Result<bool, NetworkError> {
        let mut routes = routes(name)?;
        let link = routes.link(name).map_err(failed("find", name))?;
        let ours = |link: &Link| link.alias == self.owner || is_half_made(link);
        let Some(bridge) = link.filter(ours) else { return Ok(true) };
        let ports = routes.ports(bridge.index).map_err(failed("list ports of", name))?;
        if !ports.is_empty() {
            return Ok(false);
        }
        routes.delete_link(name).map_err(failed("remove", name))?;
        Ok(true)
    }

    /// Makes the bridge, or finds the one made before, with the pods' gateways on it, or on
    /// an interface of their VLAN.
    fn ensure(
        &self,
        routes: &mut Routes,
        job: &Job<'_>,
        bridge: &Bridge,
        ips: &[Ip],
    ) -> Result<(Link, Option<Link>), NetworkError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let link = if job.standard {
            self.ensure_ours(routes, bridge, ips)?
        } else {
            ensure_any(routes, bridge)?
        };
        let mut gateway = None;
        if bridge.is_gateway {
            enable_forwarding(ips)?;
            if let Some(name) = bridge.vlans.gateway_of(&bridge.name) {
                gateway = Some(bridge.vlans.ensure_gateway(routes, &link, &name)?);
            }
            let wanted = ips.iter().filter_map(|ip| Subnet::new(ip.gateway?, ip.address.prefix()));
            let force = if job.standard { Force::AddBeside } else { Force::of(bridge) };
            let gateway = gateway.as_ref().unwrap_or(&link);
            ensure_gateways(routes, gateway, wanted.collect(), force)?;
        }
        if job.standard && link.alias != self.owner {
            // Last: an alias says that nothing is missing.
            routes.set_up(link.index).map_err(failed("set up", &link.name))?;
            routes.set_alias(link.index, &self.owner).map_err(failed("sign", &link.name))?;
        }
        Ok((link, gateway))
    }

    fn ensure_ours(
        &self,
        routes: &mut Routes,
        bridge: &Bridge,
        ips: &[Ip],
    ) -> Result<Link, NetworkError> {
        let name = &bridge.name;
        match routes.link(name).map_err(failed("find", name))? {
            Some(link) if link.alias == self.owner => Ok(link),
            Some(link) => self.take_over(routes, link, bridge, ips),
            None => create_ours(routes, bridge, ips),
        }
    }

    /// Uses a bridge that another run left, half made or of another root, if nothing
    /// hangs on it.
    fn take_over(
        &self,
        routes: &mut Routes,
        link: Link,
        bridge: &Bridge,
        ips: &[Ip],
    ) -> Result<Link, NetworkError> {
        let name = &bridge.name;
        let foreign = |owner: &str| NetworkError::ForeignBridge {
            bridge: name.clone(),
            owner: owner.to_owned(),
        };
        if link.kind != "bridge" {
            return Err(foreign("another program (it is no bridge)"));
        }
        let ports = routes.ports(link.index).map_err(failed("list ports of", name))?;
        match (ports.is_empty(), link.alias.strip_prefix(PREFIX)) {
            (true, Some(_)) => {
                // Another root's addresses may differ from ours.
                routes.delete_link(&link.name).map_err(failed("remove", name))?;
                create_ours(routes, bridge, ips)
            }
            (true, None) if link.alias.is_empty() => {
                refuse_overlap(routes, name, ips)?;
                refuse_advertisements(name)?;
                Ok(link)
            }
            (false, Some(owner)) => Err(foreign(owner.trim())),
            _ => Err(foreign("another program")),
        }
    }

    fn ours(&self, routes: &mut Routes, name: &str) -> Result<Option<Link>, NetworkError> {
        let link = routes.link(name).map_err(failed("find", name))?;
        Ok(link.filter(|link| link.alias == self.owner))
    }
}

/// Reports whether a bridge is one that was never signed, since its maker died: it has a
/// hardware address as we give them.
fn is_half_made(link: &Link) -> bool {
    let gateways = link.mac.is_some_and(|mac| mac[0] == 0x0a && matches!(mac[1], 0x56 | 0x58));
    link.kind == "bridge" && link.alias.is_empty() && gateways
}

/// Adds what the configuration says beside the addresses: gateways and default routes.
fn complete(outcome: &mut Outcome, bridge: &Bridge) {
    for ip in &mut outcome.ips {
        ip.interface = 2;
    }
    if !bridge.is_default_gateway {
        return;
    }
    for (base, ipv6) in
        [(IpAddr::from(Ipv4Addr::UNSPECIFIED), false), (IpAddr::from(Ipv6Addr::UNSPECIFIED), true)]
    {
        let Some(everything) = Subnet::new(base, 0) else { continue };
        let given = |route: &(Subnet, Option<IpAddr>)| route.0 == everything && route.1.is_some();
        let gateway = outcome.ips.iter().find(|ip| ip.address.is_ipv6() == ipv6);
        let gateway = gateway.and_then(|ip| ip.gateway);
        if gateway.is_some() && !outcome.routes.iter().any(given) {
            outcome.routes.push((everything, gateway));
        }
    }
}

/// Makes the default network's bridge.
fn create_ours(routes: &mut Routes, bridge: &Bridge, ips: &[Ip]) -> Result<Link, NetworkError> {
    let name = &bridge.name;
    refuse_overlap(routes, name, ips)?;
    let mtu = match bridge.mtu {
        0 => uplink_mtu(routes).map_err(failed("choose the packet size of", name))?,
        mtu => mtu,
    };
    let mac = ips.iter().find_map(|ip| ip.gateway).map(mac_of);
    routes.create_bridge(name, mac, Some(mtu), false).map_err(failed("make", name))?;
    refuse_advertisements(name)?;
    warn_of_dropping_policies();
    find(routes, name)
}

/// Makes a configuration's bridge where it is missing.
fn ensure_any(routes: &mut Routes, bridge: &Bridge) -> Result<Link, NetworkError> {
    let name = &bridge.name;
    let link = match routes.link(name).map_err(failed("find", name))? {
        Some(link) if link.kind == "bridge" => link,
        Some(_) => {
            let owner = "another program (it is no bridge)".to_owned();
            return Err(NetworkError::ForeignBridge { bridge: name.clone(), owner });
        }
        None => {
            let mtu = (bridge.mtu > 0).then_some(bridge.mtu);
            let vlans = bridge.vlans.kept_apart;
            match routes.create_bridge(name, None, mtu, vlans) {
                // The plugin of another runtime was quicker.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if vlans => return Err(vlan::unable(name, error)),
                other => other.map_err(failed("make", name))?,
            }
            refuse_advertisements(name)?;
            find(routes, name)?
        }
    };
    let promiscuous = bridge.promisc_mode.then_some(true);
    let change = LinkChange { up: true, promiscuous, ..LinkChange::default() };
    routes.change_link(link.index, change).map_err(failed("set up", name))?;
    Ok(link)
}

/// What is done where a bridge has other addresses than the gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Force {
    /// They are removed.
    Replace,
    /// The pod is refused.
    Refuse,
    /// They stay: pods of an earlier subnet use them.
    AddBeside,
}

impl Force {
    fn of(bridge: &Bridge) -> Self {
        if bridge.force_address { Self::Replace } else { Self::Refuse }
    }
}

fn ensure_gateways(
    routes: &mut Routes,
    link: &Link,
    wanted: Vec<Subnet>,
    force: Force,
) -> Result<(), NetworkError> {
    let present: Vec<LinkAddress> = match force {
        // One that is there is no error: nothing needs to be listed.
        Force::AddBeside => Vec::new(),
        Force::Replace | Force::Refuse => {
            let all = routes.addresses().map_err(failed("list addresses of", &link.name))?;
            all.into_iter().filter(|address| address.index == link.index).collect()
        }
    };
    for address in wanted {
        if present.iter().any(|other| other.address == address) {
            continue;
        }
        let in_the_way = |other: &&LinkAddress| {
            let same_family = other.address.is_ipv6() == address.is_ipv6();
            same_family && (!address.is_ipv6() || other.address.overlaps(address))
        };
        for other in present.iter().filter(in_the_way) {
            match force {
                Force::AddBeside => {}
                Force::Replace => routes
                    .delete_address(*other)
                    .map_err(failed("remove an address of", &link.name))?,
                Force::Refuse => {
                    return Err(NetworkError::BridgeAddress {
                        bridge: link.name.clone(),
                        present: other.address,
                        wanted: address,
                    });
                }
            }
        }
        let address = LinkAddress { index: link.index, address };
        routes.add_address(address).map_err(failed("give an address to", &link.name))?;
        if let Some(mac) = link.mac.filter(|_| force != Force::AddBeside) {
            // Set, it no longer follows the ports that come and go.
            let change = LinkChange { mac: Some(mac), ..LinkChange::default() };
            routes.change_link(link.index, change).map_err(failed("configure", &link.name))?;
        }
    }
    Ok(())
}

/// A pod must not configure the host by router advertisements (CVE-2020-10749).
fn refuse_advertisements(bridge: &str) -> Result<(), NetworkError> {
    set_sysctl_where_present(&conf("ipv6", bridge, "accept_ra"), "0")
}

/// Refuses subnets that another interface is in.
fn refuse_overlap(routes: &mut Routes, bridge: &str, ips: &[Ip]) -> Result<(), NetworkError> {
    for other in routes.addresses().map_err(failed("choose addresses of", bridge))? {
        let subnets = ips.iter().map(|ip| ip.address.network());
        for subnet in subnets.filter(|subnet| subnet.overlaps(other.address)) {
            let link = routes.link_by_index(other.index).ok().flatten();
            let interface = link.map_or_else(|| other.index.to_string(), |link| link.name);
            if interface != bridge {
                let address = other.address;
                return Err(NetworkError::SubnetInUse { subnet, address, interface });
            }
        }
    }
    Ok(())
}

fn uplink_mtu(routes: &mut Routes) -> io::Result<u32> {
    let Some(index) = routes.default_route_link()? else { return Ok(ETHERNET_MTU) };
    let mtu = routes.link_by_index(index)?.map_or(ETHERNET_MTU, |link| link.mtu);
    Ok(if mtu < SMALLEST_MTU { ETHERNET_MTU } else { mtu })
}

fn warn_of_dropping_policies() {
    match nft::forward_chains() {
        Ok(chains) => {
            for chain in chains.into_iter().filter(|chain| chain.drops) {
                tracing::warn!(
                    chain = chain.name,
                    "a chain drops forwarded packets by default: pods reach other hosts, and \
                     host ports are reached from them, only where that chain accepts it"
                );
            }
        }
        Err(error) => tracing::debug!(%error, "the forward chains cannot be listed"),
    }
}

/// Looks whether a pod's bridge is there, for CHECK.
pub(crate) fn check(plan: &Plan) -> Result<(), String> {
    let Main::Bridge(bridge) = &plan.main else { return Ok(()) };
    let link = Routes::open()
        .and_then(|mut routes| routes.link(&bridge.name))
        .map_err(|error| error.to_string())?;
    link.map(drop).ok_or_else(|| format!("bridge {} is gone", bridge.name))
}
