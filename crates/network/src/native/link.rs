//! What bridge and ptp have in common: names, the pair of interfaces, kernel settings,
//! and the pod's end.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use types::SandboxId;

use super::result::{Ip, Outcome};
use crate::{
    INTERFACE, NetworkError, Subnet, namespace,
    netlink::{
        Socket,
        route::{Link, LinkAddress, Mac, Route, Routes, Scope, VethPair},
    },
    subnet::{bits, octets},
};

/// What the names of our interfaces begin with.
pub(super) const PREFIX: &str = "corten";
/// What the names of interfaces that limit what pods send begin with.
const SHAPER_PREFIX: &str = "cortn-";
/// How long the kernel may look for duplicates of addresses; it takes about two seconds.
const SETTLING: Duration = Duration::from_secs(10);
/// How long is waited between two looks where nothing changes.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How many digits of the id follow: an interface's name has 15 characters.
const NAME_DIGITS: usize = 15 - PREFIX.len();

/// Returns the name of a pod's end on the host.
pub(crate) fn host_name(id: &SandboxId) -> String {
    format!("{PREFIX}{}", &id.as_str()[..NAME_DIGITS])
}

/// Returns the name of the interface that limits what a pod sends.
pub(crate) fn shaper_name(id: &SandboxId) -> String {
    format!("{SHAPER_PREFIX}{}", &id.as_str()[..NAME_DIGITS])
}

/// Returns what is written on a pod's interfaces.
pub(crate) fn alias(id: &SandboxId) -> String {
    format!("{PREFIX} {id}")
}

/// Returns the pod that an interface says it belongs to.
pub(crate) fn owner(link: &Link) -> Option<SandboxId> {
    let named = link.name.starts_with(PREFIX) || link.name.starts_with(SHAPER_PREFIX);
    link.alias.strip_prefix(PREFIX).filter(|_| named)?.trim().parse().ok()
}

/// Opens the routing socket of this thread's namespace.
pub(crate) fn routes(interface: &str) -> Result<Routes, NetworkError> {
    Routes::open().map_err(failed("open the routing socket for", interface))
}

/// An error of an interface.
pub(crate) fn failed(
    action: &'static str,
    interface: &str,
) -> impl FnOnce(io::Error) -> NetworkError {
    let interface = interface.to_owned();
    move |source| NetworkError::Interface { action, interface, source }
}

/// An address's hardware address is always the same: neighbours that remember it from an
/// earlier pod are still right.
pub(crate) fn mac_of(address: IpAddr) -> Mac {
    let octets = octets(address);
    let last: [u8; 4] = octets[octets.len() - 4..].try_into().expect("four of at least four");
    let [a, b, c, d] = last;
    [0x0a, if address.is_ipv6() { 0x56 } else { 0x58 }, a, b, c, d]
}

/// Makes a pod's pair of interfaces, both down, the pod end in its namespace.
/// Returns the host end.
pub(crate) fn create_pair(
    routes: &mut Routes,
    id: &SandboxId,
    netns: BorrowedFd<'_>,
    master: Option<u32>,
    pod_mac: Mac,
    mtu: Option<u32>,
) -> Result<Link, NetworkError> {
    let name = host_name(id);
    let pair = VethPair {
        host_name: &name,
        master,
        peer_name: INTERFACE,
        peer_netns: netns,
        peer_mac: pod_mac,
        mtu,
    };
    // One of the same name is the rest of a crash and goes first.
    match routes.create_veth(&pair) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            routes.delete_link(&name).and_then(|()| routes.create_veth(&pair))
        }
        other => other,
    }
    .map_err(failed("make", &name))?;
    set_sysctl_where_present(&conf("ipv6", &name, "accept_ra"), "0")?;
    find(routes, &name)
}

/// Returns an interface that must be there.
pub(crate) fn find(routes: &mut Routes, name: &str) -> Result<Link, NetworkError> {
    routes
        .link(name)
        .and_then(|link| link.ok_or_else(|| io::Error::other("it vanished")))
        .map_err(failed("find", name))
}

/// What is known of a pod's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Nobody else can have them: whoever gives them knows that. They are usable at once.
    Ours,
    /// Of IPv6 the kernel shall look, see [`settle_pod`].
    MayBeTaken,
}

/// Gives the pod's end its addresses and routes, inside the pod's namespace. `settings`
/// of the interface are written before, where the kernel has them, and `more` is done
/// before the routes of the result are made.
pub(crate) fn configure_pod(
    netns: BorrowedFd<'_>,
    outcome: &Outcome,
    settings: &[(&str, &str, &str)],
    addresses: Addresses,
    more: impl FnOnce(&mut Routes, u32) -> io::Result<()> + Send,
) -> Result<(), NetworkError> {
    namespace::inside(netns, || configure_inside(outcome, settings, addresses, more))
        .map_err(failed("enter the namespace of the pod's", INTERFACE))?
}

