//! What a pod's request tells the plugins: CNI_ARGS and capability arguments.

use serde_json::{Map, Value, json};
use types::SandboxId;

use crate::{AttachRequest, NetworkError, builtin::protocol_name};

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
pub(crate) fn capability_arguments(request: &AttachRequest) -> Map<String, Value> {
    let mut arguments = Map::new();
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
    arguments
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
    fn capability_arguments_are_those_that_plugins_know() {
        assert_eq!(
            Value::Object(capability_arguments(&request())),
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
