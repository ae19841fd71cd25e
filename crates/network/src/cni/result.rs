//! Results of plugins, as far as we look into them.

use std::net::IpAddr;

use serde_json::Value;
use types::IpPreference;

use super::{config::Version, exec::one_line};
use crate::{INTERFACE, PluginFailure};

/// Reads what a plugin printed after ADD.
pub(super) fn parse(stdout: &[u8]) -> Result<Value, PluginFailure> {
    let invalid = |problem: String| {
        let output = String::from_utf8_lossy(stdout);
        PluginFailure::InvalidResult { problem, output: one_line(&output) }
    };
    let result: Value =
        serde_json::from_slice(stdout).map_err(|error| invalid(error.to_string()))?;
    let object = result.as_object().ok_or_else(|| invalid("not a JSON object".to_owned()))?;
    let version = object.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if Version::parse(version).is_none() {
        return Err(invalid(format!("its cniVersion is {version:?}")));
    }
    Ok(result)
}

/// Returns the pod's addresses on `eth0`, the preferred family first: those of an interface
/// of that name inside the pod, and those that name no interface.
pub(crate) fn pod_addresses(result: &Value, preference: IpPreference) -> Vec<IpAddr> {
    let interfaces = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_pods = |ip: &Value| match ip["interface"].as_u64() {
        None => true,
        Some(index) => usize::try_from(index)
            .ok()
            .and_then(|index| interfaces.get(index))
            .is_some_and(|interface| {
                interface["name"] == INTERFACE
                    && interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty())
            }),
    };
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = ips
        .iter()
        .filter(|ip| is_pods(ip))
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    match preference {
        IpPreference::Ipv4 => addresses.sort_by_key(IpAddr::is_ipv6),
        IpPreference::Ipv6 => addresses.sort_by_key(IpAddr::is_ipv4),
        IpPreference::Cni => {}
    }
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_those_of_the_pods_interface() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "eth0" },
                { "name": "eth0", "sandbox": "/run/netns/x" },
                { "name": "net1", "sandbox": "/run/netns/x" },
            ],
            "ips": [
                { "address": "fd00::5/64", "interface": 1 },
                { "address": "10.9.0.1/24", "interface": 0 },
                { "address": "10.9.0.5/24", "interface": 1 },
                { "address": "10.8.0.5/24", "interface": 2 },
                { "address": "10.7.0.5/24", "interface": 9 },
                { "address": "garbage" },
                { "address": "10.9.0.6/24" },
            ],
        });
        let texts = |preference| -> Vec<String> {
            pod_addresses(&result, preference).iter().map(IpAddr::to_string).collect()
        };
        assert_eq!(texts(IpPreference::Ipv4), ["10.9.0.5", "10.9.0.6", "fd00::5"]);
        assert_eq!(texts(IpPreference::Ipv6), ["fd00::5", "10.9.0.5", "10.9.0.6"]);
        assert_eq!(texts(IpPreference::Cni), ["fd00::5", "10.9.0.5", "10.9.0.6"]);
        assert!(pod_addresses(&json!({}), IpPreference::Ipv4).is_empty());
    }

    #[test]
    fn unusable_results_are_refused() {
        for bad in ["", "no json", "[]", "{}", r#"{"cniVersion":"0.1.0"}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(br#"{"cniVersion":"0.3.1"}"#).is_ok());
    }
}
