//! The `ptp` plugin in this process: a pair of interfaces without a bridge. All of the
//! pod's packets go by the host, also those to its own subnet.

use std::{io, net::IpAddr, os::fd::BorrowedFd};

use super::{
    Job,
    link::{
        Addresses, alias, configure_pod, create_pair, enable_forwarding, failed, mac_of, routes,
    },
    plan::Ptp,
    result::{Interface, Ip, Outcome},
};
use crate::{
    INTERFACE, NetworkError, Subnet,
    netlink::route::{LinkAddress, Route, Routes, Scope},
};

/// Connects a pod.
pub(crate) fn connect(
    job: &Job<'_>,
    ptp: &Ptp,
    netns: BorrowedFd<'_>,
    mut outcome: Outcome,
) -> Result<Outcome, NetworkError> {
    let mut routes = routes(INTERFACE)?;
    enable_forwarding(&outcome.ips)?;
    for ip in &mut outcome.ips {
        ip.interface = 1;
    }
    let mtu = (ptp.mtu > 0).then_some(ptp.mtu);
    let pod_mac = outcome.ips.first().map(|ip| mac_of(ip.address.address())).unwrap_or_default();
    let host = create_pair(&mut routes, job.id, netns, None, pod_mac, mtu)?;
    routes.set_alias(host.index, &alias(job.id)).map_err(failed("configure", &host.name))?;
    let ips = outcome.ips.clone();
    configure_pod(netns, &outcome, &[], Addresses::Ours, |routes, index| {
        ips.iter().try_for_each(|ip| lead_by_gateway(routes, index, ip))
    })?;
    routes.set_up(host.index).map_err(failed("set up", &host.name))?;
    for ip in &outcome.ips {
        configure_host(&mut routes, host.index, ip).map_err(failed("configure", &host.name))?;
    }
    let sandbox = job.netns.to_string_lossy().into_owned();
    outcome.interfaces = vec![
        Interface { name: host.name, mac: host.mac, sandbox: String::new() },
        Interface { name: INTERFACE.to_owned(), mac: Some(pod_mac), sandbox },
    ];
    Ok(outcome)
}

/// Replaces the route to the pod's subnet by one to the gateway and one by it.
fn lead_by_gateway(routes: &mut Routes, index: u32, ip: &Ip) -> io::Result<()> {
    let Some(gateway) = ip.gateway else { return Ok(()) };
    let source = Some(ip.address.address());
    routes.delete_link_route(ip.address.network(), index)?;
    let destination = alone(gateway);
    routes.add_route(Route { destination, gateway: None, index, scope: Scope::Link, source })?;
    let destination = ip.address.network();
    let gateway = Some(gateway);
    routes.add_route(Route { destination, gateway, index, scope: Scope::Universe, source })
}

fn configure_host(routes: &mut Routes, index: u32, ip: &Ip) -> io::Result<()> {
    if let Some(gateway) = ip.gateway {
        routes.add_address(LinkAddress { index, address: alone(gateway) })?;
    }
    let destination = alone(ip.address.address());
    let (gateway, source) = (None, None);
    routes.add_route(Route { destination, gateway, index, scope: Scope::Host, source })
}

/// An address as a subnet of its own.
fn alone(address: IpAddr) -> Subnet {
    let prefix = if address.is_ipv6() { 128 } else { 32 };
    Subnet::new(address, prefix).expect("the longest prefix of the family")
}
