//! Results as the plugins write them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Subnet, cni::Version, netlink::route::Mac};

/// What a chain has made so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    pub(crate) routes: Vec<(Subnet, Option<IpAddr>)>,
    pub(crate) dns: Dns,
}

/// An interface that was made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// The pod's namespace, or empty for the host's.
    pub(crate) sandbox: String,
}

/// An address of the pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ip {
    /// Which interface has it.
    pub(crate) interface: usize,
    pub(crate) address: Subnet,
    pub(crate) gateway: Option<IpAddr>,
}

/// What is said about names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
}

impl Dns {
    /// Reports whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads a `resolv.conf` as the host-local plugin does.
    pub(crate) fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines().map(str::trim) {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => dns.nameservers.extend(words.next()),
                Some("domain") => dns.domain = words.next().unwrap_or_default(),
                Some("search") => dns.search.extend(words),
                Some("options") => dns.options.extend(words),
                _ => {}
            }
        }
        dns
    }
}

impl Outcome {
    /// Writes it in a version of the specification.
    pub(crate) fn to_value(&self, version: Version) -> Value {
        let mut result = Map::new();
        result.insert("cniVersion".to_owned(), json!(version.as_str()));
        let interfaces: Vec<Value> = self.interfaces.iter().map(Interface::to_value).collect();
        let ips: Vec<Value> = self.ips.iter().map(|ip| ip.to_value(version)).collect();
        let routes: Vec<Value> = self.routes.iter().map(route_value).collect();
        for (key, values) in [("interfaces", interfaces), ("ips", ips), ("routes", routes)] {
            if !values.is_empty() {
                result.insert(key.to_owned(), Value::Array(values));
            }
        }
        result.insert("dns".to_owned(), json!(self.dns));
        Value::Object(result)
    }
}

impl Outcome {
    /// Reads interfaces, addresses and routes out of a result.
    pub(crate) fn read(result: &Value) -> Self {
        let list = |key: &str| result[key].as_array().cloned().unwrap_or_default();
        let ip = |value: &Value| -> Option<Ip> {
            Some(Ip {
                interface: usize::try_from(value["interface"].as_u64()?).ok()?,
                address: value["address"].as_str()?.parse().ok()?,
                gateway: value["gateway"].as_str().and_then(|text| text.parse().ok()),
            })
        };
        let route = |value: &Value| -> Option<(Subnet, Option<IpAddr>)> {
            let gateway = value["gw"].as_str().and_then(|text| text.parse().ok());
            Some((value["dst"].as_str()?.parse().ok()?, gateway))
        };
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let interface = |value: &Value| Interface {
            name: text(value, "name"),
            mac: parse_mac(&text(value, "mac")),
            sandbox: text(value, "sandbox"),
        };
        Self {
            interfaces: list("interfaces").iter().map(interface).collect(),
            ips: list("ips").iter().filter_map(ip).collect(),
            routes: list("routes").iter().filter_map(route).collect(),
            ..Self::default()
        }
    }

    /// Returns the hardware address of the pod's own interface.
    pub(crate) fn pod_mac(&self) -> Option<Mac> {
        self.interfaces.iter().find(|interface| !interface.sandbox.is_empty())?.mac
    }
}

impl Interface {
    fn to_value(&self) -> Value {
        let mut value = json!({ "name": self.name });
        if let Some(mac) = self.mac {
            value["mac"] = json!(format_mac(mac));
        }
        if !self.sandbox.is_empty() {
            value["sandbox"] = json!(self.sandbox);
        }
        value
    }
}

impl Ip {
    fn to_value(self, version: Version) -> Value {
        let mut value = json!({ "interface": self.interface, "address": self.address });
        if version < Version::V1_0_0 {
            value["version"] = json!(if self.address.is_ipv6() { "6" } else { "4" });
        }
        if let Some(gateway) = self.gateway {
            value["gateway"] = json!(gateway);
        }
        value
    }
}

fn route_value((destination, gateway): &(Subnet, Option<IpAddr>)) -> Value {
    match gateway {
        Some(gateway) => json!({ "dst": destination, "gw": gateway }),
        None => json!({ "dst": destination }),
    }
}

/// Writes a hardware address.
pub(crate) fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads a hardware address.
pub(crate) fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_written_in_every_version() {
        let outcome = Outcome {
            interfaces: vec![
                Interface {
                    name: "b0".into(),
                    mac: Some([2, 0, 0, 0, 0, 0xa]),
                    sandbox: String::new(),
                },
                Interface { name: "eth0".into(), mac: None, sandbox: "/n".into() },
            ],
            ips: vec![Ip {
                interface: 1,
                address: "10.1.0.2/24".parse().unwrap(),
                gateway: Some("10.1.0.1".parse().unwrap()),
            }],
            routes: vec![("0.0.0.0/0".parse().unwrap(), None)],
            dns: Dns::default(),
        };
        let new = outcome.to_value(Version::V1_0_0);
        let wanted = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "b0", "mac": "02:00:00:00:00:0a" },
                           { "name": "eth0", "sandbox": "/n" }],
            "ips": [{ "interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }],
            "dns": {},
        });
        assert_eq!(new, wanted);
        let read = Outcome::read(&new);
        assert_eq!((&read.ips, &read.routes), (&outcome.ips, &outcome.routes));
        assert_eq!(read.interfaces, outcome.interfaces);
        assert_eq!(outcome.to_value(Version::V0_3_1)["ips"][0]["version"], "4");
    }

    #[test]
    fn a_resolver_file_is_read_as_the_plugin_reads_it() {
        let text = "# c\nnameserver 1.1.1.1\nnameserver 2.2.2.2\ndomain a.b\n search x y\noptions ndots:2\n";
        let dns = Dns::parse(text);
        assert_eq!(dns.nameservers, ["1.1.1.1", "2.2.2.2"]);
        assert_eq!((dns.domain.as_str(), dns.search.len(), dns.options.len()), ("a.b", 2, 1));
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(parse_mac("02:00:00:00:00:0a"), Some([2, 0, 0, 0, 0, 0xa]));
        for bad in ["", "02:00:00:00:00", "2:0:0:0:0:a", "02:00:00:00:00:zz"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
        assert_eq!(format_mac([2, 0, 0, 0, 0, 0xa]), "02:00:00:00:00:0a");
    }
}
