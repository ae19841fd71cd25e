//! The bridge of the built-in network and the pods' ends on it.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use types::SandboxId;

use crate::{
    BuiltinOptions, INTERFACE, NetworkError, namespace,
    netlink::{
        nft,
        route::{Link, LinkAddress, Mac, Routes, VethPair},
    },
};

/// What the names of our interfaces begin with.
const PREFIX: &str = "corten";
/// How many digits of the id follow: an interface's name has 15 characters.
const NAME_DIGITS: usize = 15 - PREFIX.len();
/// The part of our directory's path that an alias (255 bytes) holds.
const OWNER_BYTES: usize = 200;
/// The largest packet where the host has no default route.
const ETHERNET_MTU: u32 = 1500;
/// The smallest that IPv6 allows; smaller uplinks are taken for mistakes.
const SMALLEST_MTU: u32 = 1280;

/// The bridge.
#[derive(Debug)]
pub(crate) struct Bridge {
    options: BuiltinOptions,
    /// Written on the bridge when it is whole: who may use it.
    owner: String,
    making: Mutex<()>,
}

/// A pod's pair of interfaces as it was made.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// The host end's name.
    pub(crate) name: String,
    /// The host end's hardware address.
    pub(crate) mac: Option<Mac>,
    /// The pod end's hardware address.
    pub(crate) pod_mac: Mac,
    /// The bridge's hardware address.
    pub(crate) bridge_mac: Option<Mac>,
}

impl Bridge {
    /// Names the bridge; `ipam_dir` tells ours from another daemon's.
    pub(crate) fn new(options: &BuiltinOptions, ipam_dir: &Path) -> Self {
        let path = ipam_dir.to_string_lossy();
        let cut = path.len().saturating_sub(OWNER_BYTES);
        let start = (cut..path.len()).find(|&at| path.is_char_boundary(at)).unwrap_or(0);
        let owner = format!("{PREFIX} {}", &path[start..]);
        Self { options: options.clone(), owner, making: Mutex::new(()) }
    }

    /// Makes a pod's pair of interfaces and configures the pod's end, `lo` included.
    pub(crate) fn connect(
        &self,
        id: &SandboxId,
        netns: &Path,
        address: Ipv4Addr,
    ) -> Result<Port, NetworkError> {
        let handle = namespace::open(netns)?;
        let mut routes = self.routes()?;
        let bridge = self.ensure(&mut routes)?;
        let name = host_name(id);
        let pod_mac = mac_of(address);
        let pair = VethPair {
            host_name: &name,
            master: bridge.index,
            peer_name: INTERFACE,
            peer_netns: handle.as_fd(),
            peer_mac: pod_mac,
            mtu: bridge.mtu,
        };
        create_veth(&mut routes, &pair).map_err(failed("make", &name))?;
        let port = routes
            .link(&name)
            .and_then(|link| link.ok_or_else(|| io::Error::other("it vanished")))
            .map_err(failed("find", &name))?;
        routes.set_port(port.index, &alias(id)).map_err(failed("configure", &name))?;
        let subnet = self.options.subnet;
        namespace::inside(handle.as_fd(), || {
            configure_pod(address, subnet.prefix(), subnet.gateway())
        })
        .map_err(|source| NetworkError::Namespace { netns: netns.to_owned(), source })??;
        Ok(Port { name, mac: port.mac, pod_mac, bridge_mac: bridge.mac })
    }

    /// Removes a pod's pair of interfaces, wherever the pod's end is.
    pub(crate) fn disconnect(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let name = host_name(id);
        self.routes()?.delete_link(&name).map_err(failed("remove", &name))
    }

    /// Removes the pairs on our bridge that belong to no known sandbox.
    pub(crate) fn retain(&self, known: &[SandboxId]) -> Result<(), NetworkError> {
        let mut routes = self.routes()?;
        let Some(bridge) = self.ours(&mut routes)? else { return Ok(()) };
        let names: Vec<String> = known.iter().map(host_name).collect();
        for port in routes.ports(bridge.index).map_err(self.bridge_failed("list ports of"))? {
            if port.name.starts_with(PREFIX) && !names.contains(&port.name) {
                routes.delete_link(&port.name).map_err(failed("remove", &port.name))?;
            }
        }
        Ok(())
    }

