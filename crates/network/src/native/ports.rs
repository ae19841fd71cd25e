//! The `portmap` plugin and masquerade: from a pod's request to its rules.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::Deserialize;
use serde_json::{Map, Value};
use types::{Protocol, SandboxId};

use super::{
    link::host_name,
    plan::{Main, Plan},
    result::Outcome,
    rules::{Back, HostPort, NetworkRules, PodRules, Sender},
};
use crate::Subnet;

/// A mapping as plugins are told it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_port: u16,
    container_port: u16,
    protocol: Protocol,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// Returns the rules of a pod.
///
/// # Errors
///
/// What is wrong with a mapping.
pub(crate) fn rules_of(
    plan: &Plan,
    id: &SandboxId,
    capabilities: &Map<String, Value>,
    outcome: &Outcome,
) -> Result<PodRules, String> {
    let addresses: Vec<Subnet> = outcome.ips.iter().map(|ip| ip.address).collect();
    let mut rules = PodRules::default();
    if plan.holds_to_mac() {
        rules.network.holds_to_mac = true;
        let mac = outcome.pod_mac();
        rules.sender = mac.map(|mac| Sender { interface: host_name(id), mac });
    }
    if plan.masquerades() {
        rules.network.masquerade = addresses.iter().map(|address| address.network()).collect();
    }
    let Some(portmap) = plan.portmap() else { return Ok(rules) };
    if portmap.takes_mappings
        && let Some(mappings) = capabilities.get("portMappings")
    {
        rules.ports = read_mappings(mappings, &addresses)?;
    }
    // On a bridge all pods need the same, so that a pod's coming changes no rule.
    let shared = matches!(plan.main, Main::Bridge(_));
    if (shared || !rules.ports.is_empty()) && (portmap.snat || portmap.masq_all) {
        let interface = interface(plan, id);
        let NetworkRules { back, guard, .. } = &mut rules.network;
        *back = addresses
            .iter()
            .map(|address| Back {
                interface: interface.clone(),
                from: address.network(),
                all: portmap.masq_all,
            })
            .collect();
        if addresses.iter().any(|address| !address.is_ipv6()) {
            *guard = BTreeSet::from([interface]);
        }
    }
    Ok(rules)
}

/// Reports whether packets of 127.0.0.1 must be able to leave for the pod.
pub(crate) fn needs_localnet(rules: &PodRules) -> bool {
    !rules.network.guard.is_empty() && rules.ports.iter().any(|port| port.target.is_ipv4())
}

/// Returns the interface of the host that leads to a pod.
pub(crate) fn interface(plan: &Plan, id: &SandboxId) -> String {
    plan.shared_interface().unwrap_or_else(|| host_name(id))
}

fn read_mappings(value: &Value, addresses: &[Subnet]) -> Result<Vec<HostPort>, String> {
    let mappings: Vec<Mapping> =
        Deserialize::deserialize(value).map_err(|error| format!("portMappings: {error}"))?;
    let first = |ipv6: bool| {
        addresses.iter().map(|address| address.address()).find(|ip| ip.is_ipv6() == ipv6)
    };
    let targets: Vec<IpAddr> = [first(false), first(true)].into_iter().flatten().collect();
    let mut ports = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        ports.extend(mapping.read(&targets)?);
    }
    Ok(ports)
}

impl Mapping {
    /// Returns a port of each family that the host's address allows.
    fn read(&self, targets: &[IpAddr]) -> Result<Vec<HostPort>, String> {
        if self.container_port == 0 {
            return Err(format!("host port {} leads to container port 0", self.host_port));
        }
        let asked: Option<IpAddr> = match self.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("host address {text:?} is no address"))?),
        };
        let fits = |ip: &&IpAddr| asked.is_none_or(|asked| asked.is_ipv6() == ip.is_ipv6());
        let ports: Vec<HostPort> = targets
            .iter()
            .filter(fits)
            .map(|ip| HostPort {
                protocol: self.protocol,
                host_ip: asked.filter(|ip| !ip.is_unspecified()),
                port: self.host_port,
                target: SocketAddr::new(*ip, self.container_port),
            })
            .collect();
        if ports.is_empty() {
            let (ip, port) = (&self.host_ip, self.host_port);
            tracing::warn!(ip, port, "the pod has no address of the host address's family");
        }
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mapping: Value, addresses: &[&str]) -> Result<Vec<String>, String> {
        let addresses: Vec<Subnet> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        let ports = read_mappings(&json!([mapping]), &addresses)?;
        Ok(ports
            .iter()
            .map(|port| {
                let ip = port.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
                format!("{ip} {} {:?} {}", port.port, port.protocol, port.target)
            })
            .collect())
    }

    #[test]
    fn mappings_are_read_for_each_family() {
        let dual = ["10.1.0.2/24", "fd00::2/64"];
        let with = |ip: &str| json!({ "hostPort": 8080, "containerPort": 80, "protocol": "sctp", "hostIP": ip });
        assert_eq!(
            read(with(""), &dual).unwrap(),
            ["* 8080 Sctp 10.1.0.2:80", "* 8080 Sctp [fd00::2]:80"]
        );
        assert_eq!(read(with("0.0.0.0"), &dual).unwrap(), ["* 8080 Sctp 10.1.0.2:80"]);
        assert_eq!(read(with("::"), &dual).unwrap(), ["* 8080 Sctp [fd00::2]:80"]);
        assert_eq!(read(with("fd09::1"), &dual).unwrap(), ["fd09::1 8080 Sctp [fd00::2]:80"]);
        assert_eq!(read(with("fd09::1"), &dual[..1]).unwrap(), Vec::<String>::new());
        assert!(read(with("x"), &dual).is_err());
        let zero = json!({ "hostPort": 1, "containerPort": 0, "protocol": "tcp" });
        assert!(read(zero, &dual).is_err());
        let none = json!({ "hostPort": 0, "containerPort": 0, "protocol": "tcp" });
        assert_eq!(read(none, &dual).unwrap(), Vec::<String>::new());
    }
}
