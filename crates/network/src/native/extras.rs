//! The `tuning` and `bandwidth` plugins in this process.

use std::{io, net::IpAddr, os::fd::BorrowedFd, path::PathBuf};

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{
    Job,
    link::{alias, failed, find, host_name, routes, set_sysctl, shaper_name},
    plan::{Bandwidth, Tuning},
    result::{Interface, Outcome, parse_mac},
};
use crate::{
    INTERFACE, NetworkError, namespace,
    netlink::{
        route::{LinkChange, Mac, Routes},
        tc::{Bucket, Shaper},
    },
};

/// Bits of a byte.
const BITS: u64 = 8;

/// Changes settings of the pod's namespace and interface.
pub(crate) fn tune(
    job: &Job<'_>,
    tuning: &Tuning,
    netns: BorrowedFd<'_>,
    outcome: &mut Outcome,
) -> Result<(), NetworkError> {
    let asked = if tuning.takes_mac { asked_mac(job)? } else { None };
    let mac = asked.or_else(|| parse_mac(&tuning.mac));
    let change = LinkChange {
        mtu: (tuning.mtu > 0).then_some(tuning.mtu),
        mac,
        promiscuous: tuning.promisc.then_some(true),
        all_multicast: tuning.allmulti.then_some(true),
        up: false,
    };
    let changes = change.mtu.is_some() || mac.is_some() || tuning.promisc || tuning.allmulti;
    namespace::inside(netns, || {
        for (key, value) in &tuning.sysctl {
            set_sysctl(&PathBuf::from("/proc/sys").join(key.replace('.', "/")), value)?;
        }
        if changes { change_pod(change) } else { Ok(()) }
    })
    .map_err(failed("enter the namespace of the pod's", INTERFACE))??;
    if let Some(mac) = mac {
        let pods = |interface: &&mut Interface| !interface.sandbox.is_empty();
        outcome.interfaces.iter_mut().filter(pods).for_each(|pod| pod.mac = Some(mac));
    }
    Ok(())
}

fn change_pod(change: LinkChange) -> Result<(), NetworkError> {
    let changed = || {
        let mut routes = Routes::open()?;
        let link = routes.link(INTERFACE)?.ok_or_else(|| io::Error::other("it vanished"))?;
        routes.change_link(link.index, change)
    };
    changed().map_err(failed("tune the pod's", INTERFACE))
}

/// Limits what goes in and out of a pod. What comes out of it is sent round by an
/// interface of its own, since only what leaves an interface can be made to wait.
pub(crate) fn limit(
    job: &Job<'_>,
    configured: Bandwidth,
    outcome: &mut Outcome,
) -> Result<(), NetworkError> {
    let limits = match job.capabilities.get("bandwidth").filter(|_| configured.takes_rates) {
        Some(asked) => read_limits(asked).map_err(|problem| job.refuse(problem))?,
        None => configured,
    };
    if limits.ingress_rate == 0 && limits.egress_rate == 0 {
        return Ok(());
    }
    let name = host_name(job.id);
    let mut routes = routes(&name)?;
    let mut shaper = Shaper::open().map_err(failed("limit", &name))?;
    let host = find(&mut routes, &name)?;
    if let Some(bucket) = bucket(limits.ingress_rate, limits.ingress_burst) {
        shaper.shape(host.index, bucket).map_err(failed("limit", &name))?;
    }
    let Some(bucket) = bucket(limits.egress_rate, limits.egress_burst) else { return Ok(()) };
    let round = shaper_name(job.id);
    match routes.create_ifb(&round, host.mtu) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            routes.delete_link(&round).and_then(|()| routes.create_ifb(&round, host.mtu))
        }
        other => other,
    }
    .map_err(failed("make", &round))?;
    let link = find(&mut routes, &round)?;
    routes.set_alias(link.index, &alias(job.id)).map_err(failed("sign", &round))?;
    shaper
        .redirect(host.index, link.index)
        .and_then(|()| shaper.shape(link.index, bucket))
        .map_err(failed("limit", &round))?;
    outcome.interfaces.push(Interface { name: round, mac: link.mac, sandbox: String::new() });
    Ok(())
}

fn read_limits(asked: &Value) -> Result<Bandwidth, String> {
    Bandwidth::deserialize(asked)
        .map_err(|error| format!("bandwidth: {error}"))
        .and_then(Bandwidth::validate)
}

fn bucket(rate: u64, burst: u64) -> Option<Bucket> {
    (rate > 0).then_some(Bucket { rate: rate / BITS, burst: burst / BITS })
}

/// The hardware address that was asked for.
pub(crate) fn asked_mac(job: &Job<'_>) -> Result<Option<Mac>, NetworkError> {
    let Some(text) = job.capabilities.get("mac").and_then(Value::as_str) else { return Ok(None) };
    parse_mac(text).map(Some).ok_or_else(|| job.refuse(format!("mac {text:?} is none")))
}

/// The addresses that were asked for, with or without prefix.
pub(crate) fn asked_ips(
    job: &Job<'_>,
    capabilities: &Map<String, Value>,
) -> Result<Vec<IpAddr>, NetworkError> {
    let Some(list) = capabilities.get("ips").and_then(Value::as_array) else {
        return Ok(Vec::new());
    };
    let read = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        address.parse().map_err(|_| job.refuse(format!("address {text:?} is none")))
    };
    list.iter().map(read).collect()
}