    /// Removes the bridge if it is ours and without ports; reports whether it is gone.
    pub(crate) fn remove_if_unused(&self) -> Result<bool, NetworkError> {
        let mut routes = self.routes()?;
        let Some(bridge) = self.ours(&mut routes)? else { return Ok(true) };
        let ports = routes.ports(bridge.index).map_err(self.bridge_failed("list ports of"))?;
        if !ports.is_empty() {
            return Ok(false);
        }
        routes.delete_link(&self.options.bridge).map_err(self.bridge_failed("remove"))?;
        Ok(true)
    }

    /// Makes the bridge, or finds the one made before.
    fn ensure(&self, routes: &mut Routes) -> Result<Link, NetworkError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &self.options.bridge;
        let bridge = match routes.link(name).map_err(self.bridge_failed("find"))? {
            Some(link) if link.alias == self.owner => link,
            Some(link) => self.take_over(routes, link)?,
            None => self.create(routes)?,
        };
        set_sysctl(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
        let subnet = self.options.subnet;
        let (index, prefix) = (bridge.index, subnet.prefix());
        routes
            .add_address(LinkAddress { index, address: subnet.gateway(), prefix })
            .and_then(|()| routes.set_up(index))
            .map_err(self.bridge_failed("set up"))?;
        if bridge.alias != self.owner {
            // Last: an alias says that nothing is missing.
            routes.set_alias(index, &self.owner).map_err(self.bridge_failed("sign"))?;
        }
        Ok(bridge)
    }

    fn create(&self, routes: &mut Routes) -> Result<Link, NetworkError> {
        let name = &self.options.bridge;
        self.refuse_overlap(routes)?;
        let mtu = uplink_mtu(routes).map_err(self.bridge_failed("choose the packet size of"))?;
        routes
            .create_bridge(name, mac_of(self.options.subnet.gateway()), mtu)
            .map_err(self.bridge_failed("make"))?;
        self.configure_sysctls()?;
        warn_of_dropping_policies();
        routes
            .link(name)
            .and_then(|link| link.ok_or_else(|| io::Error::other("it vanished")))
            .map_err(self.bridge_failed("find"))
    }

    /// Uses a bridge that another run left, half made or of another root, if nothing
    /// hangs on it.
    fn take_over(&self, routes: &mut Routes, link: Link) -> Result<Link, NetworkError> {
        let foreign = |owner: &str| NetworkError::ForeignBridge {
            bridge: self.options.bridge.clone(),
            owner: owner.to_owned(),
        };
        if link.kind != "bridge" {
            return Err(foreign("another program (it is no bridge)"));
        }
        let ports = routes.ports(link.index).map_err(self.bridge_failed("list ports of"))?;
        match (ports.is_empty(), link.alias.strip_prefix(PREFIX)) {
            (true, Some(_)) => {
                // Another root's addresses may differ from ours.
                routes.delete_link(&link.name).map_err(self.bridge_failed("remove"))?;
                self.create(routes)
            }
            (true, None) if link.alias.is_empty() => {
                self.refuse_overlap(routes)?;
                self.configure_sysctls()?;
                Ok(link)
            }
            (false, Some(owner)) => Err(foreign(owner.trim())),
            _ => Err(foreign("another program")),
        }
    }

    fn configure_sysctls(&self) -> Result<(), NetworkError> {
        let name = &self.options.bridge;
        // Lets 127.0.0.1 be translated to a pod; our table drops what pods send to 127/8.
        set_sysctl(&conf("ipv4", name, "route_localnet"), "1")?;
        // A pod must not configure the host by router advertisements (CVE-2020-10749).
        set_sysctl_where_present(&conf("ipv6", name, "accept_ra"), "0")
    }