/// Waits until the kernel knows that nobody else has the pod's addresses.
///
/// # Errors
///
/// Where another one has one, or the kernel is not sure in time.
pub(crate) fn settle_pod(netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    let settle = || {
        // First, so that no change is missed.
        let mut changes = Socket::hear_addresses(LOOK_AGAIN)?;
        let mut routes = Routes::open()?;
        let missing = || io::Error::other("the interface vanished");
        let index = routes.link(INTERFACE)?.ok_or_else(missing)?.index;
        let deadline = Instant::now() + SETTLING;
        while !routes.is_settled(index)? {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "duplicates are still sought"));
            }
            changes.wait_for_change();
        }
        Ok(())
    };
    namespace::inside(netns, settle)
        .and_then(|settled| settled)
        .map_err(failed("give addresses to the pod's", INTERFACE))
}

fn configure_inside(
    outcome: &Outcome,
    settings: &[(&str, &str, &str)],
    addresses: Addresses,
    more: impl FnOnce(&mut Routes, u32) -> io::Result<()>,
) -> Result<(), NetworkError> {
    for (family, key, value) in settings {
        set_sysctl_where_present(&conf(family, INTERFACE, key), value)?;
    }
    if outcome.ips.iter().any(|ip| ip.address.is_ipv6()) {
        for interface in ["lo", INTERFACE] {
            set_sysctl_where_present(&conf("ipv6", interface, "disable_ipv6"), "0")?;
        }
    }
    let configure = || {
        let mut routes = Routes::open()?;
        let missing = || io::Error::other("the interface vanished");
        let index = routes.link(INTERFACE)?.ok_or_else(missing)?.index;
        let given = outcome.ips.iter().map(|ip| ip.address);
        routes.set_up_with(index, given, addresses == Addresses::MayBeTaken)?;
        more(&mut routes, index)?;
        routes.add_routes(&pod_routes(outcome, index))
    };
    configure().map_err(failed("configure the pod's", INTERFACE))
}

/// A route without router of its own takes the first one of its family.
fn pod_routes(outcome: &Outcome, index: u32) -> Vec<Route> {
    let gateway_of = |ipv6: bool| {
        let of_family = |ip: &&Ip| ip.address.is_ipv6() == ipv6;
        outcome.ips.iter().filter(of_family).find_map(|ip| ip.gateway)
    };
    let route = |(destination, gateway): &(Subnet, Option<IpAddr>)| Route {
        destination: *destination,
        gateway: gateway.or_else(|| gateway_of(destination.is_ipv6())),
        index,
        scope: Scope::Universe,
        source: None,
    };
    outcome.routes.iter().map(route).collect()
}

/// Lets the host pass packets on, in the families that a pod has.
pub(crate) fn enable_forwarding(ips: &[Ip]) -> Result<(), NetworkError> {
    if ips.iter().any(|ip| !ip.address.is_ipv6()) {
        set_sysctl(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
    }
    if ips.iter().any(|ip| ip.address.is_ipv6()) {
        set_sysctl(Path::new("/proc/sys/net/ipv6/conf/all/forwarding"), "1")?;
    }
    Ok(())
}

/// Returns a setting of an interface.
pub(crate) fn conf(family: &str, interface: &str, key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(family).join("conf").join(interface).join(key)
}

/// Writes a setting unless it has the value: `/proc/sys` may be read-only.
pub(crate) fn set_sysctl(path: &Path, value: &str) -> Result<(), NetworkError> {
    write_sysctl(path, value).map_err(|source| NetworkError::Sysctl {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn write_sysctl(path: &Path, value: &str) -> io::Result<()> {
    let mut present = [0; 64];
    let length = fs::File::open(path)?.read(&mut present).unwrap_or_default();
    if present[..length].trim_ascii() == value.as_bytes() {
        return Ok(());
    }
    // Not truncated: that is nothing to a setting.
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// The same where the setting exists: IPv6 may be off.
pub(crate) fn set_sysctl_where_present(path: &Path, value: &str) -> Result<(), NetworkError> {
    match set_sysctl(path, value) {
        Err(NetworkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

/// Returns the pod's end of a pair for CHECK: an error says what is missing.
pub(crate) fn check_pod(netns: &Path, outcome: &Outcome) -> Result<(), String> {
    let handle = namespace::open(netns).map_err(|error| error.to_string())?;
    let look = || -> io::Result<Result<(), String>> {
        let mut routes = Routes::open()?;
        let Some(link) = routes.link(INTERFACE)? else {
            return Ok(Err(format!("interface {INTERFACE} is gone")));
        };
        let addresses = routes.addresses()?;
        for ip in &outcome.ips {
            let is_there = |address: &LinkAddress| {
                address.index == link.index && address.address == ip.address
            };
            if !addresses.iter().any(is_there) {
                return Ok(Err(format!("address {} is not on {INTERFACE}", ip.address)));
            }
        }
        let there = routes.routes()?;
        for wanted in pod_routes(outcome, link.index) {
            let same = |route: &Route| {
                bits(route.destination.base()) == bits(wanted.destination.base())
                    && route.destination.prefix() == wanted.destination.prefix()
                    && route.gateway == wanted.gateway
            };
            if !there.iter().any(same) {
                return Ok(Err(format!("the route to {} is gone", wanted.destination)));
            }
        }
        Ok(Ok(()))
    };
    namespace::inside(handle.as_fd(), look)
        .and_then(|looked| looked)
        .map_err(|error| error.to_string())?
}
