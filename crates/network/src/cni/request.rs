//! What a pod's request tells the plugins: CNI_ARGS and capability arguments.

use serde_json::{Map, Value, json};
use types::SandboxId;

use super::quantity;
use crate::{AttachRequest, NetworkError, request::protocol_name};

/// What the kubelet's network plugins read: bits a second, as a quantity.
const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";
/// Addresses that a pod asks for, separated by commas.
const ADDRESSES: &str = "io.corten.ips";
/// The hardware address that a pod asks for.
const HARDWARE_ADDRESS: &str = "io.corten.mac";
/// Rates that make sense, as Kubernetes has them.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// The largest burst that the bandwidth plugin takes, in bits: none to speak of.
const LARGEST_BURST: u64 = u32::MAX as u64;
/// The most addresses that a pod may ask for.
const MAX_ADDRESSES: usize = 8;

/// Returns what goes into CNI_ARGS: the pod's identity.
///
/// # Errors
///
/// Where a value holds what separates values: it would be taken for further arguments.
pub(crate) fn arguments(request: &AttachRequest) -> Result<Vec<(String, String)>, NetworkError> {
    let arguments = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", request.namespace.as_str()),
        ("K8S_POD_NAME", request.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", request.sandbox_id.as_str()),
        ("K8S_POD_UID", request.uid.as_str()),
    ];
    if let Some((name, value)) =
        arguments.iter().find(|(_, value)| value.contains([';', '=', '\0', '\n']))
    {
        return Err(NetworkError::InvalidRequest {
            sandbox_id: request.sandbox_id.clone(),
            problem: format!("{name} {value:?} cannot be handed to plugins"),
        });
    }
    Ok(arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

/// Returns CNI_ARGS where only the id is known.
pub(crate) fn minimal_arguments(id: &SandboxId) -> Vec<(String, String)> {
    let arguments = [("IgnoreUnknown", "1"), ("K8S_POD_INFRA_CONTAINER_ID", id.as_str())];
    arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// Returns the arguments that plugins may ask for by their capabilities.
///
/// # Errors
///
/// Where an annotation cannot be read.
pub(crate) fn capability_arguments(
    request: &AttachRequest,
) -> Result<Map<String, Value>, NetworkError> {
    let refuse =
        |problem| NetworkError::InvalidRequest { sandbox_id: request.sandbox_id.clone(), problem };
    let mut arguments = annotated(request).map_err(refuse)?;
    let mappings: Vec<Value> = request
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": protocol_name(mapping.protocol),
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !mappings.is_empty() {
        arguments.insert("portMappings".to_owned(), Value::Array(mappings));
    }
    if let Some(dns) = &request.dns {
        let dns =
            json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        arguments.insert("dns".to_owned(), dns);
    }
    if !request.cgroup_parent.is_empty() {
        arguments.insert("cgroupPath".to_owned(), json!(request.cgroup_parent));
    }
    let annotations = json!(request.annotations);
    arguments.insert("io.kubernetes.cri.pod-annotations".to_owned(), annotations);
    Ok(arguments)
}

/// What the pod's annotations ask for.
fn annotated(request: &AttachRequest) -> Result<Map<String, Value>, String> {
    let mut arguments = Map::new();
    let mut bandwidth = Map::new();
    for (annotation, rate, burst) in [
        (INGRESS_BANDWIDTH, "ingressRate", "ingressBurst"),
        (EGRESS_BANDWIDTH, "egressRate", "egressBurst"),
    ] {
        let Some(text) = request.annotations.get(annotation) else { continue };
        let bits = quantity::parse(text).filter(|bits| RATES.contains(bits)).ok_or_else(|| {
            format!("annotation {annotation} {text:?} is no rate from 1k to 1P bits a second")
        })?;
        bandwidth.insert(rate.to_owned(), json!(bits));
        bandwidth.insert(burst.to_owned(), json!(LARGEST_BURST));
    }
    if !bandwidth.is_empty() {
        arguments.insert("bandwidth".to_owned(), Value::Object(bandwidth));
    }
    if let Some(text) = request.annotations.get(ADDRESSES) {
        let ips: Vec<&str> = text.split(',').map(str::trim).collect();
        let address = |ip: &&str| {
            let address = ip.split_once('/').map_or(*ip, |(address, _)| address);
            address.parse::<std::net::IpAddr>().is_ok()
        };
        if ips.len() > MAX_ADDRESSES || !ips.iter().all(address) {
            return Err(format!("annotation {ADDRESSES} {text:?} is no list of addresses"));
        }
        arguments.insert("ips".to_owned(), json!(ips));
    }
    if let Some(text) = request.annotations.get(HARDWARE_ADDRESS) {
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        if text.split(':').count() != 6 || !text.split(':').all(digits) {
            return Err(format!("annotation {HARDWARE_ADDRESS} {text:?} is no hardware address"));
        }
        arguments.insert("mac".to_owned(), json!(text));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use types::{DnsConfig, PortMapping, Protocol};

    use super::*;

    fn request() -> AttachRequest {
        let mapping = |host_port| PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port,
            host_ip: String::new(),
        };
        AttachRequest {
            sandbox_id: SandboxId::random(),
            netns: PathBuf::from("/run/netns/x"),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            port_mappings: vec![mapping(0), mapping(5353)],
            dns: Some(DnsConfig { servers: vec!["192.0.2.53".to_owned()], ..DnsConfig::default() }),
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            cgroup_parent: "/kubepods/x".to_owned(),
            hostname: "web".to_owned(),
            handler: String::new(),
        }
    }

    #[test]
    fn arguments_name_the_pod() {
        let request = request();
        let arguments = arguments(&request).unwrap();
        let text: Vec<_> =
            arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let id = &request.sandbox_id;
        assert_eq!(
            text.join(";"),
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
                 K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=u-1"
            )
        );
    }

    #[test]
    fn separators_are_refused() {
        for bad in ["a;IP=10.0.0.9", "a=b", "a\0"] {
            let request = AttachRequest { uid: bad.to_owned(), ..request() };
            assert!(arguments(&request).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn annotations_ask_for_rates_and_addresses() {
        let with = |name: &str, value: &str| {
            let annotations = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            capability_arguments(&AttachRequest { annotations, ..request() })
        };
        let asked = with(EGRESS_BANDWIDTH, "10M").unwrap();
        let wanted = json!({ "egressRate": 10_000_000, "egressBurst": u32::MAX });
        assert_eq!(asked["bandwidth"], wanted);
        assert_eq!(
            with(ADDRESSES, "10.1.0.9, fd00::9/64").unwrap()["ips"],
            json!(["10.1.0.9", "fd00::9/64"])
        );
        let mac = "02:00:00:00:00:0a";
        assert_eq!(with(HARDWARE_ADDRESS, mac).unwrap()["mac"], mac);
        for (name, value) in [
            (INGRESS_BANDWIDTH, "fast"),
            (INGRESS_BANDWIDTH, "1"),
            (INGRESS_BANDWIDTH, "2P"),
            (ADDRESSES, ""),
            (ADDRESSES, "10.1.0.9,x"),
            (HARDWARE_ADDRESS, "x"),
        ] {
            assert!(with(name, value).is_err(), "{name} {value}");
        }
    }

    #[test]
    fn capability_arguments_are_those_that_plugins_know() {
        assert_eq!(
            Value::Object(capability_arguments(&request()).unwrap()),
            json!({
                "portMappings": [
                    { "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "" },
                ],
                "dns": { "servers": ["192.0.2.53"], "searches": [], "options": [] },
                "cgroupPath": "/kubepods/x",
                "io.kubernetes.cri.pod-annotations": { "a": "b" },
            })
        );
    }
}