    /// Refuses a subnet that another interface is in.
    fn refuse_overlap(&self, routes: &mut Routes) -> Result<(), NetworkError> {
        let subnet = self.options.subnet;
        let addresses = routes.addresses().map_err(self.bridge_failed("choose addresses of"))?;
        for other in addresses {
            let mask = u32::MAX.checked_shl(32 - u32::from(other.prefix)).unwrap_or(0);
            let mask = mask & subnet.mask();
            if (other.address.to_bits() ^ subnet.base().to_bits()) & mask != 0 {
                continue;
            }
            let link = routes.link_by_index(other.index).ok().flatten();
            let interface = link.map_or_else(|| other.index.to_string(), |link| link.name);
            if interface != self.options.bridge {
                let (address, prefix) = (other.address, other.prefix);
                return Err(NetworkError::SubnetInUse { subnet, address, prefix, interface });
            }
        }
        Ok(())
    }

    fn ours(&self, routes: &mut Routes) -> Result<Option<Link>, NetworkError> {
        let link = routes.link(&self.options.bridge).map_err(self.bridge_failed("find"))?;
        Ok(link.filter(|link| link.alias == self.owner))
    }

    fn routes(&self) -> Result<Routes, NetworkError> {
        Routes::open().map_err(self.bridge_failed("open the routing socket for"))
    }

    fn bridge_failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
        failed(action, &self.options.bridge)
    }
}

/// Returns the name of a pod's end on the host.
pub(crate) fn host_name(id: &SandboxId) -> String {
    format!("{PREFIX}{}", &id.as_str()[..NAME_DIGITS])
}

fn alias(id: &SandboxId) -> String {
    format!("{PREFIX} {id}")
}

fn failed(action: &'static str, interface: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let interface = interface.to_owned();
    move |source| NetworkError::Interface { action, interface, source }
}

/// An address's hardware address is always the same: neighbours that remember it from an
/// earlier pod are still right.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Makes a pair; one of the same name is the rest of a crash and goes first.
fn create_veth(routes: &mut Routes, pair: &VethPair<'_>) -> io::Result<()> {
    match routes.create_veth(pair) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            routes.delete_link(pair.host_name)?;
            routes.create_veth(pair)
        }
        other => other,
    }
}

/// Runs inside the pod's namespace.
fn configure_pod(address: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<(), NetworkError> {
    set_sysctl_where_present(&conf("ipv6", INTERFACE, "accept_ra"), "0")?;
    let configure = || {
        let mut routes = Routes::open()?;
        let missing = || io::Error::other("the interface vanished");
        let lo = routes.link("lo")?.ok_or_else(missing)?;
        routes.set_up(lo.index)?;
        let index = routes.link(INTERFACE)?.ok_or_else(missing)?.index;
        routes.add_address(LinkAddress { index, address, prefix })?;
        routes.set_up(index)?;
        routes.add_default_route(gateway, index)
    };
    configure().map_err(failed("configure the pod's", INTERFACE))
}

fn uplink_mtu(routes: &mut Routes) -> io::Result<u32> {
    let Some(index) = routes.default_route_link()? else { return Ok(ETHERNET_MTU) };
    let mtu = routes.link_by_index(index)?.map_or(ETHERNET_MTU, |link| link.mtu);
    Ok(if mtu < SMALLEST_MTU { ETHERNET_MTU } else { mtu })
}

fn warn_of_dropping_policies() {
    match nft::forward_drops() {
        Ok(chains) => {
            for chain in chains {
                tracing::warn!(
                    chain,
                    "a chain drops forwarded packets by default: pods reach other hosts, and \
                     host ports are reached from them, only where that chain accepts it"
                );
            }
        }
        Err(error) => tracing::debug!(%error, "the forward chains cannot be listed"),
    }
}

fn conf(family: &str, interface: &str, key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(family).join("conf").join(interface).join(key)
}

/// Writes a setting unless it has the value: `/proc/sys` may be read-only.
fn set_sysctl(path: &Path, value: &'static str) -> Result<(), NetworkError> {
    if fs::read_to_string(path).is_ok_and(|text| text.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(|source| NetworkError::Sysctl {
        path: path.to_owned(),
        value,
        source,
    })
}

/// The same where the setting exists: IPv6 may be off.
fn set_sysctl_where_present(path: &Path, value: &'static str) -> Result<(), NetworkError> {
    if path.exists() { set_sysctl(path, value) } else { Ok(()) }
}
